"""The check of the queue: it exists, takes runs, and has enough quota for the run."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from k8s.api.errors import ApiError
from k8s.checks.check import Check
from k8s.checks.queue import LESS, check_queue
from tests.k8s.checks.cluster import CheckedCluster, denied, named

if TYPE_CHECKING:
    from k8s.api.objects import Object


@pytest.fixture
def queued(job: Object) -> Object:
    """A Job of two workers in the queue `night`; each requests half a CPU and 1 Gi of memory."""
    job["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] = "night"
    return job


def local(name: str = "night", *conditions: Any) -> Object:
    """A queue of the ClusterQueue `team`."""
    return named("LocalQueue", name, spec={"clusterQueue": "team"}, status={"conditions": [*conditions]})


def flavour(name: str, **quotas: Any) -> Object:
    """A flavour with nominal quotas, or pairs of those and borrowing limits."""
    pairs = {r: q if isinstance(q, tuple) else (q,) for r, q in quotas.items()}
    keys = ("nominalQuota", "borrowingLimit")
    return {"name": name, "resources": [{"name": r} | dict(zip(keys, pair, strict=False)) for r, pair in pairs.items()]}


def team(*groups: list[Object], **spec: Any) -> Object:
    """The ClusterQueue, with groups of flavours."""
    made = [
        {"coveredResources": [r["name"] for r in flavours[0]["resources"]], "flavors": flavours} for flavours in groups
    ]
    return named("ClusterQueue", "team", spec={"resourceGroups": made, **spec})


MEMORY = [flavour("any", memory="64Gi")]


@pytest.mark.parametrize(
    ("existing", "said"),
    [
        ([], "create the LocalQueue, or leave out --queue"),
        ([local("day"), local("a")], "choose another --queue (a, day), or leave out --queue"),
    ],
)
def test_missing(queued: Object, existing: list[Object], said: str) -> None:
    """The queues that exist are named."""
    missing = Check("queue", "failed", "local queue night does not exist in namespace here", said)
    assert check_queue(CheckedCluster(*existing).given(), queued) == missing


def test_nobody_may_list(queued: Object) -> None:
    """A user who may not list the queues is told that this one does not exist."""
    cluster = CheckedCluster()
    cluster.listed["LocalQueue"] = denied("list", "localqueues")
    assert check_queue(cluster.given(), queued).remedy == "create the LocalQueue, or leave out --queue"


def test_without_kueue(queued: Object) -> None:
    """A cluster without Kueue has no queues."""
    cluster = CheckedCluster()
    cluster.listed["LocalQueue"] = ApiError(404, "NotFound", "no", "list")
    message = "local queue night does not exist: Kueue is not installed in this cluster"
    assert check_queue(cluster.given(), queued) == Check(
        "queue", "failed", message, "leave out --queue, or install Kueue"
    )


def test_it_takes_no_runs(queued: Object) -> None:
    """Kueue's own reason is given."""
    stopped = {"type": "Active", "status": "False", "reason": "ClusterQueueDoesNotExist", "message": "Can't submit"}
    message = "the run would wait: local queue night takes no runs: ClusterQueueDoesNotExist: Can't submit"
    found = check_queue(CheckedCluster(local("night", stopped)).given(), queued)
    assert found == Check("queue", "warning", message, "`kubectl describe clusterqueue team` shows the details")


def test_its_quota_may_not_be_read(queued: Object) -> None:
    """Most users may not read ClusterQueues."""
    cluster = CheckedCluster(local(), forbidden=["ClusterQueue"]).given()
    message = "local queue night exists; this user may not read the quota of its ClusterQueue team"
    assert check_queue(cluster, queued) == Check("queue", "not checked", message)


@pytest.mark.parametrize(
    "shared",
    [
        team([flavour("spot", cpu="1")], MEMORY),
        team([flavour("spot", cpu="900m"), flavour("dear", cpu="2")], MEMORY),
        team([flavour("spot", cpu="1", memory="2Gi", pods="2")]),
        team([flavour("spot", cpu=("0", "1"))], MEMORY, cohortName="all"),
        team([flavour("spot", cpu=("0", "1"))], MEMORY, cohort="all"),
        team([flavour("spot", cpu="0")], MEMORY, cohortName="all"),
        team([flavour("spot", cpu="1")], MEMORY, [flavour("gpus", **{"nvidia.com/gpu": "0"})]),
    ],
    ids=["exact", "another flavour", "pods", "borrowed", "v1beta1", "no limit", "not asked for"],
)
def test_enough(queued: Object, shared: Object) -> None:
    """The run fits when nothing else runs."""
    found = check_queue(CheckedCluster(local(), shared).given(), queued)
    assert found == Check("queue", "ok", "local queue night exists, and its quota is enough for the run")


def test_a_quota_that_is_just_enough(queued: Object) -> None:
    """In floats, three times 0.4 is more than 1.2."""
    queued["spec"]["completions"] = 3
    queued["spec"]["template"]["spec"]["containers"][0]["resources"]["requests"]["cpu"] = "400m"
    cluster = CheckedCluster(local(), team([flavour("spot", cpu="1200m")], MEMORY)).given()
    assert check_queue(cluster, queued).state == "ok"


ASKED = "2 workers ask for 1 cpu, and ClusterQueue team has a nominal quota of"


@pytest.mark.parametrize(
    ("shared", "said"),
    [
        (team([flavour("spot", cpu="900m")], MEMORY), f"{ASKED} 0.9 cpu (flavor spot)"),
        (
            team([flavour("spot", cpu="500m"), flavour("dear", cpu="0")], MEMORY),
            f"{ASKED} 0.5 cpu (flavor spot) or a nominal quota of 0 cpu (flavor dear)",
        ),
        (
            team([flavour("spot", cpu=("500m", "250m"))], MEMORY, cohortName="all"),
            f"{ASKED} 0.5 cpu and a borrowing limit of 0.25 cpu (flavor spot)",
        ),
        (team([flavour("spot", cpu=("500m", "2"))], MEMORY), f"{ASKED} 0.5 cpu (flavor spot)"),
        (
            team([flavour("spot", cpu="1", memory="1Gi", pods="1")]),
            (
                "2 workers ask for 2Gi memory, 2 pods, and ClusterQueue team has a nominal quota of 1Gi memory "
                "(flavor spot) or a nominal quota of 1 pods (flavor spot)"
            ),
        ),
        (
            team(MEMORY),
            "the run asks for cpu, for which ClusterQueue team has no quota, unless Kueue's configuration ignores it",
        ),
    ],
    ids=["nominal", "each flavour", "borrowed", "no cohort", "two resources", "not covered"],
)
def test_never_enough(queued: Object, shared: Object, said: str) -> None:
    """What the run asks for and what the ClusterQueue has are both named."""
    message = f"Kueue would never start the run: {said}"
    found = check_queue(CheckedCluster(local(), shared).given(), queued)
    assert found == Check("queue", "warning", message, LESS)
