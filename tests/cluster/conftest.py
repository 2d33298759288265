"""Which cluster, and a namespace for each test.

KUBECONFIG    the cluster; without it all tests are skipped
IMAGE         the job's image, which the nodes have or can pull; the manifests' own by default
RWX_CLASS     a storage class that gives ReadWriteMany volumes, for workers on several nodes
RWO_CLASS     one that gives ReadWriteOnce volumes; the default class if it is not set
CLUSTER_TOOL  a program that breaks the cluster: `net cut|join NODE`, `daemon stop|start NAME`, `gpus NODE NUMBER`
"""

from __future__ import annotations

import os
import sys
import uuid
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from k8s.render.kustomize import MANIFESTS, kustomize
from k8s.state.names import trainer_of
from tests.cluster.lab import Breaker, Lab

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

HERE = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark all tests of this folder, and skip them where there is no cluster."""
    for item in items:
        if item.path.is_relative_to(HERE):
            item.add_marker(pytest.mark.cluster)
            if not os.environ.get("KUBECONFIG"):
                item.add_marker(pytest.mark.skip(reason="KUBECONFIG names no cluster to test on"))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Any:
    """Leave with each test whether it failed, for its namespace to be shown."""
    report = yield
    if report.failed:
        item.stash[FAILED] = True
    return report


FAILED = pytest.StashKey[bool]()


@pytest.fixture(scope="session")
def image() -> str:
    """The job's image."""
    if named := os.environ.get("IMAGE"):
        return named
    [job] = kustomize(MANIFESTS / "run")
    return str(trainer_of(job["spec"]["template"])["image"])


@pytest.fixture
def lab(request: pytest.FixtureRequest, image: str) -> Iterator[Lab]:
    """A namespace of its own with Pod Security `restricted`, shown if the test fails, and deleted in any case."""
    lab = Lab(f"test-{uuid.uuid4().hex[:8]}", image)
    try:
        lab.open()
        yield lab
    finally:
        if request.node.stash.get(FAILED, False):
            sys.stderr.write(lab.describe())
        lab.close()


@pytest.fixture
def shared(lab: Lab) -> Lab:
    """A namespace with a ReadWriteMany claim, `output`."""
    storage_class = os.environ.get("RWX_CLASS")
    if not storage_class:
        pytest.skip("RWX_CLASS names no storage class for ReadWriteMany volumes")
    lab.claim("output", "ReadWriteMany", storage_class)
    return lab


@pytest.fixture
def breaker() -> Iterator[Breaker]:
    """Breaks the cluster, and mends it after the test."""
    tool = os.environ.get("CLUSTER_TOOL")
    if not tool:
        pytest.skip("CLUSTER_TOOL names no program that can break this cluster")
    breaker = Breaker(tool)
    try:
        yield breaker
    finally:
        breaker.mend()


@pytest.fixture(scope="session")
def quiet(image: str) -> Callable[..., dict[str, Any]]:
    """The result of the run that nothing befalls, by number of workers and training flags; each is made once."""
    results: dict[Any, dict[str, Any]] = {}

    def run(workers: int, *training: str) -> dict[str, Any]:
        if (workers, training) not in results:
            lab = Lab(f"test-quiet-{uuid.uuid4().hex[:8]}", image)
            try:
                lab.open()
                lab.claim("output", "ReadWriteOnce", os.environ.get("RWX_CLASS") or os.environ.get("RWO_CLASS"))
                lab.submit("quiet", *training, workers=workers)
                lab.until_published("quiet")
                results[workers, training] = lab.result("quiet")
            finally:
                lab.close()
        return results[workers, training]

    return run
