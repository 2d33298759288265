"""The Jobs of one run: the first Job as it was submitted, and the ones that replace it. Pure.

Kubernetes does not let a Job's template change, and controllers such as Kueue add to the template of a Job that they
admit. So each Job carries what the launcher sent, and the next Job is made from that.
"""

from __future__ import annotations

import copy
import json
import re
from typing import TYPE_CHECKING

from job.config import NAME_LIMIT
from k8s.render.render import set_variables, variables
from k8s.state.names import (
    CANCELLED,
    LEFT_QUEUE,
    QUEUE_LABEL,
    RUN_LABEL,
    SCHEDULE_LABEL,
    SUBMITTED,
    claims,
    run_name,
    schedule_of,
    trainer_of,
)

if TYPE_CHECKING:
    from k8s.api.objects import Object

# What Kubernetes adds to a Job.
ADDED = ("batch.kubernetes.io/", "kubectl.kubernetes.io/")
ADDED_LABELS = ("controller-uid", "job-name")
ADDED_BY_CANCEL = (CANCELLED, LEFT_QUEUE)
ADDED_TO_SPEC = ("selector", "manualSelector", "suspend")
# What Kueue adds to the template of a Job that it admits: the labels and annotations of its own group, apart from those
# with which a user asks for a topology. It never starts another Job whose template has them.
KUEUE = "kueue.x-k8s.io/"
ASKED_OF_KUEUE = re.compile(r"kueue\.x-k8s\.io/podset-(?!unconstrained)")
# The variable with the name of a worker's pod, which each line of its log on the volume contains.
POD_NAME = {"name": "POD_NAME", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}


def record_submission(job: Object) -> Object:
    """Write a Job that is about to be sent into an annotation of itself; it is changed in place, and returned.

    Args:
        job: a Job, or the jobTemplate of a CronJob.
    """
    metadata = job["metadata"]
    annotations = {k: v for k, v in metadata.get("annotations", {}).items() if k not in (SUBMITTED, *ADDED_BY_CANCEL)}
    kept = {"labels": metadata.get("labels", {})} | ({"annotations": annotations} if annotations else {})
    text = json.dumps({"metadata": kept, "spec": job["spec"]}, separators=(",", ":"), sort_keys=True)
    metadata["annotations"] = {**metadata.get("annotations", {}), SUBMITTED: text}
    return job


def submitted(job: Object) -> Object:
    """A Job without its name, as it was sent.

    A Job that the launcher did not send has no record, and a record is out of date if somebody changed the Service, the
    claims, the image or the arguments later, for example with kustomize. Such a Job is used as it is, without what
    Kubernetes and Kueue added, apart from the node labels and tolerations of the flavour for which Kueue admitted it:
    nothing distinguishes them from the user's.
    """
    if text := job["metadata"].get("annotations", {}).get(SUBMITTED):
        record = json.loads(text)
        if essentials(record) == essentials(job):
            return {"apiVersion": "batch/v1", "kind": "Job", **record}
    spec: Object = {key: value for key, value in copy.deepcopy(job["spec"]).items() if key not in ADDED_TO_SPEC}
    spec["parallelism"] = spec["completions"]  # Kueue may have started it with fewer workers
    template = spec["template"]
    template["metadata"] = without_kueue(without_added(template["metadata"]))
    template["spec"].pop("serviceAccount", None)  # the old name of serviceAccountName
    if gates := template["spec"].pop("schedulingGates", None):
        kept = [gate for gate in gates if not gate["name"].startswith(KUEUE)]
        template["spec"] |= {"schedulingGates": kept} if kept else {}
    return {"apiVersion": "batch/v1", "kind": "Job", "metadata": without_added(job["metadata"]), "spec": spec}


def essentials(job: Object) -> tuple[object, ...]:
    """The Service, the claims, the image and the arguments of a Job, which neither Kubernetes nor Kueue changes."""
    template = job["spec"]["template"]
    trainer = trainer_of(template)
    return template["spec"].get("subdomain"), claims(template), trainer.get("image"), trainer.get("args")


def without_added(metadata: Object) -> Object:
    """The labels and annotations that neither Kubernetes nor `cancel` added."""
    labels = {k: v for k, v in metadata.get("labels", {}).items() if not k.startswith(ADDED) and k not in ADDED_LABELS}
    kept = {k: v for k, v in metadata.get("annotations", {}).items() if not k.startswith(ADDED)}
    if queue := kept.get(LEFT_QUEUE):
        labels[QUEUE_LABEL] = queue
    annotations = {k: v for k, v in kept.items() if k not in ADDED_BY_CANCEL}
    return {"labels": labels} | ({"annotations": annotations} if annotations else {})


def without_kueue(metadata: Object) -> Object:
    """A template's labels and annotations without those that Kueue added."""
    return {
        kind: {k: v for k, v in pairs.items() if not k.startswith(KUEUE) or ASKED_OF_KUEUE.match(k)}
        for kind, pairs in metadata.items()
    }


def next_job(job: Object) -> Object:
    """A Job, without a name yet, that continues the run of another one as that was submitted.

    Args:
        job: the run's newest Job, as the API server has it.
    """
    new, run = submitted(job), run_name(job)
    labels = new["metadata"].setdefault("labels", {})
    labels[RUN_LABEL] = run
    if schedule := schedule_of(job):  # no CronJob owns the new Job, and the label may have the name before a renaming
        labels[SCHEDULE_LABEL] = schedule
    # In place of the Job's name, which now differs from the run's.
    trainer = trainer_of(new["spec"]["template"])
    set_variables(trainer, {"RUN": run})
    if POD_NAME["name"] not in variables(trainer):  # an earlier launcher sent the Job
        trainer["env"].append(POD_NAME)
    return record_submission(new)


def next_number(job: Object) -> int:
    """The number of the Job that comes after a run's newest: NAME is the first, then come NAME-2, NAME-3, ..."""
    run, name = run_name(job), job["metadata"]["name"]
    return 2 if name == run else int(name.rpartition("-")[2]) + 1


def names_until(job: Object) -> list[str]:
    """The names of a run's Jobs until this one, the first one first."""
    run, workers = run_name(job), int(job["spec"]["completions"])
    earlier = (job_name(run, number, workers) for number in range(2, next_number(job)))
    return list(dict.fromkeys([run, *earlier, job["metadata"]["name"]]))


def job_name(run: str, number: int, workers: int) -> str:
    """The name of a run's Job of that number, cut where its pods' names would be too long."""
    suffix = f"-{number}"
    return run[: NAME_LIMIT - len(str(workers - 1)) - len(suffix)].rstrip("-") + suffix
