"""fetch: copy a published model and its report to this machine, checked against SHA256SUMS.

The model is copied to DIR/NAME/. Files that are already there and whole are kept, and partly copied ones are resumed.
With --run, DIR/NAME/run/ gets the run's logs, events and TensorBoard scalars as they are now, even without a model.
"""

from __future__ import annotations

import json
import webbrowser
from pathlib import Path
from typing import TYPE_CHECKING

from job.config import check_name
from k8s.api.errors import failed
from k8s.commands import flags
from k8s.state.names import OUTPUT
from k8s.view.output import note, progress_bar
from k8s.volume.download import download
from k8s.volume.run_files import RUN, replace_run_files
from k8s.volume.start import open_volume

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable

    from k8s.api.cluster import Cluster
    from k8s.volume.pod import VolumePod

LATEST = "latest"
NO_MODEL = {"files": 0, "bytes": 0, "fetched": 0}


EXAMPLES = ("mnist-job fetch digits", "mnist-job fetch latest models --report")


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `fetch`."""
    add = parser.add_argument
    flags.add_name(parser, "the run, or `latest` for the model in use")
    add(
        "directory",
        metavar="DIR",
        nargs="?",
        type=Path,
        default=Path(),
        help="the folder in which NAME is created (default: .)",
    )
    add("--report", action="store_true", help="open the report in a browser")
    text = "also copy the run's logs, events and TensorBoard scalars to DIR/NAME/run, even if it has no model"
    add("--run", action="store_true", help=text)
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
        run_files = replace_run_files(pod, name, folder / RUN) if arguments.run else 0
        published = not run_files or pod.output(["test", "-d", f"{OUTPUT}/models/{name}"])[0] == 0
        counts = download(pod, name, folder, progress_bar) if published else NO_MODEL
    report = folder / "report.html"
    if arguments.output == "json":
        fields = {"name": name, "folder": str(folder), **counts, "report": str(report) if published else None}
        print(json.dumps(fields | ({"run": str(folder / RUN) if run_files else None} if arguments.run else {})))
    else:
        if published:
            size = f"{counts['bytes'] / 1e6:.1f} MB"
            print(f"{name} is in {folder}: {counts['files']} files, {size}, {counts['fetched']} of them fetched now")
            print(f"  model   {folder / 'saved_model' / '1'}")
            print(f"  report  {report}")
        if run_files:
            print(f"  run     {folder / RUN}: {run_files} files")
    if not published:
        note(f"{name} has not published a model yet")
    elif arguments.run and not run_files:
        note(f"{name} has no logs, events or scalars on the claim {pod.claim}")
    if arguments.report and published and not webbrowser.open(report.resolve().as_uri()):
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
