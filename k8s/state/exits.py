"""How workers' containers ended, from their termination messages or from Kubernetes. Pure."""

from __future__ import annotations

import json
import re
import signal
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from job.errors import MEANINGS, Exit
from k8s.state.containers import UNSPECIFIC, describe_end, failed_container, trainer
from k8s.state.names import rank_of, trainer_of
from k8s.state.pods import container_state, created, disruption

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from k8s.api.objects import Object

# Reasons that follow from another worker's end or from being asked to stop: the first cause is elsewhere.
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
OTHER = "container-failed"  # the reason of a pod that failed because of a container besides the trainer
WRONG_ARCHITECTURE = "exec format error"  # the kernel's words for a program for another processor
NOT_STARTED = 128  # the kubelet's exit code for a container that could not be started


@dataclass(frozen=True)
class ContainerExit:
    """How a worker's container ended.

    Attributes:
        rank: the worker.
        pod: its name.
        code: the exit code; None if no container started.
        reason: a short fixed word, the worker's own or Kubernetes' in kebab case.
        message: a sentence; empty if there is none.
        hint: the worker's own remedy.
        when: RFC 3339.
        accuracy: the share of test examples that the published model classifies correctly.
        disruption: why the cluster stopped it, such as EvictionByEvictionAPI; empty if it did not.
        container: the container that made the pod fail, if that is not the trainer's; code is then None.
    """

    rank: int
    pod: str
    code: int | None
    reason: str
    message: str
    hint: str
    when: str
    accuracy: float | None = None
    disruption: str = ""
    container: str = ""

    @property
    def counted(self) -> bool:
        """Whether the Job counts it as a failure of the worker."""
        return not self.disruption


def container_exits(pods: Iterable[Object]) -> list[ContainerExit]:
    """How the workers' containers ended, in the order of time."""
    exits = [ended for pod in pods if (ended := container_exit(pod))]
    return sorted(exits, key=lambda ended: (ended.when, ended.rank))


def container_exit(pod: Object) -> ContainerExit | None:
    """How a pod's worker ended; None if it has not ended."""
    terminated, status = container_state(pod).get("terminated"), pod["status"]
    if not terminated and status.get("phase") != "Failed":
        return None
    rank, name, disrupted = rank_of(pod), pod["metadata"]["name"], disruption(pod)
    if other := exit_of_other(pod):
        return other
    if not terminated:  # evicted or rejected by the kubelet before a container could leave a message
        reason, message = kebab_case(status.get("reason") or "failed"), clean_message(status.get("message", ""))
        return ContainerExit(rank, name, None, reason, message, "", created(pod), disruption=disrupted)
    code, fields = int(terminated["exitCode"]), termination_message(terminated)
    if status.get("reason") not in (None, "") and not fields:
        fields = {"reason": kebab_case(status["reason"]), "message": clean_message(status.get("message", ""))}
    elif not fields and code:
        fields = exit_seen_by_kubelet(terminated, trainer_of(pod))
    return ContainerExit(
        rank,
        name,
        code,
        reason=fields.get("reason") or "",
        message=(fields.get("message") or "").removeprefix("published before: "),
        hint=fields.get("hint") or "",
        when=terminated.get("finishedAt") or created(pod),
        accuracy=fields.get("accuracy"),
        disruption=disrupted,
    )


def exit_of_other(pod: Object) -> ContainerExit | None:
    """The end of a pod that failed because of another container, not the trainer or the kubelet; None for any other."""
    ended, failed, status = trainer(pod), failed_container(pod), pod["status"]
    if not failed or status.get("phase") != "Failed" or status.get("reason") or ended.failed:
        return None
    message = f"{failed} {describe_end(failed)}"
    message += "" if ended.terminated is None else "; the trainer had ended with 0"
    when, name = (failed.terminated or {}).get("finishedAt") or created(pod), pod["metadata"]["name"]
    return ContainerExit(rank_of(pod), name, None, OTHER, message, "", when, None, disruption(pod), failed.name)


TEXTS = ("reason", "message", "hint")


def termination_message(terminated: Object) -> dict[str, Any]:
    """The fields of a worker's termination message; empty if it was killed before it wrote one.

    The trainer's program, which may be any, can write it, so fields of another type are left out.
    """
    try:
        fields = json.loads(terminated.get("message", ""))
    except (ValueError, RecursionError):
        return {}
    if not isinstance(fields, dict):
        return {}
    accuracy = fields.get("accuracy")
    known: dict[str, Any] = {name: fields[name] for name in TEXTS if isinstance(fields.get(name), str)}
    if isinstance(accuracy, int | float) and 0 <= accuracy <= 1:
        known["accuracy"] = float(accuracy)
    return known


def exit_seen_by_kubelet(terminated: Object, container: Object) -> dict[str, Any]:
    """The reason and message of a worker that left no termination message, from what the kubelet reports."""
    code, reason = int(terminated["exitCode"]), terminated.get("reason", "")
    message = clean_message(terminated.get("message", ""))
    if reason == "OOMKilled":
        limit = container.get("resources", {}).get("limits", {}).get("memory")
        cause = f"it exceeded its memory limit of {limit}" if limit else "memory ran out"
        return {"reason": "out-of-memory", "message": f"the kernel killed the worker because {cause}"}
    if WRONG_ARCHITECTURE in message:
        return {"reason": "image-architecture", "message": message.splitlines()[-1][:300]}
    if reason not in UNSPECIFIC:
        return {"reason": kebab_case(reason), "message": message}
    # With FallbackToLogsOnError, the kubelet reports the end of the log instead.
    text = f"it left no message; its log ends with: {message.splitlines()[-1][:300]}" if message else ""
    return {"reason": "killed" if signal_of(code) else "unknown-code", "message": text}


def clean_message(message: str) -> str:
    """The essential part of a message of the kubelet or the container runtime."""
    text = re.sub(r"^.*unable to start container process: (.*?)(: unknown)?$", r"\1", message.strip())
    return "" if text.startswith("Error on reading termination message") else text


def signal_of(code: int) -> str:
    """The name of the signal that an exit code stands for; empty for other codes."""
    try:
        return signal.Signals(code - 128).name if code > 128 else ""
    except ValueError:
        return ""


def describe_code(code: int | None) -> str:
    """What a container's exit code means; empty without a code."""
    if code is None:
        return ""
    if code in set(Exit):
        return MEANINGS[Exit(code)]
    if code == NOT_STARTED:
        return "its container could not be started"
    name = signal_of(code)
    return f"its main process was killed by {name}" if name else "not an exit code of the job"


def first_cause(exits: Sequence[ContainerExit]) -> ContainerExit | None:
    """The first failure that does not follow from something else, or else the first failure."""
    failures = [ended for ended in exits if ended.code != Exit.OK]
    primary = [ended for ended in failures if ended.reason not in SECONDARY]
    return next(iter([ended for ended in primary if ended.counted] or primary or failures), None)


def kebab_case(word: str) -> str:
    """A reason of Kubernetes, in CamelCase, in this project's kebab case."""
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "-", word).lower()
