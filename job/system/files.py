"""Files that are there whole or not at all."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from typing import TYPE_CHECKING, Any

from job.errors import Exit, JobError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path


def read_json(path: Path) -> dict[str, Any] | None:
    """The object that a JSON file holds; None where there is no file.

    Raises:
        ValueError: where it holds something else.
    """
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    if not isinstance(found, dict):
        raise ValueError(f"{path} holds no JSON object")  # noqa: TRY004 - as for all that is wrong with a file
    return found


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write a JSON file whole or not at all."""
    write(path, (json.dumps(content, indent=2) + "\n").encode())


def write(path: Path, content: bytes) -> None:
    """Write a file: to a temporary sibling, to the disk, and renamed. What fails leaves no sibling behind."""
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.unlink(missing_ok=True)
    try:
        with temporary.open("xb") as file:  # which follows no link
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.rename(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync(path.parent)


def sweep(folder: Path) -> None:
    """Remove the temporary siblings that a killed write() left in a folder, if there is one."""
    for left in folder.glob(".*.tmp"):
        left.unlink()


def make_folder(path: Path) -> None:
    """Make a folder where there is none, and those above it, so that no crash of the machine takes it away again."""
    if not path.is_dir():
        make_folder(path.parent)
        path.mkdir(exist_ok=True)
        sync(path.parent)


def sha256(path: Path) -> str:
    """SHA-256 of a file's content, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sync_tree(folder: Path) -> None:
    """Flush a folder and all below it to the disk, so that a rename cannot outlive its content."""
    for path in folder.rglob("*"):
        sync(path)
    sync(folder)


def sync(path: Path) -> None:
    """Flush a file or folder to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def open_to_lock(path: Path) -> int:
    """The descriptor of a file to be locked, made where there is none; a link is not followed."""
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666)


@contextlib.contextmanager
def content_errors(path: Path) -> Iterator[None]:
    """Turn what is wrong with the content of a file that this run wrote into a JobError: 73, naming it."""
    try:
        yield
    except (ValueError, TypeError) as error:
        message = f"{path} is damaged: {error}"
        raise JobError(Exit.OUTPUT, "output-damaged", message, "put it back, or use another --name") from error
