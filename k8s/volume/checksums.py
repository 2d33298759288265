"""A model's SHA256SUMS: paths that stay in the model's folder, and files that are whole."""

from __future__ import annotations

import re
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

from job.output.layout import CHECKSUMS
from job.system.files import sha256
from k8s.api.errors import failed

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

LINE = re.compile(r"([0-9a-f]{64}) [ *](.+)")


def parse_checksums(text: str) -> dict[str, str]:
    """The checksums in a list as `sha256sum` writes it, by path.

    Raises:
        LauncherError: 1, a line is malformed or repeated, or paths lead out of the folder; names them.
    """
    checksums: dict[str, str] = {}
    for line in text.split("\n"):
        if not line:
            continue
        match = LINE.fullmatch(line)
        if match is None or match[2] in checksums:
            problem = "is not a line of `sha256sum`" if match is None else "names a path for the second time"
            raise failed(f"{CHECKSUMS} is damaged: {line!r} {problem}")
        checksums[match[2]] = match[1]
    # A path below another one would need a file that is a folder too.
    folders = {str(parent): path for path in checksums for parent in list(PurePosixPath(path).parents)[:-1]}
    refused = [path for path in checksums if not is_safe(path)]
    refused += [path for folder, path in folders.items() if folder in checksums]
    if refused:
        names = ", ".join(map(repr, dict.fromkeys(refused)))
        raise failed(f"{CHECKSUMS} names unsafe paths: {names}", "nothing was written")
    if not checksums:
        raise failed(f"{CHECKSUMS} is empty")
    return checksums


def is_safe(path: str) -> bool:
    """Whether a path names a file below the folder, and means the same on every operating system."""
    pure = PurePosixPath(path)
    plain = str(pure) == path and not pure.is_absolute() and ".." not in pure.parts and pure.name != CHECKSUMS
    return plain and path != "." and path.isprintable() and "\\" not in path and not pure.name.endswith(".part")


def refuse_links(folder: Path, paths: Iterable[str]) -> None:
    """Refuse to write through symbolic links, which could lead anywhere.

    Raises:
        LauncherError: 1; names the links.
    """
    places = {folder}
    for path in paths:
        target = folder / path
        places |= {target, target.with_name(f".{target.name}.part")}
        places |= {folder / parent for parent in PurePosixPath(path).parents}
    if links := sorted(str(place) for place in places if place.is_symlink()):
        message = f"`fetch` does not write through symbolic links: {', '.join(links)}"
        raise failed(message, "remove them, or choose another DIR")


def incomplete(folder: Path, checksums: Mapping[str, str]) -> list[str]:
    """The paths whose files are missing in a folder, or are not what their checksums say."""
    files = {path: folder / path for path in checksums}
    return [path for path, file in files.items() if not file.is_file() or sha256(file) != checksums[path]]
