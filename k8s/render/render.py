"""Flags and manifests -> the exact objects to send. Asks no cluster and no clock."""

from __future__ import annotations

import os
import re
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from job import config
from job.config import usage
from k8s.state.names import CONTAINER, DATA, DATA_VOLUME, QUEUE_LABEL, claims, trainer_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from k8s.api.objects import Object

MANIFESTS = Path(__file__).parents[1] / "manifests"
GPU = "nvidia.com/gpu"
# What the manifests say of a training, or the launcher's own flags.
NOT_TRAINING = {
    "workers": "give it before the --",
    "name": "give it before the --",
    "data": "the image holds the dataset at /data; give a claim with another one before the --",
    "output": "the claim is mounted at /output",
    "device": "--overlay gpu trains on GPUs",
}


@dataclass(frozen=True)
class Submission:
    """What submit's flags ask for; None leaves what the overlay says.

    arguments are the training's flags, as `python -m job train` takes them. deadline_s is in seconds; cpu and memory
    are Kubernetes quantities, for each worker.

    Raises:
        JobError: 64, naming the value that is wrong and what to give instead.
    """

    name: str
    overlay: str = "cpu"
    components: tuple[str, ...] = ()
    image: str | None = None
    workers: int | None = None
    cpu: str | None = None
    memory: str | None = None
    gpus: int | None = None
    queue: str | None = None
    deadline_s: int | None = None
    claim: str | None = None
    data: str | None = None
    arguments: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.workers is not None and not 1 <= self.workers <= 1000:
            raise usage(f"--workers must be from 1 to 1000, not {self.workers}")
        config.check_name(self.name, self.workers or 1)
        for flag, value in (("--cpu", self.cpu), ("--memory", self.memory)):
            if value is not None and not re.fullmatch(r"[0-9]+(\.[0-9]+)?(m|k|M|G|T|Ki|Mi|Gi|Ti)?", value):
                raise usage(f"{flag} must be a Kubernetes quantity as 500m, 2 or 1Gi, not {value!r}")
        if self.gpus is not None and self.gpus not in (0, 1):
            raise usage(f"--gpus must be 0 or 1, not {self.gpus}", "each worker trains on one GPU: give more --workers")
        where = "overlay" if self.overlay == "gpu" else "component" if "gpu" in self.components else ""
        if self.gpus == 0 and where:
            raise usage(f"--gpus 0 and the gpu {where} contradict each other", "leave one of them out")
        for flag, value in (("--claim", self.claim), ("--data", self.data)):
            if value is not None and not re.fullmatch(r"[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?", value):
                raise usage(f"{flag} must be a claim's name, not {value!r}")
        check_arguments(self.arguments)


def check_arguments(arguments: Sequence[str]) -> config.Config:
    """The training's settings, which job/config.py checks as it will in the pod."""
    for argument in arguments:
        name = argument.removeprefix("--").partition("=")[0]
        if argument.startswith("--") and name in NOT_TRAINING:
            raise usage(f"--{name} cannot be given after the --", NOT_TRAINING[name])
    return config.parse(arguments)


def job(submission: Submission) -> Object:
    """The Job of a submission."""
    components = dict.fromkeys(submission.components)
    components |= {"gpu": None} if submission.gpus and submission.overlay != "gpu" else {}
    components |= {"kueue": None} if submission.queue else {}
    found = kustomize(folder("overlays", submission.overlay), *(folder("components", name) for name in components))
    return fill(only_job(found, submission.overlay), submission)


def only_job(found: Sequence[Object], overlay: str) -> Object:
    """The Job that an overlay makes, if it is one that can be a run; else a sentence says what it lacks."""
    problem = ""
    if len(found) != 1 or found[0].get("kind") != "Job":
        problem = f"makes {', '.join(str(each.get('kind')) for each in found) or 'nothing'}, and not one Job alone"
    else:
        spec = found[0]["spec"]["template"]["spec"]
        trainers = [container for container in spec.get("containers", []) if container.get("name") == CONTAINER]
        if not trainers:
            problem = f"has no container {CONTAINER}"
        elif not {"args", "resources"} <= trainers[0].keys() or "WORKERS" not in environment(trainers[0]):
            problem = f"has a container {CONTAINER} without args, resources or the variable WORKERS"
        elif sum(volume != DATA_VOLUME for volume, _ in claims(found[0]["spec"]["template"])) != 1:
            problem = "does not mount one claim for the output"
    if problem:
        raise usage(f"the overlay {overlay} {problem}", "build it on k8s/manifests/run, as the overlays there")
    return found[0]


def fill(job: Object, submission: Submission) -> Object:
    """Set what belongs to one run in a rendered Job; it is changed in place, and returned."""
    spec, template = job["spec"], job["spec"]["template"]
    trainer = trainer_of(template)
    job["metadata"]["name"] = submission.name
    if submission.workers is not None:
        spec["completions"] = spec["parallelism"] = submission.workers
    environment(trainer)["WORKERS"]["value"] = str(spec["completions"])
    config.check_name(submission.name, spec["completions"])
    if submission.image is not None:
        trainer["image"] = submission.image
    set_resources(trainer, submission)
    if submission.queue is not None:
        job["metadata"]["labels"][QUEUE_LABEL] = submission.queue
    if submission.deadline_s is not None:
        spec["activeDeadlineSeconds"] = submission.deadline_s
    if submission.claim is not None:
        set_claim(template, submission.claim)
    if submission.data is not None:
        mount_data(template, submission.data)
    trainer["args"] += submission.arguments
    return job


def put_on_one_node(job: Object) -> None:
    """Have all workers of a rendered Job on one node, as the component one-node does; the Job is changed in place."""
    import yaml  # noqa: PLC0415 - not needed for a command's --help

    patch = yaml.safe_load((MANIFESTS / "components/one-node/affinity.yaml").read_text(encoding="utf-8"))
    required = "requiredDuringSchedulingIgnoredDuringExecution"
    [term] = patch["spec"]["template"]["spec"]["affinity"]["podAffinity"][required]
    affinity = job["spec"]["template"]["spec"].setdefault("affinity", {}).setdefault("podAffinity", {})
    if term not in affinity.setdefault(required, []):
        affinity[required].append(term)


def setup() -> list[Object]:
    """What every run uses."""
    return kustomize(MANIFESTS / "setup")


def set_resources(trainer: Object, submission: Submission) -> None:
    """Set what a worker asks for and may have."""
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


def environment(container: Object) -> dict[str, Object]:
    """A container's environment, by name."""
    return {variable["name"]: variable for variable in container.get("env", [])}


def set_claim(template: Object, claim: str) -> None:
    """Have a pod mount another claim for the output."""
    volumes = template["spec"]["volumes"]
    [volume] = [v for v in volumes if "persistentVolumeClaim" in v and v["name"] != DATA_VOLUME]
    volume["persistentVolumeClaim"]["claimName"] = claim


def mount_data(template: Object, claim: str) -> None:
    """Have the trainer read its dataset from a claim, in place of the image's and of one that the overlay names."""
    spec, trainer = template["spec"], trainer_of(template)
    spec["volumes"] = [volume for volume in spec["volumes"] if volume["name"] != DATA_VOLUME]
    # Read-only for the driver too, which may then attach it to several nodes.
    spec["volumes"].append({"name": DATA_VOLUME, "persistentVolumeClaim": {"claimName": claim, "readOnly": True}})
    trainer["volumeMounts"] = [mount for mount in trainer["volumeMounts"] if mount["name"] != DATA_VOLUME]
    trainer["volumeMounts"].append({"name": DATA_VOLUME, "mountPath": DATA, "readOnly": True})


def folder(kind: str, name: str) -> Path:
    """An overlay or a component: one of the manifests', or a folder of the user's own."""
    known = sorted(path.name for path in (MANIFESTS / kind).iterdir())
    if name in known:
        return MANIFESTS / kind / name
    if "/" in name and (Path(name) / "kustomization.yaml").is_file():
        return Path(name)
    one = kind.removesuffix("s")
    raise usage(f"there is no {one} {name!r}", f"give {', '.join(known)}, or the path of a folder with a slash in it")


def kustomize(base: Path, *components: Path) -> list[Object]:
    """The objects that `kubectl kustomize` makes of a folder, with components added.

    Raises:
        JobError: 64, when there is no kubectl, or it cannot make them.
    """
    import yaml  # noqa: PLC0415 - not needed for a command's --help

    with tempfile.TemporaryDirectory() as temporary:
        if components:
            # kustomize takes relative paths only, and follows no link on the way.
            here = Path(temporary).resolve()
            relative = [os.path.relpath(path.resolve(), here) for path in (base, *components)]
            content = {"resources": relative[:1], "components": relative[1:]}
            (here / "kustomization.yaml").write_text(yaml.safe_dump(content), encoding="utf-8")
            base = here
        try:
            made = subprocess.run(["kubectl", "kustomize", base], capture_output=True, text=True, check=True)
        except FileNotFoundError:
            raise usage("kubectl is not on the PATH", "install it: it renders the manifests") from None
        except subprocess.CalledProcessError as error:
            raise usage(f"kubectl cannot render {base}: {error.stderr.strip()}") from None
    loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    return [found for found in yaml.load_all(made.stdout, loader) if found]
