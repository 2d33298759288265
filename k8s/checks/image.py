"""Whether the nodes have the job's image, where no registry can have it."""

from __future__ import annotations

import re
import time
from typing import TYPE_CHECKING, NamedTuple

from k8s.checks import storage
from k8s.checks.check import Check
from k8s.checks.matching import accepts
from k8s.state.names import trainer_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from k8s.api.cluster import Cluster
    from k8s.api.objects import Object

# The kubelet lists the images of its node every 30 s, and reports the list within 10 s.
LISTED_S, POLL_S = 45.0, 5.0
# What a node reports by default: nodeStatusMaxImages, and MaxNamesPerImageInNodeStatus of the kubelet.
MOST_IMAGES, MOST_NAMES = 50, 5
MOST_NODES = 20  # the most to ask: a larger cluster has a registry

# The grammar of github.com/distribution/reference, which the kubelet uses too, with any text as a registry.
HUB = ("docker.io", "index.docker.io")
PART = r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*"
REFERENCE = re.compile(
    rf"(?:(?P<registry>[^/@\s]*[.:][^/@\s]*|localhost)/)?(?P<path>{PART}(?:/{PART})*)"
    r"(?P<tag>:\w[\w.-]{0,127})?(?P<digest>@[A-Za-z][\w+.-]*:[0-9a-fA-F]{32,})?",
    re.ASCII,
)


class Reference(NamedTuple):
    """The name of an image.

    Attributes:
        registry: the registry that the name points to; empty if only a node can have the image. A name without a
            registry points to Docker Hub. There, a name of one part means one of Docker's own images, which the job's
            is not.
        full: the complete name, as nodes list it.
    """

    registry: str
    full: str


def parse(image: str) -> Reference | None:
    """An image's name; None if it is not valid."""
    found = REFERENCE.fullmatch(image)
    if not found:
        return None
    registry, path = found["registry"], found["path"]
    rest = path + (found["digest"] or found["tag"] or ":latest")  # a digest overrides a tag
    if registry and registry not in HUB:
        return Reference("" if registry == "localhost" else registry, f"{registry}/{rest}")
    own = "/" not in path
    return Reference("" if own and not registry else HUB[0], f"{HUB[0]}/library/{rest}" if own else f"{HUB[0]}/{rest}")


def check_image(cluster: Cluster, job: Object) -> Check:
    """Whether the nodes that accept the job have its image, if they cannot pull it.

    Only a node knows whether it can pull an image, so this check fails only if the name is not valid.

    Args:
        cluster: gives the nodes.
        job: the rendered Job.
    """
    template = job["spec"]["template"]
    trainer = trainer_of(template)
    image = trainer["image"]
    reference = parse(image)
    if not reference:
        remedy = "give NAME:TAG or NAME@sha256:DIGEST with --image"
        return Check("image", "failed", f"{image!r} is not a valid image name", remedy)
    policy = trainer.get("imagePullPolicy") or ("Always" if reference.full.endswith(":latest") else "IfNotPresent")
    if reference.registry and policy != "Never":
        return Check("image", "ok", f"{image}; only a node can tell whether it can pull it from {reference.registry}")
    remedy = f"load it into kind or minikube with `make load IMAGE={image}`, or push it with `make push` and give "
    remedy += "--image the name that it prints"
    if policy == "Always":
        message = f"the nodes pull {image} before each start (imagePullPolicy: Always), and the name has no registry"
        return Check("image", "warning", message, remedy)

    volumes = storage.volumes(cluster, job)

    def accepting() -> list[Object]:
        names = [node["metadata"]["name"] for node in cluster.select("Node") if accepts(node, template, volumes)]
        # One by one, because nodes in a list come without their images.
        return [node for name in names[:MOST_NODES] if (node := cluster.get("Node", name))]

    def lacking() -> list[str]:
        return [node["metadata"]["name"] for node in nodes if not has(node, reference.full) and lists_all(node)]

    nodes = accepting()
    if missing := lacking():
        cluster.say(f"{describe(missing)} {image}; waiting {LISTED_S:.0f} s, because nodes list a new image late")
        deadline = time.monotonic() + LISTED_S
        while missing and time.monotonic() < deadline:
            time.sleep(POLL_S)
            nodes = accepting()
            missing = lacking()
    if missing:
        why = "imagePullPolicy is Never" if reference.registry else "the name has no registry to pull it from"
        return Check("image", "warning", f"{describe(missing)} {image}, and {why}", remedy)
    if nodes and all(has(node, reference.full) for node in nodes):
        return Check("image", "ok", f"{image} is on the nodes")
    message = f"the nodes may not list all of their images, so {image} may be missing"
    return Check("image", "not checked", message if nodes else "no ready node accepts this job's pods")


def describe(missing: Sequence[str]) -> str:
    """The beginning of a sentence about nodes that lack an image."""
    return f"node {missing[0]} does not list" if len(missing) == 1 else f"nodes {', '.join(missing)} do not list"


def has(node: Object, full: str) -> bool:
    """Whether a node lists an image."""
    references = [parse(name) for image in listed(node) for name in image.get("names") or []]
    names = {reference.full for reference in references if reference}
    if node["status"].get("nodeInfo", {}).get("containerRuntimeVersion", "").startswith("cri-o:"):
        # CRI-O looks for a name without a registry in several registries, localhost among them.
        full, names = full.removeprefix("docker.io/library/"), names | {name.rpartition("/")[2] for name in names}
    return full in names


def lists_all(node: Object) -> bool:
    """Whether a node's list of images is whole: neither empty, nor as long as the kubelet lets it become."""
    images = listed(node)
    return 0 < len(images) < MOST_IMAGES and all(len(image.get("names") or []) < MOST_NAMES for image in images)


def listed(node: Object) -> list[Object]:
    """The images that a node reports."""
    images: list[Object] = node["status"].get("images") or []
    return images
