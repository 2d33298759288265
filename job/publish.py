"""A run's results -> the output volume, whole or not at all, and `latest` to the newest model that is good enough.

    runs/<run>/config.json    settings, their hash, JOB_UID, start, versions, fingerprints; written once
    runs/<run>/verdict.json   what promotion decided; written once, before `latest` moves; never decided again
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
from typing import TYPE_CHECKING, Any

from job.config import check_name
from job.errors import Exit, JobError
from job.files import read_json, sha256, sync, write_json
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
    """

    def __init__(self, root: Path, run: str, job_uid: str) -> None:
        check_name(run, 1, "the run's name")
        self.root, self.run, self.job_uid = root, run, job_uid
        self.folder = root / "runs" / run
        self.model = root / "models" / run

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
            config = self.config()["settings"]
            return self.promote(config["promote"], config["min_accuracy"])

    @contextlib.contextmanager
    def begin(self, config: Mapping[str, Any]) -> Iterator[None]:
        """Hold the run while it is trained: take its lock, write config.json once, sweep what was left half-done.

        Raises:
            JobError: 64 when another process trains it, or another Job began it; 73 or 75 from the file system.
        """
        with self.errors():
            self._check_owner()
            self.folder.mkdir(parents=True, exist_ok=True)
            lock = (self.folder / "lock").open("w")
        with lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise JobError(
                    Exit.USAGE,
                    "run-in-use",
                    f"run {self.run!r} is being trained by another process",
                    "use another --name",
                ) from None
            with self.errors():
                for left in self.model.parent.glob(f".{self.run}.*"):
                    shutil.rmtree(left)
                if not (self.folder / "config.json").exists():
                    write_json(self.folder / "config.json", config)
            self._check_settings(config)
            yield

    def config(self) -> dict[str, Any]:
        """What the run was begun with."""
        with self.errors():
            return read_json(self.folder / "config.json") or {}

    def _check_owner(self) -> None:
        config = read_json(self.folder / "config.json")
        if config and config["job_uid"] != self.job_uid:
            raise JobError(
                Exit.USAGE,
                "run-taken",
                f"run {self.run!r} belongs to another Job, {config['job_uid']}",
                "use another name",
            )

    def _check_settings(self, config: Mapping[str, Any]) -> None:
        begun = read_json(self.folder / "config.json") or {}
        if begun["settings_hash"] == config["settings_hash"]:
            return
        differing = [
            f"{name} {begun['must_match'][name]} and now {value}"
            for name, value in config["must_match"].items()
            if begun["must_match"].get(name) != value
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
                for path in [
                    *files,
                    temporary / CHECKSUMS,
                    *(p for p in temporary.rglob("*") if p.is_dir()),
                    temporary,
                ]:
                    sync(path)
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
        with self.errors(), (self.root / ".promotion-lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            path = self.folder / "verdict.json"
            decided = read_json(path)
            latest = self.root / "latest"
            if decided is None:
                verdict = decide(
                    read_json(self.model / "report.json") or {}, read_json(latest / "report.json"), policy, min_accuracy
                )
                write_json(path, asdict(verdict))
            else:
                verdict = Verdict(**decided)
            # A verdict that is found moves `latest` only where a crash came between the two: not back over a newer run.
            unmoved = read_json(latest / "report.json")
            before = unmoved["run"]["name"] if unmoved else None
            if verdict.verdict == "promoted" and before == verdict.compared_with and before != self.run:
                temporary = self.root / f".latest.{self.run}"
                temporary.unlink(missing_ok=True)
                temporary.symlink_to(Path("models") / self.run)
                temporary.rename(latest)
                sync(self.root)
            return verdict

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
