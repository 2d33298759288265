"""Publication: a model's folder appears whole, or not at all."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

from job.output.layout import CHECKSUMS
from job.system.files import make_folder, sha256, sync, sync_tree

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


def publish_model(model: Path, temporary: Path, fill: Callable[[Path], None]) -> None:
    """Make a model's folder appear whole, with the SHA-256 of its files.

    Args:
        model: the folder that appears.
        temporary: the folder beside it that becomes it by a rename; what an earlier attempt left there is removed.
        fill: writes the model's files into the folder that it is given.

    Raises:
        OSError: from the file system, and if the model has been published before; no part of it is left.
    """
    make_folder(model.parent)
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir()
    try:
        fill(temporary)
        files = sorted(path for path in temporary.rglob("*") if path.is_file())
        sums = [f"{sha256(path)}  {path.relative_to(temporary)}\n" for path in files]
        (temporary / CHECKSUMS).write_text("".join(sums))
        sync_tree(temporary)
        temporary.rename(model)  # fails if the model exists: this makes publication happen once
        sync(model.parent)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
