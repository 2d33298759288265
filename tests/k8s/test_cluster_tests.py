"""The tests in tests/cluster without a cluster."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def test_a_run_that_tests_nothing_fails_and_says_so() -> None:
    """Without KUBECONFIG, all tests are skipped: pytest fails, and its last line gives the reason and the remedy."""
    environment = {name: value for name, value in os.environ.items() if name != "KUBECONFIG"}
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "tests/cluster/test_fetch.py"]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == pytest.ExitCode.NO_TESTS_COLLECTED, done.stdout + done.stderr
    *_, summary, last = done.stdout.splitlines()
    assert " 1 skipped in " in summary
    assert last == (
        "error: nothing was tested, because every test was skipped: KUBECONFIG names no cluster to test on; "
        "for kubectl's own, run `export KUBECONFIG=$HOME/.kube/config`"
    )
