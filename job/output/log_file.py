"""runs/<run>/logs/rank-<rank>.log: a worker's log. Each line has its time, the pod's name and the text.

The file is opened for each write, so that it may be renamed, removed or replaced at any time.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

from job.output import layout
from job.system.files import write

if TYPE_CHECKING:
    from pathlib import Path

LIMIT = 10_000_000  # bytes of a file


@dataclass(frozen=True)
class LogFile:
    """One worker's log; only one process at a time writes to it.

    Args:
        root: the output folder.
        run: the run's name.
        rank: the worker's.
        limit: the most bytes that the file may hold.
    """

    root: Path
    run: str
    rank: int
    limit: int = LIMIT

    @property
    def path(self) -> Path:
        """Where the file is."""
        return self.root / "runs" / self.run / layout.LOGS / f"rank-{self.rank}.log"

    def run_exists(self) -> bool:
        """Whether the run has begun: rank 0 makes its folder, and a log alone would look like a run."""
        return self.path.parents[1].is_dir()

    def append(self, lines: bytes) -> None:
        """Append whole lines. If a write fails, the file keeps its earlier lines.

        If the file would exceed its limit, only its newer half is kept. Appended lines are not flushed to the disk, so
        a crash of the node may lose the last ones.

        Raises:
            OSError: from the file system.
            JobError: 73, the path leads through a symbolic link.
        """
        folder = self.path.parent
        layout.refuse_links((folder.parent.parent, folder.parent, folder))
        folder.mkdir(exist_ok=True)
        descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW, 0o666)
        with os.fdopen(descriptor, "r+b", buffering=0) as file:
            size = file.seek(0, os.SEEK_END)
            if size:
                file.seek(-1, os.SEEK_END)
                if file.read() != b"\n":  # a process was killed while it wrote
                    file.seek(0)
                    size = file.read().rfind(b"\n") + 1
                    file.truncate(size)
            if size + len(lines) <= self.limit:
                try:
                    rest = lines
                    while rest:  # a write that fills the volume is short, and only the next one fails
                        rest = rest[file.write(rest) :]
                except OSError:
                    file.truncate(size)
                    raise
                return
            file.seek(0)
            newer = (file.read() + lines)[-self.limit // 2 :]
        write(self.path, newer.partition(b"\n")[2])
