"""The names that the launcher, the manifests and the job agree on; a test reads all three."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

    from k8s.api.objects import Object

APP = "mnist-job"  # the label app.kubernetes.io/name of Jobs and pods, the Service and the ServiceAccount
CONTAINER = "trainer"
OUTPUT = "/output"
DATA = "/data"
DATA_VOLUME = "data"  # the name of the volume there, where it is not the image's own
CLAIM = "mnist-job-output"

NAME_LABEL = "app.kubernetes.io/name"
PART_OF_LABEL = "app.kubernetes.io/part-of"
JOB_NAME_LABEL = "batch.kubernetes.io/job-name"
UID_LABEL = "batch.kubernetes.io/controller-uid"  # of pods: their Job's
INDEX_LABEL = "batch.kubernetes.io/job-completion-index"
QUEUE_LABEL = "kueue.x-k8s.io/queue-name"
CANCELLED = "mnist-job/cancelled"  # the annotation of a Job that `cancel` suspended
SINCE = "mnist-job/since"  # that of a CronJob: when `schedule` changed its times, or `resume` had it go on

RUNS = f"{NAME_LABEL}={APP}"  # selects the Jobs, CronJobs and pods of all runs


def pods_of(run: str) -> str:
    """The label selector of a run's pods; never by name, for long ones are cut."""
    return f"{RUNS},{JOB_NAME_LABEL}={run}"


def rank_of(pod: Mapping[str, Any]) -> int:
    """A pod's rank."""
    metadata = pod["metadata"]
    return int(metadata.get("labels", {}).get(INDEX_LABEL, metadata.get("annotations", {}).get(INDEX_LABEL, -1)))


def trainer_of(template_or_pod: Mapping[str, Any]) -> Object:
    """The trainer's container in a pod, or in a Job's template."""
    found: Object = next(c for c in template_or_pod["spec"]["containers"] if c["name"] == CONTAINER)
    return found


def claim_of(template_or_pod: Mapping[str, Any]) -> str | None:
    """The name of the claim that holds the output."""
    return next((name for volume, name in claims(template_or_pod) if volume != DATA_VOLUME), None)


def data_claim_of(template_or_pod: Mapping[str, Any]) -> str | None:
    """The name of the claim that holds the dataset; None where that is the image's."""
    return next((name for volume, name in claims(template_or_pod) if volume == DATA_VOLUME), None)


def claims(template_or_pod: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The volumes that are claims, by the volume's name and the claim's."""
    volumes = template_or_pod["spec"].get("volumes", [])
    return [
        (v.get("name", ""), v["persistentVolumeClaim"]["claimName"]) for v in volumes if "persistentVolumeClaim" in v
    ]
