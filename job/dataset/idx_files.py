"""Find the four IDX files in a folder, even if archive tools or download pages have renamed them.

The content of a file tells images from labels; its name tells the split. The published names are
train-images-idx3-ubyte, train-labels-idx1-ubyte, t10k-images-idx3-ubyte and t10k-labels-idx1-ubyte.
"""

from __future__ import annotations

import gzip
import stat
import zlib
from typing import TYPE_CHECKING, TypeAlias

from job.error_table import errors_from
from job.errors import Exit, JobError

if TYPE_CHECKING:
    import io
    import os
    from collections.abc import Iterator, Sequence
    from pathlib import Path

GZIP = b"\x1f\x8b"
DEPTH = 4  # folders below the given one that are searched
COUNTS = {60_000: "train", 10_000: "test"}  # of the published files, for names without a split
LISTED = 8  # files in a message

# A split, and the number of dimensions: 3 for images, 1 for labels.
Part: TypeAlias = "tuple[str, int]"
PARTS: dict[Part, str] = {
    ("train", 3): "training images",
    ("train", 1): "training labels",
    ("test", 3): "test images",
    ("test", 1): "test labels",
}


def find_files(folder: Path) -> dict[Part, list[Path]]:
    """The files that may be each part: usually one file, or a compressed and an uncompressed one.

    Subfolders are searched level by level until each part has a file. If no file has the content of a part, the files
    whose names fit are returned, so that reading them reports what is wrong.

    Raises:
        JobError: 66 if the folder is missing or may not be read, or if a part is missing; the message lists what is
            there. 75 if reading failed temporarily.
    """
    files: list[Path] = []
    found: dict[Part, list[Path]] = {part: [] for part in PARTS}
    for level in _levels(folder):
        files += level
        for path in level:
            if (part := _part_by_content(path, folder)) in found:
                found[part].append(path)
        if all(found.values()):
            return found
    for part, paths in found.items():
        if not paths:
            paths.extend(path for path in files if _part_by_name(path, folder) == part)
    if missing := [PARTS[part] for part, paths in found.items() if not paths]:
        raise _missing_files(folder, missing, files)
    return found


def read_bytes(path: Path, size: int = -1) -> bytes:
    """The content of a file, or its first `size` bytes; decompressed if it is gzip, whatever its name.

    Raises:
        EOFError, zlib.error, gzip.BadGzipFile: the file begins as gzip, but is damaged.
        OSError: it cannot be read.
    """
    with path.open("rb") as file:
        stream: io.BufferedReader | gzip.GzipFile = file
        while stream.peek(2)[:2] == GZIP:  # some servers compress a compressed file again
            stream = gzip.GzipFile(fileobj=stream, mode="rb")
        return stream.read(size)


def _levels(folder: Path) -> Iterator[list[Path]]:
    """The files of the folder, then those of its subfolders, and so on, without hidden ones."""
    with errors_from("raw files", folder):
        if folder.is_file():
            hint = "give --from-idx the folder that contains it"
            raise JobError(Exit.DATA_MISSING, "idx-missing", f"{folder} is not a folder", hint)
        if not folder.is_dir():
            raise JobError(Exit.DATA_MISSING, "idx-missing", f"there is no folder {folder}")
        next(folder.iterdir(), None)
    folders, seen = [folder], set[tuple[int, int]]()
    for _ in range(1 + DEPTH):
        paths = [(path, status) for each in folders for path in _visible(each) if (status := _status(path))]
        yield [path for path, status in paths if stat.S_ISREG(status.st_mode)]
        below = {(status.st_dev, status.st_ino): path for path, status in paths if stat.S_ISDIR(status.st_mode)}
        folders = [path for identity, path in below.items() if identity not in seen]  # links may form a loop
        seen |= below.keys()


def _visible(folder: Path) -> list[Path]:
    try:
        return sorted(path for path in folder.iterdir() if not path.name.startswith("."))
    except OSError:
        return []


def _status(path: Path) -> os.stat_result | None:
    """The status of a file or folder, or of the target of a link; None if it cannot be read."""
    try:
        return path.stat()
    except OSError:
        return None


def _part_by_content(path: Path, folder: Path) -> Part | None:
    try:
        header = read_bytes(path, 8) if path.stat().st_size else b""  # a file of /proc may wait for content
    except (OSError, EOFError, zlib.error):
        return None
    if header[:3] != b"\0\0\x08" or len(header) < 8:
        return None
    return _split(path, folder) or COUNTS.get(int.from_bytes(header[4:]), ""), header[3]


def _part_by_name(path: Path, folder: Path) -> Part | None:
    name = path.name.lower()
    for dimensions, words in ((3, ("image", "idx3")), (1, ("label", "idx1"))):
        if any(word in name for word in words):
            return _split(path, folder), dimensions
    return None


def _split(path: Path, folder: Path) -> str:
    """The split in the name of a file or, failing that, of its nearest folder that has one; empty if there is none."""
    for name in reversed(path.relative_to(folder).parts):
        lower = name.lower().replace("latest", "")
        is_train, is_test = "train" in lower, "t10k" in lower or "test" in lower
        if is_train != is_test:
            return "train" if is_train else "test"
    return ""


def _missing_files(folder: Path, missing: Sequence[str], files: Sequence[Path]) -> JobError:
    more = f" and {len(files) - LISTED} more" if len(files) > LISTED else ""
    there = ", ".join(str(path.relative_to(folder)) for path in files[:LISTED]) + more
    message = f"{folder} has no {', '.join(missing)}: it has {there or 'no files'}"
    hint = (
        "extract archives, and give --from-idx a folder with the four IDX files; their names must contain `train`, or "
        "`t10k` or `test`"
    )
    return JobError(Exit.DATA_MISSING, "idx-missing", message, hint)
