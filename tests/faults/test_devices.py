"""The fault test of tests/gpu with a CPU in the GPU's place."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.gpu import runs

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.faults


def test_a_run_continues_in_the_middle_of_a_block(digits: Path, tmp_path: Path) -> None:
    """A trainer that is killed, and one that is stopped, continue to the parameters of an undisturbed run."""
    runs.assert_continues(digits, tmp_path, "cpu")
