"""A run's results -> the output volume, whole or not at all, and `latest` to the newest model that is good enough.

    runs/<run>/lock           held by the process that trains the run
    runs/<run>/config.json    settings, their hash, JOB_UID, start, versions, fingerprints; written once
    runs/<run>/events.jsonl   see journal.py, as for tensorboard/ beside it
    runs/<run>/checkpoints/   see checkpoint.py
    runs/<run>/verdict.json   what promotion decided; written once, before `latest` moves; never decided again
    runs/<run>/promoted       an empty file: `latest` was moved as the verdict says, and will not be again
    models/<run>/             appears whole and never changes
    latest -> models/<run>    moved only by promotion
    .pruned/                  what prune.py is deleting

Everything is written to a temporary sibling, flushed to the disk and renamed. `latest` is the only link in the folder.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import re
import shutil
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from job.cluster import LOCAL_UID
from job.config import check_name, settings_differences, usage
from job.errors import Exit, JobError
from job.output.latest import Latest
from job.system.files import (
    content_errors,
    make_folder,
    open_to_lock,
    read_json,
    sha256,
    sweep,
    sync,
    sync_tree,
    write_json,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from job.output.promotion import Verdict

CHECKSUMS = "SHA256SUMS"
# What a network file system answers in passing; everything else stays wrong until somebody mends it.
PASSING = {errno.EIO, errno.ESTALE, errno.ETIMEDOUT}
# For so long a Job waits for its run's lock, which a network file system frees late when its holder's node dies.
LOCK_WAIT_S = 60.0
LOOK_S = 1.0  # and anybody for so long: a prune holds it for a moment, to see whether the run is trained
LOCK_POLL_S = 0.2
UID = re.compile(r"[A-Za-z0-9][-._A-Za-z0-9]*")


class RunFolder:
    """One run's part of the output folder; only rank 0 makes one.

    Args:
        root: the output folder; made when the run begins.
        run: the run's name.
        job_uid: the UID of the Job that trains it, `local` without a cluster.
        take_over: whether the run may be one that another Job began.

    Attributes:
        manifest: the content of config.json, once begin() has been entered; settings that may differ between starts are
            those of this start.
        checkpoints: the folder of its checkpoints.
    """

    def __init__(self, root: Path, run: str, job_uid: str, *, take_over: bool = False) -> None:
        check_name(run, 1, "the run's name")
        if not UID.fullmatch(job_uid):
            raise usage(f"JOB_UID must be letters, digits, dots, hyphens and underscores, not {job_uid!r}")
        self.root, self.run, self.job_uid, self._take_over = root, run, job_uid, take_over
        self.folder = root / "runs" / run
        self.checkpoints = self.folder / "checkpoints"
        self.model = root / "models" / run
        self.manifest: dict[str, Any] = {}

    def probe(self) -> None:
        """Try that the folder can be written and renames within it, and leave it as it was.

        Raises:
            JobError: 73 or 75.
        """
        with self.errors():
            parent = self.root
            while not parent.exists():
                parent = parent.parent
            with tempfile.TemporaryDirectory(
                prefix=f".probe.{self.run}.", dir=parent, ignore_cleanup_errors=True
            ) as name:
                file = Path(name) / "written"
                # Gone again: the process that trains this run has swept it, which is to say that it could write.
                with contextlib.suppress(FileNotFoundError):
                    file.write_bytes(b"")
                    file.rename(Path(name) / "renamed")

    def published_verdict(self) -> Verdict | None:
        """The verdict of this run where it is published already, made now if promotion was cut short.

        Raises:
            JobError: 64 when another Job began it; 73 or 75 from the file system.
        """
        with self.errors():
            refuse_links(self.root, self.run)
            if not self.model.is_dir():
                return None
            if self._check_owner() is None:
                message = f"{self.model} is there, but not what it was trained with, {self.folder / 'config.json'}"
                raise JobError(Exit.USAGE, "run-taken", message, "use another name")
        return self.promote()

    @contextlib.contextmanager
    def begin(self, manifest: Mapping[str, Any]) -> Iterator[Verdict | None]:
        """Hold the run while it is trained: take its lock, write config.json once, sweep what was left half-done.

        Args:
            manifest: the content of config.json. Where the run was begun before, `manifest` keeps that start's time.

        Yields:
            None; the verdict where another process has published the run in the meantime.

        Raises:
            JobError: 64 when another Job began it, or another process here trains it; 75 when another of the Job's
                still does; 65 when it was begun on other data, 78 with other settings; 73 or 75 from the file system.
        """
        with self.errors():
            refuse_links(self.root, self.run)
            self._check_owner()
            lock = self._lock()
        try:
            published = self.published_verdict()
            if published is None:
                with self.errors():
                    self._sweep()
                    before = self._check_owner()
                    if before is None:
                        write_json(self.folder / "config.json", manifest)
                    else:
                        self._check_settings(before["must_match"], manifest["must_match"])
                self.manifest = {**manifest, "started": (before or manifest)["started"]}
            yield published
        finally:
            os.close(lock)

    def _sweep(self) -> None:
        """Remove the temporaries that killed processes of this run have left."""
        for folder in (*half_published(self.root, self.run), *self.root.glob(f".probe.{self.run}.*")):
            # Another process of this name may be probing, and cleans up after itself.
            shutil.rmtree(folder, ignore_errors=True)
        sweep(self.folder)
        sweep(self.checkpoints)

    def _lock(self) -> int:
        """The run's lock, held: that of the folder that is there, and not of one that was pruned in the meantime."""
        path = self.folder / "lock"
        while True:
            make_folder(self.folder)
            with contextlib.suppress(FileNotFoundError), contextlib.ExitStack() as unless_held:
                lock = open_to_lock(path)
                unless_held.callback(os.close, lock)
                self._hold(lock)
                if os.path.samestat(os.fstat(lock), path.lstat()):
                    unless_held.pop_all()
                    return lock

    def _hold(self, lock: int) -> None:
        deadline = time.monotonic() + (LOOK_S if self.job_uid == LOCAL_UID else LOCK_WAIT_S)
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if time.monotonic() >= deadline:
                    break
                time.sleep(LOCK_POLL_S)
            else:
                return
        message = f"run {self.run!r} is being trained by another process"
        if self.job_uid == LOCAL_UID:
            raise JobError(Exit.USAGE, "run-in-use", message, "use another --name")
        message = f"{message}, and was for {LOCK_WAIT_S:g} s"
        raise JobError(Exit.TRY_AGAIN, "run-in-use", message, "the run can be started again")

    def _check_owner(self) -> dict[str, Any] | None:
        """config.json's content, None where the run is not begun; refuses another Job's run."""
        path = self.folder / "config.json"
        with content_errors(path):
            config = read_json(path)
            if config is None:
                return None
            if missing := {"job_uid", "started", "must_match"} - config.keys():
                raise ValueError(f"it lacks {', '.join(sorted(missing))}")
        if config["job_uid"] != self.job_uid and not self._take_over:
            message = f"run {self.run!r} belongs to another Job, {config['job_uid']}"
            raise JobError(Exit.USAGE, "run-taken", message, "use another name, or --continue to take it up")
        return config

    def _check_settings(self, before: Mapping[str, Any], now: Mapping[str, Any]) -> None:
        if before == now:
            return
        if any(before.get(split) != now[split] for split in ("train", "test")):
            message = f"run {self.run!r} was begun on other data"
            raise JobError(
                Exit.DATA_DAMAGED, "dataset-other", message, "give it that data again, or use another --name"
            )
        message = f"run {self.run!r} was begun with {settings_differences(before, now)}"
        raise JobError(Exit.SETTINGS, "other-settings", message, "give the same flags again, or another --name")

    def publish(self, fill: Callable[[Path], None]) -> None:
        """Make models/<run> appear whole.

        Args:
            fill: writes the model's files into the folder that it is given.

        Raises:
            JobError: 73 or 75 from the file system.
        """
        temporary = self.model.parent / f".{self.run}.{self.job_uid}"
        with self.errors():
            refuse_links(self.root, self.run)
            make_folder(self.model.parent)
            shutil.rmtree(temporary, ignore_errors=True)
            temporary.mkdir()
            try:
                fill(temporary)
                files = sorted(path for path in temporary.rglob("*") if path.is_file())
                sums = [f"{sha256(path)}  {path.relative_to(temporary)}\n" for path in files]
                (temporary / CHECKSUMS).write_text("".join(sums))
                sync_tree(temporary)
                temporary.rename(self.model)  # onto a model that is there already it fails
                sync(self.model.parent)
            except BaseException:
                shutil.rmtree(temporary, ignore_errors=True)
                raise

    def promote(self) -> Verdict:
        """Latest.promote() of this published run.

        Raises:
            JobError: 73 or 75 from the file system.
        """
        with self.errors():
            refuse_links(self.root, self.run)
            return Latest(self.root, self.run).promote()

    def errors(self) -> contextlib.AbstractContextManager[None]:
        """output_errors() of this folder."""
        return output_errors(self.root)


@contextlib.contextmanager
def output_errors(root: Path, deed: str = "written") -> Iterator[None]:
    """Turn what the file system refuses of an output folder, which was to be `written` or `read`, into a JobError.

    Raises:
        JobError: 75 where it may pass, else 73.
    """
    try:
        yield
    except OSError as error:
        where, what = error.filename or root, error.strerror or str(error)
        if error.errno in PASSING:
            raise JobError(
                Exit.TRY_AGAIN,
                "output-io",
                f"the output folder failed at {where}: {what}",
                "the run can be started again" if deed == "written" else "try again",
            ) from error
        more = " with --output, or make room" if deed == "written" else ""
        raise JobError(
            Exit.OUTPUT,
            "output-not-writable",
            f"the output folder cannot be {deed} at {where}: {what}",
            f"give a folder that can be {deed}{more}",
        ) from error


def refuse_links(root: Path, run: str) -> None:
    """Refuse symbolic links where a run writes, for they could lead out of the output folder.

    `.latest.<run>` is left by a promotion that was killed, and is only ever removed.

    Raises:
        JobError: 73.
    """
    folder = root / "runs" / run
    above = [root / "runs", root / "models", root / ".promotion-lock", folder, root / "models" / run]
    below = (Path(at, name) for at, folders, files in os.walk(folder) for name in (*folders, *files))
    for path in (*above, *half_published(root, run), *below):
        if path.is_symlink():
            message = f"{path} is a symbolic link, and nothing is written through one"
            raise JobError(Exit.OUTPUT, "output-link", message, "remove it")


def half_published(root: Path, run: str) -> Iterator[Path]:
    """The models that processes of a run were about to publish when they were killed."""
    return (root / "models").glob(f".{run}.*")


def move_latest(root: Path, run: str) -> str | None:
    """Latest.move() by hand.

    Args:
        root: the output folder.
        run: the run's name.

    Raises:
        JobError: 64 when the run is not published; 73 or 75 from the file system.
    """
    check_name(run, 1, "the run's name")
    with output_errors(root):
        refuse_links(root, run)
        return Latest(root, run).move()
