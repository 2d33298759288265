"""The checks of the claims and their storage classes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from k8s.checks import storage
from k8s.checks.check import Check
from k8s.commands import submit
from k8s.diagnose import catalogue
from k8s.render import render
from k8s.render.submission import Submission
from k8s.state.names import APP, CLAIM, CLAIM_LABEL, DATA_LABEL, PART_OF_LABEL
from tests.k8s.checks.cluster import CheckedCluster, claim, named, storage_class

if TYPE_CHECKING:
    from k8s.api.objects import Object

UNBOUND = catalogue.remedy("claim-unbound", claim="mnist-job-output", flags="-n here")


def alone(job: Object) -> Object:
    """The same with one worker."""
    job["spec"]["completions"] = job["spec"]["parallelism"] = 1
    return job


@pytest.mark.parametrize(
    ("found", "state", "message", "remedy"),
    [
        (claim("ReadWriteMany", "ReadWriteOnce"), "ok", "is ReadWriteMany, ReadWriteOnce", ""),
        (claim("ReadWriteOnce"), "ok", "is ReadWriteOnce; all workers run on one node", ""),
        (
            claim("ReadWriteOncePod"),
            "failed",
            "is ReadWriteOncePod: 2 workers cannot share it",
            "choose a ReadWriteMany or ReadWriteOnce claim with --claim",
        ),
        (
            claim("ReadOnlyMany"),
            "failed",
            "is ReadOnlyMany: a run cannot write to it",
            "choose another one with --claim",
        ),
    ],
)
def test_volume(job: Object, found: Object, state: str, message: str, remedy: str) -> None:
    """An access mode that does not fit the number of workers fails the check."""
    assert storage.check_volume(CheckedCluster().given(), job, found) == Check(
        "volume", state, f"the claim {CLAIM} {message}", remedy
    )


def test_volume_of_one_worker(job: Object) -> None:
    """A ReadWriteOncePod claim serves one worker."""
    check = storage.check_volume(CheckedCluster().given(), alone(job), claim("ReadWriteOncePod"))
    assert check == Check("volume", "ok", f"the claim {CLAIM} is ReadWriteOncePod")


@pytest.mark.parametrize(
    ("mode", "phase", "check"),
    [
        ("ReadOnlyMany", "Bound", ("ok", "the claim data is ReadOnlyMany", "")),
        ("ReadWriteOnce", "Bound", ("ok", "the claim data is ReadWriteOnce; all workers run on one node", "")),
        (
            "ReadWriteOncePod",
            "Bound",
            (
                "failed",
                "the claim data is ReadWriteOncePod: 2 workers cannot share it",
                "choose a claim with another access mode: --data",
            ),
        ),
        (
            "ReadWriteMany",
            "Pending",
            (
                "failed",
                "the claim data has no volume yet, so it holds no dataset",
                "copy one there: `mnist-job data put data/mnist --claim data --image mnist-job:dev -n here`",
            ),
        ),
        ("", "", ("failed", "the claim data does not exist", "create it, or choose another one with --data")),
    ],
)
def test_data_on_a_claim(job: Object, mode: str, phase: str, check: tuple[str, str, str]) -> None:
    """The dataset's claim must exist, have a volume, and be readable by all workers."""
    spec = {"spec": {"accessModes": [mode]}, "status": {"phase": phase}}
    there = [named("PersistentVolumeClaim", "data", **spec)] if mode else []
    render.mount_data(job["spec"]["template"], "data")
    assert storage.check_data(CheckedCluster(*there).given(), job) == Check("data", *check)
    unseen = CheckedCluster(forbidden=["PersistentVolumeClaim"]).given()
    assert storage.check_data(unseen, job) == Check("data", "not checked", "this user may not read the claim data")


def user(*, labels: dict[str, str] | None = None, phase: str = "Running", of: str = CLAIM) -> Object:
    """A pod on node n1 that mounts a claim."""
    volumes = [{"name": "v", "persistentVolumeClaim": {"claimName": of}}]
    metadata = {"labels": labels or {}}
    return named("Pod", "user", metadata=metadata, spec={"nodeName": "n1", "volumes": volumes}, status={"phase": phase})


OF_ANOTHER_RUN = {PART_OF_LABEL: APP, CLAIM_LABEL: CLAIM}
WAITS = ", and pod user on node n1 uses it; a worker"


@pytest.mark.parametrize(
    ("mode", "pod", "warning", "remedy"),
    [
        ("ReadWriteOnce", user(labels=OF_ANOTHER_RUN), "", ""),
        ("ReadWriteOnce", user(phase="Succeeded"), "", ""),
        ("ReadWriteOnce", user(of="other"), "", ""),
        ("ReadWriteMany", user(), "", ""),
        (
            "ReadWriteOnce",
            user(),
            f"{WAITS} on another node waits until that pod has ended",
            "place the workers on its node: submit them with --node-selector kubernetes.io/hostname=n1",
        ),
        (
            "ReadWriteOnce",
            user(labels=OF_ANOTHER_RUN | {CLAIM_LABEL: "other"}),
            f"{WAITS} on another node waits until that pod has ended",
            "place the workers on its node: submit them with --node-selector kubernetes.io/hostname=n1",
        ),
        (
            "ReadWriteOncePod",
            user(labels=OF_ANOTHER_RUN),
            f"{WAITS} waits until that pod has ended",
            "choose another claim with --claim, or wait",
        ),
    ],
)
def test_a_claim_in_use(mode: str, pod: Object, warning: str, remedy: str) -> None:
    """Another run's pods draw the workers to their node; any other pod on the claim's only node is named."""
    cluster = CheckedCluster(claim(mode), pod).given()
    job, found = submit.prepare(cluster, render.job(Submission("digits", workers=1)))
    state = "warning" if warning else "ok"
    assert storage.check_volume(cluster, job, found) == Check(
        "volume", state, f"the claim {CLAIM} is {mode}{warning}", remedy
    )


def test_a_dataset_in_use() -> None:
    """The same holds for the dataset's claim, and pods that may not be listed are not looked at."""
    data = named("PersistentVolumeClaim", "data", spec={"accessModes": ["ReadWriteOnce"]}, status={"phase": "Bound"})
    for labels, state in (({}, "warning"), ({PART_OF_LABEL: APP, DATA_LABEL: "data"}, "ok")):
        cluster = CheckedCluster(claim("ReadWriteMany"), data, user(labels=labels, of="data"))
        job, _ = submit.prepare(cluster.given(), render.job(Submission("digits", data="data")))
        assert storage.check_data(cluster.given(), job).state == state
    unseen = CheckedCluster(claim("ReadWriteMany"), data, user(of="data"), forbidden=["Pod"]).given()
    assert storage.check_data(unseen, job).state == "ok"


def test_claim_missing(job: Object) -> None:
    """A claim that the user names is not created by submit."""
    render.set_claim(job["spec"]["template"], "mine")
    missing = catalogue.remedy("claim-missing")
    assert storage.check_volume(CheckedCluster().given(), job, None) == Check(
        "volume", "failed", "the claim mine does not exist", missing
    )
    unknown = Check("storage class", "not checked", "the claim mine does not exist")
    assert storage.check_storage_class(CheckedCluster().given(), job, None) == unknown


@pytest.mark.parametrize(
    ("found", "state", "message", "remedy"),
    [
        (claim("ReadWriteOnce"), "ok", f"the claim {CLAIM} has its volume", ""),
        (claim("ReadWriteOnce", phase="Lost"), "failed", f"the claim {CLAIM} has lost its volume", UNBOUND),
        (
            claim("ReadWriteOnce", phase="Pending"),
            "warning",
            f"the claim {CLAIM} has no volume yet, and no storage class",
            UNBOUND,
        ),
        (
            claim("ReadWriteOnce", phase="Pending", of="gone"),
            "failed",
            f"the claim {CLAIM} names the storage class gone, which does not exist",
            UNBOUND,
        ),
        (
            claim("ReadWriteOnce", phase="Pending", of="fast"),
            "warning",
            f"fast has not provisioned a volume for the claim {CLAIM} yet",
            UNBOUND,
        ),
        (
            claim("ReadWriteOnce", phase="Pending", of="late"),
            "ok",
            f"late provisions the volume of the claim {CLAIM} once a worker waits for it",
            "",
        ),
        (
            None,
            "failed",
            f"submit would create the claim {CLAIM}, but the cluster has no default storage class",
            "create a claim with a class of your own, and pass it with --claim",
        ),
    ],
)
def test_storage_class(job: Object, found: Object | None, state: str, message: str, remedy: str) -> None:
    """A claim without a volume passes only if its class waits for the first pod."""
    cluster = CheckedCluster(storage_class("fast"), storage_class("late", binding="WaitForFirstConsumer")).given()
    assert storage.check_storage_class(cluster, job, found) == Check("storage class", state, message, remedy)
