"""Several requests at the same time."""

from __future__ import annotations

import subprocess
import sys
import threading

import pytest

from k8s.api.threads import ask_all
from tests.k8s.fakes import ROOT


def test_results_are_in_the_order_of_the_items() -> None:
    """Whichever answer comes first. Without items, no thread is started."""
    last_is_done = threading.Event()

    def ask(number: int) -> int:
        if number == 4:
            last_is_done.set()
        else:
            assert last_is_done.wait(60)
        return number**2

    assert ask_all(ask, range(5)) == [0, 1, 4, 9, 16]
    assert ask_all(ask, []) == []


def test_an_exception_does_not_wait_for_the_other_requests() -> None:
    """It is raised while they are unanswered."""
    is_over, answered = threading.Event(), list[int]()

    def ask(number: int) -> None:
        if number == 0:
            raise ZeroDivisionError
        is_over.wait(60)
        answered.append(number)

    with pytest.raises(ZeroDivisionError):
        ask_all(ask, range(3))
    assert answered == []
    is_over.set()


def test_python_does_not_wait_for_unanswered_requests() -> None:
    """Ctrl-C ends a command although the API server does not answer."""
    code = """
import os, signal, threading
from k8s.api.threads import ask_all
signal.signal(signal.SIGINT, signal.default_int_handler)
def ask(number):
    while True:  # the main thread may not wait yet, and then only a second signal wakes it
        os.kill(os.getpid(), signal.SIGINT)
        threading.Event().wait(0.5)
try:
    ask_all(ask, [1])
except KeyboardInterrupt:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    print("interrupted")
"""
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == "interrupted\n"
