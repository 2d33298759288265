"""What keeps a run's pods from being made, having a node, or beginning. Pure: a function for each place to look at."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from k8s.diagnose import scheduling
from k8s.diagnose.catalogue import REMEDIES, refusal_reason
from k8s.diagnose.explanation import Explanation
from k8s.state import events
from k8s.state.exits import clean_message, kebab_case
from k8s.state.names import claim_of, data_claim_of, rank_of, trainer_of
from k8s.state.pods import NO_IMAGE, container_state, created, hindrance, is_cut_off, is_over, is_scheduled, started
from k8s.state.pods import pod_condition as condition

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from k8s.api.objects import Object
    from k8s.state.run import Run

CONFIGURATION = {"CreateContainerConfigError", "CreateContainerError"}
UNMOUNTED = ("FailedMount", "FailedAttachVolume", "FailedMapVolume")
PASSING = "no relationship found between node"  # the API server did not know yet that the pod has this node
QUOTA = re.compile(r"exceeded quota: (\S+), requested: (\S+), used: (\S+), limited: (\S+)")


def pending_causes(run: Run) -> Iterator[Explanation]:
    """What keeps a run from going on, the most telling first."""
    yield from refused_pods(run)
    waiting = [pod for pod in run.newest.values() if not is_over(pod)]
    yield from together(waiting, lambda pod: dead_node(run, pod))
    yield from together([pod for pod in waiting if not is_scheduled(pod)], lambda pod: unscheduled(run, pod))
    begun = [pod for pod in waiting if is_scheduled(pod) and not started(pod)]
    yield from together(begun, lambda pod: not_started(run, pod))


def together(pods: Sequence[Object], explain: Callable[[Object], tuple[str, str, str] | None]) -> Iterator[Explanation]:
    """What holds up pods, those of one cause in one sentence.

    Args:
        pods: they.
        explain: gives the reason as in PROBLEMS, what follows the pod's name in the sentence, and when it began.
    """
    found: dict[tuple[str, str], list[tuple[Object, str]]] = {}
    for pod in pods:
        if told := explain(pod):
            found.setdefault(told[:2], []).append((pod, told[2]))
    for (reason, text), same in found.items():
        (pod, when), ranks = same[0], [rank_of(one) for one, _ in same]
        sentence = f"{named(ranks)} {text if len(ranks) == 1 else in_plural(text)}"
        yield Explanation(reason, sentence, REMEDIES.get(reason, ""), ranks[0], when=when, pod=pod["metadata"]["name"])


def named(ranks: Sequence[int]) -> str:
    """Workers by rank, a few of them."""
    if len(ranks) == 1:
        return f"worker {ranks[0]}"
    if len(ranks) > 4:
        return f"workers {', '.join(map(str, ranks[:3]))} and {len(ranks) - 3} more"
    return f"workers {', '.join(map(str, ranks[:-1]))} and {ranks[-1]}"


def in_plural(text: str) -> str:
    """A sentence on one worker, for several."""
    for one, several in (("has ", "have "), ("is ", "are "), ("waits ", "wait ")):
        if text.startswith(one):
            text = several + text.removeprefix(one)
    return text.replace("; it asks for", "; each asks for")


def refused_pods(run: Run) -> Iterator[Explanation]:
    """Pods that the API server does not let the Job make."""
    refused = events.last(run.events, "FailedCreate")
    made = events.last(run.events, "SuccessfulCreate")
    there = [pod for pod in run.newest.values() if pod["status"].get("phase") != "Failed"]
    if not refused or len(there) >= run.workers or (made and events.when(made) > events.when(refused)):
        return
    told = re.sub(r'^Error creating: (pods ".*?" is forbidden: )?', "", events.message(refused))
    reason = refusal_reason(told)
    if found := QUOTA.search(told):
        asked, used, most = (dict(part.split("=") for part in text.split(",")) for text in found.groups()[1:])
        parts = [
            f"{used[name]} of {most[name]} {name} used, and a worker asks for {asked[name]} more" for name in asked
        ]
        told = f"quota {found[1]} has {', '.join(parts)}"
    sentence = f"the API server refuses its pods: {told}"
    yield Explanation(reason, sentence, REMEDIES[reason], when=events.when(refused))


def dead_node(run: Run, pod: Object) -> tuple[str, str, str] | None:
    """A pod whose node does not answer."""
    node, leaving = pod["spec"].get("nodeName"), "deletionTimestamp" in pod["metadata"]
    # Who may not look at nodes still sees it by the pod.
    down = node in run.down if run.down is not None else is_cut_off(pod)
    if not node or not down:
        return None
    since = (condition(pod, "Ready", "False") or {}).get("lastTransitionTime", "")
    if leaving:
        text = f"waits for nothing but its end: its node {node} does not answer, and it is replaced once it is known"
        return "dead-node", f"{text} that it ended", since
    return "dead-node", f"is on node {node}, which does not answer; it is told to end after 30 s of this", since


def unscheduled(run: Run, pod: Object) -> tuple[str, str, str] | None:
    """A pod for which there is no node."""
    said = condition(pod, "PodScheduled", "False")
    if not said:
        return None
    when = said.get("lastTransitionTime", "")
    if said.get("reason") == "SchedulingGated":
        gates = ", ".join(gate["name"] for gate in pod["spec"].get("schedulingGates", []))
        return "scheduling", f"has no node: it is held back by {gates}", when
    reason, text = scheduling_problem(run, pod, said.get("message", ""))
    return reason, text, when


def scheduling_problem(run: Run, pod: Object, message: str) -> tuple[str, str]:
    """Why a pod has no node, by what the scheduler says: the reason, and what follows its name in a sentence."""
    told = scheduling.parse_message(message)
    if told.reason == "claim-unbound":
        said = events.last(run.events, "ProvisioningFailed", "FailedBinding")
        lost = run.claim is not None and run.claim.get("status", {}).get("phase") == "Lost"
        why = ": it has lost it" if lost else f": {events.message(said)}" if said else ""
        claims = " or ".join(name for name in (claim_of(pod), data_claim_of(pod)) if name)
        return told.reason, f"has no node, for the claim {claims} has no volume{why}"
    asks = f"; it asks for {requests(pod)}" if told.reason in ("gpu", "scheduling") else ""
    return told.reason, f"has no node: {told.text}{asks}"


def requests(pod: Object) -> str:
    """What a worker asks for, in words."""
    asked = trainer_of(pod).get("resources", {})
    both = {**{k: v for k, v in asked.get("limits", {}).items() if "/" in k}, **asked.get("requests", {})}
    return ", ".join(f"{value} of {name}" for name, value in both.items()) or "nothing"


def not_started(run: Run, pod: Object) -> tuple[str, str, str] | None:
    """A pod whose container does not begin."""
    name, waits = pod["metadata"]["name"], hindrance(pod)
    waiting = container_state(pod).get("waiting", {})
    own = [e for e in run.events if events.about(e) == name and PASSING not in events.message(e)]
    if waits in NO_IMAGE:
        first = next((event for event in own if event.get("reason") in ("Failed", "InspectFailed", waits)), None)
        told = image_error(waiting.get("message") or waits)
        when = (first or {}).get("firstTimestamp") or created(pod)
        return "image", f"cannot get its image {trainer_of(pod)['image']}: {told}", when
    if waits:
        reason = "configuration" if waits in CONFIGURATION else kebab_case(waits)
        return reason, f"cannot start ({waits}): {clean_message(waiting.get('message', ''))}", created(pod)
    if said := events.last(own, *UNMOUNTED):
        reason, text = volume_error(pod, events.message(said))
        return reason, f"cannot get its volume: {text}", events.when(said)
    if said := events.last(own, "FailedCreatePodSandBox"):
        return "refused", f"cannot start: {clean_message(events.message(said))}", events.when(said)
    return None


def image_error(message: str) -> str:
    """Why an image cannot be had, without what the kubelet and the runtime put before it."""
    told = re.sub(r'^Back-off pulling image "[^"]*"(: ErrImagePull: )?', "", message.strip())
    told = re.sub(r"(rpc error: code = \w+ desc = )|(failed to pull and unpack image \"[^\"]*\": )", "", told)
    return re.sub(r"failed to resolve reference \"[^\"]*\": ", "", told) or "it could not be pulled, and is tried again"


def volume_error(pod: Object, message: str) -> tuple[str, str]:
    """Why a volume cannot be had: the reason as in PROBLEMS, and the rest of a sentence."""
    if "Multi-Attach" in message:
        user = re.search(r"already used by pod\(s\) (.+)$", message)
        holder = f"{user[1].strip()}, on another node, uses" if user else "another node has"
        claims = " or ".join(name for name in (claim_of(pod), data_claim_of(pod)) if name)
        return "volume", f"{holder} the claim {claims}, which one node alone can have (ReadWriteOnce)"
    return "configuration" if re.search(r'(configmap|secret) "\S+" not found', message) else "volume", message
