"""prune: remove old runs, with their models, checkpoints and Jobs, after saying which and what that frees.

job/output/retention.py decides in the helper pod what stays. Here is added what only the cluster knows: a run
whose Job has not ended, or is younger than what is pruned, stays; and the Jobs of what is pruned go with it.
"""

from __future__ import annotations

import json
from datetime import datetime
from typing import TYPE_CHECKING, Any

from job.config import add_prune_flags
from k8s.api import permissions
from k8s.state.names import OUTPUT, RUNS, claim_of
from k8s.state.pods import created
from k8s.state.run import Run, is_settled, state
from k8s.volume import pod as helper

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from k8s.api.cluster import Cluster
    from k8s.api.objects import Object
    from k8s.volume.pod import Helper

AT_A_TIME = 100  # names in one command: they travel in a URL
NOBODY = "."  # no run's name: where none is to go, but what a prune that was killed has left


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Add what `prune` takes."""
    add_prune_flags(parser)
    helper.add_flags(parser)


def run(arguments: argparse.Namespace, connect: Callable[[], Cluster]) -> int:
    """Prune; returns the exit status."""
    # The launcher loads job.output only where a command needs it.
    from job.output.prune_dialogue import check_prune_flags, confirmed  # noqa: PLC0415

    as_json = arguments.output == "json"
    check_prune_flags(arguments, as_json=as_json)
    cluster = connect()
    if not arguments.dry_run:
        permissions.require(cluster, [("delete", "Job", "")], "runner")
    place = helper.place(cluster, None, arguments.image, arguments.claim)
    flags = [f"--output={OUTPUT}", f"--keep={arguments.keep}", "--json"]
    flags += [f"--older-than={arguments.older_than}"] if arguments.older_than else []
    gone: list[str] = []
    with helper.opened(cluster, place, writes=not arguments.dry_run) as pod:
        now = jobs(cluster)
        planned = decide(plan(pod, flags, now, place.claim), now, place.claim)
        if not as_json:
            print("\n".join(told(planned)))
        anything = planned["prune"] or planned["jobs"]
        agreed = not arguments.dry_run and (arguments.yes or not anything or confirmed())
        if agreed and (anything or planned["left"]):
            gone, planned["jobs"] = carry_out(cluster, pod, planned, flags)
            if anything and not as_json:
                numbers = {"run": len(gone), "Job": len(planned["jobs"])}
                print("pruned " + " and ".join(f"{n} {what}{'s' * (n != 1)}" for what, n in numbers.items()))
    if as_json:
        print(json.dumps({**planned, "pruned": gone, "claim": place.claim}))
    return 0


def jobs(cluster: Cluster) -> dict[str, Object]:
    """The Jobs of all runs, by name."""
    return {job["metadata"]["name"]: job for job in cluster.select("Job", RUNS)}


def plan(pod: Helper, flags: Sequence[str], jobs: Mapping[str, Object], claim: str) -> dict[str, Any]:
    """A job.retention.Plan, as JSON; with the runs without a model of which their Jobs tell that they are over."""
    found: dict[str, Any] = json.loads(pod.job("prune", *flags, "--dry-run"))
    kept, unpublished = found["kept"], [(name, jobs[name]) for name in found["without_model"] if name in jobs]
    over = [name for name, job in unpublished if writes_to(job, claim) and not spared(job, found["before"])]
    for first in range(0, len(over), AT_A_TIME):
        named = over[first : first + AT_A_TIME]
        more = json.loads(pod.job("prune", *flags, "--dry-run", *named))
        found["prune"] += more["prune"]
        kept |= {name: more["kept"].get(name, "") for name in named}
    gone = {each["name"] for each in found["prune"]}
    found["kept"] = {name: why for name, why in kept.items() if name not in gone}
    found["prune"].sort(key=lambda each: each["started"])
    return found


def decide(planned: Mapping[str, Any], jobs: Mapping[str, Object], claim: str) -> dict[str, Any]:
    """What is to be pruned of the volume, and which Jobs.

    Args:
        planned: a job.retention.Plan, as JSON.
        jobs: those of all runs, by name.
        claim: of the volume.

    Returns:
        The plan without the runs whose Job forbids it, and the names of the `jobs` that go: of the runs that are
        pruned, and of those as old that have left nothing on the volume.
    """
    before, kept, pruned = planned["before"], dict(planned["kept"]), []
    for name in planned["without_model"]:
        if name in kept:
            kept[name] = spared(jobs.get(name), before) or kept[name]
    for found in planned["prune"]:
        if why := spared(jobs.get(found["name"]), before):
            kept[found["name"]] = why
        else:
            pruned.append(found)
    names = {found["name"] for found in pruned}
    going = [
        name
        for name, job in jobs.items()
        if before and name not in kept and writes_to(job, claim) and not spared(job, before)
    ]
    order = sorted(names & set(going)) + sorted(set(going) - names)
    return {"before": before, "prune": pruned, "kept": kept, "left": planned.get("left", 0), "jobs": order}


def writes_to(job: Object, claim: str) -> bool:
    """Whether a Job's run is on that claim's volume."""
    return claim_of(job["spec"]["template"]) == claim


def spared(job: Object | None, before: str) -> str:
    """Why a run stays for its Job's sake; empty where it does not."""
    if job is None:
        return ""
    if not is_settled(job):
        word = state(Run(job)).word if job["spec"].get("suspend") else "not over"
        return f"its Job is {word}"
    # As where it was begun long ago, and retried lately: it may be again.
    young = datetime.fromisoformat(created(job)) >= datetime.fromisoformat(before)
    return "its Job was made since" if young else ""


def told(planned: Mapping[str, Any]) -> list[str]:
    """The plan in lines for a person."""
    from job.output.prune_dialogue import plan_lines  # noqa: PLC0415 - see run()

    lines = plan_lines(planned)
    if planned["jobs"]:
        lines = lines if planned["prune"] else lines[:-1]
        lines.append(f"Jobs to delete, {len(planned['jobs'])}: {', '.join(planned['jobs'])}")
    return lines


def carry_out(
    cluster: Cluster, pod: Helper, planned: Mapping[str, Any], flags: Sequence[str]
) -> tuple[list[str], list[str]]:
    """Prune what was told and still may go; gives the names of the runs, and of the Jobs, that are gone.

    A Job goes before its model, for then nobody can retry or resume what is being deleted. Where there is no model it
    goes last: it alone tells the next prune that the run is over, should this one be killed between the two.
    """

    def delete(names: Iterable[str]) -> list[str]:
        now = jobs(cluster)
        going = [name for name in names if name in now and not spared(now[name], planned["before"])]
        for name in going:
            cluster.delete("Job", name, uid=now[name]["metadata"]["uid"])
        return going

    unpublished = {found["name"] for found in planned["prune"] if not found["published"]}
    deleted = delete(name for name in planned["jobs"] if name not in unpublished)
    now = jobs(cluster)
    names = [found["name"] for found in planned["prune"] if not spared(now.get(found["name"]), planned["before"])]
    gone: list[str] = []
    for first in range(0, max(len(names), 1), AT_A_TIME):
        batch = names[first : first + AT_A_TIME] or [NOBODY]
        done = json.loads(pod.job("prune", *flags, "--yes", *batch))
        # By what is there now, for a connection that broke may have hidden that an earlier attempt did it.
        there = {found["name"] for found in done["prune"]} - set(done["pruned"]) | done["kept"].keys()
        gone += [name for name in batch if name not in {NOBODY, *there}]
    deleted += delete(unpublished.intersection(planned["jobs"], gone))
    return gone, [name for name in planned["jobs"] if name in deleted]
