"""A submission and the manifests -> the exact objects to send. Contacts no cluster and reads no clock."""

from __future__ import annotations

from typing import TYPE_CHECKING

from job import __version__, config
from job.config import usage_error
from k8s.render.kustomize import MANIFESTS, folder, kustomize
from k8s.render.model import config_map, mount_model
from k8s.render.submission import extra_variables, node_selector, tolerations
from k8s.state.names import (
    APP,
    CLAIM_LABEL,
    CONTAINER,
    DATA,
    DATA_VOLUME,
    MIN_PARALLELISM,
    NAME_LABEL,
    QUEUE_LABEL,
    claim_labels,
    claims,
    min_workers,
    number_of,
    trainer_of,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from k8s.api.objects import Object
    from k8s.render.submission import Submission

GPU = "nvidia.com/gpu"
INSTANCE_LABEL = "app.kubernetes.io/instance"
MANAGED_BY = {"app.kubernetes.io/managed-by": "mnist-job"}
VERSION = {"app.kubernetes.io/version": __version__}


def job(submission: Submission) -> Object:
    """The Job of a submission."""
    components = dict.fromkeys(submission.components)
    components |= {"gpu": None} if submission.gpus and submission.overlay != "gpu" else {}
    components |= {"kueue": None} if submission.queue else {}
    objects = kustomize(folder("overlays", submission.overlay), *(folder("components", name) for name in components))
    return fill_job(only_job(objects, submission.overlay), submission)


def take_namespace(job: Object, given: str | None, overlay: str) -> str | None:
    """The namespace for everything that is sent: the overlay's, which is removed from the Job, or else the given one.

    Args:
        job: as job() rendered it.
        given: by flag or variable; None for the kubeconfig's.
        overlay: its name.

    Raises:
        JobError: 64, the two differ.
    """
    own = job["metadata"].pop("namespace", None)
    if own and given and own != given:
        raise usage_error(
            f"the namespace is {given} (--namespace or $MNIST_JOB_NAMESPACE), "
            f"but that of the overlay {overlay} is {own}",
            f"give --namespace {own}, or remove the namespace from the overlay",
        )
    return own or given


def setup_objects() -> list[Object]:
    """The objects that all runs of a namespace share."""
    objects = kustomize(MANIFESTS / "setup")
    for new in objects:
        new["metadata"]["labels"] |= MANAGED_BY
    return objects


def only_job(objects: Sequence[Object], overlay: str) -> Object:
    """The one Job that an overlay makes.

    Raises:
        JobError: 64, it makes something else, or its Job lacks what a run needs.
    """
    problem = ""
    if len(objects) != 1 or objects[0].get("kind") != "Job":
        kinds = ", ".join(str(each.get("kind")) for each in objects)
        problem = f"must make exactly one Job, but makes {kinds or 'nothing'}"
    else:
        template = objects[0]["spec"]["template"]
        trainer = next((each for each in template["spec"].get("containers", []) if each.get("name") == CONTAINER), None)
        if trainer is None:
            problem = f"has no container {CONTAINER}"
        elif not {"args", "resources"} <= trainer.keys() or "WORKERS" not in variables(trainer):
            problem = f"has a container {CONTAINER} without args, resources or the variable WORKERS"
        elif template["spec"].get("subdomain") != variables(trainer).get("SERVICE", {}).get("value"):
            problem = "names two Services: in `subdomain`, and in the variable SERVICE"
        elif template["metadata"].get("labels", {}).get(NAME_LABEL) != APP:
            problem = f"has pods without the label {NAME_LABEL}: {APP}"
        elif sum(volume != DATA_VOLUME for volume, _ in claims(template)) != 1:
            problem = "does not mount one claim for the output"
    if problem:
        raise usage_error(f"the overlay {overlay} {problem}", "base it on k8s/manifests/run, like the overlays there")
    return objects[0]


def fill_job(job: Object, submission: Submission) -> Object:
    """Set what belongs to one run in a rendered Job, which is changed in place and returned."""
    spec, template = job["spec"], job["spec"]["template"]
    trainer = trainer_of(template)
    job["metadata"]["name"] = submission.name
    for metadata in (job["metadata"], template["metadata"]):
        metadata["labels"] |= {INSTANCE_LABEL: submission.name} | MANAGED_BY | VERSION
    if submission.workers is not None:
        spec["completions"] = spec["parallelism"] = submission.workers
    config.check_name(submission.name, spec["completions"])
    if submission.queue is not None:
        job["metadata"]["labels"][QUEUE_LABEL] = submission.queue
    if submission.deadline_s is not None:
        spec["activeDeadlineSeconds"] = submission.deadline_s
    if submission.claim is not None:
        set_claim(template, submission.claim)
    if submission.data is not None:
        mount_data(template, submission.data)
    if submission.model is not None:
        mount_model(template, config_map(submission.model)["metadata"]["name"])
    if submission.image is not None:
        trainer["image"] = submission.image
    template["metadata"]["labels"] |= claim_labels(template)
    set_resources(trainer, submission)
    set_variables(trainer, {**extra_variables(submission), "WORKERS": str(spec["completions"])})
    set_placement(template["spec"], submission)
    trainer["args"] += submission.arguments
    if submission.min_workers is not None:
        trainer["args"].append(f"--min-workers={submission.min_workers}")
    allow_missing_workers(job)
    return job


def allow_missing_workers(job: Object) -> None:
    """Let a Job continue, and Kueue start it, with only the workers that its training needs; it is changed in place.

    Raises:
        JobError: 64, it has fewer workers than the training needs, or --sync-every above 1.
    """
    spec, least = job["spec"], min_workers(job)
    annotations = job["metadata"].get("annotations", {})
    annotations.pop(MIN_PARALLELISM, None)
    if not least:
        return
    config.check_min_workers(least, spec["completions"])
    config.check_sync_every(number_of(job, "--sync-every"), least)
    spec["maxFailedIndexes"] = spec["completions"] - least
    if QUEUE_LABEL in job["metadata"]["labels"] and least < spec["completions"]:  # Kueue refuses the full number
        job["metadata"]["annotations"] = annotations | {MIN_PARALLELISM: str(least)}


def set_placement(spec: Object, submission: Submission) -> None:
    """Set the nodes on which a run's pods may be placed, their priority, and the account that they run as."""
    if selector := node_selector(submission):
        spec["nodeSelector"] = spec.get("nodeSelector", {}) | selector
    spec.setdefault("tolerations", []).extend(tolerations(submission))
    if submission.priority_class is not None:
        spec["priorityClassName"] = submission.priority_class
    if submission.service_account is not None:
        spec["serviceAccountName"] = submission.service_account


def put_on_one_node(job: Object, label: str = CLAIM_LABEL) -> None:
    """Place the pods of a rendered Job on one node, like the component one-node; the Job is changed in place.

    Args:
        job: the rendered Job.
        label: names the claim that only one node at a time can use. All pods with this claim then share a node.
    """
    import yaml  # noqa: PLC0415 - not needed for a command's --help

    patch = yaml.safe_load((MANIFESTS / "components/one-node/affinity.yaml").read_text(encoding="utf-8"))
    required = "requiredDuringSchedulingIgnoredDuringExecution"
    [term] = patch["spec"]["template"]["spec"]["affinity"]["podAffinity"][required]
    term["matchLabelKeys"] = [label]
    affinity = job["spec"]["template"]["spec"].setdefault("affinity", {}).setdefault("podAffinity", {})
    if term not in affinity.setdefault(required, []):
        affinity[required].append(term)


def set_resources(trainer: Object, submission: Submission) -> None:
    """Set a worker's requests and limits."""
    resources = trainer["resources"]
    for resource, value in (("cpu", submission.cpu), ("memory", submission.memory)):
        if value is not None:
            for kind in ("requests", "limits"):
                resources.setdefault(kind, {})[resource] = value
    if submission.gpus is not None:
        limits = resources.setdefault("limits", {})
        limits.pop(GPU, None)
        if submission.gpus:
            limits[GPU] = submission.gpus


def variables(container: Object) -> dict[str, Object]:
    """A container's environment, by name."""
    return {variable["name"]: variable for variable in container.get("env", [])}


def set_variables(trainer: Object, values: dict[str, str]) -> None:
    """Set environment variables, in place of those of the same name."""
    env = variables(trainer) | {name: {"name": name, "value": value} for name, value in values.items()}
    trainer["env"] = list(env.values())


def set_claim(template: Object, claim: str) -> None:
    """Mount another claim for the output."""
    volumes = template["spec"]["volumes"]
    [volume] = [v for v in volumes if "persistentVolumeClaim" in v and v["name"] != DATA_VOLUME]
    volume["persistentVolumeClaim"]["claimName"] = claim


def mount_data(template: Object, claim: str) -> None:
    """Mount a claim with the dataset, in place of the image's dataset or of a claim that the overlay names."""
    spec, trainer = template["spec"], trainer_of(template)
    spec["volumes"] = [volume for volume in spec["volumes"] if volume["name"] != DATA_VOLUME]
    # Read-only for the volume's driver too, which may then attach it to several nodes.
    spec["volumes"].append({"name": DATA_VOLUME, "persistentVolumeClaim": {"claimName": claim, "readOnly": True}})
    trainer["volumeMounts"] = [mount for mount in trainer["volumeMounts"] if mount["name"] != DATA_VOLUME]
    trainer["volumeMounts"].append({"name": DATA_VOLUME, "mountPath": DATA, "readOnly": True})
