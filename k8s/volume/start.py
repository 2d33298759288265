"""Start a volume pod on a node that can mount the claim, say why it does not start, and always delete it."""

from __future__ import annotations

import secrets
import signal
import threading
import time
from contextlib import ExitStack, contextmanager
from copy import deepcopy
from typing import TYPE_CHECKING

from job.config import check_name, usage_error
from job.errors import JobError
from job.output.layout import LOGS
from k8s.api import permissions
from k8s.api.errors import ApiError, LauncherError, failed, refused
from k8s.checks import setup, storage, trial
from k8s.diagnose.catalogue import remedy
from k8s.diagnose.images import image_problem
from k8s.render.render import set_claim
from k8s.state.containers import IMAGE_PROBLEMS, describe_end, failed_container, unready
from k8s.state.events import last_seen
from k8s.state.find import find_job, is_ours
from k8s.state.names import CLAIM, RUN_SELECTOR, claim_of, trainer_of
from k8s.state.pods import created, has_finished, pod_condition
from k8s.volume.pod import VolumePod
from k8s.volume.run_files import list_run_files
from k8s.volume.template import CONTAINER, VOLUME_POD_SELECTOR, base_template, volume_pod

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from k8s.api.cluster import Cluster
    from k8s.api.objects import Object

# Checked before the pod is created: a user who may not delete it would leave it behind.
NEEDED = (("create", "Pod", ""), ("get", "Pod", "exec"), ("create", "Pod", "exec"), ("delete", "Pod", ""))
START_S = 300.0  # its image may have to be pulled
UNSCHEDULED_S = 30.0  # enough for the scheduler, and for an autoscaler to say that it adds a node
# The reasons of the events with which the Cluster Autoscaler and Karpenter say that they add a node for a pod.
NODE_IS_COMING = {"TriggeredScaleUp", "Nominated"}
POLL_S, SLOW_POLL_S = 0.25, 2.0


@contextmanager
def open_volume(
    cluster: Cluster,
    arguments: argparse.Namespace,
    run: str | None = None,
    *,
    writes: bool = False,
    new: bool = False,
    absent: Object | None = None,
) -> Iterator[VolumePod]:
    """Start the pod; it is deleted afterwards, also on Ctrl-C or SIGTERM, and ends by itself within an hour.

    Args:
        cluster: the namespace for it.
        arguments: with `image` and `claim`, each None for the run's.
        run: the run whose pod template is used; None for the newest.
        writes: whether the pod may write to the volume.
        new: whether the claim may be one that has no volume yet.
        absent: the claim that is to be created, if any. It is deleted again if the API server refuses the pod.

    Raises:
        JobError: 64, no Job is left and no image is given.
        LauncherError: the user lacks a permission, no pod can mount the claim, or the pod does not start.
    """
    template = template_for(cluster, run, arguments.image, arguments.claim)
    claim = claim_of(template) or CLAIM
    role = "runner" if writes else "fetcher"
    permissions.require(cluster, NEEDED, role, "; access to the volume needs these permissions")
    node = "" if absent else node_for(cluster, claim, new=new)
    for pod in cluster.select("Pod", VOLUME_POD_SELECTOR):  # those that ended by themselves
        if has_finished(pod):
            cluster.delete("Pod", pod["metadata"]["name"])
    with _handlers({signal.SIGTERM: _leave, signal.SIGHUP: _leave}):
        name = f"mnist-job-volume-{secrets.token_hex(4)}"  # known before it exists, so that it is deleted in any case
        try:
            create(cluster, volume_pod(template, name, writes=writes, node=node), absent)
            _wait_until_running(cluster, name)
            yield VolumePod(cluster, name, claim)
        finally:
            _delete(cluster, name)


@contextmanager
def volume_of_deleted(
    cluster: Cluster, arguments: argparse.Namespace, absent: LauncherError
) -> Iterator[tuple[VolumePod, list[str]]]:
    """Start the pod for a run whose Job was deleted.

    Args:
        cluster: the namespace for it.
        arguments: as for open_volume(), with the run's `name`.
        absent: the error that there is no such run.

    Yields:
        The pod, and the paths of the run's logs in runs/NAME.

    Raises:
        LauncherError: `absent`, if the volume has no logs of it or cannot be read.
    """
    name = arguments.name
    with ExitStack() as stack:
        try:
            check_name(name, 1)
        except JobError:  # no run has such a name
            raise absent from None
        try:
            cluster.say(f"there is no Job of {name}; looking for its logs on the volume")
            pod = stack.enter_context(open_volume(cluster, arguments))
            logs = [path for path in list_run_files(pod, name) if path.startswith(f"{LOGS}/")]
        except (LauncherError, JobError) as problem:
            cluster.say(f"the logs on the volume were not read: {problem}")
            raise absent from None
        if not logs:
            raise absent
        yield pod, logs


def create(cluster: Cluster, pod: Object, claim: Object | None) -> None:
    """Create a pod, and before it the claim, if one is to be created; if either is refused, neither is left.

    Raises:
        LauncherError: 2, the API server refuses one of them.
    """
    account = pod["spec"].get("serviceAccountName")
    if account and setup.lacks_account(cluster, account):
        del pod["spec"]["serviceAccountName"]  # submit creates it; until then, the namespace's default one serves
    new, made = pod, None
    try:
        if claim:
            trial.require(cluster, pod)
            new = claim
            made = cluster.create(new)
            new = pod
        cluster.create(new)
    except ApiError as error:
        if made:
            cluster.delete(made["kind"], made["metadata"]["name"], uid=made["metadata"]["uid"])
        what = "volume pod" if new is pod else f"claim {new['metadata']['name']}"
        hint = trial.remedy(cluster, new["kind"], error.message)
        raise refused(f"the API server refuses the {what}: {error.message}", hint) from error


def template_for(cluster: Cluster, run: str | None, image: str | None, claim: str | None) -> Object:
    """The pod template of a run's Job, or of the newest run's if that is gone, with another image and claim if given.

    Raises:
        JobError: 64, no Job is left and no image is given.
    """
    job = find_job(cluster, run) if run else None
    job = job or max(filter(is_ours, cluster.select("Job", RUN_SELECTOR)), key=created, default=None)
    if job is None:
        if not image:
            what = f"there is no Job {run}" if run else "there is no Job"
            hint = "check the names of the run and the namespace; if the Job was deleted, give the image with --image"
            raise usage_error(f"{what} in namespace {cluster.namespace}", hint)
        return base_template(image, claim)
    template: Object = deepcopy(job["spec"]["template"])
    if image:
        trainer_of(template)["image"] = image
    if claim:
        set_claim(template, claim)
    return template


def node_for(cluster: Cluster, claim: str, *, new: bool = False) -> str:
    """The only node on which a pod can mount a claim, because other pods use it there; empty for any node.

    Raises:
        LauncherError: no pod can mount it now.
    """
    current = storage.read_claim(cluster, claim)
    if current is None:
        message = f"there is no claim {claim} in namespace {cluster.namespace}"
        raise refused(message, "choose the claim that the run wrote to: --claim")
    if current is not storage.UNREADABLE and current.get("status", {}).get("phase") != "Bound" and not new:
        message = f"the claim {claim} has no volume yet, so there is nothing on it"
        raise refused(message, "submit a run first")
    if storage.is_read_by_many(current):
        return ""
    users = storage.users(cluster, claim)
    if users and current["spec"]["accessModes"] == ["ReadWriteOncePod"]:
        message = f"pod {users[0]['metadata']['name']} uses the claim {claim}, which only one pod can use at a time"
        raise refused(message, "try again once that pod has ended")
    return str(users[0]["spec"]["nodeName"]) if users else ""


def start_failure(pod: Object, events: Sequence[Object], waited_s: float, flags: str) -> LauncherError | None:
    """Why the pod will not start; None while it still may.

    Args:
        pod: as it is now.
        events: its own, the oldest first.
        waited_s: the seconds since it was created.
        flags: those that select its namespace and cluster, for the remedy's commands.
    """
    status, found = pod["status"], unready(pod, CONTAINER)
    reason, detail = (found.waiting.get(key, "") if found else "" for key in ("reason", "message"))
    whose = "" if not found or found.name == CONTAINER else f" of {found}"
    unscheduled = pod_condition(pod, "PodScheduled", "False")
    if status.get("phase") == "Failed":
        other = failed_container(pod)
        how = f"{other} {describe_end(other)}" if other else "it failed"
        why, hint = status.get("message") or status.get("reason") or how, remedy("refused")
    elif found and reason in IMAGE_PROBLEMS:
        problem, cause = image_problem(detail or reason)
        names = {"account": pod["spec"].get("serviceAccountName", "default")}
        why = f"its image {found.image}{whose} is not available ({cause})"
        hint = remedy(problem, flags=flags, new_pods="then run the same command again", **names)
    elif reason:
        why, hint = f"{reason}{whose}: {detail}", remedy("refused")
    elif unscheduled and waited_s > UNSCHEDULED_S and not NODE_IS_COMING & {event.get("reason") for event in events}:
        why, hint = f"no node is suitable: {unscheduled.get('message', '')}", "fix what this message names"
    elif waited_s > START_S:
        warnings = [event["message"] for event in events if event.get("type") == "Warning"]
        why = f"still starting after {START_S:.0f} s" + (f"; {warnings[-1]}" if warnings else "")
        why += f"; {found} is not ready" if found else ""
        hint = remedy("volume", pod=pod["metadata"]["name"], flags=flags)
    else:
        return None
    return failed(f"the volume pod does not start: {why}", hint)


def _wait_until_running(cluster: Cluster, name: str) -> None:
    created_at = time.monotonic()
    while True:
        pod = cluster.get("Pod", name)
        if pod is None:
            message = f"the volume pod {name} was deleted before it had started"
            raise failed(message, "run the same command again")
        if pod["status"]["phase"] == "Running":
            return
        waited_s = time.monotonic() - created_at
        late = waited_s > (UNSCHEDULED_S if pod_condition(pod, "PodScheduled", "False") else START_S)
        if problem := start_failure(pod, _events(cluster, name) if late else [], waited_s, cluster.flags):
            raise problem
        time.sleep(SLOW_POLL_S if late else POLL_S)


def _events(cluster: Cluster, name: str) -> list[Object]:
    """A pod's events, the oldest first; none if this user may not read them."""
    try:
        return sorted(cluster.select("Event", fields=f"involvedObject.name={name}"), key=last_seen)
    except ApiError:
        return []


def _delete(cluster: Cluster, name: str) -> None:
    """Delete the pod, whatever signals come meanwhile; only a second Ctrl-C leaves it behind."""

    def keep_on(number: int, _: object) -> None:
        if number == signal.SIGINT:
            signal.signal(number, signal.default_int_handler)
            cluster.say(f"deleting the pod {name}, which mounts the volume; another Ctrl-C leaves it there")

    with _handlers(dict.fromkeys((signal.SIGINT, signal.SIGTERM, signal.SIGHUP), keep_on)):
        cluster.delete("Pod", name, grace_s=0)


def _leave(number: int, _: object) -> None:
    """Unwind the stack, as Ctrl-C does, so that the pod is deleted."""
    raise SystemExit(128 + number)


@contextmanager
def _handlers(wanted: Mapping[signal.Signals, Callable[[int, object], None]]) -> Iterator[None]:
    """Use these handlers in the block, except for signals that are ignored, as under nohup."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    heeded = {number: handler for number, handler in wanted.items() if signal.getsignal(number) != signal.SIG_IGN}
    before = {number: signal.signal(number, handler) for number, handler in heeded.items()}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
