"""Replace a run's Job with the next one, which is created before the old one is deleted; and wait for an end."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from k8s.api.errors import LauncherError, refused
from k8s.commands.model import settle_owners
from k8s.diagnose.catalogue import remedy
from k8s.render import attempt
from k8s.state.find import is_ours, jobs_of
from k8s.state.names import pod_selector, run_name
from k8s.state.pods import created, has_finished, is_cut_off
from k8s.view.output import note

if TYPE_CHECKING:
    from k8s.api.cluster import Cluster
    from k8s.api.objects import Object
    from k8s.state.run import Run

GONE_S = 60.0  # for a run's pods to end, or for a deleted object to disappear; pods get 20 s to end
POLL_S = 0.2


def free_name(cluster: Cluster, run: Run, workers: int) -> str:
    """A name for a run's next Job.

    Raises:
        LauncherError: 2, somebody else has created the next Job already.
    """
    number = attempt.next_number(run.job)
    while existing := conflicting_job(cluster, name := attempt.job_name(run.name, number, workers)):
        if is_ours(existing) and run_name(existing) == run.name:
            raise refused(
                f"another `retry` is restarting {run.name}", f"`mnist-job status {run.name} {cluster.flags}` shows it"
            )
        number += 1  # another run has this name
    return name


def conflicting_job(cluster: Cluster, name: str) -> Object | None:
    """A Job with this name, or one of a run with this name, which would be confused with it; None if there is none."""
    return cluster.get("Job", name) or next(iter(jobs_of(cluster, name)), None)


def replace_job(cluster: Cluster, run: Run, new: Object) -> Object:
    """Create the next Job of a run, then delete the ones before it; returns the new Job as the API server made it."""
    made = cluster.create(new)
    delete_replaced(cluster, run.name, made)
    return made


def delete_replaced(cluster: Cluster, run: str, newest: Object) -> None:
    """Delete the Jobs of a run that are older than its newest one."""
    jobs = [job for job in jobs_of(cluster, run) if created(job) <= created(newest)]
    jobs = [job for job in jobs if job["metadata"]["uid"] != newest["metadata"]["uid"]]
    # The model would be deleted with the Job that owns it.
    if not jobs or not settle_owners(cluster, newest["spec"]["template"]):
        return
    for job in jobs:
        name, uid = job["metadata"]["name"], job["metadata"]["uid"]
        try:
            cluster.delete("Job", name, uid=uid)
        except LauncherError as error:  # the new Job runs in any case
            note(f"Job {name} was replaced by {newest['metadata']['name']} but not deleted: {error}")


def until_pods_ended(cluster: Cluster, job: Object) -> None:
    """Wait until none of the pods of a Job, and of the Jobs of its run before it, can write.

    Raises:
        LauncherError: 2, a pod has not ended, for example because its node does not answer.
    """
    deadline = time.monotonic() + GONE_S
    pods = pod_selector(*attempt.names_until(job))
    while running := [pod for pod in cluster.select("Pod", pods) if not has_finished(pod)]:
        if time.monotonic() > deadline:
            pod = running[0]
            name, node = pod["metadata"]["name"], pod["spec"].get("nodeName", "")
            where = f"on {node}" if node else "on no node yet"
            message = f"pod {name} has not ended within {GONE_S:.0f} s ({where})"
            hint = f"`kubectl describe pod {name} {cluster.flags}` shows why; then run the same command again"
            if is_cut_off(pod):
                hint = remedy("dead-node", node=node, pod=name, flags=cluster.flags)
            raise refused(message, hint)
        time.sleep(POLL_S)


def until_deleted(cluster: Cluster, name: str, uid: str) -> None:
    """Wait until a schedule's CronJob that was deleted no longer exists.

    Raises:
        LauncherError: 2, something prevents that.
    """
    deadline = time.monotonic() + GONE_S
    while (existing := cluster.get("CronJob", name)) and existing["metadata"]["uid"] == uid:
        if time.monotonic() > deadline:
            message = f"the CronJob {name} still exists {GONE_S:.0f} s after its deletion"
            hint = f"`kubectl get cronjob {name} {cluster.flags} -o yaml` shows its finalizers"
            raise refused(message, hint)
        time.sleep(POLL_S)
