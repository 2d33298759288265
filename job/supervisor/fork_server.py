"""The fork server: a process that imports TensorFlow, loads the dataset, and forks trainers from itself.

Its children share the pages of its memory until they write to them. When it forks, it must have only its first thread,
no TensorFlow context and no CUDA context: a fork copies the locks that other threads hold, but not these threads. So
the server never imports the model, whose code could create a thread or a context.

To ask for a child, another process sends a byte and one end of a socket pair (the connection) over the channel. On the
connection, the server sends one line with the child's process id and, when it exits, one with its return code. The
child receives on it what to run. If the other side shuts the connection down, the server kills the child. When the
server ends, all its children end.
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import resource
import runpy
import select
import signal
import socket
import sys
import time
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from job import telemetry
from job.config import parse
from job.dataset.rows import hold_dataset
from job.supervisor.forking import CHANNEL
from job.system import process
from job.training.internals import light_import, run_public_modules

# What every trainer imports and what takes long, without the model and the modules that import it.
MODULES = (
    "job.training.strategy",
    "job.training.collectives",
    "job.training.export",
    "job.training.input",
    "job.training.packing",
    "job.training.scalars",
    "job.training.statistics",
    "job.training.worker",
    "job.output.checkpoint",
    "job.output.run_folder",
    "job.report.report",
    "job.supervisor.child",
)
# TensorFlow's public modules that trainers use. They run before the fork, so that no trainer has to run them.
PUBLIC_MODULES = (
    "autograph.experimental",
    "config",
    "config.experimental",
    "config.threading",
    "data",
    "errors",
    "experimental.dlpack",
    "io",
    "math",
    "saved_model",
)
# If a run has a model of its own: the model probably uses tf.nn, and Keras uses tf.compat.v1.
FOR_OTHER_MODELS = ("nn", "compat.v1")
THREADS = Path("/proc/self/task")
SETTLE_S = 10.0  # for threads that have finished their work to end


@dataclass
class Child:
    """A forked process: its connection, whether it has exited, and whether the other side still wants it."""

    pid: int
    connection: socket.socket
    exited: bool = False
    wanted: bool = True


def main() -> None:
    """Serve until every process that can ask for a child has ended; a child runs what it was asked to."""
    process.end_with_parent()
    # A process manager may signal all processes of a group at once. The supervisor decides when trainers end.
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    channel = socket.socket(fileno=int(os.environ.pop(CHANNEL)))
    config = parse(sys.argv[1:])
    with ThreadPoolExecutor(1) as pool:
        # A dataset that cannot be loaded ends the server at once. A trainer then reports why.
        pool.submit(hold_dataset, config.data, config.dataset).add_done_callback(end_if_failed)
        with light_import():
            for module in MODULES:
                importlib.import_module(module)
        run_public_modules(*PUBLIC_MODULES, *(FOR_OTHER_MODELS if config.model else ()))
    end_if_threaded()
    os.register_at_fork(after_in_child=np.random.seed)  # or all children would draw the same numbers
    gc.freeze()  # a collection in a child would write to all of these objects, and so copy them
    print("ready", flush=True)  # noqa: T201 - the parent reads it
    server = str(os.getpid())
    connection = serve(channel)
    process.end_with(server)
    run_module(connection)


def end_if_failed(done: Future[None]) -> None:
    """End this process if the work ended with an exception."""
    if done.exception():
        os._exit(1)


def end_if_threaded() -> None:
    """End this process if it keeps more than one thread."""
    deadline = time.monotonic() + SETTLE_S
    while len(list(THREADS.iterdir())) > 1:
        if time.monotonic() > deadline:
            os._exit(1)
        time.sleep(0.001)


def serve(channel: socket.socket) -> socket.socket:
    """Fork a child for each request, and tell how it ends. Returns only in a child, with its connection."""
    children: dict[int, Child] = {}  # by the connection's descriptor
    woken, wakes = os.pipe()
    for end in (woken, wakes):
        os.set_blocking(end, False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.set_wakeup_fd(wakes, warn_on_full_buffer=False)
    poll = select.poll()
    poll.register(channel, select.POLLIN)
    poll.register(woken, select.POLLIN)
    while True:
        for ready, _ in poll.poll():
            if ready == channel.fileno():
                if not (child := fork(channel)):
                    continue
                if child.pid == 0:
                    signal.set_wakeup_fd(-1)
                    for number in (signal.SIGCHLD, signal.SIGTERM):
                        signal.signal(number, signal.SIG_DFL)
                    for other in children.values():
                        other.connection.close()
                    channel.close()
                    os.close(woken)
                    os.close(wakes)
                    return child.connection
                children[child.connection.fileno()] = child
                # Not when there is something to read: that is for the child.
                poll.register(child.connection, select.POLLRDHUP)
            elif ready == woken:
                os.read(woken, 4096)
            else:
                poll.unregister(ready)
                children[ready].wanted = False
                os.kill(children[ready].pid, signal.SIGKILL)
        children = {descriptor: child for descriptor, child in children.items() if not is_over(child)}


def fork(channel: socket.socket) -> Child | None:
    """Fork for the next request; in the child, pid is 0. None if that is not possible now."""
    byte, descriptors, _, _ = socket.recv_fds(channel, 1, 1)
    if not byte:
        sys.exit()
    if not descriptors:  # this process may open no more files
        return None
    connection = socket.socket(fileno=descriptors[0])
    try:
        pid = os.fork()
    except OSError:
        connection.close()
        return None
    if pid:
        send_line(connection, pid)
    return Child(pid, connection)


def is_over(child: Child) -> bool:
    """Send the return code of a child that has exited, and reap it once it is not wanted; returns whether it is reaped.

    Until then it stays a zombie, because the other side may send a signal to its process id.
    """
    if not child.exited:
        end = os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        if end is None:
            return False
        child.exited = True
        send_line(child.connection, end.si_status if end.si_code == os.CLD_EXITED else -end.si_status)
    if child.wanted:
        return False
    os.waitpid(child.pid, 0)
    child.connection.close()
    return True


def send_line(connection: socket.socket, number: int) -> None:
    """Send a number to the other side, which may be gone."""
    with suppress(OSError):
        connection.sendall(f"{number}\n".encode())


def run_module(connection: socket.socket) -> None:
    """Receive what to run, and run it as `python -m` would."""
    with connection:
        data, descriptors, _, _ = socket.recv_fds(connection, 1, 2)
        while not data.endswith(b"\n"):
            more = connection.recv(65536)
            if not more:
                os._exit(1)
            data += more
    request = json.loads(data)
    records, errors = descriptors
    os.dup2(sys.stdin.fileno(), sys.stdout.fileno())  # /dev/null
    os.dup2(errors, sys.stderr.fileno())
    os.close(errors)
    os.environ.clear()
    os.environ.update(request["environment"])
    os.environ[telemetry.PIPE] = str(records)
    resource.setrlimit(resource.RLIMIT_NOFILE, request["files"])
    with suppress(OSError):  # a sandbox forbids it
        os.sched_setaffinity(0, request["cpus"])
    sys.argv[1:] = request["arguments"]
    runpy.run_module(request["module"], run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
