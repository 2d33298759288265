"""Copy a published model from the volume to a folder here: each file whole and checked, over connections that break."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from job.output.layout import CHECKSUMS
from job.system.files import sha256
from k8s.api.errors import failed
from k8s.state.names import OUTPUT
from k8s.volume.checksums import incomplete, parse_checksums, refuse_links
from k8s.volume.run_files import UNFINISHED, refuse_other

if TYPE_CHECKING:
    from collections.abc import Callable, Collection
    from contextlib import AbstractContextManager
    from pathlib import Path

    from k8s.volume.pod import VolumePod


def download(
    pod: VolumePod, name: str, folder: Path, progress: Callable[[int], AbstractContextManager[Callable[[int], None]]]
) -> dict[str, int]:
    """Copy what is not in the folder yet.

    Args:
        pod: where the volume is mounted.
        name: of the run.
        folder: for the model's files.
        progress: takes the number of bytes to copy; its context takes the number of bytes just copied.

    Returns:
        The number of `files`, their `bytes`, and how many were `fetched`.

    Raises:
        LauncherError: 1, the model is not published, damaged or unsafe to copy, or cannot be written here.
    """
    source = f"{OUTPUT}/models/{name}"
    text = _read_checksums(pod, name)
    checksums = parse_checksums(text)
    sizes = _file_sizes(pod, name, checksums.keys())
    try:
        refuse_links(folder, [*checksums, CHECKSUMS])
        refuse_other(folder)
        folder.mkdir(parents=True, exist_ok=True)
        part = folder / UNFINISHED
        part.write_text(text, encoding="utf-8")  # from now on, the folder is known as one that `fetch` made
        missing = incomplete(folder, checksums)
        with progress(sum(sizes[path] for path in missing)) as advance:
            for path in missing:
                if not _copy(pod, f"{source}/{path}", sizes[path], folder / path, checksums[path], advance):
                    raise failed(f"{path} of {name} is damaged: its SHA-256 is not what {CHECKSUMS} says")
        if changed := incomplete(folder, checksums):
            raise failed(f"{', '.join(changed)} changed here while {name} was being fetched", "fetch it again")
        part.replace(folder / CHECKSUMS)
    except OSError as error:
        place = error.filename or folder
        raise failed(f"{place} cannot be written: {error.strerror or error}", "choose another DIR") from None
    return {"files": len(sizes), "bytes": sum(sizes.values()), "fetched": len(missing)}


def _read_checksums(pod: VolumePod, name: str) -> str:
    code, content, errors = pod.output(["cat", f"{OUTPUT}/models/{name}/{CHECKSUMS}"])
    if code == 0:
        return content.decode(errors="replace")
    if "No such file" not in errors:
        raise failed(f"{name} cannot be read on the claim {pod.claim}: {errors}", "check the volume")
    if pod.output(["test", "-d", f"{OUTPUT}/runs/{name}"])[0] == 0:
        raise failed(
            f"{name} has not published a model yet", f"`mnist-job status {name} {pod.flags}` shows its progress"
        )
    raise failed(f"there is no run {name} on the claim {pod.claim}", "choose another claim with --claim")


def _file_sizes(pod: VolumePod, name: str, paths: Collection[str]) -> dict[str, int]:
    """The sizes of a model's files, in bytes; files that symbolic links point to are not the model's."""
    code, content, errors = pod.output(["find", f"{OUTPUT}/models/{name}", "-type", "f", "-printf", r"%s %P\0"])
    if code:
        raise failed(f"{name} cannot be read on the volume: {errors}")
    entries = [entry.partition(" ") for entry in content.decode(errors="replace").split("\0")[:-1]]
    sizes = {path: int(size) for size, _, path in entries if path in paths}
    if lost := [path for path in paths if path not in sizes]:
        message = f"the model {name} on the volume is damaged: missing files or symbolic links: {', '.join(lost)}"
        raise failed(message, "train it again under another name")
    return sizes


def _copy(pod: VolumePod, source: str, size: int, target: Path, checksum: str, advance: Callable[[int], None]) -> bool:
    """Copy a file, resuming an earlier attempt; returns whether it is what its checksum says."""
    target.parent.mkdir(parents=True, exist_ok=True)
    part = _part_of(target)
    resumed = part.exists() and part.stat().st_size <= size
    if not resumed:
        part.unlink(missing_ok=True)
    _append(pod, source, size, part, advance)
    if resumed and sha256(part) != checksum:  # the earlier attempt copied something else
        advance(-size)
        part.unlink()
        _append(pod, source, size, part, advance)
    if sha256(part) != checksum:
        part.unlink()
        return False
    part.replace(target)
    return True


def _append(pod: VolumePod, source: str, size: int, part: Path, advance: Callable[[int], None]) -> None:
    """Copy what a part lacks, however often the connection breaks."""
    last_news = time.monotonic()
    with part.open("ab") as file:

        def write(data: bytes) -> None:
            nonlocal last_news
            last_news = time.monotonic()
            if file.tell() + len(data) > size:
                raise failed(f"{source} grew while it was copied", "fetch it again")
            file.write(data)
            advance(len(data))

        advance(file.tell())
        while (copied := file.tell()) < size:
            problem = ConnectionError("the output ended too early")
            try:
                code, errors = pod.run_once(["tail", f"--bytes=+{copied + 1}", "--", source], write)
                if code:
                    raise failed(f"{source} cannot be read: {errors}")
            except ConnectionError as error:
                problem = error
            if file.tell() < size:
                pod.wait_to_retry(last_news, problem)


def _part_of(target: Path) -> Path:
    """Where a file is while it is being copied."""
    return target.with_name(f".{target.name}.part")
