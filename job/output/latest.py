"""`latest`, the link to the model that is in use, and what moves it."""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import os
from pathlib import Path
from typing import TYPE_CHECKING

from job.errors import Exit, JobError
from job.output.promotion import Candidate, Verdict, decide
from job.system.files import content_errors, open_to_lock, read_json, sync, write_json

if TYPE_CHECKING:
    from collections.abc import Iterator


class Latest:
    """`latest` as a published run may move it. What the file system refuses is raised as it is.

    Args:
        root: the output folder.
        run: the run's name.
    """

    def __init__(self, root: Path, run: str) -> None:
        self._root, self._run = root, run
        self._folder, self._model = root / "runs" / run, root / "models" / run

    def promote(self) -> Verdict:
        """Decide once whether `latest` moves to this run, and move it; made again, it does what was decided."""
        decided = self._decided()
        if decided and (decided.verdict != "promoted" or (self._folder / "promoted").exists()):
            return decided
        with self._locked():
            latest = self._present()
            path = self._model / "report.json"
            with content_errors(path):
                new = Candidate.of(read_json(path) or {})
            decided = self._decided()
            if decided is None:
                decided = decide(new, latest)
                if decided.verdict == "promoted" and latest is None and (before := self._target()):
                    reason = f"the report of the present latest, {before}, cannot be read"
                    decided = dataclasses.replace(decided, reason=reason)
                write_json(self._folder / "verdict.json", dataclasses.asdict(decided))
            # A verdict that is found moves `latest` only where a crash came between the two. It does not move back
            # over a newer run, nor over one to which somebody has gone back since: who moves `latest` away from a
            # run has marked that run as promoted.
            if decided.verdict == "promoted" and not (self._folder / "promoted").exists():
                as_it_was = decided.compared_with == (latest.run if latest else None)
                older = latest is not None and latest.started < new.started
                if as_it_was or (older and decide(new, latest).verdict == "promoted"):
                    self._move()
                _mark(self._folder)
        return decided

    def move(self) -> str | None:
        """Move `latest` to this run, whatever its verdict and age; returns the run that it was, if any.

        Raises:
            JobError: 64 when the run is not published.
        """
        self._published()
        with self._locked():
            self._published()  # it may have been pruned
            before = self._target()
            if before != self._run:
                self._move()
            return before

    def _published(self) -> None:
        if not self._model.is_dir():
            there = sorted(path.name for path in self._model.parent.glob("[!.]*") if path.is_dir())
            hint = f"published are {', '.join(there)}" if there else "no run is"
            raise JobError(Exit.USAGE, "not-published", f"run {self._run!r} is not published in {self._root}", hint)

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        """Hold the promotion lock, and remove what a promotion of this run that was killed has left."""
        with promotion_lock(self._root):
            (self._root / f".latest.{self._run}").unlink(missing_ok=True)
            yield

    def _move(self) -> None:
        """Have `latest` name this run, and the one that it leaves marked: it was promoted, and is not to be again."""
        if before := self._target():
            _mark(self._root / "runs" / before)
        temporary = self._root / f".latest.{self._run}"
        try:
            temporary.symlink_to(Path("models") / self._run)
            temporary.rename(self._root / "latest")
        except OSError:
            temporary.unlink(missing_ok=True)
            raise
        sync(self._root)

    def _target(self) -> str | None:
        """The run that `latest` names, by the link alone; None where there is no link into models/."""
        try:
            target = self._root / (self._root / "latest").readlink()
        except FileNotFoundError:
            return None
        return target.name if target.parent == self._root / "models" else None

    def _present(self) -> Candidate | None:
        """The present latest; None where there is none, or one whose report cannot be read."""
        try:
            report = read_json(self._root / "latest" / "report.json")
            return Candidate.of(report) if report else None
        except ValueError:
            return None

    def _decided(self) -> Verdict | None:
        path = self._folder / "verdict.json"
        with content_errors(path):
            decided = read_json(path)
            return None if decided is None else Verdict(**decided)


@contextlib.contextmanager
def promotion_lock(root: Path) -> Iterator[None]:
    """Hold the promotion lock, alone among all processes that use this output folder."""
    lock = open_to_lock(root / ".promotion-lock")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
    finally:
        os.close(lock)


def _mark(folder: Path) -> None:
    """Say in a run's folder that `latest` was moved to the run; a folder that is gone needs no mark."""
    if folder.is_dir() and not folder.is_symlink():
        os.close(open_to_lock(folder / "promoted"))
        sync(folder)
