"""Rendered Jobs to check."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from k8s.render import render
from k8s.render.submission import Submission

if TYPE_CHECKING:
    from k8s.api.objects import Object


@pytest.fixture(scope="module")
def rendered() -> dict[str, Object]:
    """The Jobs of two overlays."""
    return {overlay: render.job(Submission("digits", overlay=overlay)) for overlay in ("cpu", "gpu")}


@pytest.fixture
def job(rendered: dict[str, Object]) -> Object:
    """A Job of two workers that each request half a CPU and 1 Gi of memory."""
    return json.loads(json.dumps(rendered["cpu"]))  # type: ignore[no-any-return]


@pytest.fixture
def gpu_job(rendered: dict[str, Object]) -> Object:
    """A Job of two workers with a GPU each."""
    return json.loads(json.dumps(rendered["gpu"]))  # type: ignore[no-any-return]
