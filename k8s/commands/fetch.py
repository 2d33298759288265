"""fetch: copy a published model and its report to this machine, checked against SHA256SUMS.

The model is copied to DIR/NAME/. Files that are already there and whole are kept, and partly copied ones are resumed.
"""

from __future__ import annotations

import json
import webbrowser
from pathlib import Path
from typing import TYPE_CHECKING

from job.config import check_name
from k8s.api.errors import failed
from k8s.commands import flags
from k8s.view.output import note, progress_bar
from k8s.volume.download import download
from k8s.volume.start import open_volume

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable

    from k8s.api.cluster import Cluster
    from k8s.volume.pod import VolumePod

LATEST = "latest"


EXAMPLES = ("mnist-job fetch digits", "mnist-job fetch latest models --report")


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `fetch`."""
    add = parser.add_argument
    add("name", metavar="NAME", help="the run, or `latest` for the model in use")
    add(
        "directory",
        metavar="DIR",
        nargs="?",
        type=Path,
        default=Path(),
        help="the folder in which NAME is created (default: .)",
    )
    add("--report", action="store_true", help="open the report in a browser")
    flags.add_volume(parser)


def run(arguments: argparse.Namespace, connect: Callable[[], Cluster]) -> int:
    """Fetch a model; returns the exit status."""
    name = arguments.name
    if name != LATEST:
        check_name(name, 1, "NAME")
    with open_volume(connect(), arguments, None if name == LATEST else name) as pod:
        if name == LATEST:
            name = promoted_run(pod)
            note(f"latest is {name}")
        folder = arguments.directory / name
        counts = download(pod, name, folder, progress_bar)
    report = folder / "report.html"
    if arguments.output == "json":
        print(json.dumps({"name": name, "folder": str(folder), **counts, "report": str(report)}))
    else:
        size = f"{counts['bytes'] / 1e6:.1f} MB"
        print(f"{name} is in {folder}: {counts['files']} files, {size}, {counts['fetched']} of them fetched now")
        print(f"  model   {folder / 'saved_model' / '1'}")
        print(f"  report  {report}")
    if arguments.report and not webbrowser.open(report.resolve().as_uri()):
        note(f"no browser was found; open {report} yourself")
    return 0


def promoted_run(pod: VolumePod) -> str:
    """The run that `latest` points to.

    Raises:
        LauncherError: there is no such link, or it does not point to a model.
    """
    target = pod.latest()
    if not target:
        message = f"no model is promoted yet: there is no `{LATEST}` on the claim {pod.claim}"
        raise failed(message, "fetch a run by its name")
    folder, _, name = target.rpartition("/")
    if folder != "models":
        message = f"`{LATEST}` on the claim {pod.claim} points to {target!r}, which is not a model"
        raise failed(message, "`promote` a published run")
    check_name(name, 1, f"the run that `{LATEST}` points to")
    return name
