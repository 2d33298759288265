"""prune: remove old runs, with their models, checkpoints and Jobs, after saying which and what that frees.

The job, in the volume pod, plans what can go by what is on the volume (job/output/retention.py). The launcher adds what
only the cluster knows: a run whose Job has not ended, or was created recently, is kept; the Jobs of pruned runs are
deleted too.
"""

from __future__ import annotations

import json
from datetime import datetime
from typing import TYPE_CHECKING, Any

from job.config import add_prune_flags
from job.output.prune_dialogue import check_prune_flags, confirmed, plan_lines
from k8s.api import permissions
from k8s.commands import flags
from k8s.state.find import newest_jobs
from k8s.state.names import OUTPUT, RUN_SELECTOR, claim_of
from k8s.state.pods import created
from k8s.state.run import Run, is_settled, state
from k8s.view.output import note, printable
from k8s.volume.start import open_volume

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from k8s.api.cluster import Cluster
    from k8s.api.objects import Object
    from k8s.volume.pod import VolumePod

AT_A_TIME = 100  # names in one command: they travel in a URL
NO_RUN = "."  # given as the only name, it prunes no run, but deletes what an interrupted prune left behind


EXAMPLES = ("mnist-job prune --keep 10 --dry-run", "mnist-job prune --keep 10 --older-than 30d")


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `prune`."""
    add_prune_flags(parser)
    flags.add_volume(parser)


def run(arguments: argparse.Namespace, connect: Callable[[], Cluster]) -> int:
    """Prune; returns the exit status."""
    as_json = arguments.output == "json"
    check_prune_flags(arguments, as_json=as_json)
    cluster = connect()
    if not arguments.dry_run:
        permissions.require(cluster, [("delete", "Job", "")], "runner")
    words = [f"--output={OUTPUT}", f"--keep={arguments.keep}", "--json"]
    words += [f"--older-than={arguments.older_than}"] if arguments.older_than else []
    pruned: list[str] = []
    with open_volume(cluster, arguments, writes=not arguments.dry_run) as pod:
        jobs = jobs_by_run(cluster)
        plan = without_spared(plan_on_volume(pod, words, jobs), jobs, pod.claim)
        nothing = not plan["prune"] and not plan["jobs"]
        if not as_json:
            lines = plan_lines(plan)
            if plan["jobs"]:
                lines = lines if plan["prune"] else lines[:-1]
                lines.append(f"Jobs to delete, {len(plan['jobs'])}: {', '.join(plan['jobs'])}")
            note(f"the volume is that of the claim {pod.claim}")
            print(printable("\n".join(lines)))
        agreed = not arguments.dry_run and (arguments.yes or nothing or confirmed())
        if agreed and (not nothing or plan["left"]):
            pruned, plan["jobs"] = carry_out(cluster, pod, plan, words)
            if not nothing and not as_json:
                counts = {"run": len(pruned), "Job": len(plan["jobs"])}
                print("pruned " + " and ".join(f"{n} {what}{'s' * (n != 1)}" for what, n in counts.items()))
    if as_json:
        print(json.dumps({**plan, "pruned": pruned, "claim": pod.claim}))
    return 0


def jobs_by_run(cluster: Cluster) -> dict[str, Object]:
    """The newest Job of each run, by the run's name."""
    return {name: job for (_, name), job in newest_jobs(cluster.select("Job", RUN_SELECTOR)).items()}


def plan_on_volume(pod: VolumePod, words: Sequence[str], jobs: Mapping[str, Object]) -> dict[str, Any]:
    """A plan as job.output.prune.plan_pruning() makes it, also with runs without a model whose Jobs have ended."""
    plan: dict[str, Any] = json.loads(pod.run_job("prune", *words, "--dry-run"))
    kept, unpublished = plan["kept"], [(name, jobs[name]) for name in plan["without_model"] if name in jobs]
    ended = [name for name, job in unpublished if uses_claim(job, pod.claim) and not spared(job, plan["before"])]
    for first in range(0, len(ended), AT_A_TIME):
        names = ended[first : first + AT_A_TIME]
        more = json.loads(pod.run_job("prune", *words, "--dry-run", *names))
        plan["prune"] += more["prune"]
        kept |= {name: more["kept"].get(name, "") for name in names}
    pruned = {run["name"] for run in plan["prune"]}
    plan["kept"] = {name: reason for name, reason in kept.items() if name not in pruned}
    plan["prune"].sort(key=lambda run: run["started"])
    return plan


def without_spared(plan: Mapping[str, Any], jobs: Mapping[str, Object], claim: str) -> dict[str, Any]:
    """A plan without the runs that their Jobs keep, and with the Jobs to delete.

    Args:
        plan: the result of plan_on_volume().
        jobs: those of all runs, by name.
        claim: of the volume.

    Returns:
        The plan with the names of the `jobs` to delete: of the runs that are pruned, and of those as old that have
        left nothing on the volume.
    """
    before, kept, prune = plan["before"], dict(plan["kept"]), []
    for name in plan["without_model"]:
        if name in kept:
            kept[name] = spared(jobs.get(name), before) or kept[name]
    for run in plan["prune"]:
        if reason := spared(jobs.get(run["name"]), before):
            kept[run["name"]] = reason
        else:
            prune.append(run)
    pruned = {run["name"] for run in prune}
    deleted = {
        name
        for name, job in jobs.items()
        if before and name not in kept and uses_claim(job, claim) and not spared(job, before)
    }
    order = sorted(deleted & pruned) + sorted(deleted - pruned)
    return {"before": before, "prune": prune, "kept": kept, "left": plan.get("left", 0), "jobs": order}


def uses_claim(job: Object, claim: str) -> bool:
    """Whether a Job's run writes to that claim."""
    return claim_of(job["spec"]["template"]) == claim


def spared(job: Object | None, before: str) -> str:
    """Why the Job of a run keeps it from being pruned; empty if it does not."""
    if job is None:
        return ""
    if not is_settled(job):
        return f"its Job is {state(Run(job)).word}" if job["spec"].get("suspend") else "its Job has not ended"
    # A run that began long ago may have been retried lately, and may be retried again.
    recent = datetime.fromisoformat(created(job)) >= datetime.fromisoformat(before)
    return "its Job was created recently" if recent else ""


def carry_out(
    cluster: Cluster, pod: VolumePod, plan: Mapping[str, Any], words: Sequence[str]
) -> tuple[list[str], list[str]]:
    """Prune what is planned and not spared meanwhile; returns the names of the pruned runs and of the deleted Jobs.

    A Job is deleted before its model, so that nobody can retry or resume a run while it is being removed. The Job of a
    run without a model is deleted last: if this prune is interrupted, only the Job shows the next one that the run has
    ended.
    """

    def delete(names: Iterable[str]) -> list[str]:
        jobs = jobs_by_run(cluster)
        going = [name for name in names if name in jobs and not spared(jobs[name], plan["before"])]
        for name in going:
            cluster.delete("Job", jobs[name]["metadata"]["name"], uid=jobs[name]["metadata"]["uid"])
        return going

    unpublished = {run["name"] for run in plan["prune"] if not run["published"]}
    deleted = delete(name for name in plan["jobs"] if name not in unpublished)
    jobs = jobs_by_run(cluster)
    names = [run["name"] for run in plan["prune"] if not spared(jobs.get(run["name"]), plan["before"])]
    pruned: list[str] = []
    for first in range(0, max(len(names), 1), AT_A_TIME):
        batch = names[first : first + AT_A_TIME] or [NO_RUN]
        done = json.loads(pod.run_job("prune", *words, "--yes", *batch))
        # Judged by what is left: if the connection broke, an earlier attempt may have pruned some of them.
        remaining = {run["name"] for run in done["prune"]} - set(done["pruned"]) | done["kept"].keys()
        pruned += [name for name in batch if name not in {NO_RUN, *remaining}]
    deleted += delete(unpublished.intersection(plan["jobs"], pruned))
    return pruned, [name for name in plan["jobs"] if name in deleted]
