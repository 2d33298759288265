"""Tests of a process that cannot be started, because the system has no room for it."""

from __future__ import annotations

import errno
import itertools
import os
import queue
import subprocess
import threading
from pathlib import Path
from typing import Any

import pytest

from job.cluster import Cluster
from job.config import Config
from job.errors import Exit, JobError
from job.supervisor.supervised_process import SupervisedProcess
from job.time_spent import TimeSpent
from tests.job.processes import wait_until


def descriptors() -> set[str]:
    """The files that this process has open."""
    return {f"{path.name} {path.readlink()}" for path in Path("/proc/self/fd").iterdir() if path.exists()}


def refusal() -> JobError:
    """Why a process cannot be started."""
    with pytest.raises(JobError) as caught:
        SupervisedProcess(
            "job.supervisor.precheck",
            Config(),
            Cluster("r", "u", 0, ("a:1",), ("a:2",)),
            0,
            TimeSpent(0.0),
            queue.SimpleQueue(),
        )
    assert (caught.value.code, caught.value.reason) == (Exit.TRY_AGAIN, "no-process")
    return caught.value


@pytest.mark.parametrize("number", [errno.EAGAIN, errno.EMFILE, errno.ENFILE])
def test_a_process_that_cannot_be_started_leaves_no_open_file(number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The limit of processes, or of open files, may be free again later: 75."""

    def refuse(*_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(subprocess, "Popen", refuse)
    before = descriptors()
    assert refusal().message == f"a process cannot be started: {os.strerror(number)}"
    assert descriptors() == before


@pytest.mark.parametrize("refused", [1, 2])
def test_a_process_is_ended_if_its_threads_cannot_be_started(refused: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The limit of processes counts threads too. Neither the process nor an open file stays."""
    processes: list[subprocess.Popen[str]] = []
    popen, start, count = subprocess.Popen, threading.Thread.start, itertools.count(1)

    def start_process(*arguments: Any, **options: Any) -> subprocess.Popen[str]:
        processes.append(popen(*arguments, **options))
        return processes[-1]

    def start_thread(thread: threading.Thread) -> None:
        if next(count) == refused:
            raise RuntimeError("can't start new thread")
        start(thread)

    monkeypatch.setattr(subprocess, "Popen", start_process)
    monkeypatch.setattr(threading.Thread, "start", start_thread)
    before = descriptors()
    assert refusal().message == "a thread cannot be started: can't start new thread"
    wait_until(lambda: descriptors() == before, "all files of the failed start are closed")
    assert [process.returncode is not None for process in processes] == [True]
