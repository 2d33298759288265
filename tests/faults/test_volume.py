"""Faults of the output volume: damaged checkpoints, no space, no right to write, and links that lead out of it."""

from __future__ import annotations

import itertools
import os
import shutil
import signal
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from job.errors import Exit
from tests.faults.team import (
    ALONE,
    ALONE_EARLY,
    BEFORE,
    ENDLESS,
    RUN,
    Team,
    assert_published,
    assert_same,
    publishes_through_a_gate,
)
from tests.job.processes import ROOT, LocalRun, command, contents, environment, pending, trainers, wait_until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.conftest import Mount

    Undisturbed = Callable[..., dict[str, Any]]

pytestmark = pytest.mark.faults

FOR_JOURNAL = 16 << 10  # bytes, too few for a checkpoint, which has 32 KiB
FOR_TWO_CHECKPOINTS = 96 << 10  # bytes for the journal and fewer checkpoints than are kept
FOR_CHECKPOINTS = 320 << 10  # bytes for the journal and all checkpoints, too few for a model


def checkpoints(team: Team) -> list[Path]:
    """The files of the checkpoints, newest first."""
    return sorted(team.checkpoints.glob("*.safetensors"), key=lambda path: int(path.stem), reverse=True)


def flip(path: Path) -> None:
    """Change one bit in the middle of a file."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def halve(path: Path) -> None:
    """Cut off the second half of a file."""
    os.truncate(path, path.stat().st_size // 2)


def warnings(team: Team) -> list[str]:
    """Rank 0's messages about damaged checkpoints."""
    damaged = [record for record in team[0].records if record.reason == "checkpoint-damaged"]
    assert all(record.phase == "restoring" for record in damaged)
    return [record.message or "" for record in damaged]


def resumed_at(team: Team) -> list[int | None]:
    """The steps at which rank 0 resumed."""
    return [record.step for record in team[0].records if record.reason == "resumed"]


def temporaries(output: Path) -> list[str]:
    """Hidden files and folders, except the lock that all runs share."""
    return [str(path) for path in output.rglob(".*") if path.name != ".promotion-lock"]


def fill(volume: Path, free: int) -> Path:
    """Write a file that leaves so many bytes of the volume free."""
    size = os.statvfs(volume)
    filler = volume / "filler"
    with filler.open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, size.f_bavail * size.f_frsize - free)
    return filler


@pytest.mark.parametrize(
    "damage",
    [(os.unlink,), (flip, halve)],
    ids=lambda each: each[0].__name__ + "-" * (len(each) - 1),
)
def test_damaged_checkpoints(
    digits: Path,
    tmp_path: Path,
    undisturbed: Undisturbed,
    interrupted: Path,
    damage: tuple[Callable[[Path], None], ...],
) -> None:
    """Workers resume from the newest intact checkpoint, name each damaged one, and end like the undisturbed run."""
    shutil.copytree(interrupted, tmp_path / "output")
    with Team(digits, tmp_path / "output") as team:
        paths = checkpoints(team)
        for apply, path in zip(damage, paths, strict=False):
            apply(path)
        damaged = [path for path in paths[: len(damage)] if path.exists()]
        team.start()
        assert_same(team, undisturbed())
        assert all(str(path) in message for path, message in zip(damaged, warnings(team), strict=True))
        assert resumed_at(team) == [int(paths[len(damage)].stem)]


def test_no_sound_checkpoint(digits: Path, tmp_path: Path, interrupted: Path) -> None:
    """Rank 0 leaves with 78 if all checkpoints are damaged, names each, and changes none."""
    shutil.copytree(interrupted, tmp_path / "output")
    with Team(digits, tmp_path / "output", 1) as team:
        paths = checkpoints(team)
        assert len(paths) >= 3  # four, if the run was killed before it removed the oldest
        for apply, path in zip(itertools.cycle((flip, halve)), paths, strict=False):
            apply(path)
        before = [path.read_bytes() for path in paths]
        team.start()
        assert team[0].failure()[:2] == (78, "checkpoints-damaged")
        assert all(str(path) in message for path, message in zip(paths, warnings(team), strict=True))
        assert [path.read_bytes() for path in paths] == before
        assert not team.model.exists()


@pytest.mark.parametrize("free", [FOR_TWO_CHECKPOINTS, FOR_CHECKPOINTS], ids=["checkpoint", "publication"])
def test_a_volume_that_becomes_full(
    digits: Path, volume: Mount, undisturbed: Undisturbed, published: Path, free: int
) -> None:
    """A worker whose volume becomes full leaves with 73, at a checkpoint or at the publication.

    Earlier publications are unchanged, nothing half-written is left, and with space again the run succeeds.
    """
    output = volume("size=8m") / "output"
    shutil.copytree(published, output, symlinks=True)
    before = contents(output)
    filler = fill(output.parent, free)
    with Team(digits, output, 1, ALONE) as team:
        team.start()
        assert team[0].failure()[:2] == (73, "output-not-writable")
        assert ("publishing" in team[0].phases()) == (free == FOR_CHECKPOINTS)
        assert team[0].reasons() == []
        assert {path: content for path, content in contents(output).items() if path in before} == before
        assert team.publications() == [BEFORE]
        assert temporaries(output) == []
        assert checkpoints(team)
        filler.unlink()
        team.start()
        assert team.exit_codes() == [0], team[0].errors
        assert resumed_at(team)
        assert_published(team, undisturbed(1, ALONE), BEFORE)


def test_a_volume_that_is_full_when_a_worker_stops(digits: Path, volume: Mount, published: Path) -> None:
    """A worker that is asked to stop and cannot save its last step leaves with 73 and says that it is lost."""
    output = volume("size=8m") / "output"
    shutil.copytree(published, output, symlinks=True)
    endless = (*ALONE, *ENDLESS, "--checkpoint-every=1000000000")
    with Team(digits, output, 1, endless).start() as team:
        team[0].wait_for_step(ALONE_EARLY)
        trainer = team[0].trainer()
        os.kill(trainer, signal.SIGSTOP)
        fill(output.parent, FOR_JOURNAL)
        team[0].terminate()
        wait_until(lambda: pending(trainer, signal.SIGTERM), "SIGTERM to the trainer")
        os.kill(trainer, signal.SIGCONT)
        code, reason, message = team[0].failure()
        assert (code, reason) == (73, "output-not-writable")
        assert message.startswith("asked to stop at step ")
        assert message.endswith("No space left on device; no step is saved")
        assert checkpoints(team) == []


def test_a_volume_that_is_full_when_a_local_run_stops(digits: Path, volume: Mount) -> None:
    """The command says after SIGTERM that rank 0's last steps are lost, and ends with the code of the cause."""
    output = volume("size=8m")
    flags = ("--epochs=1000000", "--batch-size=10", "--evaluate-every=0", "--checkpoint-every=1000000000")
    with LocalRun("--data", digits, "--output", output, "--name=run", *flags) as run:
        run.wait_for((0, "training"))
        [supervisor] = run.supervisors()
        [trainer] = trainers(supervisor)
        os.kill(trainer, signal.SIGSTOP)  # so that it does not use the free space meanwhile
        fill(output, FOR_JOURNAL)
        run.process.send_signal(signal.SIGTERM)
        wait_until(lambda: pending(trainer, signal.SIGTERM), "SIGTERM to the trainer")
        os.kill(trainer, signal.SIGCONT)
        code, errors, _ = run.wait()
    assert code == 73
    assert "; worker 0: asked to stop at step " in errors
    assert "No space left on device; no step is saved; free space" in errors
    assert len([line for line in errors.splitlines() if "lines are missing from" not in line]) == 1


def test_a_volume_that_is_full_at_the_start(digits: Path, volume: Mount, published: Path) -> None:
    """A worker that starts on a full volume leaves with 73, and no file of its attempt."""
    output = volume("size=2m") / "output"
    shutil.copytree(published, output, symlinks=True)
    before = contents(output)
    fill(output.parent, 0)
    with Team(digits, output, 1).start() as team:
        assert team[0].failure()[:2] == (73, "output-not-writable")
        assert {path: content for path, content in contents(output).items() if path in before} == before
        assert temporaries(output) == []


def test_a_read_only_volume(digits: Path, volume: Mount, undisturbed: Undisturbed, interrupted: Path) -> None:
    """Rank 0 leaves with 73 before any worker trains, and changes nothing; on a writable volume the run continues."""
    output = volume("size=8m") / "output"
    shutil.copytree(interrupted, output)
    before = contents(output)
    volume("size=8m,ro")
    with Team(digits, output).start(0) as team:
        assert team[0].failure()[:2] == (73, "output-not-writable")
        assert set(team[0].phases()) == {"failed"}
        assert contents(output) == before
        volume("size=8m,rw")
        team.start()
        assert_same(team, undisturbed())


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Callable[[str], Path]]:
    """Mounts an ext4 file system with these options; gives the folder. Skips the test where that is not possible."""
    image, folder = tmp_path / "image", tmp_path / "disk"
    folder.mkdir()
    with image.open("wb") as file:
        file.truncate(32 << 20)

    def mount(options: str) -> Path:
        mounted = subprocess.run(["mount", "-o", options, image, folder], capture_output=True, text=True, check=False)
        if mounted.returncode:
            pytest.skip(f"no disk can be mounted here: {mounted.stderr.strip()}")
        return folder

    made = subprocess.run(["mkfs.ext4", "-q", image], capture_output=True, text=True, check=False)
    if made.returncode:
        pytest.skip(f"no disk can be made here: {made.stderr.strip()}")
    yield mount
    if folder.is_mount():
        subprocess.run(["umount", folder], check=True)


@pytest.mark.parametrize("phase", ["training", "publishing"])
def test_a_volume_that_turns_read_only(
    digits: Path, tmp_path: Path, disk: Callable[[str], Path], undisturbed: Undisturbed, published: Path, phase: str
) -> None:
    """A worker whose ext4 turns read-only after a disk error, in training or publication, leaves with 73.

    If the worker meets the disk error itself, its trainer is started again first, because such an error may pass.
    Earlier publications are unchanged. Mounted again, the run succeeds, and nothing half-written is left.
    """
    output = disk("loop") / "output"
    shutil.copytree(published, output, symlinks=True)
    before = contents(output)
    variables, gate = publishes_through_a_gate(tmp_path)
    with Team(digits, output, 1, ALONE, variables) as team:
        team.start()
        team[0].wait_for_record(lambda record: record.phase == phase and (record.step or 0) >= ALONE_EARLY)
        subprocess.run(["mount", "-o", "remount,abort", output.parent], check=True)  # as ext4 does
        gate.unlink()
        assert team[0].failure()[:2] == (73, "output-not-writable")
        assert team[0].reasons() in ([], ["output-io"])
        assert {path: content for path, content in contents(output).items() if path in before} == before
        subprocess.run(["umount", output.parent], check=True)
        disk("loop")
        team.start()
        assert team.exit_codes() == [0], team[0].errors
        assert_published(team, undisturbed(1, ALONE), BEFORE)
        assert temporaries(output) == []


def test_a_folder_without_the_right_to_write(digits: Path, tmp_path: Path) -> None:
    """A worker without the right to write to the output folder leaves with 73 and names it."""
    output = tmp_path / "output"
    output.mkdir(mode=0o555)
    # Without this capability, root may not write everywhere either.
    drop = ["setpriv", "--bounding-set=-dac_override", "--inh-caps=-dac_override"] if os.geteuid() == 0 else []
    ended = subprocess.run(
        [*drop, *command("--name=run", f"--data={digits}", f"--output={output}")],
        capture_output=True,
        text=True,
        env=environment(),
        check=False,
    )
    assert ended.returncode == 73, ended.stderr
    assert f"the output folder cannot be written at {output}" in ended.stderr
    assert list(output.iterdir()) == []


@pytest.mark.parametrize("link", ["models", f"runs/{RUN}/checkpoints/60.safetensors"])
def test_a_link_that_leads_out(digits: Path, tmp_path: Path, link: str) -> None:
    """A worker that would write through a link leaves with 73, names it, and writes nothing but its log."""
    output, outside = tmp_path / "output", tmp_path / "outside"
    outside.mkdir()
    path = output / link
    path.parent.mkdir(parents=True)
    path.symlink_to(outside)
    before = contents(tmp_path, logs=False)
    with Team(digits, output, 1).start() as team:
        assert team[0].failure()[:2] == (73, "output-link")
        assert str(path) in team[0].failure()[2]
    assert contents(tmp_path, logs=False) == before


def test_a_link_that_appears_in_training(digits: Path, tmp_path: Path, published: Path) -> None:
    """A link that replaces the folder of the publication in training is refused with 73; without it the run succeeds.

    `latest` leads out of the volume from the start, and is replaced. Nothing is written outside.
    """
    output, outside = tmp_path / "output", tmp_path / "outside"
    shutil.copytree(published, output, symlinks=True)
    shutil.copytree(published / "models" / BEFORE, outside)
    (output / "latest").unlink()
    (output / "latest").symlink_to(outside)
    before = contents(outside)
    with Team(digits, output, 1, ALONE).start() as team:
        team[0].wait_for_phase("training")
        (output / "models" / f".{RUN}.uid-1").symlink_to(outside)
        assert team[0].failure()[:2] == (73, "output-link")
        assert contents(outside) == before
        (output / "models" / f".{RUN}.uid-1").unlink()
        team.start()
        assert team.exit_codes() == [0], team[0].errors
    assert (output / "latest").readlink() == Path("models") / RUN
    assert contents(outside) == before


def test_a_disk_that_fails_while_rows_are_streamed(digits: Path, tmp_path: Path) -> None:
    """A worker whose dataset can be opened but not read any more leaves with 75 after three restarts, not as a bug."""
    data, project = tmp_path / "data", tmp_path / "project"
    shutil.copytree(digits, data)
    file = data / "mnist/decoded/train-images.npy"
    shutil.copytree(ROOT / "job", project / "job", ignore=shutil.ignore_patterns("__pycache__"))
    rows = project / "job/dataset/rows.py"
    limit = "MEMORY_LIMIT = 1 << 30"
    assert limit in rows.read_text()
    rows.write_text(rows.read_text().replace(limit, "MEMORY_LIMIT = 0"))  # any dataset stays on disk
    if not shutil.which("strace"):
        pytest.skip("strace is not installed")
    # Only images are read with this call; the SHA-256 is verified with others.
    fail = ["strace", "--follow-forks", "--seccomp-bpf", f"--trace-path={file}", "--trace=pread64"]
    fail += ["--inject=pread64:error=EIO", f"--output={tmp_path / 'log'}"]
    ended = subprocess.run(
        [*fail, *command("--name=run", f"--data={data}", f"--output={tmp_path / 'output'}")],
        env=environment({"PYTHONPATH": str(project)}),
        cwd=project,
        capture_output=True,
        text=True,
        check=False,
    )
    if "ptrace" in ended.stderr and "not permitted" in ended.stderr:
        pytest.skip(f"no process can be traced here: {ended.stderr.strip()}")
    assert ended.returncode == Exit.TRY_AGAIN, ended.stderr
    cause = f"{file} could not be read: Input/output error"
    sentence = f"gave up after 3 restarts without a new step: {cause}; start the run again"
    assert ended.stderr.splitlines()[-1].endswith(sentence)
