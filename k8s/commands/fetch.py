"""fetch: copy a published model and its report to this machine, checked against SHA256SUMS.

It arrives as DIR/NAME/. What is whole there is left as it is, and what is begun is gone on with.
"""

from __future__ import annotations

import json
import sys
import time
import webbrowser
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from job.config import check_name
from job.system.files import sha256
from k8s.api.errors import ApiError, LauncherError, Status
from k8s.state.names import OUTPUT
from k8s.view.output import note
from k8s.volume import pod as helper
from k8s.volume.checksums import CHECKSUMS, damaged, entries, inside
from k8s.volume.pod import CONTAINER, RETRY_S

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Iterator

    from k8s.api.cluster import Cluster
    from k8s.volume.pod import Helper

LATEST = "latest"


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Add what `fetch` takes."""
    add = parser.add_argument
    add("name", metavar="NAME", help="the run, or `latest` for the one that is promoted")
    add("directory", metavar="DIR", nargs="?", type=Path, default=Path(), help="where DIR/NAME is made (default: here)")
    add("--report", action="store_true", help="open the report once it is here")
    helper.add_flags(parser)


def run(arguments: argparse.Namespace, connect: Callable[[], Cluster]) -> int:
    """Fetch a model; returns the exit status."""
    if arguments.name != LATEST:
        check_name(arguments.name, 1, "NAME")
    cluster = connect()
    name = arguments.name
    place = helper.place(cluster, None if name == LATEST else name, arguments.image, arguments.claim)
    with helper.opened(cluster, place) as pod:
        if name == LATEST:
            name = promoted(pod)
            note(f"latest is {name}")
        fetched = Model(pod, name, arguments.directory / name).fetch()
    folder = arguments.directory / name
    report = folder / "report.html"
    if arguments.output == "json":
        print(json.dumps({"name": name, "folder": str(folder), **fetched, "report": str(report)}))
    else:
        size = f"{fetched['bytes'] / 1e6:.1f} MB"
        print(f"{name} is in {folder}: {fetched['files']} files, {size}, {fetched['fetched']} of them fetched now")
        print(f"  model   {folder / 'saved_model' / '1'}")
        print(f"  report  {report}")
    if arguments.report and not webbrowser.open(report.resolve().as_uri()):
        note(f"there is no browser to open {report} with")
    return 0


class Model:
    """A published model on the volume, and the folder here.

    Args:
        pod: where the volume is.
        name: of the run.
        folder: here.
    """

    def __init__(self, pod: Helper, name: str, folder: Path) -> None:
        self._pod, self._name, self._folder = pod, name, folder
        self._source = f"{OUTPUT}/models/{name}"

    def fetch(self) -> dict[str, int]:
        """Fetch what is not here yet; gives how many files there are, their bytes, and how many were fetched.

        Raises:
            LauncherError: it is not published, or not to be trusted, or cannot be written here.
        """
        text = self._checksums()
        sums = entries(text)
        sizes = self._sizes(list(sums))
        try:
            inside(self._folder, [*sums, CHECKSUMS])
            lacking = damaged(self._folder, sums)
            with bar(sum(sizes[path] for path in lacking)) as advance:
                for path in lacking:
                    self._fetch(path, sums[path], sizes[path], advance)
            if wrong := damaged(self._folder, sums):
                raise failure(f"{', '.join(wrong)} changed here while {self._name} was fetched", "fetch it again")
            part = self._folder / f".{CHECKSUMS}.part"
            part.write_text(text, encoding="utf-8")
            part.replace(self._folder / CHECKSUMS)
        except OSError as error:
            where = error.filename or self._folder
            raise failure(f"{where} cannot be written: {error.strerror or error}", "name another DIR") from None
        return {"files": len(sums), "bytes": sum(sizes.values()), "fetched": len(lacking)}

    def _checksums(self) -> str:
        code, found, errors = self._pod.output(["cat", f"{self._source}/{CHECKSUMS}"])
        if code == 0:
            return found.decode(errors="replace")
        if "No such file" not in errors:
            raise failure(f"{self._name} cannot be read on the claim {self._pod.claim}: {errors}", "see the volume")
        if self._pod.output(["test", "-d", f"{OUTPUT}/runs/{self._name}"])[0] == 0:
            message = f"{self._name} has not published a model yet"
            raise failure(message, f"`mnist-job status {self._name}` says how far it is")
        message = f"there is no run {self._name} on the claim {self._pod.claim}"
        raise failure(message, "name another claim with --claim")

    def _sizes(self, paths: list[str]) -> dict[str, int]:
        """The sizes of the files on the volume, in bytes; refuses links that lead elsewhere."""
        wanted = [f"{self._source}/{path}" for path in paths]
        code, found, errors = self._pod.output(["realpath", "--canonicalize-existing", "--zero", "--", *wanted])
        if code:
            raise failure(f"{self._name} is damaged on the volume: {errors}", "train it again under another name")
        real = found.decode(errors="replace").split("\0")[:-1]
        if links := [path for path, is_at, its in zip(paths, real, wanted, strict=True) if is_at != its]:
            raise failure(f"{self._name} is not fetched, for links lead out of it: {', '.join(map(repr, links))}")
        code, found, errors = self._pod.output(["stat", "--format=%s", "--", *wanted])
        if code:
            raise failure(f"{self._name} cannot be read on the volume: {errors}")
        return dict(zip(paths, map(int, found.split()), strict=True))

    def _fetch(self, path: str, checksum: str, size: int, advance: Callable[[int], None]) -> None:
        """Fetch a file, going on with what an earlier attempt left of it."""
        target = self._folder / path
        target.parent.mkdir(parents=True, exist_ok=True)
        part = target.with_name(f".{target.name}.part")
        for begun in (part.exists(), False):
            if not begun:
                part.unlink(missing_ok=True)
            self._append(f"{self._source}/{path}", size, part, advance)
            if sha256(part) == checksum:
                part.replace(target)
                return
            advance(-size)
            if not begun:
                break
        part.unlink()
        raise failure(f"{path} of {self._name} is damaged: its SHA-256 is not what {CHECKSUMS} says")

    def _append(self, source: str, size: int, part: Path, advance: Callable[[int], None]) -> None:
        """Fetch what a part lacks, however often the connection breaks."""
        heard = time.monotonic()
        with part.open("ab") as file:
            if file.tell() > size:
                file.truncate(0)

            def write(data: bytes) -> None:
                nonlocal heard
                heard = time.monotonic()
                file.write(data)
                advance(len(data))

            advance(file.tell())
            while (have := file.tell()) < size:
                broken: OSError = ConnectionError("it ended too early")
                try:
                    ended = self._pod.cluster.run_in(
                        self._pod.pod, CONTAINER, ["tail", f"--bytes=+{have + 1}", "--", source], write
                    )
                    if ended.code:
                        raise failure(f"{source} cannot be read: {ended.errors.strip()}")
                except ConnectionError as error:
                    broken = error
                except ApiError as error:
                    raise self._pod.explained(error) from None
                if file.tell() < size:
                    if time.monotonic() - heard > self._pod.cluster.patience_s:
                        raise self._pod.broken(broken)
                    time.sleep(RETRY_S)


def promoted(pod: Helper) -> str:
    """The run to which `latest` leads.

    Raises:
        LauncherError: it is not there, or leads elsewhere.
    """
    code, found, _ = pod.output(["readlink", f"{OUTPUT}/{LATEST}"])
    if code:
        message = f"no model is promoted yet: there is no `{LATEST}` on the claim {pod.claim}"
        raise failure(message, "fetch a run by its name")
    leads_to = found.decode(errors="replace").strip()
    folder, _, name = leads_to.rpartition("/")
    if folder != "models":
        raise failure(f"`{LATEST}` on the claim {pod.claim} leads to {leads_to!r}, and not to a model")
    check_name(name, 1, f"the run to which `{LATEST}` leads")
    return name


def failure(message: str, hint: str = "") -> LauncherError:
    """The error of a model that cannot be had."""
    return LauncherError(Status.FAILED, message, hint)


@contextmanager
def bar(total: int) -> Iterator[Callable[[int], None]]:
    """A progress bar on a terminal; gives what is called with the bytes that came."""
    if not sys.stderr.isatty():
        yield lambda _: None
        return
    from rich.console import Console  # noqa: PLC0415 - not needed for a command's --help
    from rich.progress import BarColumn, DownloadColumn, Progress, TransferSpeedColumn  # noqa: PLC0415

    columns = (BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with Progress(*columns, console=Console(stderr=True)) as progress:
        task = progress.add_task("", total=total)
        yield lambda count: progress.update(task, advance=count)
