"""What a submission asks for, checked value by value before a cluster is contacted."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from job import config
from job.config import usage_error

if TYPE_CHECKING:
    from collections.abc import Sequence

    from k8s.api.objects import Object

# Kubernetes quantities above 0, without thousandths of a byte and thousands of CPUs, which can only be mistakes.
ABOVE_0 = r"(?=.*[1-9])[0-9]+(\.[0-9]+)?"
CPU, MEMORY = re.compile(f"{ABOVE_0}m?"), re.compile(f"{ABOVE_0}(k|M|G|T|Ki|Mi|Gi|Ti)?")
OBJECT_NAME = re.compile(r"[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?")
LABEL_KEY = r"([a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?/)?[A-Za-z0-9]([-\w.]{0,61}[A-Za-z0-9])?"
LABEL_VALUE = r"([A-Za-z0-9]([-\w.]{0,61}[A-Za-z0-9])?)?"
SELECTOR = re.compile(rf"(?P<key>{LABEL_KEY})=(?P<value>{LABEL_VALUE})", re.ASCII)
EFFECTS = ("NoSchedule", "PreferNoSchedule", "NoExecute")
TOLERATION = re.compile(
    rf"(?P<key>{LABEL_KEY})(=(?P<value>{LABEL_VALUE}))?(:(?P<effect>{'|'.join(EFFECTS)}))?", re.ASCII
)
VARIABLE = re.compile(r"(?P<key>[A-Za-z_][A-Za-z0-9_]*)=(?P<value>.*)", re.DOTALL)
# The variables from which a worker learns which run and rank it is.
IDENTITY = {
    "RUN",
    "JOB_NAME",
    "JOB_UID",
    "JOB_COMPLETION_INDEX",
    "WORKERS",
    "SERVICE",
    "POD_IP",
    "POD_NAME",
    "PEERS",
    "TF_CONFIG",
}
# Training flags that the manifests or the launcher's own flags set.
NOT_TRAINING = {
    "workers": "give it before the --",
    "model": "give it before the --",
    "min-workers": "give it before the --",
    "name": "give it before the --",
    "data": "the image holds the dataset at /data; to use a claim with another dataset, give --data before the --",
    "output": "the claim is mounted at /output",
    "device": "--overlay gpu trains on GPUs",
}


@dataclass(frozen=True)
class Submission:
    """What a submission asks for; None, or an empty tuple, leaves what the overlay says.

    cpu and memory are Kubernetes quantities for each worker. model is the source of a model.py. node_selectors are
    `KEY=VALUE`, tolerations `KEY[=VALUE][:EFFECT]`, and variables `NAME=VALUE`. arguments are flags of
    `python -m job train`.

    Raises:
        JobError: 64. The sentence names the value and what is allowed.
    """

    name: str
    overlay: str = "cpu"
    components: tuple[str, ...] = ()
    image: str | None = None
    workers: int | None = None
    min_workers: int | None = None
    cpu: str | None = None
    memory: str | None = None
    gpus: int | None = None
    queue: str | None = None
    deadline_s: int | None = None
    claim: str | None = None
    data: str | None = None
    model: str | None = None
    node_selectors: tuple[str, ...] = ()
    tolerations: tuple[str, ...] = ()
    priority_class: str | None = None
    service_account: str | None = None
    variables: tuple[str, ...] = ()
    arguments: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.workers is not None and not 1 <= self.workers <= config.MOST_WORKERS:
            raise usage_error(f"--workers must be from 1 to {config.MOST_WORKERS}, not {self.workers}")
        if self.min_workers is not None and self.min_workers < 1:
            raise usage_error(f"--min-workers must be at least 1, not {self.min_workers}")
        config.check_name(self.name, self.workers or 1)
        if self.cpu is not None:
            match_value("--cpu", CPU, "a Kubernetes quantity above 0 such as 500m or 2", self.cpu)
        if self.memory is not None:
            match_value("--memory", MEMORY, "a Kubernetes quantity above 0 such as 512Mi or 2Gi", self.memory)
        if self.gpus is not None and self.gpus not in (0, 1):
            raise usage_error(
                f"--gpus must be 0 or 1, not {self.gpus}", "each worker trains on one GPU: increase --workers"
            )
        where = "overlay" if self.overlay == "gpu" else "component" if "gpu" in self.components else ""
        if self.gpus == 0 and where:
            raise usage_error(f"--gpus 0 and the gpu {where} contradict each other", "leave one of them out")
        for flag, value, what in (
            ("--claim", self.claim, "claim"),
            ("--data", self.data, "claim"),
            ("--priority-class", self.priority_class, "priority class"),
            ("--service-account", self.service_account, "service account"),
        ):
            if value is not None and not OBJECT_NAME.fullmatch(value):
                raise usage_error(f"{flag} must be the name of a {what}, not {value!r}")
        node_selector(self)
        tolerations(self)
        extra_variables(self)
        training_settings(self.arguments)


def node_selector(submission: Submission) -> dict[str, str]:
    """The labels that a node must have."""
    form = "a node's label such as disktype=ssd"
    pairs = [match_value("--node-selector", SELECTOR, form, text) for text in submission.node_selectors]
    return {parts["key"]: parts["value"] for parts in pairs}


def tolerations(submission: Submission) -> list[Object]:
    """The tolerations to add, as a pod's spec has them; one without a value tolerates every value of its key."""
    form = f"KEY, KEY=VALUE or either with :EFFECT ({', '.join(EFFECTS)})"
    result = []
    for text in submission.tolerations:
        parts = match_value("--toleration", TOLERATION, form, text)
        fields = parts.groupdict() | {"operator": "Exists" if parts["value"] is None else "Equal"}
        result.append({name: value for name, value in fields.items() if value is not None})
    return result


def extra_variables(submission: Submission) -> dict[str, str]:
    """The variables to set in the trainer's container."""
    pairs = {}
    for text in submission.variables:
        parts = VARIABLE.fullmatch(text)
        if not parts:
            message = "--env must be NAME=VALUE, with a NAME of letters, digits and underscores"
            raise usage_error(f"{message}; what was given is not shown")  # it may be a secret
        if parts["key"] in IDENTITY:
            raise usage_error(f"--env cannot set {parts['key']}: workers read their run, rank and peers from it")
        pairs[parts["key"]] = parts["value"]
    return pairs


def match_value(flag: str, pattern: re.Pattern[str], form: str, text: str) -> re.Match[str]:
    """The parts of a flag's value.

    Raises:
        JobError: 64, the value does not have this form.
    """
    parts = pattern.fullmatch(text)
    if not parts:
        raise usage_error(f"{flag} must be {form}, not {text!r}")
    return parts


def training_settings(arguments: Sequence[str]) -> config.Config:
    """The training's settings, checked by the same code as in the pod.

    Raises:
        JobError: 64.
    """
    for argument in arguments:
        name = argument.removeprefix("--").partition("=")[0]
        if argument.startswith("--") and name in NOT_TRAINING:
            raise usage_error(f"--{name} cannot be given after the --", NOT_TRAINING[name])
    return config.parse(arguments)
