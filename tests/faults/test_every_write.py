"""A kill or an error at each system call with which a checkpoint, a publication or a promotion changes a file.

All of these calls are tried, and not POINTS of them, because they are few and need no TensorFlow.
"""

from __future__ import annotations

import hashlib
import os
import random
import shutil
import signal
import subprocess
import sys
from collections import Counter
from typing import TYPE_CHECKING, NamedTuple

import pytest

from job.errors import Exit, JobError
from job.output.checkpoint import restore_newest
from job.output.latest import move_latest
from job.output.promotion import Verdict
from job.output.serving import served_runs
from tests.faults import writes
from tests.faults.conftest import POINTS
from tests.job.processes import ROOT, contents, environment

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.conftest import Mount

pytestmark = pytest.mark.faults

# All of Linux's variants of each call, because C libraries choose different ones.
WRITES = (
    "openat,creat,mkdir,mkdirat,write,pwrite64,writev,pwritev2,copy_file_range,sendfile,ftruncate,fsync,fdatasync,"
    "rename,renameat,renameat2,symlink,symlinkat,link,linkat"
)
CHANGES = WRITES + ",unlink,unlinkat,rmdir,truncate,flock,chmod,fchmod,fchmodat,utimensat"
DEADLINE_S = 60
RUN = ("new", 0.92, 2)  # name, accuracy and day of the start
NEW = Verdict("promoted", 0, "not worse than old, whose accuracy is 0.9000", "old")


class Call(NamedTuple):
    """A system call: the n-th call of this name that a process makes."""

    name: str
    n: int


class Traced:
    """Runs tests.faults.writes under strace, which logs its calls, and kills it at one of them or makes this one fail.

    Args:
        log: the file for strace's log.
        folder: the folder whose changes are of interest.
        arguments: of tests.faults.writes.
    """

    def __init__(self, log: Path, folder: Path, *arguments: object) -> None:
        if not shutil.which("strace"):
            pytest.skip("strace is not installed")
        self._log, self._folder = log, folder
        # Every run makes the same calls, because none writes compiled files or starts threads.
        self._child = [sys.executable, "-B", "-m", "tests.faults.writes", *map(str, arguments)]
        self._environment = environment({"PYTHONHASHSEED": "0", "OPENBLAS_NUM_THREADS": "1"})

    def __call__(self, call: Call | None = None, fault: str = "signal=SIGKILL") -> int:
        """Run it, with a fault at one call if there is one given; returns the exit code, negative for a signal."""
        inject = [f"--inject={call.name}:{fault}:when={call.n}"] if call else []
        traced = ",".join(f"?{name}" for name in CHANGES.split(","))  # `?`: not every machine has every call
        ended = subprocess.run(
            ["strace", "-y", f"--trace={traced}", f"--output={self._log}", *inject, *self._child],
            cwd=ROOT,
            env=self._environment,
            timeout=DEADLINE_S,
            capture_output=True,
            text=True,
            check=False,
        )
        if "ptrace" in ended.stderr and "not permitted" in ended.stderr:
            pytest.skip(f"no process can be traced here: {ended.stderr.strip()}")
        return ended.returncode

    def calls(self, names: str) -> list[Call]:
        """The calls of the last run with one of these names that changed something in the folder."""
        counts: Counter[str] = Counter()
        calls = []
        for line in self._log.read_text().splitlines():
            name = line.partition("(")[0]
            counts[name] += 1
            changes = name != "openat" or "O_CREAT" in line or "O_WRONLY" in line or "O_RDWR" in line
            if name in names.split(",") and str(self._folder) in line and changes:
                calls.append(Call(name, counts[name]))
        return calls

    def last(self) -> Call:
        """The last call of the last run that changed something in the folder."""
        return self.calls(CHANGES)[-1]


def replace(state: Path, folder: Path) -> None:
    """Replace a folder by a copy of another one."""
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(state, folder, symlinks=True)


def hidden(folder: Path) -> list[str]:
    """The temporary files and folders below a folder; the lock of the promotion is none."""
    return [str(path.relative_to(folder)) for path in folder.rglob(".*") if path.name != ".promotion-lock"]


def assert_readers_see_whole(root: Path) -> None:
    """Every published model has the right checksums, `old` exists, and `latest` names one of the models.

    Each version in serving/ is the whole model of its run.
    """
    names = sorted(path.name for path in (root / "models").glob("[!.]*"))
    assert "old" in names
    for name in names:
        model = root / "models" / name
        files = sorted(path for path in model.rglob("*") if path.is_file() and path.name != "SHA256SUMS")
        sums = [f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.relative_to(model)}" for path in files]
        assert (model / "SHA256SUMS").read_text().splitlines() == sums
    assert str((root / "latest").readlink()) in {f"models/{name}" for name in names}
    for version, run in served_runs(root).items():
        served = contents(root / "serving" / str(version))
        assert {path: content for path, content in served.items() if content is not None} == {
            "run": f"{run}\n".encode(),
            "saved_model.pb": bytes(5000),
            "variables/variables.data": run.encode().ljust(31400),
        }


def serves_latest(root: Path) -> bool:
    """Whether the greatest version is the model of `latest`."""
    return [*served_runs(root).values()][-1] == (root / "latest").readlink().name


@pytest.fixture
def before(tmp_path: Path) -> Path:
    """An output folder whose only run, `old`, is published and latest, with three versions: the next removes one."""
    root = tmp_path / "before"
    for day, name in enumerate(("older", "old")):
        writes.run(root, name, 0.9, day + 1)
    for name in ("older", "old"):
        move_latest(root, name)
    for kind in ("models", "runs"):
        shutil.rmtree(root / kind / "older")
    assert served_runs(root) == {2: "old", 3: "older", 4: "old"}
    return root


@pytest.fixture
def after(tmp_path: Path, before: Path) -> dict[str, object]:
    """The content of the output folder after the run under test, without a fault."""
    replace(before, tmp_path / "undisturbed")
    assert writes.run(tmp_path / "undisturbed", *RUN) == NEW
    return contents(tmp_path / "undisturbed")


def assert_steps(folder: Path, *steps: int) -> None:
    """The newest checkpoint is sound and has one of these steps, where 0 stands for no checkpoint."""
    newest = restore_newest(folder, writes.SETTINGS, pytest.fail)
    step = newest.step if newest else 0
    assert step in steps
    if newest:
        expected = writes.checkpoint(step)
        assert {name: array.tobytes() for name, array in newest.params.items()} == {
            name: array.tobytes() for name, array in expected.params.items()
        }


@pytest.mark.parametrize("earlier", [0, 4])
@pytest.mark.parametrize(
    ("fault", "code"),
    [("signal=SIGKILL", -signal.SIGKILL), ("error=ENOSPC", Exit.OUTPUT), ("error=EIO", Exit.TRY_AGAIN)],
)
def test_checkpoint(tmp_path: Path, earlier: int, fault: str, code: int) -> None:
    """After a kill or an error at any call of a save, the previous or the new checkpoint is the newest, and sound.

    The next save succeeds and removes what was left.
    """
    state, folder = tmp_path / "state", tmp_path / "now" / "checkpoints"
    state.mkdir()
    for step in range(1, earlier + 1):
        writes.save(state / "checkpoints", step)
    traced = Traced(tmp_path / "log", folder.parent, "checkpoint", folder, earlier + 1)
    replace(state, folder.parent)
    assert traced() == 0
    calls = traced.calls(CHANGES if "signal" in fault else WRITES)
    assert {"openat", "write", "fsync"} <= {call.name for call in calls}
    for call in calls:
        replace(state, folder.parent)
        assert traced(call, fault) == code
        assert fault != "signal=SIGKILL" or traced.last() == call
        assert_steps(folder, earlier, earlier + 1)
        assert fault == "signal=SIGKILL" or hidden(folder) == []
        writes.save(folder, earlier + 2)
        assert_steps(folder, earlier + 2)
        assert hidden(folder) == []
        assert len(list(folder.iterdir())) <= 3


def test_a_partly_written_checkpoint(tmp_path: Path) -> None:
    """A temporary file that was cut off at any length is never restored, and the next save removes it."""
    writes.save(tmp_path, 1)
    writes.save(tmp_path, 2)
    whole = (tmp_path / "2.safetensors").read_bytes()
    (tmp_path / "2.safetensors").unlink()
    for length in [*range(0, len(whole), 997), len(whole)]:
        (tmp_path / ".2.safetensors.tmp").write_bytes(whole[:length])
        assert_steps(tmp_path, 1)
        writes.save(tmp_path, 2)
        assert_steps(tmp_path, 2)
        assert hidden(tmp_path) == []
        (tmp_path / "2.safetensors").unlink()


def test_run_killed(tmp_path: Path, before: Path, after: dict[str, object]) -> None:
    """After a kill at any call of a run, all publications are whole, and the run's next start ends as if undisturbed.

    The calls reach from the probe of the folder to the promotion.
    """
    root = tmp_path / "now"
    traced = Traced(tmp_path / "log", root, "run", root, *RUN)
    replace(before, root)
    assert traced() == 0
    assert contents(root) == after
    calls = traced.calls(CHANGES)
    assert {"openat", "write", "fsync", "rename", "mkdir", "symlink", "link", "unlinkat", "flock"} <= {
        call.name for call in calls
    }
    apart = 0
    for call in calls:
        replace(before, root)
        assert traced(call) == -signal.SIGKILL
        assert traced.last() == call
        assert_readers_see_whole(root)
        apart += not serves_latest(root)
        assert writes.run(root, *RUN) == NEW
        assert contents(root) == after
    assert apart == 1  # between the two renames


@pytest.mark.parametrize("seed", range(POINTS))
def test_run_killed_again_and_again(tmp_path: Path, before: Path, after: dict[str, object], seed: int) -> None:
    """A run that is killed ten times in a row, at seeded calls, ends as if undisturbed."""
    root = tmp_path / "now"
    traced = Traced(tmp_path / "log", root, "run", root, *RUN)
    replace(before, root)
    assert traced() == 0
    calls = traced.calls(CHANGES)
    replace(before, root)
    for call in random.Random(seed).choices(calls, k=10):  # noqa: S311 - no secret
        assert traced(call) in {0, -signal.SIGKILL}
        assert_readers_see_whole(root)
    assert writes.run(root, *RUN) == NEW
    assert contents(root) == after


@pytest.mark.parametrize(("error", "code"), [("ENOSPC", Exit.OUTPUT), ("ENOTCONN", Exit.TRY_AGAIN)])
def test_run_refused(tmp_path: Path, before: Path, after: dict[str, object], error: str, code: Exit) -> None:
    """A run whose call fails leaves with 73 or 75 and nothing half-done, and succeeds at its next start."""
    root = tmp_path / "now"
    traced = Traced(tmp_path / "log", root, "run", root, *RUN)
    replace(before, root)
    assert traced() == 0
    for call in traced.calls(WRITES):
        replace(before, root)
        assert traced(call, f"error={error}") == code
        assert_readers_see_whole(root)
        assert serves_latest(root)
        assert hidden(root) == []
        assert writes.run(root, *RUN) == NEW
        assert contents(root) == after


def test_promotion_by_hand_killed(tmp_path: Path, before: Path) -> None:
    """After a kill at any call of a promotion by hand, models and `latest` are whole, and the next one succeeds."""
    writes.run(before, *RUN)
    root = tmp_path / "now"
    traced = Traced(tmp_path / "log", root, "promote", root, "old")
    replace(before, root)
    assert traced() == 0
    expected = contents(root)
    assert str((root / "latest").readlink()) == "models/old"
    apart = 0
    for call in traced.calls(CHANGES):
        replace(before, root)
        assert traced(call) == -signal.SIGKILL
        assert_readers_see_whole(root)
        apart += not serves_latest(root)
        assert traced() == 0
        assert contents(root) == expected
    assert apart == 1  # between the two renames


def limit_space(root: Path, free: int) -> None:
    """Leave so many blocks of 4 KiB free on the volume."""
    size = os.statvfs(root)
    with (root / "ballast" / "file").open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, max(size.f_bavail * size.f_frsize - free * 4096, 1))


def limit_files(root: Path, free: int) -> None:
    """Leave room for so many files on the volume."""
    for number in range(os.statvfs(root).f_ffree - free):
        (root / "ballast" / str(number)).touch()


@pytest.mark.parametrize("limit", [limit_space, limit_files])
def test_full_volume(volume: Mount, limit: Callable[[Path, int], None]) -> None:
    """However little space is free, a run that needs more leaves with 73 and no temporary, and publications are intact.

    With enough space it succeeds.
    """
    root = volume("size=1m,nr_inodes=100")
    writes.run(root / "output", "old", 0.9, 1)
    refused = 0
    for free in range(1, 60):
        (root / "ballast").mkdir()
        limit(root, free)
        name = f"new-{free}"
        try:
            writes.run(root / "output", name, 0.9, 2)
        except JobError as error:
            refusal = error
        else:
            break
        assert (refusal.code, refusal.reason) == (Exit.OUTPUT, "output-not-writable"), str(refusal)
        refused += 1
        assert_readers_see_whole(root / "output")
        assert serves_latest(root / "output")
        assert hidden(root / "output") == []
        shutil.rmtree(root / "ballast")
        assert writes.run(root / "output", name, 0.9, 2).verdict == "promoted"
        assert_readers_see_whole(root / "output")
        assert str((root / "output" / "latest").readlink()) == f"models/{name}"
        for folder in ("models", "runs"):
            shutil.rmtree(root / "output" / folder / name)
        move_latest(root / "output", "old")
    assert refused > 5


def test_read_only_volume(volume: Mount) -> None:
    """A run on a read-only volume leaves with 73 at its start; once it is published, it needs no right to write."""
    root = volume("size=1m") / "output"
    writes.run(root, "old", 0.9, 1)
    before = contents(root)
    volume("ro")
    with pytest.raises(JobError) as caught:
        writes.run(root, *RUN)
    assert (caught.value.code, caught.value.reason) == (Exit.OUTPUT, "output-not-writable")
    assert contents(root) == before
    volume("rw")
    assert writes.run(root, *RUN) == NEW
    volume("ro")
    assert writes.run(root, *RUN) == NEW


@pytest.mark.parametrize("seed", range(max(POINTS, 5)))
def test_two_runs_at_the_same_moment(tmp_path: Path, before: Path, seed: int) -> None:
    """Two processes publish and promote a few seeded milliseconds apart: `latest` is the run that began later.

    Both models are whole.
    """
    moments = random.Random(seed)  # noqa: S311 - no secret
    root = tmp_path / "now"
    for _ in range(4):
        replace(before, root)
        both = [
            subprocess.Popen(
                [sys.executable, "-m", "tests.faults.writes", "run", root, name, accuracy, day, "--wait"],
                cwd=ROOT,
                env=environment(),
                stdin=subprocess.PIPE,
                text=True,
            )
            for name, accuracy, day in (("earlier", "0.925", "2"), ("later", "0.92", "3"))
        ]
        for process in both:
            assert process.stdin
            process.stdin.write(f"{moments.uniform(0, 0.02)}\n")
            process.stdin.flush()
        for process in both:
            process.communicate(timeout=DEADLINE_S)
        assert [process.returncode for process in both] == [0, 0]
        assert_readers_see_whole(root)
        assert sorted(os.listdir(root / "models")) == ["earlier", "later", "old"]  # noqa: PTH208 - only the names matter
        assert hidden(root) == []
        assert str((root / "latest").readlink()) == "models/later"
        assert serves_latest(root)
        verdicts = {name: writes.run(root, name, 0, 0) for name in ("earlier", "later")}
        kept = Verdict("kept", 0, "the current latest, later, started later", "later")
        old, earlier = (
            f"not worse than {name}, whose accuracy is {a:.4f}" for name, a in (("old", 0.9), ("earlier", 0.925))
        )
        assert verdicts in [
            {"earlier": Verdict("promoted", 0, old, "old"), "later": Verdict("promoted", 0, earlier, "earlier")},
            {"earlier": kept, "later": Verdict("promoted", 0, old, "old")},
        ]
