"""data: copy a prepared dataset from this machine to a claim, for `submit --data`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

from k8s.api.errors import ApiError, failed, refused
from k8s.checks import storage
from k8s.checks.trial import remedy, require
from k8s.commands.flags import variable
from k8s.render.kustomize import MANIFESTS, kustomize
from k8s.view.output import note, progress_bar
from k8s.volume.start import open_volume
from k8s.volume.upload import dataset_name, upload

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable

    from k8s.api.cluster import Cluster
    from k8s.api.objects import Object

DATA_CLAIM = "mnist-job-data"  # as in k8s/manifests/data

EXAMPLES = (
    "mnist-job data put data/mnist",
    "mnist-job data put data/fashion_mnist --claim fashion --namespace training",
)


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `data`."""
    add = parser.add_argument
    add("action", choices=("put",), help="copy and verify the dataset; an incomplete copy is never used")
    add("folder", metavar="FOLDER", type=Path, help="a dataset that `python -m job data` prepared, such as data/mnist")
    text = f"claim for the dataset; created with 1Gi and ReadWriteOnce if it does not exist (default: {DATA_CLAIM})"
    add("--claim", metavar="NAME", default=DATA_CLAIM, help=text)
    image = "image of the pod that mounts the claim (default: $MNIST_JOB_IMAGE, or the newest run's)"
    add("--image", default=variable("IMAGE"), help=image)


def run(arguments: argparse.Namespace, connect: Callable[[], Cluster]) -> int:
    """Copy the dataset; returns the exit status."""
    folder, claim = arguments.folder, arguments.claim
    name = dataset_name(folder)
    cluster = connect()
    absent = new_claim(cluster, claim)
    try:
        with open_volume(cluster, arguments, writes=True, new=True, absent=absent) as pod:
            if absent:
                size, [mode] = absent["spec"]["resources"]["requests"]["storage"], absent["spec"]["accessModes"]
                more = "workers on several nodes need a ReadWriteMany claim instead"
                note(f"created the claim {claim}: {size}, {mode}; {more}")
            counts = upload(pod, folder, name, progress_bar)
    except OSError as error:
        message = f"{error.filename or folder} cannot be read: {error.strerror or error}"
        raise failed(message, "make it readable, and run the same command again") from None
    if arguments.output == "json":
        print(json.dumps({"dataset": name, "claim": claim, **counts}))
        return 0
    did = "copied now" if counts["copied"] else "it was already there"
    print(f"{name} is on the claim {claim}, verified: {counts['files']} files, {counts['bytes'] / 1e6:.1f} MB, {did}")
    image = f" --image {arguments.image}" if arguments.image else ""
    training = "" if name == "mnist" else f" -- --dataset {name}"
    print(f"  mnist-job submit {cluster.flags}{image} --data {claim}{training}")
    return 0


def new_claim(cluster: Cluster, name: str) -> Object | None:
    """The claim of k8s/manifests/data under a name, to be created; None if there is a claim of that name.

    Raises:
        LauncherError: 2, the API server would refuse it.
    """
    if storage.read_claim(cluster, name) is not None:
        return None
    [claim] = kustomize(MANIFESTS / "data")
    claim["metadata"]["name"] = name
    try:
        require(cluster, claim)
    except ApiError as error:
        message = f"the claim {name} cannot be created: {error.message}"
        hint = remedy(cluster, claim["kind"], error.message)
        if "cannot create resource" in error.message:
            hint = "ask an administrator for a claim, and pass it with --claim"
        raise refused(message, hint) from None
    return claim
