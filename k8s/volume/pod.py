"""The short-lived pod in which the launcher looks at a volume: where it must be, why it does not start, and its end."""

from __future__ import annotations

import secrets
import signal
import threading
import time
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from job.config import usage
from job.errors import Exit
from k8s.api import permissions
from k8s.api.errors import ApiError, LauncherError, Status
from k8s.checks import storage
from k8s.diagnose.catalogue import REMEDIES
from k8s.render import render
from k8s.state.events import when
from k8s.state.names import CLAIM, RUNS, claim_of, trainer_of
from k8s.state.pods import ON_ITS_WAY, created
from k8s.view.output import note

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from k8s.api.cluster import Cluster
    from k8s.api.objects import Object

CONTAINER = "helper"
HELPERS = "app.kubernetes.io/part-of=mnist-job,app.kubernetes.io/component=helper"
# What this module does; a user who may not is told before there is a pod that he could not delete.
NEEDED = (("create", "Pod", ""), ("get", "Pod", "exec"), ("create", "Pod", "exec"), ("delete", "Pod", ""))
START_S = 300.0  # for it to start: its image may have to be pulled
UNSCHEDULED_S = 20.0  # for a node: an autoscaler's new one would not come for this
POLL_S = 0.25
RETRY_S = 1.0


@dataclass(frozen=True)
class Place:
    """What the pod needs of a run's Job: its image, its claim, and what lets it run where the run's pods ran.

    security is the pod's securityContext, for who wrote the files may read them; None for the manifest's.
    """

    image: str
    claim: str = CLAIM
    pull_policy: str = "IfNotPresent"
    pull_secrets: tuple[Object, ...] = ()
    tolerations: tuple[Object, ...] = ()
    security: Object | None = None


class Helper:
    """The pod, while it runs.

    Args:
        cluster: where it is.
        pod: its name.
        claim: the name of the claim that is mounted at /output.
    """

    def __init__(self, cluster: Cluster, pod: str, claim: str) -> None:
        self.cluster, self.pod, self.claim = cluster, pod, claim

    def output(self, command: Sequence[str]) -> tuple[int, bytes, str]:
        """The exit code, output and errors of a command, run again if the connection breaks.

        Raises:
            LauncherError: the pod is gone, or the connection broke for too long.
        """
        began = time.monotonic()
        while True:
            found = bytearray()
            try:
                ended = self.cluster.run_in(self.pod, CONTAINER, command, found.extend)
            except OSError as error:
                if time.monotonic() - began > self.cluster.patience_s:
                    raise self.broken(error) from None
                time.sleep(RETRY_S)
            except ApiError as error:
                raise self.explained(error) from None
            else:
                return ended.code, bytes(found), ended.errors.strip()

    def job(self, *words: str, show: Callable[[str], object] | None = None) -> str:
        """What a command of `python -m job` prints.

        Args:
            words: the command and its flags.
            show: takes what it prints, also where it fails.

        Raises:
            LauncherError: it failed; its own sentence, with 64 where it names what is not there, else 1.
        """
        code, found, errors = self.output(["python", "-m", "job", *words])
        text = found.decode(errors="replace")
        if show:
            show(text)
        if code:
            raise self.failed(code, errors or f"`job {words[0]}` ended with {code} and said nothing")
        return text

    def failed(self, code: int, errors: str) -> LauncherError:
        """The error of a command of the job's: its last line, with a remedy that the launcher's user has."""
        *above, last = errors.splitlines()
        if code == Exit.BUG:
            note("\n".join(above))
        text, remedy = last.removeprefix("error: "), ""
        if code == Exit.DATA_MISSING:
            remedy = "submit a run first, or name another claim with --claim"
        elif code == Exit.OUTPUT and "--output" in text:
            remedy = f"make room on the claim {self.claim}, or see that it can be written"
        elif code == Exit.TRY_AGAIN:
            remedy = "try again"
        if remedy:
            text = f"{text.rpartition('; ')[0] or text}; {remedy}"
        return LauncherError(Exit.USAGE if code == Exit.USAGE else Status.FAILED, text)

    def broken(self, error: OSError) -> LauncherError:
        """The error of a connection that breaks again and again."""
        message = f"the connection to pod {self.pod} breaks again and again: {error}"
        return LauncherError(Status.UNREACHED, message, "the same command goes on where it was")

    def explained(self, error: ApiError) -> LauncherError:
        """The error of a pod in which nothing can be run, in words."""
        if error.code != 404:
            return error
        message = f"the pod {self.pod} was taken away"
        return LauncherError(Status.FAILED, message, "the same command goes on where it was, in a new one")


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Add the flags of which place() makes the pod."""
    parser.add_argument("--image", help="an image to look at the volume with (default: the run's, or the newest run's)")
    parser.add_argument("--claim", metavar="NAME", help="the claim with the output (default: as with the image)")


def place(cluster: Cluster, run: str | None, image: str | None, claim: str | None) -> Place:
    """What the pod is made of: the run's Job, or where that is gone the newest run's, and what the flags say.

    Args:
        cluster: where the runs are.
        run: its name; None for the newest.
        image: --image.
        claim: --claim.

    Raises:
        JobError: 64, there is no Job to learn the image from, and none is given.
    """
    job = cluster.get("Job", run) if run else None
    if job is None and not image:
        job = max(cluster.select("Job", RUNS), key=created, default=None)
    if job is None:
        if not image:
            what = f"there is no Job {run}" if run else "there is no Job"
            hint = "see the names and the namespace; if the Job is gone, name its image with --image"
            raise usage(f"{what} in namespace {cluster.namespace}", hint)
        return Place(image, claim or CLAIM)
    template = job["spec"]["template"]
    trainer, spec = trainer_of(template), template["spec"]
    return Place(
        image or trainer["image"],
        claim or claim_of(template) or CLAIM,
        trainer.get("imagePullPolicy", "IfNotPresent"),
        tuple(spec.get("imagePullSecrets", ())),
        tuple(spec.get("tolerations", ())),
        spec.get("securityContext") or None,
    )


@contextmanager
def opened(cluster: Cluster, place: Place, *, writes: bool = False) -> Iterator[Helper]:
    """The pod, started; deleted afterwards, also after Ctrl-C or SIGTERM. Otherwise it ends by itself within an hour.

    Args:
        cluster: where it is to be.
        place: what it needs.
        writes: whether it may write on the volume.

    Raises:
        LauncherError: it cannot be, or does not start; the sentence says why.
    """
    permissions.require(cluster, NEEDED, "runner" if writes else "fetcher", ", to look at the volume")
    node = node_for(cluster, place.claim)
    for pod in cluster.select("Pod", HELPERS):  # those that ended by themselves
        if pod["status"].get("phase") in ("Succeeded", "Failed"):
            cluster.delete("Pod", pod["metadata"]["name"])
    with _signals_unwind():
        name = f"mnist-job-helper-{secrets.token_hex(4)}"  # known before it is there, for it to be deleted in any case
        try:
            cluster.create(pod_for(place, name, node, writes=writes))
            _until_started(cluster, name)
            yield Helper(cluster, name, place.claim)
        finally:
            cluster.delete("Pod", name, grace_s=0)


def pod_for(place: Place, name: str, node: str, *, writes: bool = False) -> Object:
    """The pod to create; node is the one on which it must be, empty for any."""
    pod = render.helper(name, place.image, place.claim, writes=writes, tolerations=place.tolerations)
    pod["spec"]["containers"][0]["imagePullPolicy"] = place.pull_policy
    if place.pull_secrets:
        pod["spec"]["imagePullSecrets"] = list(place.pull_secrets)
    if place.security:
        pod["spec"]["securityContext"] = place.security
    if node:
        fields = [{"key": "metadata.name", "operator": "In", "values": [node]}]
        required = {"nodeSelectorTerms": [{"matchFields": fields}]}
        pod["spec"]["affinity"] = {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": required}}
    return pod


def node_for(cluster: Cluster, claim: str) -> str:
    """The node on which a pod that mounts a claim must be, since others use it there; empty for any.

    Raises:
        LauncherError: no pod can mount it now.
    """
    found = storage.seen(cluster, claim)
    if found is None:
        message = f"there is no claim {claim} in namespace {cluster.namespace}"
        raise LauncherError(Status.REFUSED, message, "name the one that the run wrote to with --claim")
    if found is not storage.UNSEEN and found.get("status", {}).get("phase") != "Bound":
        message = f"the claim {claim} has no volume yet, and so there is nothing on it"
        raise LauncherError(Status.REFUSED, message, "submit a run first")
    modes = set(found["spec"]["accessModes"])  # none where it may not be asked: as if it were on one node
    if modes & storage.READ_BY_MANY:
        return ""
    users = [pod for pod in cluster.select("Pod") if uses(pod, claim)]
    if users and modes == {"ReadWriteOncePod"}:
        message = f"the claim {claim} serves one pod at a time, and {users[0]['metadata']['name']} has it"
        raise LauncherError(Status.REFUSED, message, "try again once that has ended")
    return str(users[0]["spec"]["nodeName"]) if users else ""


def uses(pod: Mapping[str, Any], claim: str) -> bool:
    """Whether a pod has a claim's volume on its node."""
    volumes = [volume.get("persistentVolumeClaim", {}) for volume in pod["spec"].get("volumes", [])]
    ended = pod["status"].get("phase") in ("Succeeded", "Failed")
    return not ended and "nodeName" in pod["spec"] and any(volume.get("claimName") == claim for volume in volumes)


def obstacle(pod: Object, events: Sequence[Object], waited_s: float) -> LauncherError | None:
    """Why the pod will not start; None while it may.

    Args:
        pod: as it is now.
        events: those of it, the oldest first.
        waited_s: for how long it has been waited for.
    """
    status = pod["status"]
    containers = status.get("containerStatuses", [{}])
    waiting: Object = containers[0].get("state", {}).get("waiting", {})
    reason, told = waiting.get("reason", ""), waiting.get("message", "")
    image = pod["spec"]["containers"][0]["image"]

    def failed(why: str, remedy: str) -> LauncherError:
        return LauncherError(Status.FAILED, f"the helper pod does not start: {why}", remedy)

    if status.get("phase") == "Failed":
        return failed(status.get("message") or status.get("reason") or "it has failed", REMEDIES["refused"])
    if reason == "InvalidImageName" or "Image" in reason:
        return failed(f"its image {image} cannot be had ({told or reason})", REMEDIES["image"])
    if reason not in ON_ITS_WAY:
        return failed(f"{reason}: {told}", REMEDIES["refused"])
    warnings = [event["message"] for event in events if event.get("type") == "Warning"]
    conditions = {c["type"]: c for c in status.get("conditions", []) if c["status"] == "False"}
    if "PodScheduled" in conditions and waited_s > UNSCHEDULED_S:
        return failed(f"it has no node: {conditions['PodScheduled'].get('message', '')}", "see what the sentence names")
    if waited_s > START_S:
        why = f"{START_S:.0f} s have passed" + (f"; {warnings[-1]}" if warnings else "")
        return failed(why, REMEDIES["volume"])
    return None


def _until_started(cluster: Cluster, name: str) -> None:
    began = time.monotonic()
    while True:
        pod = cluster.get("Pod", name)
        if pod is None:
            message = f"the helper pod {name} was deleted before it had started"
            raise LauncherError(Status.FAILED, message, "try again")
        if pod["status"]["phase"] == "Running":
            return
        waited_s = time.monotonic() - began
        events = cluster.select("Event", fields=f"involvedObject.name={name}") if waited_s > START_S else []
        if problem := obstacle(pod, sorted(events, key=when), waited_s):
            raise problem
        time.sleep(POLL_S)


@contextmanager
def _signals_unwind() -> Iterator[None]:
    """Have SIGTERM and SIGHUP unwind the stack, as Ctrl-C does, for the pod to be deleted."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def leave(number: int, _: object) -> None:
        raise SystemExit(128 + number)

    before = {number: signal.signal(number, leave) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
