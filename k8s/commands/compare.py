"""compare: show published runs side by side, and which differences are significant; as a page with --html."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from job.config import usage_error
from k8s.api.errors import failed
from k8s.commands import flags
from k8s.state.names import OUTPUT
from k8s.view.output import note, printable
from k8s.volume.start import open_volume

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable

    from k8s.api.cluster import Cluster

PAGE = "/tmp/page.html"  # noqa: S108 - in the volume pod


EXAMPLES = ("mnist-job compare", "mnist-job compare --html runs.html")


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `compare`."""
    text = "also write a self-contained HTML page to FILE, with accuracy over time and learning curves"
    parser.add_argument("--html", type=Path, metavar="FILE", help=text)
    flags.add_volume(parser)


def run(arguments: argparse.Namespace, connect: Callable[[], Cluster]) -> int:
    """Compare the runs; returns the exit status."""
    page: Path | None = arguments.html
    if page and not page.absolute().parent.is_dir():
        raise usage_error(f"--html {page} cannot be written: there is no folder {page.parent}")
    as_json = arguments.output == "json"
    words = ["--json"] if as_json else []
    words += [f"--html={PAGE}"] if page else []

    def show(text: str) -> None:
        print(text if as_json else printable(text), end="")

    with open_volume(connect(), arguments) as pod:
        try:
            pod.run_job("compare", OUTPUT, *words, show=show)
        finally:  # if one run is damaged, the command fails but still compares the others
            if page:
                code, content, _ = pod.output(["cat", PAGE])
                if code == 0:
                    save(page, content)
    return 0


def save(page: Path, content: bytes) -> None:
    """Write the page here.

    Raises:
        LauncherError: 1, it cannot be written.
    """
    try:
        page.write_bytes(content)
    except OSError as error:
        message = f"{page} cannot be written: {error.strerror or error}"
        raise failed(message, "choose another file with --html") from None
    note(f"the comparison is in {page}")
