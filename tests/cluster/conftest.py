"""Environment variables that choose the cluster, and a namespace for each test.

KUBECONFIG    the cluster; without it, all tests are skipped
IMAGE         the job's image, which the nodes have or can pull; default: the one in the manifests
RWX_CLASS     a storage class for ReadWriteMany volumes, which workers on several nodes need; without it, the workers of
              a run share a node, and tests that need two nodes are skipped
RWO_CLASS     a storage class for ReadWriteOnce volumes; default: the cluster's default class
CLUSTER_TOOL  a program that breaks the cluster: `net cut|join NODE`, `daemon stop|start NAME`, `gpus NODE NUMBER`;
              default: kind.sh in this folder for kind with docker
UNTIL         the time, in seconds since 1970, after which no test begins: the tests that are left are skipped
"""

from __future__ import annotations

import fcntl
import os
import shutil
import sys
import time
import uuid
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from k8s.render.kustomize import MANIFESTS, kustomize
from k8s.state.names import trainer_of
from tests.cluster.access import kind_name
from tests.cluster.namespace import Breaker, Namespace

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

HERE = Path(__file__).parent
NO_CLUSTER = "KUBECONFIG names no cluster to test on; for kubectl's own, run `export KUBECONFIG=$HOME/.kube/config`"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark all tests of this folder, and skip them without a cluster."""
    for item in items:
        if item.path.is_relative_to(HERE):
            item.add_marker(pytest.mark.cluster)
            if not os.environ.get("KUBECONFIG"):
                item.add_marker(pytest.mark.skip(reason=NO_CLUSTER))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Any:
    """Note that a test failed, so that its fixture prints the state of its namespace."""
    report = yield
    if report.failed:
        item.stash[FAILED] = True
    return report


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    """Let a session that tested nothing fail."""
    if skipped_all(session.config):
        session.exitstatus = pytest.ExitCode.NO_TESTS_COLLECTED


@pytest.hookimpl(trylast=True)
def pytest_unconfigure(config: pytest.Config) -> None:
    """Say in the last line that nothing was tested, and why."""
    if reasons := skipped_all(config):
        reporter: Any = config.pluginmanager.get_plugin("terminalreporter")
        reporter.write_line(f"error: nothing was tested, because every test was skipped: {'; '.join(sorted(reasons))}")


def skipped_all(config: pytest.Config) -> set[str]:
    """The reasons why tests were skipped, if all were; otherwise an empty set."""
    reporter: Any = config.pluginmanager.get_plugin("terminalreporter")
    results = reporter.stats if reporter else {}
    if {key for key in results if key not in ("", "deselected", "warnings")} != {"skipped"}:
        return set()
    return {str(report.longrepr[2]).removeprefix("Skipped: ") for report in results["skipped"]}


FAILED = pytest.StashKey[bool]()


@pytest.fixture(autouse=True)
def turn(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Wait until the test may use the cluster: tests run side by side, but one that disturbs others runs alone."""
    alone = "breaker" in request.fixturenames or request.node.get_closest_marker("alone")
    folder = tmp_path_factory.getbasetemp().parent  # all processes of pytest-xdist have it in common
    with (folder / "queue").open("w") as queue, (folder / "cluster").open("w") as cluster:
        fcntl.flock(queue, fcntl.LOCK_EX)  # or tests side by side could keep one waiting that runs alone
        fcntl.flock(cluster, fcntl.LOCK_EX if alone else fcntl.LOCK_SH)
        fcntl.flock(queue, fcntl.LOCK_UN)
        if time.time() > float(os.environ.get("UNTIL", "inf")):
            pytest.skip("no test begins after UNTIL: this machine is too slow for all tests in that time")
        yield


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
    """A namespace with a claim, `output`: workers on all nodes can use it, or on one node if RWX_CLASS is not set."""
    if storage_class := os.environ.get("RWX_CLASS"):
        namespace.claim("output", "ReadWriteMany", storage_class)
    else:
        namespace.claim("output", "ReadWriteOnce", os.environ.get("RWO_CLASS"))
    return namespace


@pytest.fixture
def spread(shared: Namespace) -> Namespace:
    """The same, where two workers run on two nodes."""
    if len(shared.nodes()) < 2:
        pytest.skip("only one node accepts pods")
    if shared.access_mode != "ReadWriteMany":
        pytest.skip("RWX_CLASS names no storage class for ReadWriteMany volumes")
    # While a claim waits for its first pod, the scheduler puts all pods on that pod's node.
    shared.reader()
    return shared


@pytest.fixture
def breaker() -> Iterator[Breaker]:
    """Breaks the cluster, and repairs it after the test."""
    tool = os.environ.get("CLUSTER_TOOL")
    if not tool and kind_name() and shutil.which("docker"):
        tool = str(HERE / "kind.sh")
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
