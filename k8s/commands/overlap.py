"""No two runs of a schedule at once, whether the cluster starts them or a person does.

The cluster's CronJob controller starts no run while its CronJob's `status.active` names a Job (concurrencyPolicy
Forbid). It enters only those that it made itself: one that somebody else makes of the same template holds nothing up.
So a run that a person starts is entered there first:

1. Its Job is made suspended, with the CronJob as its controller.
2. It is entered in a list that names no other, by a change that holds only for the CronJob's version in which that was
   so: of two that try, one succeeds. Beside it a second entry, the marker, names a Job that there is not.
3. The controller takes out entries whose Jobs are gone (its events tell that it did not expect the one and misses the
   other). It writes only over the newest version, so once the marker is out it has read the list with the run in it,
   and starts nothing from then on. What it started before is there to be seen.
4. If that is nothing, the Job goes on. When it has ended, the controller takes it out of the list.
"""

from __future__ import annotations

import time
import uuid
from typing import TYPE_CHECKING

from k8s.api import permissions
from k8s.api.errors import ApiError, LauncherError
from k8s.commands.control import POLL_S, refused, until_ended, until_suspended
from k8s.state.names import QUEUE_LABEL, RUNS
from k8s.state.run import Run, state

if TYPE_CHECKING:
    from k8s.api.cluster import Cluster
    from k8s.api.objects import Object

SEEN_S = 30.0  # for the controller to take the marker out; it does so at once, if it is there
NEEDED = (("get", "CronJob", ""), ("patch", "CronJob", "status"))


def owner_of(job: Object) -> str:
    """The name of the schedule that a run belongs to; empty for any other."""
    owners = job["metadata"].get("ownerReferences", [])
    return next((str(o["name"]) for o in owners if o["kind"] == "CronJob" and o.get("controller")), "")


def owned_by(cronjob: Object) -> list[Object]:
    """The owner references by which a Job belongs to a schedule."""
    metadata = cronjob["metadata"]
    named = {"kind": "CronJob", "name": metadata["name"], "uid": metadata["uid"]}
    return [{"apiVersion": "batch/v1", "controller": True, **named}]


def jobs_of(cluster: Cluster, schedule: str) -> list[Object]:
    """The Jobs of a schedule."""
    return [job for job in cluster.select("Job", RUNS) if owner_of(job) == schedule]


def active(cronjob: Object) -> list[Object]:
    """The Jobs that hold up the next start, as the CronJob lists them."""
    found: list[Object] = cronjob.get("status", {}).get("active", [])
    return found


def check_rights(cluster: Cluster) -> None:
    """Refuse what needs the list of active Jobs to be changed, where this user may not.

    Raises:
        LauncherError: 2.
    """
    permissions.require(cluster, NEEDED, "runner")


def refuse_taken(cluster: Cluster, cronjob: Object, but: str = "") -> None:
    """Refuse to start a run of a schedule that has one already.

    Args:
        cluster: where it is.
        cronjob: the schedule, read before the Jobs are.
        but: the UID of the Job that is to start.

    Raises:
        LauncherError: 2, naming the run.
    """
    listed = {entry["uid"] for entry in active(cronjob)}
    for job in jobs_of(cluster, cronjob["metadata"]["name"]):
        run, uid = Run(job), job["metadata"]["uid"]
        # One that is suspended and not in the list is about to be entered, or never will be: it starts only if it is.
        waits = job["spec"].get("suspend") and QUEUE_LABEL not in job["metadata"].get("labels", {})
        if uid == but or run.condition("Complete", "Failed") or (waits and uid not in listed):
            continue
        now = f" ({found})" if (found := state(run)).word in ("suspended", "cancelled", "queued") else ""
        message = f"{run.name} of the same schedule has not ended{now}, and no two of its runs may overlap"
        raise refused(message, f"`mnist-job status {run.name}` shows it, `mnist-job cancel {run.name}` ends it")


def enter(cluster: Cluster, run: Run) -> None:
    """Have a suspended run hold its schedule up, before it goes on; nothing is to be done for one without a schedule.

    Raises:
        LauncherError: 2, another run of the schedule has not ended, or the controller does not answer; the Job is
            suspended still.
    """
    uid, schedule = run.job["metadata"]["uid"], owner_of(run.job)
    if not schedule:
        return
    check_rights(cluster)
    entry = {"apiVersion": "batch/v1", "kind": "Job", "namespace": cluster.namespace}
    marker = {**entry, "name": f"{run.name}-marker", "uid": str(uuid.uuid4())}
    mine = {**entry, "name": run.name, "uid": uid}
    deadline = time.monotonic() + SEEN_S
    while cronjob := cluster.get("CronJob", schedule):
        refuse_taken(cluster, cronjob, uid)
        if put(cluster, cronjob, [mine, marker]):
            break
    while (cronjob := cluster.get("CronJob", schedule)) and marker["uid"] in {one["uid"] for one in active(cronjob)}:
        if time.monotonic() > deadline:
            message = f"the cluster's CronJob controller has done nothing for {SEEN_S:.0f} s"
            raise refused(message, "see whether the kube-controller-manager runs")
        time.sleep(POLL_S)
    if cronjob:
        refuse_taken(cluster, cronjob, uid)


def held_up(cluster: Cluster, run: Run) -> Object | None:
    """The CronJob of the schedule that a run holds up; None where it holds none up.

    Raises:
        LauncherError: 2, this user may not change that.
    """
    uid, schedule = run.job["metadata"]["uid"], owner_of(run.job)
    cronjob = cluster.get("CronJob", schedule) if schedule else None
    if cronjob is None or uid not in {entry["uid"] for entry in active(cronjob)}:
        return None
    check_rights(cluster)
    return cronjob


def leave(cluster: Cluster, run: Run) -> None:
    """Have a run that is suspended for good no longer hold its schedule up, once its pods have ended.

    Raises:
        LauncherError: 2, one of them does not end; the run holds its schedule up still.
    """
    uid = run.job["metadata"]["uid"]
    try:
        while cronjob := held_up(cluster, run):
            until_suspended(cluster, run.name)
            until_ended(cluster, run.name)
            if put(cluster, cronjob, [entry for entry in active(cronjob) if entry["uid"] != uid]):
                return
    except LauncherError as error:
        message = f"{run.name} is cancelled, and holds {owner_of(run.job)} up still: {error}"
        raise LauncherError(error.status, message) from error


def put(cluster: Cluster, cronjob: Object, entries: list[Object]) -> bool:
    """Change the list of a schedule's active Jobs; whether it was still of the version that was read."""
    version = {"resourceVersion": cronjob["metadata"]["resourceVersion"]}
    try:
        cluster.patch(
            "CronJob", cronjob["metadata"]["name"], {"metadata": version, "status": {"active": entries}}, "status"
        )
    except ApiError as error:
        if error.code != 409:
            raise
        return False
    return True


def hold(job: Object) -> str | None:
    """Have a Job that is to be created be suspended; it is changed in place.

    Returns:
        the queue of Kueue that it was in, which might start it too early; None where there is none.
    """
    job["spec"]["suspend"] = True
    queue: str | None = job["metadata"]["labels"].pop(QUEUE_LABEL, None)
    return queue


def go_on(cluster: Cluster, job: Object, queue: str | None = None) -> Object:
    """Have a Job that was held go on, alone of its schedule; returns it as it is then.

    Args:
        cluster: where it is.
        job: it.
        queue: the queue of Kueue that is to start it, if one is.
    """
    enter(cluster, Run(job))
    label = {"metadata": {"labels": {QUEUE_LABEL: queue}}}
    return cluster.patch("Job", job["metadata"]["name"], label if queue else {"spec": {"suspend": False}})
