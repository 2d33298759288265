"""Environment variables that choose the cluster, and a namespace for each test.

KUBECONFIG    the cluster; without it, all tests are skipped
IMAGE         the job's image, which the nodes have or can pull; default: the one in the manifests
RWX_CLASS     a storage class for ReadWriteMany volumes, which workers on several nodes need
RWO_CLASS     a storage class for ReadWriteOnce volumes; default: the cluster's default class
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
from tests.cluster.namespace import Breaker, Namespace

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

HERE = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark all tests of this folder, and skip them without a cluster."""
    for item in items:
        if item.path.is_relative_to(HERE):
            item.add_marker(pytest.mark.cluster)
            if not os.environ.get("KUBECONFIG"):
                item.add_marker(pytest.mark.skip(reason="KUBECONFIG names no cluster to test on"))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Any:
    """Note that a test failed, so that its fixture prints the state of its namespace."""
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
def namespace(request: pytest.FixtureRequest, image: str) -> Iterator[Namespace]:
    """A new namespace with Pod Security `restricted`. Its state is printed if the test fails; it is always deleted."""
    namespace = Namespace(f"test-{uuid.uuid4().hex[:8]}", image)
    try:
        namespace.create()
        yield namespace
    finally:
        if request.node.stash.get(FAILED, False):
            sys.stderr.write(namespace.describe())
        namespace.delete()


@pytest.fixture
def shared(namespace: Namespace) -> Namespace:
    """A namespace with a ReadWriteMany claim, `output`."""
    storage_class = os.environ.get("RWX_CLASS")
    if not storage_class:
        pytest.skip("RWX_CLASS names no storage class for ReadWriteMany volumes")
    namespace.claim("output", "ReadWriteMany", storage_class)
    return namespace


@pytest.fixture
def breaker() -> Iterator[Breaker]:
    """Breaks the cluster, and repairs it after the test."""
    tool = os.environ.get("CLUSTER_TOOL")
    if not tool:
        pytest.skip("CLUSTER_TOOL names no program that breaks this cluster")
    breaker = Breaker(tool)
    try:
        yield breaker
    finally:
        breaker.repair()


@pytest.fixture(scope="session")
def undisturbed(image: str) -> Callable[..., dict[str, Any]]:
    """The result of a run without a fault, by number of workers and training flags. Each one is made once."""
    results: dict[Any, dict[str, Any]] = {}

    def run(workers: int, *training: str) -> dict[str, Any]:
        if (workers, training) not in results:
            namespace = Namespace(f"test-undisturbed-{uuid.uuid4().hex[:8]}", image)
            try:
                namespace.create()
                namespace.claim("output", "ReadWriteOnce", os.environ.get("RWX_CLASS") or os.environ.get("RWO_CLASS"))
                namespace.submit("undisturbed", *training, workers=workers)
                namespace.wait_until_published("undisturbed")
                results[workers, training] = namespace.result("undisturbed")
            finally:
                namespace.delete()
        return results[workers, training]

    return run
