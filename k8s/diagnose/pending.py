"""What prevents a run's pods from being created, scheduled or started. Pure: one function for each stage."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, NamedTuple

from k8s.api.errors import in_short
from k8s.diagnose.catalogue import refusal_reason
from k8s.diagnose.explanation import Explanation, remedy_for
from k8s.diagnose.images import image_problem
from k8s.diagnose.scheduling import parse_message
from k8s.state import events
from k8s.state.containers import IMAGE_PROBLEMS, Container, describe_end, holding, trainer, unready
from k8s.state.exits import OTHER, clean_message, kebab_case, termination_message
from k8s.state.names import CONTAINER, claim_of, data_claim_of, rank_of
from k8s.state.pods import (
    created,
    has_finished,
    is_cut_off,
    is_scheduled,
    node_labels,
    pod_condition,
    started,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from k8s.api.objects import Object
    from k8s.state.run import Run

CONFIGURATION = {"CreateContainerConfigError", "CreateContainerError"}
VOLUME_EVENTS = ("FailedMount", "FailedAttachVolume", "FailedMapVolume")
TEMPORARY = "no relationship found between node"  # the API server does not know yet that the pod is on this node
QUOTA = re.compile(r"exceeded quota: (\S+), requested: (\S+), used: (\S+), limited: (\S+)")


class Obstacle(NamedTuple):
    """What prevents one pod from continuing.

    text follows the name of one worker or of several, so it begins with `cannot`. reason is a key of PROBLEMS; when is
    RFC 3339. container is the name of the container that the remedy is about, if it is not the trainer.
    """

    reason: str
    text: str
    when: str
    container: str = ""


def pending_causes(run: Run) -> Iterator[Explanation]:
    """What prevents a run from continuing, the most informative cause first."""
    yield from refused_pods(run)
    pods = [pod for pod in run.newest.values() if not has_finished(pod)]
    yield from by_cause(run, pods, lambda pod: on_unreachable_node(run, pod))
    yield from by_cause(run, [pod for pod in pods if not is_scheduled(pod)], lambda pod: not_scheduled(run, pod))
    scheduled = [pod for pod in pods if is_scheduled(pod) and not started(pod)]
    yield from by_cause(run, scheduled, lambda pod: not_started(run, pod))
    yield from by_cause(run, pods, not_ended)


def by_cause(run: Run, pods: Sequence[Object], find: Callable[[Object], Obstacle | None]) -> Iterator[Explanation]:
    """Explain what prevents pods from continuing; pods with the same cause share a sentence."""
    groups: dict[tuple[str, str, str], list[tuple[Object, str]]] = {}
    for pod in pods:
        if obstacle := find(pod):
            groups.setdefault((obstacle.reason, obstacle.text, obstacle.container), []).append((pod, obstacle.when))
    for (reason, text, container), group in groups.items():
        (first, when), ranks = group[0], [rank_of(pod) for pod, _ in group]
        name, node = first["metadata"]["name"], first["spec"].get("nodeName", "")
        remedy = remedy_for(run, reason, pod=name, node=node, container=container)
        yield Explanation(reason, f"{list_workers(ranks)} {text}", remedy, ranks[0], when=when, pod=name)


def list_workers(ranks: Sequence[int]) -> str:
    """Workers by rank, the first three of more than four."""
    if len(ranks) == 1:
        return f"worker {ranks[0]}"
    if len(ranks) > 4:
        return f"workers {', '.join(map(str, ranks[:3]))} and {len(ranks) - 3} more"
    return f"workers {', '.join(map(str, ranks[:-1]))} and {ranks[-1]}"


def refused_pods(run: Run) -> Iterator[Explanation]:
    """Pods that the API server does not let the Job controller create."""
    refusal = events.newest(run.events, "FailedCreate")
    success = events.newest(run.events, "SuccessfulCreate")
    if not refusal or not run.lacks_pods:
        return
    if success and events.last_seen(success) > events.last_seen(refusal):
        return
    message = in_short(re.sub(r'^Error creating: (pods ".*?" is forbidden: )?', "", events.message(refusal)))
    reason, account = refusal_reason(message), re.search(r"service account [^/\s]+/([^:\s]+)", message)
    if exceeded := QUOTA.search(message):
        requested, used, limits = (dict(part.split("=") for part in text.split(",")) for text in exceeded.groups()[1:])
        parts = [
            f"{used[name]} of {limits[name]} {name} are used, and a worker requests {requested[name]} more"
            for name in requested
        ]
        message = f"in quota {exceeded[1]}, {', '.join(parts)}"
    sentence = f"the API server refuses the run's pods: {message}"
    remedy = remedy_for(run, reason, **({"account": account[1]} if account else {}))
    yield Explanation(reason, sentence, remedy, when=events.last_seen(refusal))


def on_unreachable_node(run: Run, pod: Object) -> Obstacle | None:
    """A pod whose node does not respond."""
    node = pod["spec"].get("nodeName")
    # Without permission to list nodes, the pod's own conditions still show it.
    unreachable = node in run.down if run.down is not None else is_cut_off(pod)
    if not node or not unreachable:
        return None
    since = (pod_condition(pod, "Ready", "False") or {}).get("lastTransitionTime", "")
    text = f"cannot be reached: node {node} is unreachable, and its pods are deleted after 30 s"
    if "deletionTimestamp" in pod["metadata"]:
        text = f"cannot be replaced before node {node}, which is unreachable, confirms that the pod has stopped"
    return Obstacle("dead-node", text, since)


def not_scheduled(run: Run, pod: Object) -> Obstacle | None:
    """A pod that has no node."""
    condition = pod_condition(pod, "PodScheduled", "False")
    if not condition:
        return None
    when = condition.get("lastTransitionTime", "")
    if condition.get("reason") == "SchedulingGated":
        gates = ", ".join(gate["name"] for gate in pod["spec"].get("schedulingGates", []))
        return Obstacle("scheduling", f"cannot be scheduled yet: held back by the scheduling gates {gates}", when)
    reason, text = scheduling_problem(run, pod, condition.get("message", ""))
    return Obstacle(reason, text, when)


def scheduling_problem(run: Run, pod: Object, message: str) -> tuple[str, str]:
    """Why a pod has no node: the reason, and the rest of a sentence, from the scheduler's message."""
    reason, text = parse_message(message)
    if reason == "claim-unbound":
        failure = events.newest(run.events, "ProvisioningFailed", "FailedBinding")
        lost = run.claim is not None and run.claim.get("status", {}).get("phase") == "Lost"
        state = "has lost its volume" if lost else "has no volume" + (f": {events.message(failure)}" if failure else "")
        return reason, f"cannot be scheduled: the claim {claims_of(pod)} {state}"
    requested = f"; requested per worker: {list_requests(pod)}" if reason in ("gpu", "scheduling") else ""
    selector = node_labels(pod["spec"]) if "node selector" in text else ""
    return reason, f"cannot be scheduled: {text}{selector}{requested}"


def claims_of(pod: Object) -> str:
    """The claims of a pod; the message is about one of them."""
    return " or ".join(name for name in (claim_of(pod), data_claim_of(pod)) if name)


def list_requests(pod: Object) -> str:
    """The resources that a worker's trainer requests, and those of each container that was added."""
    texts = []
    every = [*pod["spec"].get("initContainers", []), *pod["spec"]["containers"]]
    for each in sorted(every, key=lambda container: container["name"] != CONTAINER):
        resources, ours = each.get("resources", {}), each["name"] == CONTAINER
        requested = {name: value for name, value in resources.get("limits", {}).items() if "/" in name}
        requested |= resources.get("requests", {})
        text = ", ".join(f"{name} {value}" for name, value in requested.items())
        texts += [text or "none"] if ours else [f"{text} for container {each['name']}"] if text else []
    return " and ".join(texts)


def not_started(run: Run, pod: Object) -> Obstacle | None:
    """A pod whose container does not start."""
    name, found = pod["metadata"]["name"], unready(pod)
    own = [
        event for event in run.events if events.object_name(event) == name and TEMPORARY not in events.message(event)
    ]
    if found:
        return not_ready(pod, found, own)
    if event := events.newest(own, *VOLUME_EVENTS):
        reason, text = volume_error(pod, events.message(event))
        return Obstacle(reason, f"cannot mount a volume: {text}", events.last_seen(event))
    if event := events.newest(own, "FailedCreatePodSandBox"):
        return Obstacle("refused", f"cannot start: {clean_message(events.message(event))}", events.last_seen(event))
    return None


def not_ready(pod: Object, found: Container, own: Sequence[Object]) -> Obstacle:
    """A container that cannot start, or that the trainer waits for.

    Args:
        pod: its pod.
        found: the container.
        own: the pod's events, the oldest first.
    """
    ours = found.name == CONTAINER
    reason, message = (found.waiting.get(key) or "" for key in ("reason", "message"))
    if reason in IMAGE_PROBLEMS:
        causes = ("Failed", "InspectFailed", reason)
        first = next((event for event in own if event.get("reason") in causes), None) or {}
        whose = found.image if ours else f"{found.image} of {found}"
        problem, cause = image_problem(message or reason)
        unread = events.newest(own, "FailedToRetrieveImagePullSecret")
        if problem == "image-login" and unread and (names := re.search(r"\((.+?)\)", events.message(unread))):
            cause += f"; there is no pull secret {names[1]}"
        text = f"cannot pull the image {whose}: {cause}"
        return Obstacle(problem, text, first.get("firstTimestamp") or created(pod))
    if not reason:
        missing = "is not ready: it has not passed its startup probe" if found.kind == "sidecar" else "has not ended"
        since = (found.running or {}).get("startedAt") or created(pod)
        return Obstacle("container-waits", f"cannot start yet: {found} {missing}", since, found.name)
    text = clean_message(message)
    if ours:
        known = "configuration" if reason in CONFIGURATION else kebab_case(reason)
        return Obstacle(known, f"cannot start ({reason}): {text}", created(pod))
    known = "configuration" if reason in CONFIGURATION else OTHER
    ended = f"; it {end}" if (end := describe_end(found)) else ""
    return Obstacle(known, f"cannot start: {found} waits ({reason}): {text}{ended}", created(pod), found.name)


def not_ended(pod: Object) -> Obstacle | None:
    """A pod whose trainer has ended, and whose other containers have not."""
    held, end = holding(pod), trainer(pod).terminated
    if held is None or end is None:
        return None
    said = termination_message(end).get("message")
    how = f"the trainer ended with {end['exitCode']}" + (f" ({said})" if end["exitCode"] and said else "")
    so = "neither ends nor replaces the worker" if end["exitCode"] else "does not end either"
    text = f"cannot end: {how}, but {held} {held.doing}, so the Job {so}"
    return Obstacle("container-goes-on", text, end.get("finishedAt") or created(pod), held.name)


def volume_error(pod: Object, message: str) -> tuple[str, str]:
    """Why a volume cannot be mounted: the reason, and the rest of a sentence."""
    if "Multi-Attach" in message:
        user = re.search(r"already used by pod\(s\) (.+)$", message)
        holder = f"pod {user[1].strip()} on another node" if user else "another node"
        text = f"{holder} uses the claim {claims_of(pod)}, which only one node can use at a time (ReadWriteOnce)"
        return "volume-in-use", text
    if "applyFSGroup failed" in message:
        return "volume-group", message
    missing = re.search(r'(configmap|secret) "\S+" not found', message)
    return ("configuration" if missing else "volume"), message
