"""Starts processes by the fork server, which has imported TensorFlow already: a fork takes milliseconds, not seconds.

multiprocessing's own fork server does not help here: its children outlive whoever asked for them, and they, or their
exit codes, are lost with the server.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import socket
import sys
import threading
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from typing import TYPE_CHECKING

from job import config as configs
from job.error_table import errors_from
from job.errors import JobError
from job.system import process

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Iterator, Mapping
    from typing import Self

    from job.config import Config

# The environment variable with the descriptor of a channel. The fork server has the other end of the channel. A local
# worker's supervisor has this end: it shares the fork server of the command that started it.
CHANNEL = "FORK_SERVER_FD"
MODULE = "job.supervisor.fork_server"
# TensorFlow keeps the memory of a tensor for the next one. Each block of rows would otherwise get new pages from the
# kernel, which took as long as reading the rows. The limit in MiB, 64 GiB by default, is beyond any machine's memory.
ALLOCATOR = {"TF_CPU_ALLOCATOR_USE_BFC": "true", "TF_CPU_BFC_MEM_LIMIT_IN_MB": str(1 << 24)}


def trainer_environment(config: Config) -> dict[str, str]:
    """The environment for TensorFlow: this process's, without its proxies, with a choice of TensorFlow's allocator."""
    # gRPC would send the workers' traffic through a proxy. It reads more proxy variables than other programs do.
    direct = {name: value for name, value in os.environ.items() if "proxy" not in name.lower() and name != CHANNEL}
    if config.device == "cpu":
        direct["CUDA_VISIBLE_DEVICES"] = "-1"  # otherwise TensorFlow looks for drivers
    return {"TF_CPP_MIN_LOG_LEVEL": "2", **ALLOCATOR, **direct}


class ForkServer(AbstractContextManager["ForkServer"]):
    """A fork server, which is started again if it ends, until the context ends.

    If a server ends before it is ready, because TensorFlow or the dataset cannot be loaded, it is not started again.
    Processes are then started without it, and report why. Linux only: libraries of other systems do not survive a fork.

    Args:
        config: the run's settings.
        new_session: whether the server gets a session of its own, and so no signals from this process's terminal.

    Attributes:
        channel: what Forked takes.

    Raises:
        JobError: 75 if the system has no room for another thread now.
    """

    def __init__(self, config: Config, *, new_session: bool = False) -> None:
        self._closed = False
        self._server: subprocess.Popen[str] | None = None
        with errors_from("process", "a process"):
            self.channel, self._other_end = socket.socketpair()
            # The kernel counts this thread as the server's parent. It lives until the server has ended.
            self._keeper = threading.Thread(target=self._keep, args=(config, new_session), name="forks", daemon=True)
            self._keeper.start()

    def __exit__(self, *_: object) -> None:
        self._closed = True
        if self._server:
            self._server.kill()
        self.channel.close()

    def _keep(self, config: Config, new_session: bool) -> None:
        command = [sys.executable, "-m", MODULE, *configs.argv(config)]
        # OpenBLAS starts its threads when NumPy is imported, and a process with threads cannot safely fork.
        environment = {**trainer_environment(config), "OPENBLAS_NUM_THREADS": "1"}
        with self._other_end as other_end, suppress(JobError):
            environment[CHANNEL] = str(other_end.fileno())
            ready = hasattr(os, "pidfd_open")  # only Linux has it
            while ready and not self._closed:
                with process.start(
                    command,
                    environment,
                    pass_fds=[other_end.fileno()],
                    stdout=process.PIPE,
                    stderr=process.NULL,
                    start_new_session=new_session,
                ) as self._server:
                    if self._closed:
                        self._server.kill()
                    ready = bool(self._server.stdout and self._server.stdout.read())


@contextmanager
def fork_channel(config: Config) -> Iterator[socket.socket]:
    """The channel of the fork server that this process shares with others, or of one of its own."""
    if shared := os.environ.get(CHANNEL):
        with socket.socket(fileno=int(shared)) as channel:
            yield channel
    else:
        with ForkServer(config) as server:
            yield server.channel


class Forked:
    """A `python -m MODULE` that the fork server forks. It has what SupervisedProcess uses of a Popen.

    On entering the context it starts, as soon as the server is ready; on leaving, it has ended.

    Args:
        channel: of the fork server.
        module: what to run.
        arguments: the command line.
        environment: the process's.
        records: the descriptor that the process gets for its records.

    Attributes:
        stderr: its standard error.
        pid: its process id; 0 before its start, and if there is no server that could start it.
        returncode: as Popen's; also -SIGKILL if the fork server ended, because the process then ends with it.

    Raises:
        OSError: there is no fork server, or no room for more files.
    """

    def __init__(
        self,
        channel: socket.socket,
        module: str,
        arguments: list[str],
        environment: Mapping[str, str],
        records: int,
    ) -> None:
        self.pid = 0
        self.returncode: int | None = None
        request = {
            "module": module,
            "arguments": arguments,
            # PYTHONINSPECT would make Python lose the exit code.
            "environment": {**environment, "PYTHONINSPECT": ""},
            "cpus": sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else [],
            "files": resource.getrlimit(resource.RLIMIT_NOFILE),
        }
        self._request = json.dumps(request).encode() + b"\n"
        self._passed: list[int] = []
        with ExitStack() as on_failure:
            self._connection, other_end = (on_failure.enter_context(end) for end in socket.socketpair())
            self._replies = on_failure.enter_context(self._connection.makefile("rb"))
            on_failure.callback(self._close_passed)
            self._passed.append(os.dup(records))
            reading, writing = os.pipe()
            self._passed.append(writing)
            self.stderr = on_failure.enter_context(os.fdopen(reading, encoding="utf-8", errors="replace"))
            with other_end:
                socket.send_fds(channel, [b"1"], [other_end.fileno()])
            on_failure.pop_all()

    def __enter__(self) -> Self:
        with suppress(OSError):  # the server ended meanwhile
            self.pid = int(self._replies.readline() or 0)
            if self.pid:
                socket.send_fds(self._connection, [self._request[:1]], self._passed)
                self._connection.sendall(self._request[1:])
        self._close_passed()
        return self

    def __exit__(self, *_: object) -> None:
        self._close_passed()
        self.stderr.close()
        self.returncode = -signal.SIGKILL
        with suppress(OSError), self._connection, self._replies:
            if self.pid and (reply := self._replies.readline()):
                self.returncode = int(reply)

    def kill(self) -> None:
        """Kill it, also if the fork server is stopped; or make the server not start it."""
        if self.pid:
            with suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGKILL)
        with suppress(OSError):
            self._connection.shutdown(socket.SHUT_WR if self.pid else socket.SHUT_RDWR)

    def terminate(self) -> None:
        """Send it SIGTERM. Until the context ends, its process id is no other process's."""
        if self.pid:
            with suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGTERM)

    def _close_passed(self) -> None:
        while self._passed:
            os.close(self._passed.pop())
