"""Tests of processes that a real fork server forks: they start, and end, as new processes do."""

from __future__ import annotations

import json
import os
import queue
import resource
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from job.cluster import Cluster
from job.config import Config
from job.supervisor import forking
from job.supervisor.forking import Forked, ForkServer
from job.supervisor.supervised_process import Exited, SupervisedProcess
from job.time_spent import TimeSpent
from tests.job import processes
from tests.job.processes import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator


class Server:
    """A fork server, and modules for it to run."""

    def __init__(self, fork_server: ForkServer, folder: Path, data: Path) -> None:
        self.fork_server, self.folder, self.data = fork_server, folder, data

    def fork(self, source: str, *arguments: str, **environment: str) -> tuple[Forked, int]:
        """Fork a process that runs a module with this source; and the end of the pipe for its records."""
        name = f"module_{time.monotonic_ns()}"
        (self.folder / f"{name}.py").write_text(source, encoding="utf-8")
        reading, writing = os.pipe()
        forked = Forked(self.fork_server.channel, name, list(arguments), {**os.environ, **environment}, writing)
        os.close(writing)
        return forked, reading

    def run(self, source: str, *arguments: str, **environment: str) -> tuple[int | None, str, str]:
        """Run such a process to its end; gives its return code, its records and its standard error."""
        forked, reading = self.fork(source, *arguments, **environment)
        with forked, os.fdopen(reading, encoding="utf-8") as records:
            said, errors = records.read(), forked.stderr.read()
        return forked.returncode, said, errors

    def report(self, source: str, *arguments: str, **environment: str) -> Any:
        """What `value` is, as JSON, after this source has run in such a process."""
        send = "\nimport json, os\nos.write(int(os.environ['TELEMETRY_FD']), json.dumps(value).encode())\n"
        code, said, errors = self.run(source + send, *arguments, **environment)
        assert (code, errors) == (0, "")
        return json.loads(said)

    def pid(self) -> int:
        """Its process id."""
        return int(self.report("import os; value = os.getppid()"))


@pytest.fixture(scope="module")
def server(prepared: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A fork server that has loaded a dataset."""
    folder = tmp_path_factory.mktemp("modules")
    data = folder / "data"
    shutil.copytree(prepared, data)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", f"{folder}{os.pathsep}{processes.ROOT}")
        fork_server = ForkServer(Config(data=data))
    with fork_server:
        yield Server(fork_server, folder, data)


@pytest.mark.parametrize(
    ("source", "code"),
    [
        ("", 0),
        ("raise SystemExit(7)", 7),
        ("import os; os._exit(75)", 75),
        ("raise ValueError('no')", 1),
        ("import sys; sys.exit('words')", 1),
        ("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)", -signal.SIGSEGV),
        ("import os; os.abort()", -signal.SIGABRT),
        ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", -signal.SIGKILL),
        ("import os, signal; os.kill(os.getpid(), signal.SIGTERM)", -signal.SIGTERM),
    ],
)
def test_an_exit_is_exact(source: str, code: int, server: Server) -> None:
    """The exit code, or the signal; of an exception the traceback is on standard error."""
    returncode, _, errors = server.run(source)
    assert returncode == code
    assert (errors.splitlines() or [""])[-1] == {"raise ValueError('no')": "ValueError: no"}.get(
        source, "words" if "words" in source else ""
    )


OWN = """
import os, resource, sys
files = [os.readlink(f"/proc/self/fd/{number}") for number in (0, 1)]
limits = resource.getrlimit(resource.RLIMIT_NOFILE)
value = dict(os.environ), sys.argv[1:], files, sorted(os.sched_getaffinity(0)), limits
"""


def test_a_process_has_an_environment_of_its_own(server: Server) -> None:
    """Its variables, arguments, files, CPUs and limits are those of who asked for it."""
    cpus, limits = os.sched_getaffinity(0), resource.getrlimit(resource.RLIMIT_NOFILE)
    os.sched_setaffinity(0, {min(cpus)})
    try:
        environment, *others = server.report(OWN, "--epochs=3", MINE="yes")
    finally:
        os.sched_setaffinity(0, cpus)
    del environment["TELEMETRY_FD"]
    assert environment == {**os.environ, "MINE": "yes", "PYTHONINSPECT": ""}
    assert others == [["--epochs=3"], ["/dev/null", "/dev/null"], [min(cpus)], list(limits)]


def test_what_native_code_writes_is_kept(server: Server) -> None:
    """It goes to the process's own standard error."""
    assert server.run("import os; os.write(2, b'from native code')") == (0, "", "from native code")


STATE = """
import os, sys
from tensorflow.python.eager import context
threads = [len(os.listdir(f"/proc/{pid}/task")) for pid in (os.getppid(), os.getpid())]
modules = [name for name in sys.modules if name == "job.model" or name in ("keras", "matplotlib")]
with open(f"/proc/{os.getppid()}/maps") as maps:
    cuda = [line for line in maps if "libcuda" in line or "/dev/nvidia" in line]
value = threads, context._context is None, modules, cuda
"""


def test_nothing_but_modules_and_rows_exists_before_a_fork(server: Server) -> None:
    """No second thread, no context of TensorFlow, no CUDA, so that Python has nothing to warn of.

    Nor the model, and nothing that takes long and that no start needs.
    """
    assert server.report(STATE) == [[1, 1], True, [], []]


RANDOM = """
import numpy as np
from tensorflow.python.client import device_lib
value = [device.incarnation for device in device_lib.list_local_devices()], int(np.random.randint(2**62))
"""


def test_no_two_processes_draw_the_same_numbers(server: Server) -> None:
    """TensorFlow tells a restarted worker from the one before by a random number."""
    first, second = (server.report(RANDOM) for _ in range(2))
    assert first[0] != second[0]
    assert first[1] != second[1]


LOAD = """
import sys
from pathlib import Path
from job.dataset.rows import load_dataset
value = int(load_dataset(Path(sys.argv[1]), "mnist").train.images.sum())
"""


def test_the_rows_are_read_once(server: Server) -> None:
    """A process has the verified dataset, even after it has gone from the volume."""
    before = server.report(LOAD, str(server.data))
    hidden = server.data.with_name("hidden")
    server.data.rename(hidden)
    try:
        assert server.report(LOAD, str(server.data)) == before
    finally:
        hidden.rename(server.data)


SLEEPS = "import os, time\nos.write(int(os.environ['TELEMETRY_FD']), b'ready')\ntime.sleep(600)"


def test_a_process_can_be_killed_and_terminated(server: Server) -> None:
    """It gets the signal, and its exit tells which."""
    for send, number in ((Forked.kill, signal.SIGKILL), (Forked.terminate, signal.SIGTERM)):
        forked, reading = server.fork(SLEEPS)
        with os.fdopen(reading, encoding="utf-8") as records:
            with forked:
                assert records.read(5) == "ready"
                send(forked)
                assert records.read() == ""
            assert forked.returncode == -number


def test_a_process_can_be_killed_while_the_server_is_stopped(server: Server) -> None:
    """Nothing of it runs on."""
    pid = server.pid()
    forked, reading = server.fork(SLEEPS)
    with os.fdopen(reading, encoding="utf-8") as records, forked:
        assert records.read(5) == "ready"
        os.kill(pid, signal.SIGSTOP)
        try:
            forked.kill()
            assert records.read() == ""
        finally:
            os.kill(pid, signal.SIGCONT)
    assert forked.returncode == -signal.SIGKILL


def test_sigterm_ends_no_server(server: Server) -> None:
    """Some process managers send it to all processes of a group or of a control group."""
    pid = server.pid()
    os.kill(pid, signal.SIGTERM)
    assert server.pid() == pid


def test_a_process_ends_with_who_asked_for_it(server: Server) -> None:
    """A supervisor that ends, in whatever way, closes its connection."""
    forked, reading = server.fork(SLEEPS)
    with os.fdopen(reading, encoding="utf-8") as records:
        forked.__enter__()
        assert records.read(5) == "ready"
        forked._replies.close()
        forked._connection.close()
        assert records.read() == ""
        forked.stderr.close()
    wait_until(lambda: forked.pid not in processes.processes(), "its end")


def test_a_server_keeps_nothing_of_its_children(server: Server) -> None:
    """No file, and no zombie."""
    pid = server.pid()
    files = Path(f"/proc/{pid}/fd")
    wait_until(lambda: children_of(pid) == [], "an end without zombies")
    before = len(list(files.iterdir()))
    for _ in range(3):
        assert server.run("")[0] == 0
    wait_until(lambda: children_of(pid) == [] and len(list(files.iterdir())) == before, "the state before")


def children_of(pid: int) -> list[str]:
    """The process ids of a process's children, zombies too."""
    return Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="utf-8").split()


def test_a_server_that_is_killed_is_made_again(server: Server) -> None:
    """Its children end with it, and their exits say so; the next one waits for the new server."""
    pid = server.pid()
    forked, reading = server.fork(SLEEPS)
    with os.fdopen(reading, encoding="utf-8") as records:
        with forked:
            assert records.read(5) == "ready"
            os.kill(pid, signal.SIGKILL)
            assert records.read() == ""
        assert forked.returncode == -signal.SIGKILL
    assert server.pid() != pid


def test_a_process_whose_server_cannot_start_is_not_waited_for(tmp_path: Path, prepared: Path) -> None:
    """A damaged dataset ends the server before TensorFlow is imported; a new process then reports the damage."""
    data = tmp_path / "data"
    shutil.copytree(prepared, data)
    for labels in data.glob("*/decoded/train-labels.npy"):
        labels.write_bytes(labels.read_bytes()[:-1] + b"\xff")
    events: queue.SimpleQueue[object] = queue.SimpleQueue()
    cluster = Cluster("r", "u", 0, ("a:1",), ("a:2",))
    start = "job.supervisor.trainer", Config(data=data), cluster, 0, TimeSpent(0.0), events
    with ForkServer(Config(data=data)) as fork_server:
        process = SupervisedProcess(*start, fork_server.channel)
        exited = events.get(timeout=processes.DEADLINE_S)
        assert isinstance(exited, Exited)
        assert (process.pid, exited.started) == (0, False)
        wait_until(lambda: not fork_server._keeper.is_alive(), "the end of the channel")
        again = SupervisedProcess(*start, fork_server.channel)
        assert again.pid
    while not isinstance(event := events.get(timeout=processes.DEADLINE_S), Exited):
        last = event
    assert (event.exit_code, event.started) == (65, True)
    assert "the SHA-256" in str(last)


@pytest.mark.skipif(sys.version_info < (3, 12), reason="Python warns of a fork with threads from 3.12")
def test_python_does_not_warn(prepared: Path) -> None:
    """A fork in a process with several threads would make it warn; here the warning would be an error."""
    own, other = socket.socketpair()
    command = [
        sys.executable,
        "-W",
        "error:This process:DeprecationWarning",
        "-m",
        forking.MODULE,
        f"--data={prepared}",
    ]
    environment = processes.environment({forking.CHANNEL: str(other.fileno()), "OPENBLAS_NUM_THREADS": "1"})
    with subprocess.Popen(
        command, cwd=processes.ROOT, env=environment, stdin=subprocess.DEVNULL, pass_fds=[other.fileno()]
    ) as fork_server:
        other.close()
        with own:
            reading, writing = os.pipe()
            with Forked(own, "this", [], os.environ, writing) as forked:
                assert forked.pid
            os.close(writing)
            os.close(reading)
            assert forked.returncode == 0
        assert fork_server.wait(processes.DEADLINE_S) == 0
