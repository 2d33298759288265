"""A run's results -> the output volume, whole or not at all, and `latest` to the newest model that is good enough.

    runs/<run>/config.json    settings, their hash, JOB_UID, start, versions, fingerprints; written once
    runs/<run>/verdict.json   what promotion decided; written once, before `latest` moves; never decided again
    runs/<run>/promoted       an empty file: `latest` was moved as the verdict says, and will not be again
    models/<run>/             appears whole and never changes
    latest -> models/<run>    moved only by promotion

Everything is written to a temporary sibling, flushed to the disk and renamed.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import shutil
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from job.config import check_name
from job.errors import Exit, JobError
from job.files import read_json, sha256, sync, sync_tree, write_json
from job.promotion import Verdict, decide

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

CHECKSUMS = "SHA256SUMS"
# What a network file system answers in passing; everything else stays wrong until somebody mends it.
PASSING = {errno.EIO, errno.ESTALE, errno.ETIMEDOUT}


class Output:
    """One run's part of the output folder; only rank 0 makes one.

    Args:
        root: the output folder; made when the run begins.
        run: the run's name.
        job_uid: the UID of the Job that trains it, `local` without a cluster.

    Attributes:
        begun: with what the run is trained, once begin() has let it: config.json's content, but for what differs in
            this start and may.
    """

    def __init__(self, root: Path, run: str, job_uid: str) -> None:
        check_name(run, 1, "the run's name")
        self.root, self.run, self.job_uid = root, run, job_uid
        self.folder = root / "runs" / run
        self.model = root / "models" / run
        self.begun: dict[str, Any] = {}

    def probe(self) -> None:
        """Try that the folder can be written and renames within it, and leave it as it was.

        Raises:
            JobError: 73 or 75.
        """
        with self.errors():
            parent = self.root
            while not parent.exists():
                parent = parent.parent
            with tempfile.TemporaryDirectory(prefix=".probe-", dir=parent) as name:
                file = Path(name) / "written"
                file.write_bytes(b"")
                file.rename(Path(name) / "renamed")

    def verdict(self) -> Verdict | None:
        """The verdict of this run where it is published already, made now if promotion was cut short."""
        with self.errors():
            if not self.model.is_dir():
                return None
            self._check_owner()
            if not (self.folder / "config.json").exists():
                message = f"{self.model} is there, but not what it was trained with, {self.folder / 'config.json'}"
                raise JobError(Exit.USAGE, "run-taken", message, "use another name")
            settings = (read_json(self.model / "report.json") or {})["settings"]
            return self.promote(settings["promote"], settings["min_accuracy"])

    @contextlib.contextmanager
    def begin(self, description: Mapping[str, Any]) -> Iterator[Verdict | None]:
        """Hold the run while it is trained: take its lock, write config.json once, sweep what was left half-done.

        Args:
            description: the content of config.json. Where the run was begun before, `begun` keeps that start's time.

        Yields:
            None; the verdict where another process has published the run in the meantime.

        Raises:
            JobError: 64 when another process trains it, or another Job began it; 78 when it was begun with other
                settings; 73 or 75 from the file system.
        """
        with self.errors():
            self._check_owner()
            self.folder.mkdir(parents=True, exist_ok=True)
            lock = (self.folder / "lock").open("w")
        with lock:
            with self.errors():
                self._hold(lock)
                self._check_owner()
            published = self.verdict()
            if published is None:
                with self.errors():
                    for left in self.model.parent.glob(f".{self.run}.*"):
                        shutil.rmtree(left)
                    before = read_json(self.folder / "config.json")
                    if before is None:
                        write_json(self.folder / "config.json", description)
                if before:
                    self._check_settings(before, description)
                self.begun = {**description, "started": (before or description)["started"]}
            yield published

    def _hold(self, lock: TextIO) -> None:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            message = f"run {self.run!r} is being trained by another process"
            raise JobError(Exit.USAGE, "run-in-use", message, "use another --name") from None

    def _check_owner(self) -> None:
        config = read_json(self.folder / "config.json")
        if config and config["job_uid"] != self.job_uid:
            raise JobError(
                Exit.USAGE,
                "run-taken",
                f"run {self.run!r} belongs to another Job, {config['job_uid']}",
                "use another name",
            )

    def _check_settings(self, before: Mapping[str, Any], now: Mapping[str, Any]) -> None:
        if before["settings_hash"] == now["settings_hash"]:
            return
        differing = [
            f"{name} {before['must_match'].get(name)} and now {value}"
            for name, value in now["must_match"].items()
            if before["must_match"].get(name) != value
        ]
        raise JobError(
            Exit.SETTINGS,
            "other-settings",
            f"run {self.run!r} was begun with {', '.join(differing)}",
            "give the same flags again, or another --name",
        )

    def publish(self, fill: Callable[[Path], None]) -> None:
        """Make models/<run> appear whole.

        Args:
            fill: writes the model's files into the folder that it is given.

        Raises:
            JobError: 73 or 75 from the file system.
        """
        temporary = self.model.parent / f".{self.run}.{self.job_uid}"
        with self.errors():
            self.model.parent.mkdir(parents=True, exist_ok=True)
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

    def promote(self, policy: str, min_accuracy: float) -> Verdict:
        """Decide once whether `latest` moves to this run, and move it; made again, it does what was decided.

        Args:
            policy: --promote.
            min_accuracy: --min-accuracy.
        """
        path, done = self.folder / "verdict.json", self.folder / "promoted"
        with self.errors():
            decided = read_json(path)
            if decided and (decided["verdict"] != "promoted" or done.exists()):
                return Verdict(**decided)
        with self.errors(), (self.root / ".promotion-lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            latest = self._latest()
            decided = read_json(path)
            if decided is None:
                report = read_json(self.model / "report.json") or {}
                decided = asdict(decide(report, latest, policy, min_accuracy))
                write_json(path, decided)
            # A verdict that is found moves `latest` only where a crash came between the two: not back over a newer run,
            # nor over one to which somebody has gone back since.
            before = latest["run"]["name"] if latest else None
            if decided["verdict"] == "promoted" and before == decided["compared_with"]:
                temporary = self.root / f".latest.{self.run}"
                temporary.unlink(missing_ok=True)
                temporary.symlink_to(Path("models") / self.run)
                temporary.rename(self.root / "latest")
                sync(self.root)
            if decided["verdict"] == "promoted":
                done.touch()
                sync(self.folder)
            return Verdict(**decided)

    def _latest(self) -> dict[str, Any] | None:
        """The report of the present latest; None where there is none, or one that cannot be read."""
        try:
            return read_json(self.root / "latest" / "report.json")
        except ValueError:
            return None

    @contextlib.contextmanager
    def errors(self) -> Iterator[None]:
        """Turn what the file system refuses into a JobError: 75 where it may pass, else 73."""
        try:
            yield
        except OSError as error:
            where, what = error.filename or self.root, error.strerror or str(error)
            if error.errno in PASSING:
                raise JobError(
                    Exit.TRY_AGAIN,
                    "output-io",
                    f"the output folder failed at {where}: {what}",
                    "the run can be started again",
                ) from error
            raise JobError(
                Exit.OUTPUT,
                "output-not-writable",
                f"the output folder cannot be written at {where}: {what}",
                "give a folder that can be written with --output, or make room",
            ) from error
