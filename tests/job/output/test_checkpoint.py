"""Tests of checkpoints: whole or not at all, the newest sound one restored, and training not kept waiting."""

from __future__ import annotations

import dataclasses
import errno
import json
import os
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from safetensors import numpy as safetensors
from safetensors import safe_open

from job.config import Config
from job.errors import Exit, JobError
from job.must_match import model_sha256, settings_hash, settings_to_match
from job.output import checkpoint
from job.output.checkpoint import Checkpoint, CheckpointWriter, SinceRecord, restore_newest, save_checkpoint
from job.system import files

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.conftest import Mount

FINGERPRINT = {"train": {"sha256": "a" * 64}, "test": {"sha256": "b" * 64}}
SETTINGS = settings_to_match(Config(learning_rate=0.1), FINGERPRINT)


def made(step: int, **changes: Any) -> Checkpoint:
    """A checkpoint whose parameters are those of its step."""
    random = np.random.default_rng(step)
    params = {
        "weights": random.normal(size=(7, 3)).astype(np.float32),
        "bias": np.array([np.nan, -0.0, np.float32(1e-42)], np.float32),
        "scale": np.array(step, np.float32),
        "none": np.zeros((0, 3), np.float32),
    }
    values: dict[str, Any] = {
        "workers": 2,
        "threads": 1,
        "settings": SETTINGS,
        "seconds": step / 3,
        "params": params,
        "sizes": ((0, 3), (1, 2)),
    } | changes
    return Checkpoint(step, **values, since_record=SinceRecord(0.5, 0.25, step, 2.0))


def plain(found: Checkpoint | None) -> object:
    """All that a checkpoint holds, to the bit, to be compared."""
    if found is None:
        return None
    params = {name: (array.dtype, array.shape, array.tobytes()) for name, array in found.params.items()}
    since = found.since_record
    return found.step, found.workers, found.threads, found.settings, found.seconds, params, since, found.sizes


def names(folder: Path) -> list[str]:
    """The files in a folder."""
    return sorted(path.name for path in folder.iterdir())


class Warnings(list[str]):
    """Sentences of restore_newest()."""

    def __call__(self, sentence: str) -> None:
        """Take one."""
        self.append(sentence)


@pytest.mark.parametrize(
    ("sizes", "now", "after"),
    [
        ((), 2, ((0, 2),)),
        ((), 3, ((0, 2), (7, 3))),
        (((0, 4), (5, 2)), 2, ((0, 4), (5, 2))),
        (((0, 4), (5, 2)), 4, ((0, 4), (5, 2), (7, 4))),
        (((0, 4), (7, 2)), 3, ((0, 4), (7, 3))),
        (((0, 4), (7, 2)), 4, ((0, 4),)),
    ],
)
def test_each_change_of_the_number_of_workers_is_kept(sizes: Any, now: int, after: Any) -> None:
    """With its step. A number of workers that made no step is left out; an earlier version kept only the last one."""
    resumed = made(7, sizes=sizes).resumed_by(now, 1)
    assert (resumed.workers, resumed.sizes) == (now, after)


def silent(sentence: str) -> None:
    """Fail on any warning."""
    pytest.fail(sentence)


def test_what_is_saved_is_restored_to_the_bit(tmp_path: Path) -> None:
    """Of every shape, also of an array that is not contiguous, in a folder that has to be made."""
    folder = tmp_path / "run" / "checkpoints"
    transposed = np.arange(6, dtype=np.float32).reshape(2, 3).T
    params = made(1).params | {"transposed": transposed}
    saved = made(12, params=params, seconds=np.float64(0.1))
    save_checkpoint(folder, saved)
    assert plain(restore_newest(folder, SETTINGS, silent)) == plain(saved)


def test_file_is_a_safetensors_file_and_tells_what_it_is(tmp_path: Path) -> None:
    """The library reads tensors and metadata; the settings are JSON in one order, whatever theirs was."""
    other_order = dict(reversed(SETTINGS.items()))
    save_checkpoint(tmp_path, made(12, settings=other_order))
    with safe_open(tmp_path / "12.safetensors", framework="np") as file:
        metadata = file.metadata()
        assert sorted(file.keys()) == ["bias", "none", "scale", "weights"]
    assert len(metadata.pop("sha256")) == 64
    assert metadata == {
        "step": "12",
        "workers": "2",
        "sizes": "[[0, 3], [1, 2]]",
        "threads": "1",
        "seconds": "4.0",
        "settings": (
            '{"batch_size": 100, "epochs": 10, "learning_rate": 0.1, '
            f'"model": "{model_sha256()}", "schedule": "cosine", "seed": 0, "sync_every": 1, '
            f'"test": "{"b" * 64}", "train": "{"a" * 64}"}}'
        ),
        "settings_hash": settings_hash(SETTINGS),
        "since_record": '{"loss": 0.5, "block_loss": 0.25, "examples": 12, "seconds": 2.0}',
    }


def test_newest_is_restored_by_number(tmp_path: Path) -> None:
    """Not by name, and not by time; what has another name is nobody's business."""
    for step in (10, 100, 9):
        save_checkpoint(tmp_path, made(step))
    for other in ("x.safetensors", "200.safetensors.bak", "-300.safetensors", "notes"):
        (tmp_path / other).write_bytes(b"no checkpoint")
    assert plain(restore_newest(tmp_path, SETTINGS, silent)) == plain(made(100))


@pytest.mark.parametrize("folder", ["", "absent"])
def test_no_checkpoint_is_none(tmp_path: Path, folder: str) -> None:
    """A run that is killed before its first checkpoint starts from the beginning."""
    (tmp_path / ".5.safetensors.tmp").write_bytes(b"half")
    assert restore_newest(tmp_path / folder, SETTINGS, silent) is None


def test_newest_three_are_kept(tmp_path: Path) -> None:
    """By number; other files stay, and what a killed process has left half-written goes."""
    (tmp_path / "notes").touch()
    (tmp_path / ".3.safetensors.tmp").touch()
    for step in (8, 9, 10, 11, 11):
        save_checkpoint(tmp_path, made(step))
    assert names(tmp_path) == ["10.safetensors", "11.safetensors", "9.safetensors", "notes"]


def test_sound_ones_are_not_given_up_for_newer_damaged_ones(tmp_path: Path) -> None:
    """Training that went on from before damaged ones has its own kept, and theirs removed as these come."""
    for step in (7, 8, 9):
        save_checkpoint(tmp_path, made(step))
        (tmp_path / f"{step}.safetensors").write_bytes(b"damaged")
    kept = []
    for step in (4, 5, 6):
        save_checkpoint(tmp_path, made(step))
        kept.append([int(Path(name).stem) for name in names(tmp_path)])
    assert kept == [[4, 8, 9], [4, 5, 9], [4, 5, 6]]
    assert plain(restore_newest(tmp_path, SETTINGS, silent)) == plain(made(6))


def flipped(content: bytes, bit: int) -> bytes:
    """The content with one bit of it turned."""
    changed = bytearray(content)
    changed[bit // 8] ^= 1 << bit % 8
    return bytes(changed)


def test_every_flipped_bit_and_every_truncation_is_found(tmp_path: Path) -> None:
    """Whatever is damaged is known as such, or was of no account: a checkpoint is never another one."""
    save_checkpoint(tmp_path, made(3))
    path = tmp_path / "3.safetensors"
    whole = path.read_bytes()
    damaged = [flipped(whole, bit) for bit in range(8 * len(whole))] + [whole[:length] for length in range(len(whole))]
    restored = 0
    for content in damaged:
        try:
            found = checkpoint._from_bytes(content, 3)
        except ValueError:
            continue
        assert plain(found) == plain(made(3))
        restored += 1
    # A few bits mean nothing: spaces that end the header may be other white space.
    assert restored < 0.01 * len(damaged)


def foreign(content: bytes) -> bytes:
    """A sound safetensors file that is no checkpoint."""
    del content
    return safetensors.save({"weights": np.zeros(3, np.float32)})


DAMAGES: list[Callable[[bytes], bytes]] = [
    lambda content: flipped(content, 8 * (len(content) - 5)),
    lambda content: content[: len(content) // 2],
    lambda content: content + b"\0",
    lambda _: b"",
    lambda content: bytes(len(content)),
    foreign,
]


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_ones_are_named_and_skipped(tmp_path: Path, damage: Callable[[bytes], bytes]) -> None:
    """Each that is newer than the newest sound one; those before it are not looked at; nothing is changed."""
    for step in (1, 2, 3):
        save_checkpoint(tmp_path, made(step))
    for step in (1, 3):
        path = tmp_path / f"{step}.safetensors"
        path.write_bytes(damage(path.read_bytes()))
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    warnings = Warnings()
    assert plain(restore_newest(tmp_path, SETTINGS, warnings)) == plain(made(2))
    (warning,) = warnings
    assert warning.startswith(f"the checkpoint {tmp_path / '3.safetensors'} is damaged and is skipped: ")
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_checkpoint_under_the_name_of_another_step_is_skipped(tmp_path: Path) -> None:
    """It would be taken for newer than it is."""
    save_checkpoint(tmp_path, made(2))
    (tmp_path / "5.safetensors").write_bytes((tmp_path / "2.safetensors").read_bytes())
    warnings = Warnings()
    assert plain(restore_newest(tmp_path, SETTINGS, warnings)) == plain(made(2))
    assert warnings[0].endswith("/5.safetensors is damaged and is skipped: it belongs to step 2")


@pytest.mark.parametrize(
    ("steps", "message"),
    [([3], "the only checkpoint in {} is damaged"), ([1, 2], "each of the 2 checkpoints in {} is")],
)
def test_none_sound_is_78_and_never_a_new_start(tmp_path: Path, steps: list[int], message: str) -> None:
    """With what to do."""
    for step in steps:
        save_checkpoint(tmp_path, made(step))
        (tmp_path / f"{step}.safetensors").write_bytes(b"damaged")
    warnings = Warnings()
    with pytest.raises(JobError) as caught:
        restore_newest(tmp_path, SETTINGS, warnings)
    assert (caught.value.code, caught.value.reason) == (Exit.SETTINGS, "checkpoints-damaged")
    assert caught.value.message.startswith(message.format(tmp_path))
    assert caught.value.hint == "restore an intact checkpoint, or use another --name to start from the beginning"
    assert len(warnings) == len(steps)


def test_other_settings_are_78_and_named(tmp_path: Path) -> None:
    """With both values; another number of workers is not one of them."""
    save_checkpoint(tmp_path, made(2, workers=3))
    restored = restore_newest(tmp_path, SETTINGS, silent)
    assert restored
    assert restored.workers == 3
    with pytest.raises(JobError) as caught:
        restore_newest(tmp_path, SETTINGS | {"batch_size": 64, "learning_rate": 0.2, "momentum": 0.9}, silent)
    assert (caught.value.code, caught.value.reason) == (Exit.SETTINGS, "other-settings")
    assert caught.value.message == (
        f"the checkpoint {tmp_path / '2.safetensors'} has other settings: "
        "--batch-size was 100 and is now 64, --learning-rate was 0.1 and is now 0.2, --momentum was None and is now 0.9"
    )


def test_one_of_an_earlier_version_is_restored(tmp_path: Path) -> None:
    """Without a hash of the model, a number of threads and sums since the last record, it fits any run."""
    made_then = made(2, settings={name: value for name, value in SETTINGS.items() if name != "model"})
    settings = json.dumps(made_then.settings, sort_keys=True)
    metadata = {"step": "2", "workers": "2", "seconds": repr(made_then.seconds), "settings": settings}
    content = metadata | {"sha256": checkpoint._sha256(metadata, made_then.params)}
    (tmp_path / "2.safetensors").write_bytes(safetensors.save(made_then.params, content))
    expected = dataclasses.replace(made_then, threads=None, since_record=SinceRecord(), sizes=())
    assert plain(restore_newest(tmp_path, SETTINGS, silent)) == plain(expected)


def test_another_model_is_78(tmp_path: Path) -> None:
    """The model is compared with the one in the newest checkpoint."""
    save_checkpoint(tmp_path, made(4))
    with pytest.raises(JobError, match="the model changed since the run began") as caught:
        restore_newest(tmp_path, SETTINGS | {"model": "d" * 64}, silent)
    assert (caught.value.code, caught.value.reason) == (Exit.SETTINGS, "other-model")


def test_one_that_cannot_be_read_is_not_damaged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the file system fails at is its error: an older checkpoint is not taken in its place."""
    for step in (1, 2):
        save_checkpoint(tmp_path, made(step))

    def fails(self: Path) -> bytes:
        raise OSError(errno.ESTALE, os.strerror(errno.ESTALE), self)

    monkeypatch.setattr(Path, "read_bytes", fails)
    with pytest.raises(OSError, match="Stale file handle") as caught:
        restore_newest(tmp_path, SETTINGS, silent)
    assert caught.value.errno == errno.ESTALE


def test_everything_is_on_the_disk_before_it_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file is flushed under its temporary name, then the folder; an older one goes only after that."""
    folder = tmp_path / "checkpoints"
    for step in (1, 2, 3):
        save_checkpoint(folder, made(step))
    events: list[tuple[str, list[str]]] = []
    real = os.fsync

    def fsync(descriptor: int) -> None:
        real(descriptor)
        events.append((Path(f"/proc/self/fd/{descriptor}").readlink().name, names(folder)))

    monkeypatch.setattr(os, "fsync", fsync)
    save_checkpoint(folder, made(4))
    old = [f"{step}.safetensors" for step in (1, 2, 3)]
    assert events == [
        (".4.safetensors.tmp", sorted([".4.safetensors.tmp", *old])),
        ("checkpoints", [*old, "4.safetensors"]),
    ]


def test_links_are_replaced_and_not_written_through(tmp_path: Path) -> None:
    """Neither one with the checkpoint's name nor one with its temporary's."""
    folder, outside = tmp_path / "checkpoints", tmp_path / "outside"
    folder.mkdir()
    outside.write_text("as it was")
    for name in ("4.safetensors", ".4.safetensors.tmp", ".5.safetensors.tmp"):
        (folder / name).symlink_to(outside)
    save_checkpoint(folder, made(4))
    assert outside.read_text() == "as it was"
    assert names(folder) == ["4.safetensors"]
    assert not (folder / "4.safetensors").is_symlink()


def test_full_volume_leaves_no_part_of_one(volume: Mount) -> None:
    """The file system's error, the older ones sound; with room again the next save works."""
    root = volume("size=32k")
    save_checkpoint(root, made(1))
    (root / "ballast").write_bytes(bytes(20 * 1024))
    before = names(root)
    large = made(2, params={"weights": np.ones(4096, np.float32)})
    with pytest.raises(OSError, match="No space left"):
        save_checkpoint(root, large)
    assert names(root) == before
    assert plain(restore_newest(root, SETTINGS, silent)) == plain(made(1))
    (root / "ballast").unlink()
    save_checkpoint(root, large)
    assert plain(restore_newest(root, SETTINGS, silent)) == plain(large)


class Held:
    """Holds back the writing of files until it is let go; `begun` is set with each that begins."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.begun, self.go = threading.Semaphore(0), threading.Semaphore(0)
        self.failure: Exception | None = None
        monkeypatch.setattr(checkpoint, "write", self._write)

    def _write(self, path: Path, content: bytes) -> None:
        self.begun.release()
        assert self.go.acquire(timeout=10)
        if self.failure:
            raise self.failure
        files.write(path, content)


def test_writer_lets_the_newest_wait_and_drops_the_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One is being written, one waits; submitting waits for neither, and draining for both."""
    held = Held(monkeypatch)
    writer = CheckpointWriter(tmp_path)
    writer.submit(made(1))
    assert held.begun.acquire(timeout=10)
    for step in (2, 3, 4):
        writer.submit(made(step))
    assert writer.written is None
    held.go.release(2)
    writer.drain()
    assert writer.written == 4
    assert names(tmp_path) == ["1.safetensors", "4.safetensors"]
    writer.drain()
    held.go.release()
    writer.submit(made(5))
    writer.drain()
    assert plain(restore_newest(tmp_path, SETTINGS, silent)) == plain(made(5))
    assert writer.written == 5


@pytest.mark.parametrize("failure", [OSError(errno.ENOSPC, "No space left on device"), ValueError("a bug")])
def test_writer_raises_what_failed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failure: Exception) -> None:
    """At the next checkpoint and at the end; nothing more is written."""
    held = Held(monkeypatch)
    held.go.release()
    writer = CheckpointWriter(tmp_path)
    writer.submit(made(1))
    writer.drain()
    held.failure = failure
    held.go.release()
    writer.submit(made(2))
    with pytest.raises(type(failure), match=str(failure.args[-1])):
        writer.drain()
    with pytest.raises(type(failure)):
        writer.submit(made(3))
    with pytest.raises(type(failure)):
        writer.drain()
    assert writer.written == 1
    assert names(tmp_path) == ["1.safetensors"]


def test_training_does_not_wait_for_checkpoints(tmp_path: Path) -> None:
    """Of a model of 784 x 10, the middle one of 50 submissions takes well under 5 ms, whatever the disk does."""
    params = {"W": np.ones((784, 10), np.float32), "b": np.ones(10, np.float32)}
    writer = CheckpointWriter(tmp_path)
    taken = []
    for step in range(50):
        began = time.perf_counter()
        writer.submit(made(step, params=params))
        taken.append(time.perf_counter() - began)
    writer.drain()
    assert sorted(taken)[25] < 0.005
    assert writer.written == 49
