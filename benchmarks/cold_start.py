"""`python -m benchmarks.cold_start BEFORE AFTER`: what a node without the image pulls, and the time to the first step.

Pushes two of docker's images to a registry on this machine, with TLS and a password. Then a run of one worker is
submitted by digest with each of them in turn, to the kind cluster that is kubectl's current context. The node has no
layer of an image when its run is submitted. AFTER is measured twice: with docker's compression, gzip, as BEFORE is, and
with zstd, which podman and buildah use in `make push`.

Needs docker, kind, skopeo, Debian's docker-registry, and root, which may let docker and the nodes trust the registry.
"""

from __future__ import annotations

import re
import sys
import tempfile
import time
import uuid
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from benchmarks import machine, results
from benchmarks.cluster import records_of
from benchmarks.figures import Figure
from tests.cluster.access import current_context, kind_name
from tests.cluster.namespace import Namespace, wait_until
from tests.cluster.systems.programs import run
from tests.cluster.systems.registry import Registry

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

BAR = 0.8
WARM_S = 1.0  # a pull of hundreds of megabytes is not shorter
PULLED = re.compile(r"^Successfully pulled image .* in (?P<time>[\dhms.]+) \(", re.ASCII)
UNITS = {"h": 3600.0, "m": 60.0, "s": 1.0, "ms": 0.001}


class Start(NamedTuple):
    """A start on a cold node.

    Attributes:
        pull_s: seconds that the pull took, which also unpacks the image.
        first_step_s: seconds from the submission to the first step.
    """

    pull_s: float
    first_step_s: float


def main() -> int:
    """Push, measure in turn, print the table. Exit status 1 if a bar is not met."""
    flags = results.parser("benchmarks.cold_start", __doc__, data=False)
    flags.add_argument("before", help="an image of docker's")
    flags.add_argument("after", help="another one, which is compared with it")
    flags.add_argument("--rounds", type=int, default=3, help="how often to start each image (default: 3)")
    args = results.parse(flags)
    context = {**machine.context(), "settings": {"rounds": args.rounds}}
    figures = measure(args.before, args.after, args.rounds)
    return results.report(figures, context, args.json, "cold-start-")


def measure(before: str, after: str, rounds: int) -> list[Figure]:
    """The figures of two images of docker's."""
    kind = kind_name()
    if not kind:
        raise SystemExit(f"the current context, {current_context()}, is not a kind cluster: run `kind create cluster`")
    with tempfile.TemporaryDirectory() as folder, Registry(Path(folder), kind).running() as registry:
        images = {
            "before": registry.push(before, "you/before"),
            "after": registry.push(after, "you/after"),
            "after, zstd": push_zstd(registry, after, "you/after"),
        }
        pulled = {
            name: sum(layer["size"] for layer in registry.manifest(image)["layers"]) / 1e6
            for name, image in images.items()
        }
        print(", ".join(f"{name}: {size:.1f} MB" for name, size in pulled.items()), flush=True)
        starts = cold_starts(registry, images, rounds)
    return figures_of(pulled, starts)


def push_zstd(registry: Registry, local: str, repository: str) -> str:
    """Push an image of docker's with the layers compressed as podman and buildah do; returns its name by digest."""
    name = f"{registry.host}/{repository}"
    with tempfile.NamedTemporaryFile() as digest:
        options = ["--dest-compress-format=zstd", "--format=oci", f"--digestfile={digest.name}"]
        run("skopeo", "copy", *options, f"docker-daemon:{local}", f"docker://{name}:zstd", env=registry.environment)
        return f"{name}@{Path(digest.name).read_text(encoding='utf-8')}"


def cold_starts(registry: Registry, images: Mapping[str, str], rounds: int) -> dict[str, list[Start]]:
    """The starts of each image, in turn."""
    namespace = Namespace(f"bench-{uuid.uuid4().hex[:8]}", "")
    namespace.create()
    try:
        registry.let_pull(namespace)
        namespace.claim("output", "ReadWriteOnce", None)
        # Not measured: the first run also waits until its volume is made.
        cold_start(registry, namespace, images["before"], "first")
        starts: dict[str, list[Start]] = {name: [] for name in images}
        for number in range(rounds):
            for name, image in images.items():
                start = cold_start(registry, namespace, image, f"run-{number}-{len(name)}")
                starts[name].append(start)
                told = f"pull {start.pull_s:.1f} s, first step {start.first_step_s:.1f} s"
                print(f"round {number + 1} of {rounds}: {name}: {told}", flush=True)
        return starts
    finally:
        namespace.delete()


def cold_start(registry: Registry, namespace: Namespace, image: str, name: str) -> Start:
    """Submit a run of one worker while no node has the image; the run is deleted afterwards."""
    registry.forget()
    namespace.image = image
    submitted = time.time()
    namespace.submit(name, "--epochs=1", workers=1)
    namespace.wait_until_published(name)
    [pod] = namespace.pods(name, 0)
    stepped = next(record.time for record in records_of(namespace, pod) if record.phase == "training")
    event = f"involvedObject.name={pod['metadata']['name']},reason=Pulled"
    [pulled] = wait_until(lambda: namespace.cluster.select("Event", fields=event), "the event of the pull")
    namespace.kubectl("delete", "job", name, "--cascade=foreground", "--wait")
    return Start(seconds_of(pulled["message"]), stepped - submitted)


def seconds_of(message: str) -> float:
    """The time of a pull, from the kubelet's event, which gives it as Go does: `1m2.5s` or `312ms`."""
    found = PULLED.match(message)
    times = re.findall(r"([\d.]+)(ms|[hms])", found["time"]) if found else []
    pull_s = sum(float(value) * UNITS[unit] for value, unit in times)
    if pull_s < WARM_S:
        raise SystemExit(f"the node held layers of the image: run `kind create cluster --name cold` ({message})")
    return pull_s


def figures_of(pulled: Mapping[str, float], starts: Mapping[str, Sequence[Start]]) -> list[Figure]:
    """The figures: what is pulled, the times, and the ratios to the image before, round by round."""
    figures: list[Figure] = []
    for name, values in starts.items():
        figures.append(Figure(f"{name}: pulled", "MB", [pulled[name]]))
        figures.append(Figure(f"{name}: pull", "s", [each.pull_s for each in values]))
        figures.append(Figure(f"{name}: submission to first step", "s", [each.first_step_s for each in values]))
    for name in [name for name in starts if name != "before"]:
        pairs = list(zip(starts[name], starts["before"], strict=True))
        figures.append(Figure(f"{name}: pulled, ratio", "", [pulled[name] / pulled["before"]], BAR))
        figures.append(Figure(f"{name}: pull, ratio", "", [new.pull_s / old.pull_s for new, old in pairs]))
        ratios = [new.first_step_s / old.first_step_s for new, old in pairs]
        figures.append(Figure(f"{name}: first step, ratio", "", ratios, BAR))
    return figures


if __name__ == "__main__":
    sys.exit(main())
