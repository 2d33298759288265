"""Copy a prepared dataset from this machine to a volume: whole and verified, or not at all."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from job.config import DATASET, usage_error
from job.dataset.fingerprint import FINGERPRINT
from k8s.api.errors import LauncherError, failed
from k8s.state.names import OUTPUT

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from contextlib import AbstractContextManager
    from pathlib import Path

    from k8s.volume.pod import VolumePod

CHUNK = 2**16
# The connection cannot close standard input, so the number of bytes says where a file ends. A new file each time: an
# earlier attempt whose connection broke may still be writing to the old one. All input is read even if the volume is
# full: the connection would break otherwise, and the reason would be lost.
WRITE_FILE = """
mkdir -p "$(dirname "$1")"
rm -f "$1"
head --bytes="$2" | { cat >"$1"; code=$?; cat >/dev/null; exit $code; }
"""
# Removes what interrupted copies left behind. Another copy may be in progress. Its folder is moved first: if the files
# were removed where they are, that copy could move what is left of them to the final place.
REMOVE_OTHERS = """
rm -rf "$2"
for folder in "$1"*; do mv --no-target-directory "$folder" "$2" && rm -rf "$2"; done 2>/dev/null
true
"""
# A second attempt, after a connection that broke, finds that the first one has moved it.
MOVE_FOLDER = 'test -d "$2" || { sync --file-system "$1" && mv --no-target-directory "$1" "$2"; }'


def dataset_name(folder: Path) -> str:
    """The name of the prepared dataset in a folder.

    Raises:
        JobError: 64, the folder holds none.
    """
    try:
        name = str(json.loads((folder / FINGERPRINT).read_bytes())["dataset"])
        if DATASET.fullmatch(name):
            return name
    except (OSError, ValueError, TypeError, KeyError):
        pass
    hint = "prepare one with `python -m job data`, and give the folder that this prints, such as data/mnist"
    raise usage_error(f"FOLDER {folder} is not a prepared dataset: it has no valid {FINGERPRINT}", hint)


def upload(
    pod: VolumePod, folder: Path, name: str, progress: Callable[[int], AbstractContextManager[Callable[[int], None]]]
) -> dict[str, int]:
    """Copy a dataset, unless the volume holds it already.

    Args:
        pod: where the volume is mounted, writable.
        folder: the prepared dataset.
        name: of the dataset, and of its folder on the volume.
        progress: takes the number of bytes to copy; its context takes the number of bytes just copied.

    Returns:
        The number of `files`, their `bytes`, and how many were `copied`.

    Raises:
        LauncherError: 1, the volume holds another dataset of this name or cannot be written, or the copy is damaged.
    """
    sizes = {path: path.stat().st_size for path in sorted(folder.rglob("*")) if path.is_file()}
    counts = {"files": len(sizes), "bytes": sum(sizes.values())}
    target = f"{OUTPUT}/{name}"
    if pod.output(["test", "-e", target])[0] == 0:
        if pod.output(["cat", f"{target}/{FINGERPRINT}"])[1] != (folder / FINGERPRINT).read_bytes():
            message = f"the claim {pod.claim} already holds another dataset {name}, and a dataset is never changed"
            raise failed(message, "choose another claim with --claim")
        _verify(pod, OUTPUT, name)
        return counts | {"copied": 0}
    incoming = f"{OUTPUT}/.{name}.incoming-{pod.name}"
    _run_checked(pod, "sh", "-c", REMOVE_OTHERS, "sh", f"{OUTPUT}/.{name}.incoming", incoming)
    with progress(counts["bytes"]) as advance:
        for path, size in sizes.items():
            _upload_file(pod, path, size, f"{incoming}/{name}/{path.relative_to(folder).as_posix()}", advance)
    try:
        if len(pod.output(["find", incoming, "-type", "f", "-printf", "."])[1]) < len(sizes):
            message = f"another `data put` has removed what this one had copied to the claim {pod.claim}"
            raise failed(message, "wait until that one has ended, and run this command again")
        _verify(pod, incoming, name)
    except LauncherError:
        _run_checked(pod, "rm", "-rf", incoming)
        raise
    _run_checked(pod, "sh", "-c", MOVE_FOLDER, "sh", f"{incoming}/{name}", target)
    _run_checked(pod, "rm", "-rf", incoming)
    return counts | {"copied": counts["files"]}


def _upload_file(pod: VolumePod, path: Path, size: int, target: str, advance: Callable[[int], None]) -> None:
    sent = 0

    def content() -> Iterator[bytes]:
        nonlocal sent
        advance(-sent)  # by an attempt whose connection broke
        sent = 0
        with path.open("rb") as file:
            while sent < size:
                if not (chunk := file.read(min(CHUNK, size - sent))):
                    raise failed(f"{path} became shorter while it was being copied", "copy it again")
                yield chunk
                sent += len(chunk)
                advance(len(chunk))

    _run_checked(pod, "sh", "-c", WRITE_FILE, "sh", target, str(size), stdin=content)


def _verify(pod: VolumePod, parent: str, name: str) -> None:
    """Read a dataset on the volume whole, and compare it with its fingerprint."""
    code, _, errors = pod.output(["python", "-m", "job", "data", f"--data={parent}", f"--dataset={name}"])
    if code:
        sentence = errors.splitlines()[-1].removeprefix("error: ") if errors else f"exit code {code}"
        problem = sentence.rpartition("; ")[0] or sentence  # its remedy is one for a folder on this machine
        message = f"the dataset on the claim {pod.claim} was not verified: {problem}"
        raise failed(message, "verify the local dataset with `python -m job data`, and copy it to another claim")


def _run_checked(pod: VolumePod, *command: str, stdin: Callable[[], Iterable[bytes]] | None = None) -> None:
    code, _, errors = pod.output(command, stdin)
    if code:
        problem = errors.partition("\n")[0]
        raise failed(
            f"the claim {pod.claim} cannot be written: {problem}",
            "free space on it, or choose another claim with --claim",
        )
