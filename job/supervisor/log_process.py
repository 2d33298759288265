"""The process that writes a worker's log to the volume, and the pipe that feeds it.

A volume can hang for ever, so the supervisor never waits for this process. It keeps the lines that the pipe does not
take yet, up to MOST_KEPT bytes, and loses further ones.
"""

from __future__ import annotations

import datetime as dt
import os
import select
import signal
import threading
import time
from typing import TYPE_CHECKING

from job.errors import JobError

if TYPE_CHECKING:
    from collections.abc import Callable

    from job.output.log_file import LogFile

CLOSE_S = 3.0  # for the last lines
MOST_KEPT = 2**20  # bytes of lines that wait: in the supervisor for the pipe, in the process until the run has begun
HANGS = "the volume does not answer in time"


class LogProcess:
    """The process, and the supervisor's end of its pipe.

    The process is a fork of this one, which takes a millisecond and little memory. Create it before any thread.

    Args:
        file: the log.
        pod: the name of this pod, which each line contains.
    """

    def __init__(self, file: LogFile, pod: str) -> None:
        self._path, self._pod = file.path, pod
        self._rest = bytearray()  # what the pipe has not taken yet
        self._problem, self._no_process = "", ""
        self._say: Callable[[str], object] = lambda _: None
        self._ended, self._closed = threading.Event(), False
        self._lock = threading.Lock()  # for the pipe, _rest and _problem; released before say() is called
        reading, self._feed = os.pipe()
        self._news, reporting = os.pipe()
        try:
            self._pid = os.fork()
        except OSError as error:  # no room for a process now
            self._pid, self._no_process = 0, error.strerror or ""
        else:
            if self._pid == 0:
                os.close(self._feed)
                os.close(self._news)
                _write_log(file, reading, reporting)
        os.close(reading)
        os.close(reporting)
        os.set_blocking(self._feed, False)

    def listen(self, say: Callable[[str], object]) -> None:
        """Call say(), from some thread, with one sentence once lines are lost. It is called once at most."""
        self._say = say
        threading.Thread(target=self._read_news, name="log-news", daemon=True).start()

    def write(self, line: str) -> None:
        """Pass a line on, or lose it; returns at once."""
        seconds, nanoseconds = divmod(time.time_ns(), 10**9)
        moment = dt.datetime.fromtimestamp(seconds, dt.UTC)
        text = f"{moment:%Y-%m-%dT%H:%M:%S}.{nanoseconds:09}Z {self._pod} {line}\n".encode(errors="replace")
        with self._lock:
            if self._closed or self._ended.is_set():
                return
            self._send()
            has_room = len(self._rest) + len(text) <= MOST_KEPT
            if has_room:
                self._rest += text
                self._send()
        if not has_room:
            self._lost(HANGS)

    def close(self, seconds: float = CLOSE_S) -> None:
        """Let the process write what it has, for so many seconds at most, and end it."""
        deadline = time.monotonic() + seconds
        with self._lock:
            self._closed = True  # no other thread uses the pipe from here on
        self._send()
        while self._rest and (left_s := deadline - time.monotonic()) > 0:
            select.select([], [self._feed], [], left_s)
            self._send()
        os.close(self._feed)
        if not self._ended.wait(max(0, deadline - time.monotonic())):
            if self._pid:
                os.kill(self._pid, signal.SIGKILL)
            self._ended.set()
            self._lost(HANGS)

    def _send(self) -> None:
        try:
            del self._rest[: os.write(self._feed, self._rest)]
        except BlockingIOError:
            pass
        except OSError:  # the process has ended, as _read_news() is about to say
            self._rest.clear()

    def _lost(self, problem: str) -> None:
        with self._lock:
            is_first, self._problem = not self._problem, self._problem or problem
        if is_first:
            self._say(f"lines are missing from {self._path}: {problem}; the run does not need this file")

    def _read_news(self) -> None:
        if self._no_process:
            self._lost(self._no_process)
        with os.fdopen(self._news, encoding="utf-8", errors="replace") as news:
            for line in news:
                self._lost(line.rstrip("\n"))
        if not self._closed:
            self._lost("the process that writes it has ended")
        self._ended.set()


def _write_log(file: LogFile, reading: int, reporting: int) -> None:
    """Append what arrives in `reading` to the log until that pipe closes; send the first failure to `reporting`."""
    try:
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_IGN)  # the last lines come after them
        null = os.open(os.devnull, os.O_RDWR)
        for stream in range(3):
            os.dup2(null, stream)  # a reader of this worker's output must not wait for a process that hangs
        kept, failed, closed = b"", False, False
        while not closed:
            data = os.read(reading, 2**16)
            closed = not data
            kept += data
            if len(kept) > MOST_KEPT:
                kept = kept[-MOST_KEPT:].partition(b"\n")[2]
            try:
                if file.run_exists():
                    lines, end, kept = kept.rpartition(b"\n")
                    file.append(lines + end)
            except (OSError, JobError) as error:
                if not failed:
                    problem = error.strerror if isinstance(error, OSError) else error
                    os.write(reporting, f"{problem}\n".encode())
                failed = True
    finally:
        os.kill(os.getpid(), signal.SIGKILL)  # the supervisor's code, which this process copied, must not continue
