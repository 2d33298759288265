"""`latest`, the link to the model in use: promotion moves it, and `promote RUN` does by hand.

serving.py adds a version with every move.
"""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import os
from pathlib import Path
from typing import TYPE_CHECKING

from job.config import check_name
from job.error_table import errors_from
from job.errors import Exit, JobError
from job.output import layout, serving
from job.output.io_errors import content_errors
from job.output.promotion import Candidate, Verdict, comparable, plan_promotion
from job.output.significance import UNREADABLE, read_predictions, worse_classes
from job.system.files import open_to_lock, read_json, sync, write_json

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from job.output.significance import WorseClass


def promote_run(root: Path, run: str) -> Verdict:
    """Decide once whether `latest` moves to a published run, and move it; a repetition obeys the first decision.

    Raises:
        JobError: 73 if a file that the run wrote is damaged.
        OSError: from the file system.
    """
    folder = root / "runs" / run
    recorded, settled = _recorded_verdict(folder)
    if recorded and settled:
        return recorded  # without the lock: the volume may be read-only by now
    with _moving_latest(root, run):
        recorded, settled = _recorded_verdict(folder)  # another process of this run may have come first
        if recorded and settled:
            return recorded
        new, latest = _read_candidate(root / "models" / run), _read_latest(root)
        worse: Sequence[WorseClass] = []
        if recorded is None and latest and comparable(new, latest):
            worse = _worse_classes(root / "models", new, latest)
        promotion = plan_promotion(new, latest, recorded, worse)
        verdict = promotion.verdict
        if recorded is None:
            if verdict.verdict == "promoted" and latest is None and (unreadable := linked_run(root)):
                reason = f"the report of the current latest, {unreadable}, cannot be read"
                verdict = dataclasses.replace(verdict, reason=reason)
            write_json(folder / "verdict.json", dataclasses.asdict(verdict))
        if promotion.moves_latest:
            _move(root, run)
        if verdict.verdict == "promoted":
            _mark_promoted(folder)
        return verdict


def move_latest(root: Path, run: str) -> str | None:
    """Move `latest` to a published run by hand, whatever its verdict and age; returns the run that was latest, if any.

    Raises:
        JobError: 64 if the run is not published; 73 or 75 from the file system.
    """
    check_name(run, 1, "the run's name")
    with errors_from("output", root):
        layout.refuse_symlinks(root, run)
        _require_published(root, run)
        with _moving_latest(root, run):
            _require_published(root, run)  # `prune` may have removed it in the meantime
            before = linked_run(root)
            if before != run:
                _move(root, run)
            return before


@contextlib.contextmanager
def promotion_lock(root: Path) -> Iterator[None]:
    """Hold the promotion lock, which all processes that use this output folder share."""
    lock = open_to_lock(root / layout.PROMOTION_LOCK)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        next(root.iterdir(), None)  # NFS keeps an old `latest` for up to a minute, unless the folder is opened
        yield
    finally:
        os.close(lock)


def linked_run(root: Path) -> str | None:
    """The run that `latest` names, by the link alone; None if there is no link into models/."""
    target = _target(root)
    return target.name if target and (root / target).parent == root / "models" else None


@contextlib.contextmanager
def _moving_latest(root: Path, run: str) -> Iterator[None]:
    """Hold the promotion lock, and finish or remove what a killed promotion left behind."""
    with promotion_lock(root):
        layout.unfinished_link(root, run).unlink(missing_ok=True)
        linked = linked_run(root)
        try:
            serving.catch_up(root, linked)
        except JobError:
            if linked == run:  # that another run's model cannot be served is not this run's failure
                raise
        yield


def _move(root: Path, run: str) -> None:
    """Point `latest` at a run and serve the run: everything is prepared, then two renames follow each other.

    First mark the run that `latest` named, so that only `promote RUN` can make it latest again.
    """
    before = _target(root)
    if previous := linked_run(root):
        _mark_promoted(root / "runs" / previous)
    with serving.next_version(root, run) as undo:
        _point_latest(root, run, Path("models") / run)
        undo.callback(_point_latest, root, run, before)
    sync(root)


def _point_latest(root: Path, run: str, target: Path | None) -> None:
    """Replace `latest` by a link to a target; remove it if the target is None. `run` is the run that is promoted."""
    temporary = layout.unfinished_link(root, run)
    try:
        if target is None:
            (root / "latest").unlink()
        else:
            temporary.symlink_to(target)
            temporary.rename(root / "latest")
    except OSError:
        temporary.unlink(missing_ok=True)
        raise


def _target(root: Path) -> Path | None:
    """Where `latest` leads, as the link says it; None if there is no link."""
    try:
        return (root / "latest").readlink()
    except FileNotFoundError:
        return None


def _mark_promoted(folder: Path) -> None:
    """Record in a run's folder that `latest` was moved to the run; a folder that is gone needs no mark."""
    if folder.is_dir() and not folder.is_symlink():
        os.close(open_to_lock(folder / "promoted"))
        sync(folder)


def _require_published(root: Path, run: str) -> None:
    models = root / "models"
    if not (models / run).is_dir():
        published = sorted(path.name for path in models.glob("[!.]*") if path.is_dir())
        hint = f"published are {', '.join(published)}" if published else "no run is"
        raise JobError(Exit.USAGE, "not-published", f"run {run!r} is not published in {root}", hint)


def _read_candidate(model: Path) -> Candidate:
    path = model / "report.json"
    with content_errors(path):
        return Candidate.of(read_json(path) or {})


def _read_latest(root: Path) -> Candidate | None:
    """The current latest; None if there is none, or its report cannot be read."""
    try:
        report = read_json(root / "latest" / "report.json")
        return Candidate.of(report) if report else None
    except ValueError:
        return None


def _worse_classes(models: Path, new: Candidate, latest: Candidate) -> Sequence[WorseClass]:
    """The classes of a model that are worse than those of the current latest; none if predictions cannot be read."""
    try:
        before = read_predictions(models / latest.run)
        return worse_classes(new.classes, read_predictions(models / new.run), before)
    except UNREADABLE:
        return []


def _recorded_verdict(folder: Path) -> tuple[Verdict | None, bool]:
    """The verdict in a run's folder, and whether it has been carried out."""
    path = folder / "verdict.json"
    with content_errors(path):
        content = read_json(path)
        verdict = None if content is None else Verdict(**content)
    return verdict, verdict is not None and (verdict.verdict != "promoted" or (folder / "promoted").exists())
