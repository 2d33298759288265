"""Flags that several commands share, and the submission that they describe."""

from __future__ import annotations

import functools
import os
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from job import config
from k8s.render.submission import Submission, training_settings
from k8s.state.names import CLAIM

if TYPE_CHECKING:
    import argparse

OUTPUTS = ("text", "json")  # what --output offers, where a command does not list its own


def variable(name: str) -> str | None:
    """The default that an environment variable gives for a flag; None where it is absent or empty."""
    return os.environ.get(f"MNIST_JOB_{name}") or None


def add_name(parser: argparse.ArgumentParser, text: str, nargs: str | None = None) -> None:
    """Add the argument NAME.

    Args:
        parser: the command's.
        text: its help.
        nargs: "?" if it may be left out.
    """
    parser.add_argument("name", nargs=nargs, type=_name, metavar="NAME", help=text)


def _name(text: str) -> str:
    # An unset variable in a shell gives an empty name, for which the API server would list all objects.
    if not text:
        raise config.usage_error("NAME is empty", "`mnist-job status` lists the names")
    return text


def add_connection(parser: argparse.ArgumentParser, outputs: tuple[str, ...]) -> None:
    """Add the flags that every command has: which cluster, and the form of the output."""
    add = parser.add_argument_group("connection and output").add_argument
    context = "the context's namespace"
    add("-n", "--namespace", default=variable("NAMESPACE"), help=f"default: $MNIST_JOB_NAMESPACE, or {context}")
    text = "context of the kubeconfig (default: $MNIST_JOB_CONTEXT, or the current context)"
    add("--context", default=variable("CONTEXT"), help=text)
    add("--kubeconfig", metavar="FILE", help="default: $KUBECONFIG, or ~/.kube/config")
    text = "give up on a request after this time, such as 10s or 2m (default: 30s)"
    add("--request-timeout", metavar="TIME", help=text)
    text = f"{', '.join(outputs[:-1])} or {outputs[-1]} (default: text)"
    add("-o", "--output", choices=outputs, default="text", metavar="FORMAT", help=text)


def add_wait(parser: argparse.ArgumentParser) -> None:
    """Add --wait."""
    parser.add_argument("--wait", action="store_true", help="follow the run to its end, and exit with its code")


def add_dry_run(parser: argparse.ArgumentParser) -> None:
    """Add --dry-run, with kubectl's values."""
    # Flags without a value: one with an optional value would take the argument that follows it.
    add = functools.partial(parser.add_argument, dest="dry_run", action="store_const")
    add("--dry-run", "--dry-run=server", const="server", help="print what would be sent, as YAML, and send nothing")
    add("--dry-run=client", const="client", help="like server, but without contacting a cluster")


def add_skip_checks(parser: argparse.ArgumentParser) -> None:
    """Add --skip-checks."""
    text = "start the run although checks failed, unless the API server refuses it"
    parser.add_argument("--skip-checks", action="store_true", help=text)


def add_submission(
    parser: argparse.ArgumentParser, name: str = "name of the run and its Job (default: <dataset>-<UTC time>)"
) -> None:
    """Add the flags that describe a run."""
    add = parser.add_argument_group("run").add_argument
    add("--name", help=name)
    image = "image of the job (default: $MNIST_JOB_IMAGE, or the overlay's)"
    add("--image", default=variable("IMAGE"), help=image)
    add("--workers", type=int, metavar="N", help="number of workers (default: the overlay's)")
    text = "minimum number of workers that train while others are missing (default: all)"
    add("--min-workers", type=int, metavar="M", help=text)
    add("--deadline", metavar="TIME", help="time after which the run fails, such as 90m or 6h (default: the overlay's)")
    claim = f"claim for the output (default: $MNIST_JOB_CLAIM, or the overlay's, {CLAIM})"
    add("--claim", metavar="NAME", default=variable("CLAIM"), help=claim)
    add("--data", metavar="CLAIM", help="claim with the dataset, mounted read-only (default: the image's dataset)")
    text = "file with the model, in place of the image's model.py; it is checked here, but not run"
    add("--model", type=Path, metavar="FILE", help=text)
    add(
        "--env",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="set an environment variable in each worker; repeatable",
    )
    add("--overlay", default="cpu", metavar="NAME", help="cpu, gpu, local, or the path of a folder (default: cpu)")
    add("--component", action="append", default=[], metavar="NAME", help="add a kustomize component; repeatable")
    add = parser.add_argument_group("resources and scheduling").add_argument
    add("--cpu", metavar="QUANTITY", help="CPU request and limit of each worker")
    add("--memory", metavar="QUANTITY", help="memory request and limit of each worker")
    add("--gpus", type=int, metavar="N", help="GPUs of each worker: 0 or 1")
    queue = "Kueue's local queue, which decides when the run starts (default: $MNIST_JOB_QUEUE)"
    add("--queue", metavar="NAME", default=variable("QUEUE"), help=queue)
    text = "use only nodes with this label; repeatable"
    add("--node-selector", action="append", default=[], metavar="KEY=VALUE", help=text)
    text = "tolerate a taint; repeatable"
    add("--toleration", action="append", default=[], metavar="KEY[=VALUE][:EFFECT]", help=text)
    add("--priority-class", metavar="NAME", help="priority class of the pods")
    add("--service-account", metavar="NAME", help="service account of the pods (default: the overlay's)")


def add_volume(parser: argparse.ArgumentParser) -> None:
    """Add the flags of the commands that start a volume pod."""
    add = parser.add_argument_group("volume").add_argument
    add("--image", help="image of the pod that mounts the volume (default: the run's, or the newest run's)")
    add("--claim", metavar="NAME", help="claim of the volume (default: the run's, or the newest run's)")


def submission_of(arguments: argparse.Namespace) -> Submission:
    """The submission that the flags describe.

    Raises:
        JobError: 64.
    """
    settings = training_settings(arguments.training)
    return Submission(
        name=arguments.name or f"{settings.dataset.replace('_', '-')}-{datetime.now(UTC):%Y%m%d-%H%M%S}",
        overlay=arguments.overlay,
        components=tuple(arguments.component),
        image=arguments.image,
        workers=arguments.workers,
        min_workers=arguments.min_workers,
        cpu=arguments.cpu,
        memory=arguments.memory,
        gpus=arguments.gpus,
        queue=arguments.queue,
        deadline_s=config.parse_duration("--deadline", arguments.deadline) if arguments.deadline else None,
        claim=arguments.claim,
        data=arguments.data,
        model=_read_model(arguments.model) if arguments.model else None,
        node_selectors=tuple(arguments.node_selector),
        tolerations=tuple(arguments.toleration),
        priority_class=arguments.priority_class,
        service_account=arguments.service_account,
        variables=tuple(arguments.env),
        arguments=arguments.training,
    )


def _read_model(file: Path) -> str:
    from job.model_file import read_model  # noqa: PLC0415 - few commands are given a model

    return read_model(file)
