"""Processes on systems and in environments that differ from a plain Linux machine."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from job.system import process
from tests.job import processes


@pytest.mark.parametrize("value", ["1", "0", "99999999", "-5", "", "another program's"])
def test_a_variable_of_another_programs_does_not_end_a_command(value: str) -> None:
    """PARENT_PID is a name that others use, also in a container, where the parent is process 1 or 0."""
    words = [sys.executable, "-m", "job", "--version"]
    environment = processes.environment({"PARENT_PID": value})
    ended = subprocess.run(words, cwd=processes.ROOT, env=environment, capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stderr) == (0, "")
    assert ended.stdout.startswith("mnist-job ")


def test_a_child_ends_if_its_parent_has_ended_before_it_asks() -> None:
    """The kernel no longer reports such a parent. Here, the variable names a process that is not the parent."""
    script = "from job.system import process; process.end_with_parent(); print('alive')"
    environment = processes.environment({process.PARENT: "1"})
    ended = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, check=False)
    assert (ended.returncode, ended.stdout) == (1, b"")


def test_orphans_are_left_alone_where_python_lacks_waitid(monkeypatch: pytest.MonkeyPatch) -> None:
    """Python on macOS has os.waitid() from 3.13. The exit code of a child is still there for whoever waits for it."""
    monkeypatch.delattr(os, "waitid")
    with subprocess.Popen([sys.executable, "-c", "import sys; sys.exit(7)"], stdout=subprocess.PIPE) as child:
        assert child.stdout
        assert child.stdout.read() == b""
        process.reap_orphans(0)
        assert child.wait(processes.DEADLINE_S) == 7


def test_a_sandbox_may_report_no_peak_and_bind_no_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory is then getrusage()'s, and the child runs on all CPUs."""

    def refuse(*_: Any) -> None:
        raise PermissionError

    with monkeypatch.context() as patch:
        patch.setattr(Path, "read_text", lambda *_, **__: "Name:\tpython\n")
        assert process.peak_rss_mb() > 1
    monkeypatch.setattr(os, "sched_setaffinity", refuse)
    with process.start([sys.executable, "-c", "print(1)"], os.environ, [0], stdout=process.PIPE) as child:
        assert child.communicate(timeout=processes.DEADLINE_S)[0] == "1\n"


def test_a_child_keeps_its_exit_code_in_every_environment() -> None:
    """With PYTHONINSPECT, Python would read more commands after the last one, and exit with another code."""
    words = [sys.executable, "-c", "raise SystemExit(7)"]
    with process.start(words, processes.environment({"PYTHONINSPECT": "1"}), stderr=process.PIPE) as child:
        _, errors = child.communicate(timeout=processes.DEADLINE_S)
    assert (child.returncode, errors) == (7, "")
