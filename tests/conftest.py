"""Fixtures that several test modules share."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from job.config import Config
from job.prepare import prepare
from tests.fixtures import synthetic, write_idx

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(scope="session")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the four raw IDX files of the synthetic digits: 600 training and 200 test examples."""
    folder = tmp_path_factory.mktemp("raw")
    write_idx(folder, *synthetic())
    return folder


@pytest.fixture(scope="session")
def prepared(tmp_path_factory: pytest.TempPathFactory, raw: Path) -> Path:
    """A data folder with the synthetic digits prepared as `mnist`; tests that change it copy it first."""
    folder = tmp_path_factory.mktemp("data")
    prepare(Config(data=folder), raw, lambda _: None)
    return folder
