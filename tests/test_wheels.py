"""Every locked package has a wheel for platforms on which no other test runs.

The tests ask the package index, and therefore run only when they are named: `make test ARGS=tests/test_wheels.py`.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

LOCKS = Path(__file__).parents[1] / "requirements"
# Published as sources alone, in pure Python: pip builds it on every platform.
SOURCES_ONLY = "promise"


@pytest.mark.parametrize("python", ["3.11", "3.12", "3.13"])
@pytest.mark.parametrize(
    ("lock", "platform"),
    [
        ("dev", "aarch64-apple-darwin"),
        ("dev", "aarch64-unknown-linux-gnu"),
        ("cpu", "aarch64-unknown-linux-gnu"),
        ("gpu", "aarch64-unknown-linux-gnu"),
    ],
)
def test_every_locked_package_has_a_wheel(lock: str, platform: str, python: str, tmp_path: Path) -> None:
    """Uv finds a wheel with a locked hash for each package that the markers choose on that platform.

    pip would evaluate the markers for the machine that it runs on, and download 0.6 GB for each platform.
    """
    command = [sys.executable, "-m", "uv", "pip", "install", "--dry-run", "--no-deps", "--require-hashes"]
    command += ["--only-binary", ":all:", "--no-binary", SOURCES_ONLY, "--target", str(tmp_path)]
    command += ["--python-platform", platform, "--python-version", python, "--requirement", str(LOCKS / f"{lock}.txt")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert " + tensorflow==" in done.stderr
