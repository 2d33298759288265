"""Faults of the output volume: damaged checkpoints, a full one, a read-only one, links that lead out of it."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.faults.team import BEFORE, RUN, Team, assert_published, assert_same
from tests.job.processes import command, contents, environment

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.conftest import Mount

    Quiet = Callable[..., dict[str, Any]]

pytestmark = pytest.mark.faults

MARGIN = 16 << 10  # bytes: what the journal needs, and no checkpoint has room in
ROOM = 80 << 10  # bytes: what the journal and the checkpoints of a run need, and no model has room in


def checkpoints(team: Team) -> list[Path]:
    """Newest first."""
    return sorted(team.checkpoints.glob("*.safetensors"), key=lambda path: int(path.stem), reverse=True)


def flip(path: Path) -> None:
    """Turn over one bit in the middle."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def halve(path: Path) -> None:
    """Cut the second half off."""
    os.truncate(path, path.stat().st_size // 2)


def warned(team: Team) -> list[str]:
    """What rank 0 said of damaged checkpoints."""
    damaged = [record for record in team[0].records if record.reason == "checkpoint-damaged"]
    assert all(record.phase == "restoring" for record in damaged)
    return [record.message or "" for record in damaged]


def resumed_at(team: Team) -> list[int | None]:
    """The steps at which rank 0 went on."""
    return [record.step for record in team[0].records if record.reason == "resumed"]


def temporaries(output: Path) -> list[str]:
    """Hidden files and folders, but the lock that all runs share."""
    return [str(path) for path in output.rglob(".*") if path.name != ".promotion-lock"]


def fill(volume: Path, leave: int) -> Path:
    """Write a file that leaves so many bytes of the volume free."""
    there = os.statvfs(volume)
    filler = volume / "filler"
    with filler.open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, there.f_bavail * there.f_frsize - leave)
    return filler


@pytest.mark.parametrize(
    "damage",
    [(flip,), (halve,), (os.unlink,), (flip, halve)],
    ids=lambda each: each[0].__name__ + "-" * (len(each) - 1),
)
def test_damaged_checkpoint(
    digits: Path, tmp_path: Path, quiet: Quiet, interrupted: Path, damage: tuple[Callable[[Path], None], ...]
) -> None:
    """The newest checkpoints of a run whose workers were all killed are damaged, then all start again: Same.

    They go on from the newest that is left whole, and name each that is not.
    """
    shutil.copytree(interrupted, tmp_path / "output")
    with Team(digits, tmp_path / "output") as team:
        found = checkpoints(team)
        for break_it, path in zip(damage, found, strict=False):
            break_it(path)
        bad = [path for path in found[: len(damage)] if path.exists()]
        team.start()
        assert_same(team, quiet())
        assert [str(path) in message for path, message in zip(bad, warned(team), strict=True)] == [True] * len(bad)
        assert resumed_at(team) == [int(found[len(damage)].stem)]


def test_no_checkpoint_is_sound(digits: Path, tmp_path: Path, interrupted: Path) -> None:
    """All checkpoints of an interrupted run are damaged: rank 0 leaves with 78, names each, and changes none."""
    shutil.copytree(interrupted, tmp_path / "output")
    with Team(digits, tmp_path / "output", 1) as team:
        found = checkpoints(team)
        for break_it, path in zip((flip, halve, flip), found, strict=True):
            break_it(path)
        before = [path.read_bytes() for path in found]
        team.start()
        assert team[0].failure()[:2] == (78, "checkpoints-damaged")
        assert [str(path) in message for path, message in zip(found, warned(team), strict=True)] == [True] * 3
        assert [path.read_bytes() for path in found] == before
        assert not team.model.exists()


@pytest.mark.parametrize("leave", [pytest.param(MARGIN, id="checkpoint"), pytest.param(ROOM, id="publication")])
def test_volume_becomes_full(digits: Path, volume: Mount, quiet: Quiet, published: Path, leave: int) -> None:
    """The volume is filled while rank 0, alone, trains: 73 at the next checkpoint, or at the publication.

    What was published before stays as it was, nothing half-written is left, and once there is space again the run
    goes on: Same.
    """
    output = volume("size=8m") / "output"
    shutil.copytree(published, output, symlinks=True)
    before = contents(output)
    with Team(digits, output, 1) as team:
        team.start()
        team[0].until_step(600)
        team[0].kill_trainer(signal.SIGSTOP)  # or it could take meanwhile what is to be left free
        filler = fill(output.parent, leave)
        team[0].kill_trainer(signal.SIGCONT)
        assert team[0].failure()[:2] == (73, "output-not-writable")
        assert ("publishing" in team[0].phases()) == (leave == ROOM)
        assert team[0].reasons() == []
        assert {path: there for path, there in contents(output).items() if path in before} == before
        assert team.publications() == [BEFORE]
        assert temporaries(output) == []
        assert checkpoints(team)
        filler.unlink()
        team.start()
        assert team.codes() == [0], team[0].errors
        assert resumed_at(team)
        assert_published(team, quiet(1), BEFORE)


def test_volume_that_is_full_at_the_start(digits: Path, volume: Mount, published: Path) -> None:
    """Rank 0 of two starts where not a byte is free: 73, and nothing is left of the attempt."""
    output = volume("size=2m") / "output"
    shutil.copytree(published, output, symlinks=True)
    before = contents(output)
    fill(output.parent, 0)
    with Team(digits, output, 1).start() as team:
        assert team[0].failure()[:2] == (73, "output-not-writable")
        assert {path: there for path, there in contents(output).items() if path in before} == before
        assert temporaries(output) == []


def test_volume_that_is_read_only(digits: Path, volume: Mount, quiet: Quiet, interrupted: Path) -> None:
    """A run whose workers were killed starts on a read-only volume: rank 0 leaves with 73 before any worker trains.

    Nothing is changed; when it can be written again, all go on: Same.
    """
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
        assert_same(team, quiet())


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Callable[[str], Path]]:
    """Mounts an ext4 of its own with the given options; gives the folder. Only root may."""
    image, folder = tmp_path / "image", tmp_path / "disk"
    folder.mkdir()
    with image.open("wb") as file:
        file.truncate(32 << 20)

    def mount(options: str) -> Path:
        tried = subprocess.run(["mount", "-o", options, image, folder], capture_output=True, text=True, check=False)
        if tried.returncode:
            pytest.skip(f"no disk can be mounted here: {tried.stderr.strip()}")
        return folder

    made = subprocess.run(["mkfs.ext4", "-q", image], capture_output=True, text=True, check=False)
    if made.returncode:
        pytest.skip(f"no disk can be made here: {made.stderr.strip()}")
    yield mount
    if folder.is_mount():
        subprocess.run(["umount", folder], check=True)


@pytest.mark.parametrize("phase", ["training", "publishing"])
def test_volume_that_turns_read_only(
    digits: Path, disk: Callable[[str], Path], quiet: Quiet, published: Path, phase: str
) -> None:
    """As ext4 makes it after an error of its disk, while rank 0, alone, trains or publishes: 73.

    Where that error is met first, rank 0's trainer is started again before, for it might have passed. What was
    published before stays as it was. Mounted anew the run goes on: Same, and nothing half-written is left.
    """
    output = disk("loop") / "output"
    shutil.copytree(published, output, symlinks=True)
    before = contents(output)
    with Team(digits, output, 1) as team:
        team.start()
        team[0].until(lambda record: record.phase == phase and (record.step or 0) >= 600)
        subprocess.run(["mount", "-o", "remount,abort", output.parent], check=True)  # ext4's own way to try it
        assert team[0].failure()[:2] == (73, "output-not-writable")
        assert team[0].reasons() in ([], ["output-io"])
        assert {path: there for path, there in contents(output).items() if path in before} == before
        subprocess.run(["umount", output.parent], check=True)
        disk("loop")
        team.start()
        assert team.codes() == [0], team[0].errors
        assert_published(team, quiet(1), BEFORE)
        assert temporaries(output) == []


def test_folder_that_may_not_be_written(digits: Path, tmp_path: Path) -> None:
    """One worker without the right to write to the output folder: 73, one sentence, nothing is written."""
    output = tmp_path / "output"
    output.mkdir(mode=0o555)
    # Root may write everywhere, but without this capability.
    drop = ["setpriv", "--bounding-set=-dac_override", "--inh-caps=-dac_override"] if os.geteuid() == 0 else []
    found = subprocess.run(
        [*drop, *command("--name=run", f"--data={digits}", f"--output={output}")],
        capture_output=True,
        text=True,
        env=environment(),
        check=False,
    )
    assert found.returncode == 73, found.stderr
    assert f"the output folder cannot be written at {output}" in found.stderr
    assert list(output.iterdir()) == []


FOLDERS = (
    "runs",
    "models",
    f"runs/{RUN}",
    f"models/{RUN}",
    f"models/.{RUN}.uid-1",
    f"runs/{RUN}/checkpoints",
    f"runs/{RUN}/tensorboard",
)
FILES = (
    ".promotion-lock",
    f"runs/{RUN}/lock",
    f"runs/{RUN}/config.json",
    f"runs/{RUN}/.config.json.tmp",
    f"runs/{RUN}/events.jsonl",
    f"runs/{RUN}/verdict.json",
    f"runs/{RUN}/promoted",
    f"runs/{RUN}/checkpoints/60.safetensors",
)


@pytest.mark.parametrize("link", [*FOLDERS, *FILES])
def test_link_that_leads_out(digits: Path, tmp_path: Path, link: str) -> None:
    """A link out of the output folder where rank 0 would write: 73, naming it; nothing is written through it."""
    output, outside = tmp_path / "output", tmp_path / "outside"
    target = outside / "target"
    path = output / link
    path.parent.mkdir(parents=True)
    (target if link in FOLDERS else outside).mkdir(parents=True)
    if link not in FOLDERS:
        target.write_text("precious")
    path.symlink_to(target)
    before = contents(tmp_path)
    with Team(digits, output, 1).start() as team:
        assert team[0].failure()[:2] == (73, "output-link")
        assert str(path) in team[0].failure()[2]
    assert contents(tmp_path) == before


def test_link_that_leads_nowhere(digits: Path, tmp_path: Path) -> None:
    """The same with a link to a file that is not there: it is not made."""
    output = tmp_path / "output"
    (output / "runs" / RUN).mkdir(parents=True)
    (output / "runs" / RUN / "events.jsonl").symlink_to(tmp_path / "made")
    with Team(digits, output, 1).start() as team:
        assert team[0].failure()[:2] == (73, "output-link")
    assert not (tmp_path / "made").exists()


def test_link_that_is_planted_in_training(digits: Path, tmp_path: Path, published: Path) -> None:
    """`latest` leads out from the start, and in training a link takes the place of the folder that rank 0 publishes to.

    The publication is refused with 73, and nothing is written outside. With that link gone the run is published when
    it is started again; `latest` is replaced, and what it named stays as it was.
    """
    output, outside = tmp_path / "output", tmp_path / "outside"
    shutil.copytree(published, output, symlinks=True)
    shutil.copytree(published / "models" / BEFORE, outside)
    (output / "latest").unlink()
    (output / "latest").symlink_to(outside)
    before = contents(outside)
    with Team(digits, output, 1).start() as team:
        team[0].until_phase("training")
        (output / "models" / f".{RUN}.uid-1").symlink_to(outside)
        assert team[0].failure()[:2] == (73, "output-link")
        assert contents(outside) == before
        (output / "models" / f".{RUN}.uid-1").unlink()
        team.start()
        assert team.codes() == [0], team[0].errors
    assert (output / "latest").readlink() == Path("models") / RUN
    assert contents(outside) == before
