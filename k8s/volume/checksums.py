"""A model's list of checksums as fetch trusts it: paths that stay in the model's folder, and files that are whole."""

from __future__ import annotations

import re
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

from job.system.files import sha256
from k8s.api.errors import LauncherError, Status

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

CHECKSUMS = "SHA256SUMS"
LINE = re.compile(r"([0-9a-f]{64}) [ *](.+)")


def entries(text: str) -> dict[str, str]:
    """The checksums in a list, by path, as `sha256sum` writes it.

    Raises:
        LauncherError: 1, for a line that is none, or paths that leave the folder; they are named.
    """
    found: dict[str, str] = {}
    refused = []
    for line in text.split("\n"):
        if not line:
            continue
        match = LINE.fullmatch(line)
        if match is None or match[2] in found:
            raise LauncherError(
                Status.FAILED, f"{CHECKSUMS} is damaged: {line!r} is none of its lines, or one too many"
            )
        found[match[2]] = match[1]
        if not stays(match[2]):
            refused.append(match[2])
    folders = {str(parent): path for path in found for parent in list(PurePosixPath(path).parents)[:-1]}
    refused += [path for folder, path in folders.items() if folder in found]
    if refused:
        names = ", ".join(map(repr, dict.fromkeys(refused)))
        raise LauncherError(
            Status.FAILED, f"{CHECKSUMS} names paths that are not fetched: {names}", "nothing was written"
        )
    if not found:
        raise LauncherError(Status.FAILED, f"{CHECKSUMS} is empty")
    return found


def stays(path: str) -> bool:
    """Whether a path names a file below the folder, and as it is written nothing else on any system."""
    pure = PurePosixPath(path)
    plain = str(pure) == path and not pure.is_absolute() and ".." not in pure.parts and pure.name != CHECKSUMS
    return plain and path != "." and path.isprintable() and "\\" not in path and not pure.name.endswith(".part")


def inside(folder: Path, paths: Iterable[str]) -> None:
    """Refuse to write through links that are here: they could lead anywhere.

    Raises:
        LauncherError: 1; the links are named.
    """
    places = {folder}
    for path in paths:
        target = folder / path
        places |= {target, target.with_name(f".{target.name}.part")}
        places |= {folder / parent for parent in PurePosixPath(path).parents}
    if links := sorted(str(place) for place in places if place.is_symlink()):
        message = f"nothing is written through links: {', '.join(links)}"
        raise LauncherError(Status.FAILED, message, "remove them, or name another DIR")


def damaged(folder: Path, sums: Mapping[str, str]) -> list[str]:
    """The paths whose files here are not there, or not whole."""
    return [path for path, checksum in sums.items() if not is_whole(folder / path, checksum)]


def is_whole(file: Path, checksum: str) -> bool:
    """Whether a file is there and is what its checksum says."""
    return file.is_file() and sha256(file) == checksum
