"""What a run's logs on the volume say about workers whose pods are gone. Pure."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

from job import telemetry
from job.errors import PUBLISHED, Exit
from k8s.diagnose.explanation import Explanation
from k8s.state.exits import SECONDARY, ContainerExit, describe_code
from k8s.state.pods import created

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from k8s.state.run import Run

PREFIX_LIMIT = 58  # characters of a pod's name before the random ones


def logged_exits(lines: Iterable[str]) -> list[ContainerExit]:
    """How workers ended, by lines `TIME POD TEXT` of their logs, in the order of time."""
    exits = []
    for line in lines:
        _, _, rest = line.partition(" ")
        pod, _, text = rest.partition(" ")
        record = telemetry.parse(text)
        if record and record.code is not None:
            words = record.reason or "", record.message or "", record.hint or ""
            when = f"{datetime.fromtimestamp(record.time, UTC):%Y-%m-%dT%H:%M:%SZ}"
            exits.append(ContainerExit(record.rank, pod, record.code, *words, when, record.accuracy))
    return sorted(exits, key=lambda ended: (ended.when, ended.rank))


def exits_of_gone_pods(run: Run, exits: Iterable[ContainerExit]) -> tuple[ContainerExit, ...]:
    """Those of pods of a run's newest Job that no longer exist: an earlier Job's have other names or ended earlier."""
    job, present = run.job["metadata"]["name"], {pod["metadata"]["name"] for pod in run.pods}
    return tuple(
        ended
        for ended in exits
        if ended.code not in PUBLISHED and ended.pod not in present
        if ended.pod.startswith(pod_prefix(job, ended.rank)) and ended.when >= created(run.job)
    )


def pod_prefix(job: str, rank: int) -> str:
    """What the names of a rank's pods begin with; Kubernetes cuts a long name of a Job."""
    suffix = f"-{rank}-"
    return job[: PREFIX_LIMIT - len(suffix)] + suffix


def explain_without_job(name: str, exits: Sequence[ContainerExit], flags: str, claim: str) -> Explanation:
    """How a run whose Job was deleted has ended.

    Args:
        name: of the run.
        exits: of logged_exits().
        flags: those that select the namespace.
        claim: on which the run's logs are.
    """
    gone = "its Job was deleted"
    published = [ended for ended in exits if ended.rank == 0 and ended.code in PUBLISHED]
    if published:
        last = published[-1]
        rejected = f"published, but rejected: {last.message}" if last.code == Exit.REJECTED else ""
        accuracy = f" with a test accuracy of {last.accuracy:.4f}" if last.accuracy is not None else ""
        sentence = f"{rejected or f'nothing is wrong: the model is published{accuracy}'}; {gone}"
        meaning = describe_code(last.code) if rejected else ""
        return Explanation(last.reason or "published", sentence, "", 0, last.code, meaning, last.when, last.pod)
    remedy = (
        "submit the run again with its image and the flags that it had: "
        f"`mnist-job submit --name {name} --claim {claim} {flags} -- --continue`; it continues from its last checkpoint"
    )
    primary = [ended for ended in exits if ended.reason not in SECONDARY] or exits
    if not primary:
        return Explanation("deleted", f"the run had not ended when {gone}", remedy)
    last = primary[-1]
    sentence = f"worker {last.rank} exited with {last.code} ({last.reason}): {last.message}; {gone}"
    remedy = f"{last.hint}; then {remedy}" if last.hint else remedy
    return Explanation(
        last.reason, sentence, remedy, last.rank, last.code, describe_code(last.code), last.when, last.pod
    )
