"""A run's folder: who owns it, its manifest, and what rank 0 does to it. layout.py lists its files."""

from __future__ import annotations

import contextlib
import re
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from job.config import check_name, usage_error
from job.error_table import errors_from
from job.errors import Exit, JobError
from job.must_match import check_match
from job.output import latest, layout
from job.output.io_errors import content_errors
from job.output.run_lock import run_lock
from job.system.files import make_folder, read_json, sha256, sweep, sync, sync_tree, write_json

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from job.output.promotion import Verdict

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
            raise usage_error(f"JOB_UID must be letters, digits, dots, hyphens and underscores, not {job_uid!r}")
        self.root, self.run, self.job_uid, self._take_over = root, run, job_uid, take_over
        self.folder = root / "runs" / run
        self.checkpoints = self.folder / "checkpoints"
        self.model = root / "models" / run
        self.manifest: dict[str, Any] = {}

    def probe(self) -> None:
        """Check that files can be written and renamed in the output folder, and leave it as it was.

        Raises:
            JobError: 73 or 75.
        """
        with self.errors():
            parent = self.root
            while not parent.exists():
                parent = parent.parent
            prefix = f".probe.{self.run}."
            with tempfile.TemporaryDirectory(prefix=prefix, dir=parent, ignore_cleanup_errors=True) as probe:
                file = Path(probe) / "written"
                # Another process that begins this run may remove the probe. It could write, so this one can too.
                with contextlib.suppress(FileNotFoundError):
                    file.write_bytes(b"")
                    file.rename(Path(probe) / "renamed")

    def promote_if_published(self, must_match: Mapping[str, Any] | None = None) -> Verdict | None:
        """The verdict of this run if it is published, decided now if promotion was cut short; else None.

        Args:
            must_match: the run's settings_to_match() now; None if the dataset or the model cannot be read.

        Raises:
            JobError: 64 if another Job began it; 65 or 78 as in begin(); 73 or 75 from the file system.
        """
        with self.errors():
            layout.refuse_symlinks(self.root, self.run)
            if not self.model.is_dir():
                return None
            before = self._read_manifest()
            if before is None:
                message = f"{self.model} exists, but {self.folder / 'config.json'}, which names its Job, is missing"
                raise JobError(Exit.USAGE, "run-taken", message, "use another --name")
            if must_match:
                self._check_settings(before["must_match"], must_match)
        return self.promote()

    @contextlib.contextmanager
    def begin(self, manifest: Mapping[str, Any]) -> Iterator[Verdict | None]:
        """Hold the run while it is trained: take its lock, write config.json once, remove unfinished files.

        Args:
            manifest: the content of config.json. If the run was begun before, `started` remains that of the first time.

        Yields:
            None; the verdict if another process has published the run in the meantime.

        Raises:
            JobError: 64 if another Job began it, or another process here trains it; 75 if another process of the Job
                still does; 65 if it was started on other data, 78 with other settings or another model; 73 or 75 from
                the file system.
        """
        with contextlib.ExitStack() as held:
            with self.errors():
                layout.refuse_symlinks(self.root, self.run)
                self._read_manifest()
                held.enter_context(run_lock(self.folder, self.job_uid))
            published = self.promote_if_published(manifest["must_match"])
            if published is None:
                with self.errors():
                    self._remove_unfinished()
                    before = self._read_manifest()
                    if before is None:
                        write_json(self.folder / "config.json", manifest)
                    else:
                        self._check_settings(before["must_match"], manifest["must_match"])
                self.manifest = {**manifest, "started": (before or manifest)["started"]}
            yield published

    def publish(self, fill: Callable[[Path], None]) -> None:
        """Make models/<run> appear whole, with the SHA-256 of its files, or not at all.

        Args:
            fill: writes the model's files into the folder that it is given.

        Raises:
            JobError: 73 or 75 from the file system, and if the model has been published before.
        """
        temporary = self.model.parent / f".{self.run}.{self.job_uid}"
        with self.errors():
            layout.refuse_symlinks(self.root, self.run)
            make_folder(self.model.parent)
            shutil.rmtree(temporary, ignore_errors=True)
            temporary.mkdir()
            try:
                fill(temporary)
                files = sorted(path for path in temporary.rglob("*") if path.is_file())
                sums = [f"{sha256(path)}  {path.relative_to(temporary)}\n" for path in files]
                (temporary / layout.CHECKSUMS).write_text("".join(sums))
                sync_tree(temporary)
                temporary.rename(self.model)  # fails if the model exists: this makes publication happen once
                sync(self.model.parent)
            except BaseException:
                shutil.rmtree(temporary, ignore_errors=True)
                raise

    def promote(self) -> Verdict:
        """Decide once whether `latest` moves to this published run, and move it; see latest.promote_run().

        Raises:
            JobError: 73 or 75 from the file system.
        """
        with self.errors():
            layout.refuse_symlinks(self.root, self.run)
            return latest.promote_run(self.root, self.run)

    def errors(self) -> contextlib.AbstractContextManager[None]:
        """Turns what the file system refuses here into a JobError: 73, or 75 if it may pass."""
        return errors_from("output", self.root)

    def _remove_unfinished(self) -> None:
        """Remove the temporaries of this run's processes that were killed."""
        for folder in (
            *layout.unfinished_models(self.root, self.run),
            *layout.unfinished_probes(self.root, self.run),
        ):
            shutil.rmtree(folder, ignore_errors=True)  # a probe that is still running removes itself
        sweep(self.folder)
        sweep(self.checkpoints)

    def _read_manifest(self) -> dict[str, Any] | None:
        """The content of config.json, None if the run has not begun; refuses another Job's run."""
        path = self.folder / "config.json"
        with content_errors(path):
            manifest = read_json(path)
            if manifest is None:
                return None
            if missing := {"job_uid", "started", "must_match"} - manifest.keys():
                raise ValueError(f"it lacks {', '.join(sorted(missing))}")
        if manifest["job_uid"] != self.job_uid and not self._take_over:
            message = f"run {self.run!r} belongs to another Job, {manifest['job_uid']}"
            raise JobError(Exit.USAGE, "run-taken", message, "use another --name, or continue that run with --continue")
        return manifest

    def _check_settings(self, before: Mapping[str, Any], now: Mapping[str, Any]) -> None:
        if any(before.get(split) != now[split] for split in ("train", "test")):
            message = f"run {self.run!r} was started on other data"
            hint = "use the original data, or another --name"
            raise JobError(Exit.DATA_DAMAGED, "dataset-other", message, hint)
        check_match(f"run {self.run!r}", before, now)
