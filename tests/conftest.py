"""Fixtures that several test modules share."""

from __future__ import annotations

import os
import socket
import subprocess
from contextlib import suppress
from typing import TYPE_CHECKING, Protocol

import pytest

from job.config import Config
from job.dataset.prepare import prepare_dataset
from tests.fixtures import synthetic, write_idx

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


# As in a trainer. TensorFlow's threads also write after a test, where pytest does not capture what they write.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")


class Mount(Protocol):
    """Mounts a small file system in memory with these options of tmpfs, or changes its options; gives the folder."""

    def __call__(self, options: str) -> Path:
        """Mount it."""


@pytest.fixture(scope="session")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the four raw IDX files of 600 synthetic training examples and 200 test examples."""
    folder = tmp_path_factory.mktemp("raw")
    write_idx(folder, *synthetic())
    return folder


@pytest.fixture(scope="session")
def prepared(tmp_path_factory: pytest.TempPathFactory, raw: Path) -> Path:
    """A data folder with the same examples prepared as `mnist`. Tests that change it copy it first."""
    folder = tmp_path_factory.mktemp("data")
    prepare_dataset(Config(data=folder), raw, lambda _: None)
    return folder


@pytest.fixture(scope="session")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data folder with 6,000 training and 1,000 test images. Tests that change it copy it first."""
    raw, folder = tmp_path_factory.mktemp("raw"), tmp_path_factory.mktemp("data")
    write_idx(raw, *synthetic(train=6000, test=1000))
    prepare_dataset(Config(data=folder), raw, lambda _: None)
    return folder


@pytest.fixture(scope="session")
def own_address() -> str:
    """An address of this machine that is not the loopback interface's."""
    with suppress(OSError), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect(("192.0.2.1", 9))  # sends nothing; the address is reserved for documentation
        return str(probe.getsockname()[0])
    pytest.skip("this machine has no network")


@pytest.fixture
def volume(tmp_path: Path) -> Iterator[Mount]:
    """A volume that can become full or read-only. Skips the test unless root runs it, because only root may mount."""
    folder = tmp_path / "volume"

    def mount(options: str) -> Path:
        remount = folder.exists()
        folder.mkdir(exist_ok=True)
        options = f"remount,{options}" if remount else options
        mounted = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", options, "tmpfs", folder], capture_output=True, text=True, check=False
        )
        if mounted.returncode:
            pytest.skip(f"no volume can be mounted here: {mounted.stderr.strip()}")
        return folder

    yield mount
    if folder.is_mount():
        subprocess.run(["umount", folder], check=True)
