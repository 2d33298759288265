"""Killed, or refused, at every system call that changes a file: of a checkpoint, a publication and a promotion.

All of these calls are tried, not POINTS of them: they are few, and no TensorFlow is needed.
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
from tests.faults import writes
from tests.faults.conftest import POINTS
from tests.job.processes import ROOT, contents, environment

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.conftest import Mount

pytestmark = pytest.mark.faults

# By all names that Linux has for each, for a C library may choose another one.
WRITES = (
    "openat,creat,mkdir,mkdirat,write,pwrite64,writev,pwritev2,copy_file_range,sendfile,ftruncate,fsync,fdatasync,"
    "rename,renameat,renameat2,symlink,symlinkat,link,linkat"
)
CHANGES = WRITES + ",unlink,unlinkat,rmdir,truncate,flock,chmod,fchmod,fchmodat,utimensat"
DEADLINE_S = 60
RUN = ("new", 0.92, 2)  # name, accuracy and the day on which it began
NEW = Verdict("promoted", 0, "not worse than old, whose accuracy is 0.9000", "old")


class Call(NamedTuple):
    """A system call: the n-th of its name that a process makes."""

    name: str
    n: int


class Traced:
    """Runs tests.faults.writes under strace, which numbers its calls and makes one of them the last, or fail.

    Args:
        log: where strace may write.
        folder: whose changes count.
        arguments: of tests.faults.writes.
    """

    def __init__(self, log: Path, folder: Path, *arguments: object) -> None:
        if not shutil.which("strace"):
            pytest.skip("strace is not installed")
        self._log, self._folder = log, folder
        # The same calls each time: no compiled files are written, and no threads are started.
        self._child = [sys.executable, "-B", "-m", "tests.faults.writes", *map(str, arguments)]
        self._environment = environment({"PYTHONHASHSEED": "0", "OPENBLAS_NUM_THREADS": "1"})

    def __call__(self, call: Call | None = None, what: str = "signal=SIGKILL") -> int:
        """The exit code, negative for a signal, where at most one call has something injected."""
        inject = [f"--inject={call.name}:{what}:when={call.n}"] if call else []
        traced = ",".join(f"?{name}" for name in CHANGES.split(","))  # where this machine has such a call
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
        """Of the run before, those of certain names that changed something in the folder."""
        counts: Counter[str] = Counter()
        found = []
        for line in self._log.read_text().splitlines():
            name = line.partition("(")[0]
            counts[name] += 1
            changes = name != "openat" or "O_CREAT" in line or "O_WRONLY" in line or "O_RDWR" in line
            if name in names.split(",") and str(self._folder) in line and changes:
                found.append(Call(name, counts[name]))
        return found

    def last(self) -> Call:
        """Of the run before, the last call."""
        return self.calls(CHANGES)[-1]


def put(state: Path, folder: Path) -> None:
    """Have a folder hold what another one does."""
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(state, folder, symlinks=True)


def hidden(folder: Path) -> list[str]:
    """The temporaries below a folder; the promotion's lock is none."""
    return [str(path.relative_to(folder)) for path in folder.rglob(".*") if path.name != ".promotion-lock"]


def assert_readers_see_whole(root: Path) -> None:
    """Every published model is what its checksums say, `old` is there, and `latest` names one of them."""
    found = sorted(path.name for path in (root / "models").glob("[!.]*"))
    assert "old" in found
    for name in found:
        model = root / "models" / name
        files = sorted(path for path in model.rglob("*") if path.is_file() and path.name != "SHA256SUMS")
        sums = [f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.relative_to(model)}" for path in files]
        assert (model / "SHA256SUMS").read_text().splitlines() == sums
    assert str((root / "latest").readlink()) in {f"models/{name}" for name in found}


@pytest.fixture
def before(tmp_path: Path) -> Path:
    """An output folder with a run, `old`, that is published and latest."""
    writes.run(tmp_path / "before", "old", 0.9, 1)
    return tmp_path / "before"


@pytest.fixture
def after(tmp_path: Path, before: Path) -> dict[str, object]:
    """What the output folder holds when the run under test has gone through it undisturbed."""
    put(before, tmp_path / "undisturbed")
    assert writes.run(tmp_path / "undisturbed", *RUN) == NEW
    return contents(tmp_path / "undisturbed")


def assert_steps(folder: Path, *steps: int) -> None:
    """The newest checkpoint is of one of these steps, 0 for none, and whole; none of them is damaged."""
    found = restore_newest(folder, writes.SETTINGS, pytest.fail)
    step = found.step if found else 0
    assert step in steps
    if found:
        expected = writes.checkpoint(step)
        assert {name: array.tobytes() for name, array in found.params.items()} == {
            name: array.tobytes() for name, array in expected.params.items()
        }


@pytest.mark.parametrize("earlier", [0, 4])
@pytest.mark.parametrize(
    ("what", "code"),
    [("signal=SIGKILL", -signal.SIGKILL), ("error=ENOSPC", Exit.OUTPUT), ("error=EIO", Exit.TRY_AGAIN)],
)
def test_checkpoint(tmp_path: Path, earlier: int, what: str, code: int) -> None:
    """A process is killed, or has its call fail, at each call by which it saves the first or the fifth checkpoint.

    The one before or the new one is the newest, whole; the next save succeeds, and leaves nothing else behind.
    """
    state, folder = tmp_path / "state", tmp_path / "now" / "checkpoints"
    state.mkdir()
    for step in range(1, earlier + 1):
        writes.save(state / "checkpoints", step)
    traced = Traced(tmp_path / "log", folder.parent, "checkpoint", folder, earlier + 1)
    put(state, folder.parent)
    assert traced() == 0
    calls = traced.calls(CHANGES if "signal" in what else WRITES)
    assert {"openat", "write", "fsync"} <= {call.name for call in calls}
    for call in calls:
        put(state, folder.parent)
        assert traced(call, what) == code
        assert what != "signal=SIGKILL" or traced.last() == call
        assert_steps(folder, earlier, earlier + 1)
        assert what == "signal=SIGKILL" or hidden(folder) == []
        writes.save(folder, earlier + 2)
        assert_steps(folder, earlier + 2)
        assert hidden(folder) == []
        assert len(list(folder.iterdir())) <= 3


def test_checkpoint_of_which_a_part_was_written(tmp_path: Path) -> None:
    """A kill in the midst of a write leaves any part of the temporary: it is never taken for one, and swept."""
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
    """A run is killed at each call that changes a file, from its probe of the folder to its promotion.

    At that moment all that is published is whole; the same run again ends as if nothing had happened.
    """
    root = tmp_path / "now"
    traced = Traced(tmp_path / "log", root, "run", root, *RUN)
    put(before, root)
    assert traced() == 0
    assert contents(root) == after
    calls = traced.calls(CHANGES)
    assert {"openat", "write", "fsync", "rename", "mkdir", "symlink", "flock"} <= {call.name for call in calls}
    for call in calls:
        put(before, root)
        assert traced(call) == -signal.SIGKILL
        assert traced.last() == call
        assert_readers_see_whole(root)
        assert writes.run(root, *RUN) == NEW
        assert contents(root) == after


@pytest.mark.parametrize("seed", range(POINTS))
def test_run_killed_again_and_again(tmp_path: Path, before: Path, after: dict[str, object], seed: int) -> None:
    """A run is killed ten times in a row, at seeded calls of whatever it is at then: as if nothing had happened."""
    root = tmp_path / "now"
    traced = Traced(tmp_path / "log", root, "run", root, *RUN)
    put(before, root)
    assert traced() == 0
    calls = traced.calls(CHANGES)
    put(before, root)
    for call in random.Random(seed).choices(calls, k=10):  # noqa: S311 - no secret
        assert traced(call) in {0, -signal.SIGKILL}
        assert_readers_see_whole(root)
    assert writes.run(root, *RUN) == NEW
    assert contents(root) == after


@pytest.mark.parametrize(("error", "code"), [("ENOSPC", Exit.OUTPUT), ("EIO", Exit.TRY_AGAIN)])
def test_run_refused(tmp_path: Path, before: Path, after: dict[str, object], error: str, code: Exit) -> None:
    """Each call by which a run takes up space fails: 73 or 75, nothing is left half-done, and again it succeeds."""
    root = tmp_path / "now"
    traced = Traced(tmp_path / "log", root, "run", root, *RUN)
    put(before, root)
    assert traced() == 0
    for call in traced.calls(WRITES):
        put(before, root)
        assert traced(call, f"error={error}") == code
        assert_readers_see_whole(root)
        assert hidden(root) == []
        assert writes.run(root, *RUN) == NEW
        assert contents(root) == after


def test_promotion_by_hand_killed(tmp_path: Path, before: Path) -> None:
    """Killed at each call that changes a file: `latest` is what it was or what it should be, and again it moves."""
    writes.run(before, *RUN)
    root = tmp_path / "now"
    traced = Traced(tmp_path / "log", root, "promote", root, "old")
    put(before, root)
    assert traced() == 0
    expected = contents(root)
    assert str((root / "latest").readlink()) == "models/old"
    for call in traced.calls(CHANGES):
        put(before, root)
        assert traced(call) == -signal.SIGKILL
        assert_readers_see_whole(root)
        assert traced() == 0
        assert contents(root) == expected


def short_of_space(root: Path, left: int) -> None:
    """Take all but so many kB of the volume."""
    there = os.statvfs(root)
    with (root / "ballast" / "file").open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, max(there.f_bavail * there.f_frsize - left * 4096, 1))


def short_of_files(root: Path, left: int) -> None:
    """Take all but so many of the files that the volume can have."""
    for number in range(os.statvfs(root).f_ffree - left):
        (root / "ballast" / str(number)).touch()


@pytest.mark.parametrize("shorten", [short_of_space, short_of_files])
def test_volume_full(volume: Mount, shorten: Callable[[Path, int], None]) -> None:
    """A run on a volume with room for nothing, a bit more, and so on until it succeeds.

    73 each time, what was published is intact, no temporary is left, and with room again the run succeeds.
    """
    root = volume("size=1m,nr_inodes=100")
    writes.run(root / "output", "old", 0.9, 1)
    refused = 0
    for left in range(1, 60):
        (root / "ballast").mkdir()
        shorten(root, left)
        name = f"new-{left}"
        try:
            writes.run(root / "output", name, 0.9, 2)
        except JobError as error:
            found = error
        else:
            break
        assert (found.code, found.reason) == (Exit.OUTPUT, "output-not-writable"), str(found)
        refused += 1
        assert_readers_see_whole(root / "output")
        assert hidden(root / "output") == []
        shutil.rmtree(root / "ballast")
        assert writes.run(root / "output", name, 0.9, 2).verdict == "promoted"
        assert_readers_see_whole(root / "output")
        assert str((root / "output" / "latest").readlink()) == f"models/{name}"
        for folder in ("models", "runs"):
            shutil.rmtree(root / "output" / folder / name)
        move_latest(root / "output", "old")
    assert refused > 5


def test_volume_read_only(volume: Mount) -> None:
    """73 before anything is trained and nothing changed; writable again, the run succeeds, and is then only read."""
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
    """Two processes publish and promote, a few seeded milliseconds apart, several times.

    Both models are whole, and `latest` names the run that began later, whichever came first.
    """
    moments = random.Random(seed)  # noqa: S311 - no secret
    root = tmp_path / "now"
    for _ in range(4):
        put(before, root)
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
        assert sorted(os.listdir(root / "models")) == ["earlier", "later", "old"]  # noqa: PTH208 - no Path of it
        assert hidden(root) == []
        assert str((root / "latest").readlink()) == "models/later"
        verdicts = {name: writes.run(root, name, 0, 0) for name in ("earlier", "later")}
        kept = Verdict("kept", 0, "the present latest, later, began later", "later")
        old, earlier = (
            f"not worse than {name}, whose accuracy is {a:.4f}" for name, a in (("old", 0.9), ("earlier", 0.925))
        )
        assert verdicts in [
            {"earlier": Verdict("promoted", 0, old, "old"), "later": Verdict("promoted", 0, earlier, "earlier")},
            {"earlier": kept, "later": Verdict("promoted", 0, old, "old")},
        ]
