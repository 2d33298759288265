"""How workers' containers ended, in their own words or in Kubernetes'. Pure."""

from __future__ import annotations

import json
import re
import signal
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from job.errors import MEANINGS, Exit
from k8s.state.names import rank_of, trainer_of
from k8s.state.pods import container_state, created, disruption

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from k8s.api.objects import Object

# What a worker ends with because of another one, or because it was told to: the first cause is elsewhere.
SECONDARY = {"stopped", "stopped-by-peer", "peer-lost", "peers-lost", "peers-missing", "gathering", "not-joined"}
# The most common reason for each fatal exit code, for when only the code is known.
REASON_OF_CODE: dict[int, str] = {
    Exit.USAGE: "usage",
    Exit.DATA_DAMAGED: "dataset-damaged",
    Exit.DATA_MISSING: "dataset-missing",
    Exit.REJECTED: "rejected",
    Exit.BUG: "bug",
    Exit.OUT_OF_MEMORY: "out-of-memory",
    Exit.OUTPUT: "output-not-writable",
    Exit.NOT_FINITE: "loss-not-finite",
    Exit.SETTINGS: "other-settings",
}
NOT_STARTED = 128  # the kubelet's code
# Terminated for no reason in particular.
UNSPECIFIC = {"Error", "Completed", ""}


@dataclass(frozen=True)
class ContainerExit:
    """How a worker's container ended: as in its termination message, or by Kubernetes' own words.

    code is its exit code, None where no container began. when is RFC 3339; accuracy the share of test examples that
    the published model classifies rightly. disruption is why the cluster ended it, as EvictionByEvictionAPI, if it did.
    """

    rank: int
    pod: str
    code: int | None
    reason: str
    message: str
    hint: str
    when: str
    step: int | None = None
    accuracy: float | None = None
    disruption: str = ""

    @property
    def counted(self) -> bool:
        """Whether the Job counts it against the worker."""
        return not self.disruption


def container_exits(pods: Iterable[Object]) -> list[ContainerExit]:
    """How the workers' containers ended, the first first."""
    found = [ending for pod in pods if (ending := container_exit(pod))]
    return sorted(found, key=lambda ending: (ending.when, ending.rank))


def container_exit(pod: Object) -> ContainerExit | None:
    """How a pod's worker ended; None while it has not."""
    terminated, status = container_state(pod).get("terminated"), pod["status"]
    if not terminated and status.get("phase") != "Failed":
        return None
    rank, name, by = rank_of(pod), pod["metadata"]["name"], disruption(pod)
    if not terminated:  # evicted, or refused by the kubelet, before a container could say anything
        reason, message = kebab_case(status.get("reason") or "failed"), clean_message(status.get("message", ""))
        return ContainerExit(rank, name, None, reason, message, "", created(pod), disruption=by)
    code, told = int(terminated["exitCode"]), termination_message(terminated)
    if status.get("reason") not in (None, "") and not told:
        told = {"reason": kebab_case(status["reason"]), "message": clean_message(status.get("message", ""))}
    elif not told and code:
        told = exit_seen_by_kubelet(terminated, trainer_of(pod))
    return ContainerExit(
        rank,
        name,
        code,
        reason=told.get("reason") or "",
        message=(told.get("message") or "").removeprefix("published before: "),
        hint=told.get("hint") or "",
        when=terminated.get("finishedAt") or created(pod),
        step=told.get("step"),
        accuracy=told.get("accuracy"),
        disruption=by,
    )


def termination_message(terminated: Object) -> dict[str, Any]:
    """What the worker itself left in its termination message; nothing where it was killed before it could."""
    try:
        found = json.loads(terminated.get("message", ""))
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def exit_seen_by_kubelet(terminated: Object, container: Object) -> dict[str, Any]:
    """What is known of the end of a worker that left no word, from the kubelet's."""
    code, why, left = (
        int(terminated["exitCode"]),
        terminated.get("reason", ""),
        clean_message(terminated.get("message", "")),
    )
    if why == "OOMKilled":
        limit = container.get("resources", {}).get("limits", {}).get("memory")
        most = f", for its limit is {limit}" if limit else ""
        return {"reason": "out-of-memory", "message": f"the kernel killed the worker for memory{most}"}
    if why not in UNSPECIFIC:
        return {"reason": kebab_case(why), "message": left}
    # By FallbackToLogsOnError, the kubelet gives the end of its log instead.
    words = f"it said nothing of it; its log ends with: {left.splitlines()[-1][:300]}" if left else ""
    return {"reason": "killed" if killed_by(code) else "unknown-code", "message": words}


def clean_message(message: str) -> str:
    """What matters in a message of the kubelet's or the container runtime's."""
    text = re.sub(r"^.*unable to start container process: (.*?)(: unknown)?$", r"\1", message.strip())
    return "" if text.startswith("Error on reading termination message") else text


def killed_by(code: int) -> str:
    """The signal of which an exit code tells; empty for other codes."""
    try:
        return signal.Signals(code - 128).name if code > 128 else ""
    except ValueError:
        return ""


def describe_code(code: int | None) -> str:
    """What a container's exit code means, in a sentence."""
    if code is None:
        return ""
    if code in set(Exit):
        return MEANINGS[Exit(code)]
    if code == NOT_STARTED:
        return "its container could not be started"
    name = killed_by(code)
    return f"its first process was killed by {name}" if name else "not one of the job's own codes"


def first_cause(ends: Sequence[ContainerExit]) -> ContainerExit | None:
    """The first of some ends that does not follow from something else, or else the first."""
    bad = [ending for ending in ends if ending.code != Exit.OK]
    own = [ending for ending in bad if ending.reason not in SECONDARY]
    return next(iter([e for e in own if e.counted] or own or bad), None)


def kebab_case(word: str) -> str:
    """CamelCase, as Kubernetes' reasons are, in kebab case, as this project's are."""
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "-", word).lower()
