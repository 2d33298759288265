"""Why a run failed or waits, from what the cluster shows of it: pure, one function for each place to look at."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from job.errors import MEANINGS, Exit
from k8s.contract import claim_of, rank_of, trainer_of
from k8s.run import (
    DONE,
    FAILED,
    ON_ITS_WAY,
    Ending,
    Run,
    endings,
    fatal,
    is_scheduled,
    kebab,
    started,
    state,
    waits_for,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from k8s.contract import Object

# What to do, by reason; a worker's own hint goes before. README's table of symptoms is made of this.
REMEDIES: dict[str, str] = {
    "out-of-memory": "give it more: --memory 4Gi, or a smaller --batch-size",
    "evicted": "nothing, if it is replaced; `kubectl describe node` tells what the node is short of",
    "image": "check the name and that the nodes may pull it; `make load` puts it on kind's and minikube's nodes",
    "scheduling": "ask for less (--cpu, --memory, --gpus, --workers), or add nodes",
    "gpu": "add a node with GPUs and NVIDIA's device plugin, or train on CPUs: --overlay cpu",
    "quota": "ask for less (--cpu, --memory, --workers), or have the quota raised",
    "pod-security": "use the manifests' own security settings, or another namespace",
    "refused": "see what the sentence names",
    "claim-missing": "make the claim, or name another one with --claim",
    "claim-unbound": "see `kubectl describe pvc`: its storage class must exist and be able to make the volume",
    "volume": "see `kubectl describe pod`; a ReadWriteOnce volume serves one node: --component one-node",
    "deadline-exceeded": "give it longer: retry with --deadline",
    "dead-node": "bring the node back, delete the Node, "
    "or taint it: `kubectl taint node NODE node.kubernetes.io/out-of-service=nodeshutdown:NoExecute`",
    "restarts-used-up": "mend what the worker says, then `mnist-job retry`",
    "queued": "nothing: Kueue starts it when there is room; see its Workload",
    "suspended": "`mnist-job resume` goes on from the last checkpoint",
    "cancelled": "`mnist-job retry` takes it up again from its last checkpoint",
}


@dataclass(frozen=True)
class Cause:
    """Why a run is as it is.

    code is a worker's exit code. when is RFC 3339. lines are the last of the pod's log, or nothing.
    """

    reason: str
    sentence: str
    remedy: str = ""
    rank: int | None = None
    code: int | None = None
    when: str = ""
    pod: str = ""
    lines: tuple[str, ...] = ()

    def __str__(self) -> str:
        shown = [self.sentence + (f" ({self.when})" if self.when else "")]
        shown += [f"do: {self.remedy}"] if self.remedy else []
        shown += [f"the last lines of {self.pod}:", *(f"  {line}" for line in self.lines)] if self.lines else []
        return "\n".join(shown)


def cause(run: Run) -> Cause:
    """Why a run failed, or what it waits for; that nothing is wrong, where nothing is."""
    now = state(run)
    if run.condition(*DONE):
        accuracy = f" with a test accuracy of {now.accuracy:.4f}" if now.accuracy is not None else ""
        return Cause("published", f"nothing is wrong: it is published{accuracy}", code=Exit.OK)
    if run.condition(*FAILED):
        return failed(run)
    if now.word in ("queued", "suspended", "cancelled"):
        sentences = {"queued": "Kueue has not let it start yet", "suspended": "it is suspended, its checkpoint kept"}
        return Cause(now.word, sentences.get(now.word, "it was cancelled, its checkpoint kept"), REMEDIES[now.word])
    return next(obstacles(run), None) or at_work(run)


def failed(run: Run) -> Cause:
    """What failed a run."""
    condition = run.condition(*FAILED) or {}
    reason, told = condition.get("reason", ""), condition.get("message", "")
    if ending := fatal(run):
        return of_ending(ending)
    when = condition.get("lastTransitionTime", "")
    if reason == "PodFailurePolicy":  # the pod is gone; the condition still tells its code
        found = re.search(r"pod \S+/(\S+) failed with exit code (\d+)", told)
        if found:
            code = int(found[2])
            meaning = MEANINGS[Exit(code)] if code in set(Exit) else "unknown"
            sentence = f"{found[1]} ended with {code} ({meaning}); its pod is gone, and what it said with it"
            return Cause(kebab(meaning), sentence, code=code, when=when)
    if reason == "DeadlineExceeded":
        seconds = run.job["spec"].get("activeDeadlineSeconds")
        first = next(obstacles(run), None)
        since = f"; until then: {first.sentence}" if first else ""
        sentence = f"it was not done within its deadline of {seconds} s{since}"
        return Cause(
            "deadline-exceeded", sentence, (first and first.remedy) or REMEDIES["deadline-exceeded"], when=when
        )
    ends = [ending for ending in endings(run.pods) if ending.code != Exit.OK]
    if ends:
        return used_up(ends)
    return Cause(
        kebab(reason), f"the Job failed: {told or reason}; its pods are gone, and what they said with them", when=when
    )


def used_up(ends: list[Ending]) -> Cause:
    """Why a worker was given up, of which Kubernetes says only that it failed too often."""
    last = ends[-1]
    own = [ending for ending in ends if ending.rank == last.rank]
    first = own[0]
    found = of_ending(first)
    if len(own) == 1:
        return found
    latest = "" if last.message == first.message else f", the last time: {last.message}"
    sentence = f"worker {first.rank} ended {len(own)} times and was given up; at first: {found.sentence}{latest}"
    return Cause(first.reason, sentence, found.remedy, first.rank, first.code, first.when, last.pod)


def of_ending(ending: Ending) -> Cause:
    """What a worker ended with, in its own words where it left any."""
    meaning = MEANINGS[Exit(ending.code)] if ending.code in set(Exit) else ""
    message = ending.message or meaning or "it said nothing"
    ended = f"worker {ending.rank} ended with {ending.code}" if ending.code else f"worker {ending.rank} ended"
    sentence = f"{ended} ({ending.reason}): {message}"
    remedy = ending.hint or REMEDIES.get(ending.reason, "")
    return Cause(ending.reason, sentence, remedy, ending.rank, ending.code, ending.when, ending.pod)


def obstacles(run: Run) -> Iterator[Cause]:
    """What keeps a run from going on, the most telling first."""
    yield from refused_pods(run)
    yield from missing_claim(run)
    for pod in run.newest.values():
        if pod["status"].get("phase") in ("Succeeded", "Failed"):
            continue
        yield from dead_node(run, pod)
        if not is_scheduled(pod):
            yield from unscheduled(pod)
        elif not started(pod):
            yield from not_started(run, pod)
    yield from ends_so_far(run)


def refused_pods(run: Run) -> Iterator[Cause]:
    """Pods that the API server does not let the Job make."""
    if len(run.newest) >= run.workers:
        return
    for event in reversed(run.events):
        if event.get("reason") != "FailedCreate":
            continue
        told = re.sub(r'^Error creating: (pods ".*?" is forbidden: )?', "", event.get("message", ""))
        kinds = {"exceeded quota": "quota", "violates PodSecurity": "pod-security"}
        reason = next((kind for text, kind in kinds.items() if text in told), "refused")
        yield Cause(reason, f"the API server refuses its pods: {told}", REMEDIES[reason], when=when(event))


def missing_claim(run: Run) -> Iterator[Cause]:
    """A claim that is not there, or has no volume although pods want it."""
    name = claim_of(run.job["spec"]["template"])
    if not any(not is_scheduled(pod) for pod in run.newest.values()):
        return
    if run.claim is None and any(f'"{name}" not found' in event.get("message", "") for event in run.events):
        yield Cause("claim-missing", f"there is no claim {name}", REMEDIES["claim-missing"])
    elif run.claim is not None and run.claim["status"].get("phase") == "Lost":
        yield Cause("claim-unbound", f"the claim {name} has lost its volume", REMEDIES["claim-unbound"])


def dead_node(run: Run, pod: Object) -> Iterator[Cause]:
    """A pod that hangs on a node that does not answer."""
    node = pod["spec"].get("nodeName")
    down = node in run.down if run.down is not None else "deletionTimestamp" in pod["metadata"]
    if not node or not down:
        return
    rank = rank_of(pod)
    gone = run.down is not None
    away = f"its node {node} does not answer" if gone else f"it has not ended on its node {node} yet"
    replaced = "it is replaced once the node has said that it ended"
    yield Cause(
        "dead-node", f"worker {rank} waits for nothing but its end: {away}, and {replaced}", REMEDIES["dead-node"], rank
    )


def unscheduled(pod: Object) -> Iterator[Cause]:
    """A pod for which there is no node."""
    conditions = pod["status"].get("conditions", [])
    said = next((c for c in conditions if c["type"] == "PodScheduled" and c["status"] == "False"), None)
    if not said:
        return
    rank, told = rank_of(pod), said.get("message", "").split(" preemption:")[0].rstrip(". ")
    resources = trainer_of(pod)["resources"]
    if "unbound immediate PersistentVolumeClaims" in told:
        claim = claim_of(pod)
        sentence = f"worker {rank} has no node, for the claim {claim} has no volume"
        yield Cause("claim-unbound", sentence, REMEDIES["claim-unbound"], rank, when=said.get("lastTransitionTime", ""))
        return
    gpu = "nvidia.com/gpu" in told
    asks = ", ".join(
        f"{value} of {name}" for name, value in {**resources.get("limits", {}), **resources.get("requests", {})}.items()
    )
    sentence = f"worker {rank} has no node: {told}; it asks for {asks}"
    reason = "gpu" if gpu else "scheduling"
    yield Cause(reason, sentence, REMEDIES[reason], rank, when=said.get("lastTransitionTime", ""))


def not_started(run: Run, pod: Object) -> Iterator[Cause]:
    """A pod whose container does not begin."""
    rank, name, waits = rank_of(pod), pod["metadata"]["name"], waits_for(pod)
    image = trainer_of(pod)["image"]
    own = [event for event in run.events if event["involvedObject"].get("name") == name]
    if "Image" in waits or waits in ("ErrImagePull", "ErrImageNeverPull", "InvalidImageName"):
        pulls = [e for e in own if e.get("reason") == "Failed" and "image" in e.get("message", "").lower()]
        told = pulls[0]["message"] if pulls else waits
        sentence = f"worker {rank} cannot get its image {image}: {told}"
        yield Cause("image", sentence, REMEDIES["image"], rank, when=when(pulls[0]) if pulls else "")
    for event in reversed(own):
        if event.get("reason") in ("FailedMount", "FailedAttachVolume", "FailedMapVolume"):
            sentence = f"worker {rank} cannot get its volume: {event.get('message', '')}"
            yield Cause("volume", sentence, REMEDIES["volume"], rank, when=when(event))
    if waits not in ON_ITS_WAY and "Image" not in waits:
        waiting = next(s["state"]["waiting"] for s in pod["status"]["containerStatuses"] if "waiting" in s["state"])
        sentence = f"worker {rank} does not start ({waits}): {waiting.get('message', '')}"
        yield Cause(kebab(waits), sentence, REMEDIES["refused"], rank)


def ends_so_far(run: Run) -> Iterator[Cause]:
    """Ends of workers that are being replaced."""
    ends = [ending for ending in endings(run.pods) if ending.code != Exit.OK]
    if ends and before_steps(run):
        last = of_ending(ends[-1])
        yield Cause(
            last.reason, f"{last.sentence}; it is replaced", last.remedy, last.rank, last.code, last.when, last.pod
        )


def before_steps(run: Run) -> bool:
    """Whether the workers are not all at it."""
    return run.record is None or run.record.phase in ("waiting", "starting", "restarting", "failed")


def at_work(run: Run) -> Cause:
    """That nothing is known to be wrong, and what a run is about."""
    now, record = state(run), run.record
    if record and record.phase == "waiting" and record.message:
        return Cause("joining", f"it waits for all of its {run.workers} workers: {record.message}")
    ends = len([ending for ending in endings(run.pods) if ending.code != Exit.OK])
    replaced = f"; {ends} of its pods ended before and were replaced" if ends else ""
    return Cause("running", f"nothing is wrong: {now}{replaced}")


def when(event: Object) -> str:
    """When an event was last seen, RFC 3339."""
    series = event.get("series") or {}
    return str(series.get("lastObservedTime") or event.get("lastTimestamp") or event.get("eventTime") or "")
