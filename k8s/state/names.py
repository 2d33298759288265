"""Names that the launcher, the manifests and the job agree on; a test reads all three."""

from __future__ import annotations

import hashlib
import itertools
import re
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

    from k8s.api.objects import Object

APP = "mnist-job"  # the label app.kubernetes.io/name of Jobs and pods, the Service and the ServiceAccount
CONTAINER = "trainer"
OUTPUT = "/output"
DATA = "/data"
DATA_VOLUME = "data"  # the volume's name, if the dataset is not the image's own
MODEL_VOLUME = "model"  # the volume's name, if the model is not the image's own
MODEL_PREFIX = f"{APP}-model-"  # begins the name of a ConfigMap that the launcher makes for --model
MODEL_FILE = "model.py"  # in the ConfigMap, and in the image
CLAIM = "mnist-job-output"

LABEL_LIMIT = 63  # characters in a label's value
NAME_LABEL = "app.kubernetes.io/name"
PART_OF_LABEL = "app.kubernetes.io/part-of"
# Our own labels, because Argo CD, Helm and kustomize set app.kubernetes.io/instance to other names.
RUN_LABEL = "mnist-job/run"  # of a Job that `retry` made: the run, because its name is not the Job's
# Labels of pods: the claims that they mount, so that the scheduler can place pods that share a claim on one node.
CLAIM_LABEL = "mnist-job/claim"
DATA_LABEL = "mnist-job/data"
SCHEDULE_LABEL = "mnist-job/schedule"  # of a Job: the schedule that the run belongs to
JOB_NAME_LABEL = "batch.kubernetes.io/job-name"
UID_LABEL = "batch.kubernetes.io/controller-uid"  # of pods: their Job's
INDEX_LABEL = "batch.kubernetes.io/job-completion-index"
QUEUE_LABEL = "kueue.x-k8s.io/queue-name"
MIN_PARALLELISM = "kueue.x-k8s.io/job-min-parallelism"  # annotation of a Job: the fewest pods that Kueue may start
JOB_UID_LABEL = "kueue.x-k8s.io/job-uid"  # of a Workload: its Job's
NO_QUEUE = "mnist-job-cancelled"  # the queue of a cancelled Job; no queue has this name, so Kueue starts nothing in it
# Annotations
CANCELLED = "mnist-job/cancelled"  # of a Job: when `cancel` suspended it
LEFT_QUEUE = "mnist-job/left-queue"  # of a Job: the queue that `cancel` took it out of
SUBMITTED = "mnist-job/submitted"  # of a Job: itself as the launcher sent it, for `retry`
SINCE = "mnist-job/since"  # of a CronJob: when `schedule` changed its times or `resume` resumed it
# Labels and annotations of pods that take no part in a mesh of Istio or Linkerd.
NO_MESH_LABELS = {"sidecar.istio.io/inject": "false", "istio.io/dataplane-mode": "none"}
NO_MESH_ANNOTATIONS = {"sidecar.istio.io/inject": "false", "linkerd.io/inject": "disabled"}

RUN_SELECTOR = f"{NAME_LABEL}={APP}"  # selects the Jobs, CronJobs and pods of all runs


def run_name(job: Mapping[str, Any]) -> str:
    """The name of the run that a Job belongs to: its label, or else the Job's own name."""
    metadata = job["metadata"]
    return str(metadata.get("labels", {}).get(RUN_LABEL) or metadata["name"])


def schedule_of(job: Mapping[str, Any]) -> str:
    """The name of the schedule that a run belongs to; empty if it belongs to none.

    If a CronJob owns the Job, its name counts and not the label: kustomize renames a CronJob, but not the label in its
    jobTemplate.
    """
    metadata = job["metadata"]
    owners = [owner["name"] for owner in metadata.get("ownerReferences", []) if owner["kind"] == "CronJob"]
    return str(next(iter(owners), metadata.get("labels", {}).get(SCHEDULE_LABEL, "")))


def pod_selector(*job_names: str) -> str:
    """The label selector of the pods of these Jobs. Their names would not do: Kubernetes shortens long ones."""
    return f"{RUN_SELECTOR},{JOB_NAME_LABEL} in ({','.join(job_names)})"


def rank_of(pod: Mapping[str, Any]) -> int:
    """A pod's rank."""
    metadata = pod["metadata"]
    return int(metadata.get("labels", {}).get(INDEX_LABEL, metadata.get("annotations", {}).get(INDEX_LABEL, -1)))


def trainer_of(template_or_pod: Mapping[str, Any]) -> Object:
    """The trainer's container in a pod or in a Job's template."""
    found: Object = next(c for c in template_or_pod["spec"]["containers"] if c["name"] == CONTAINER)
    return found


def least_workers(job: Mapping[str, Any]) -> int:
    """The least number of a Job's workers that can train without the others: its --min-workers, by default all."""
    return min_workers(job) or int(job["spec"]["completions"])


def min_workers(job: Mapping[str, Any]) -> int:
    """The number in a Job's flag --min-workers; 0 without one."""
    return number_of(job, "--min-workers")


def number_of(job: Mapping[str, Any], flag: str) -> int:
    """The number in a flag of a Job's trainer, which may be one argument or two; 0 without the flag."""
    args = trainer_of(job["spec"]["template"]).get("args", [])
    words = [word for arg in args for word in (arg.split("=", 1) if arg.startswith(f"{flag}=") else [arg])]
    numbers = re.compile("[0-9]{1,9}")
    given = [number for word, number in itertools.pairwise(words) if word == flag and numbers.fullmatch(number)]
    return int(given[-1]) if given else 0


def claim_of(template_or_pod: Mapping[str, Any]) -> str | None:
    """The name of the claim that holds the output."""
    return next((name for volume, name in claims(template_or_pod) if volume != DATA_VOLUME), None)


def data_claim_of(template_or_pod: Mapping[str, Any]) -> str | None:
    """The name of the claim that holds the dataset; None if the image holds it."""
    return next((name for volume, name in claims(template_or_pod) if volume == DATA_VOLUME), None)


def model_of(template_or_pod: Mapping[str, Any]) -> str | None:
    """The name of the ConfigMap that the launcher made for --model; None without --model."""
    volumes = template_or_pod["spec"].get("volumes", [])
    names = (volume.get("configMap", {}).get("name", "") for volume in volumes if volume.get("name") == MODEL_VOLUME)
    return next((name for name in names if name.startswith(MODEL_PREFIX)), None)


def claim_labels(template_or_pod: Mapping[str, Any]) -> dict[str, str]:
    """The labels that name a pod's claims. A name too long for a label is replaced by its SHA-256, cut to fit."""
    names = {CLAIM_LABEL: claim_of(template_or_pod), DATA_LABEL: data_claim_of(template_or_pod)}
    return {
        label: name if len(name) <= LABEL_LIMIT else hashlib.sha256(name.encode()).hexdigest()[:LABEL_LIMIT]
        for label, name in names.items()
        if name
    }


def claims(template_or_pod: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The volumes that are claims, as pairs of the volume's name and the claim's."""
    volumes = template_or_pod["spec"].get("volumes", [])
    return [
        (v.get("name", ""), v["persistentVolumeClaim"]["claimName"]) for v in volumes if "persistentVolumeClaim" in v
    ]
