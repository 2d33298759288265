"""compare: show published runs side by side, and which differences are beyond chance; as a page with --html."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from job.config import usage
from job.system import files
from k8s.api.errors import LauncherError, Status
from k8s.state.names import OUTPUT
from k8s.view.output import note
from k8s.volume import pod as helper

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable

    from k8s.api.cluster import Cluster

PAGE = "/tmp/page.html"  # noqa: S108 - the helper pod's own


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Add what `compare` takes."""
    text = "write a self-contained page here, with accuracy over time and learning curves"
    parser.add_argument("--html", type=Path, metavar="FILE", help=text)
    helper.add_flags(parser)


def run(arguments: argparse.Namespace, connect: Callable[[], Cluster]) -> int:
    """Compare the runs; returns the exit status."""
    page: Path | None = arguments.html
    if page and not page.absolute().parent.is_dir():
        raise usage(f"--html {page} cannot be written: there is no folder {page.parent}")
    cluster = connect()
    place = helper.place(cluster, None, arguments.image, arguments.claim)
    words = ["compare", OUTPUT, *(["--json"] if arguments.output == "json" else [])]
    with helper.opened(cluster, place) as pod:
        try:
            pod.job(*words, *([f"--html={PAGE}"] if page else []), show=lambda text: print(text, end=""))
        finally:  # where a run is damaged, the others are compared all the same
            if page:
                save(page, *pod.output(["cat", PAGE])[:2])
    return 0


def save(page: Path, code: int, content: bytes) -> None:
    """Write the page here, if the helper could make it.

    Raises:
        LauncherError: 1, it cannot be written.
    """
    if code:
        return
    try:
        files.write(page, content)
    except OSError as error:
        message = f"{page} cannot be written: {error.strerror or error}"
        raise LauncherError(Status.FAILED, message, "name another file with --html") from None
    note(f"the comparison is in {page}")
