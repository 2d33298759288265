"""Tests of a run's part of the output folder: whole or not at all, once, and by one process."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import subprocess
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from job.__main__ import parser, promote
from job.config import Config, settings_hash, settings_to_match
from job.errors import Exit, JobError
from job.output import publication, run_lock
from job.output.latest import move_latest
from job.output.promotion import Promotion, Verdict
from job.output.run_folder import RunFolder
from job.system import files

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.conftest import Mount

FINGERPRINT = {"train": {"sha256": "a" * 64}, "test": {"sha256": "b" * 64}}


def settings(job_uid: str = "local", **changes: Any) -> dict[str, Any]:
    """The content of config.json, as far as the output folder minds it."""
    config = Config(**changes)
    must_match = settings_to_match(config, FINGERPRINT)
    return {
        "job_uid": job_uid,
        "started": "2026-11-01",
        "settings": {"promote": config.promote, "min_accuracy": config.min_accuracy},
        "settings_hash": settings_hash(must_match),
        "must_match": must_match,
    }


def tree(folder: Path) -> dict[str, str | bytes | None]:
    """Everything below a folder: files' content, links' targets, None for folders."""
    found: dict[str, str | bytes | None] = {}
    for path in sorted(folder.rglob("*")):
        content = str(path.readlink()) if path.is_symlink() else path.read_bytes() if path.is_file() else None
        found[str(path.relative_to(folder))] = content
    return found


def fill(
    accuracy: float = 0.9, started: int = 1, name: str = "a", min_accuracy: float = 0.0, policy: str = "unless-worse"
) -> Callable[[Path], None]:
    """What writes a model: a report, and a file two folders down."""
    report = {
        "run": {"name": name, "started": f"2026-11-{started:02}"},
        "dataset": FINGERPRINT,
        "settings": {"promote": policy, "min_accuracy": min_accuracy},
        "test": {"accuracy": accuracy, "accuracy_interval": [accuracy - 0.01, accuracy + 0.01]},
    }

    def write(folder: Path) -> None:
        (folder / "saved_model" / "1").mkdir(parents=True)
        (folder / "saved_model" / "1" / "weights").write_bytes(bytes(range(256)))
        (folder / "report.json").write_text(json.dumps(report))

    return write


def published(
    root: Path, name: str = "a", accuracy: float = 0.9, started: int = 1, policy: str = "unless-worse"
) -> RunFolder:
    """A run that has been begun and published, and not yet promoted."""
    output = RunFolder(root, name, "local")
    with output.begin(settings()):
        output.publish(fill(accuracy, started, name, policy=policy))
    return output


def latest(root: Path) -> str | None:
    """What `latest` names."""
    return os.readlink(root / "latest") if (root / "latest").is_symlink() else None  # noqa: PTH115 - not a Path of it


def test_model_appears_whole(tmp_path: Path) -> None:
    """All that was filled in, checksums that sha256sum accepts, and nothing else."""
    output = published(tmp_path)
    assert sorted(tree(tmp_path / "models")) == [
        "a",
        "a/SHA256SUMS",
        "a/report.json",
        "a/saved_model",
        "a/saved_model/1",
        "a/saved_model/1/weights",
    ]
    checked = subprocess.run(
        ["sha256sum", "--strict", "-c", "SHA256SUMS"], cwd=output.model, capture_output=True, text=True, check=True
    )
    assert checked.stdout.splitlines() == ["report.json: OK", "saved_model/1/weights: OK"]


@pytest.mark.parametrize("error", [RuntimeError("no"), KeyboardInterrupt(), JobError(Exit.BUG, "bug", "no")])
def test_model_that_cannot_be_filled_does_not_appear(tmp_path: Path, error: BaseException) -> None:
    """Whatever is raised half-way goes through as it is, and leaves the folder as it was."""
    output = published(tmp_path, "other")
    before = tree(tmp_path / "models")

    def broken(folder: Path) -> None:
        fill()(folder)
        raise error

    with pytest.raises(type(error)) as caught:
        RunFolder(tmp_path, "a", "local").publish(broken)
    assert caught.value is error
    assert tree(tmp_path / "models") == before
    assert output.model.is_dir()


def test_everything_is_on_the_disk_before_it_appears(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each file and folder is flushed under its temporary name, the folders around them once they hold another."""
    flushed: list[tuple[str, bool]] = []
    output = RunFolder(tmp_path, "a", "local")
    for module in (files, publication):
        monkeypatch.setattr(module, "sync", lambda path: flushed.append((str(path), output.model.exists())))
    output.publish(fill())
    folder = tmp_path / "models" / ".a.local"
    below = ["", "/SHA256SUMS", "/report.json", "/saved_model", "/saved_model/1", "/saved_model/1/weights"]
    assert flushed[0] == (str(tmp_path), False)
    assert sorted(flushed[1:-1]) == [(f"{folder}{path}", False) for path in below]
    assert flushed[-1] == (str(tmp_path / "models"), True)


def test_model_is_published_once(tmp_path: Path) -> None:
    """A second one of the same name is refused and leaves the first as it was."""
    output = published(tmp_path)
    before = tree(tmp_path)
    with pytest.raises(JobError) as caught:
        output.publish(fill(0.1))
    assert caught.value.code == Exit.OUTPUT
    assert tree(tmp_path) == before


def test_next_start_sweeps_what_was_left_half_done(tmp_path: Path) -> None:
    """This run's temporaries go, of whatever Job; other runs' and all else stays."""
    names = (
        "models/.{}.local/half",
        "models/.{}.0f6e/half",
        "runs/{}/.config.json.tmp",
        "runs/{}/.verdict.json.tmp",
        "runs/{}/checkpoints/.7.safetensors.tmp",
        ".probe.{}.x1y2/written",
    )
    kept = ["models/ab/half", "runs/a/checkpoints/7.safetensors", "runs/a/events.jsonl"]
    kept += [name.format("ab") for name in names]
    for left in [*kept, *(name.format("a") for name in names)]:
        (tmp_path / left).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / left).touch()
    with RunFolder(tmp_path, "a", "local").begin(settings()):
        files = {name for name, content in tree(tmp_path).items() if content is not None}
        assert files == {*kept, "runs/a/config.json", "runs/a/lock"}
        assert not list(tmp_path.glob("models/.a.*")) + list(tmp_path.glob(".probe.a.*"))


def test_run_is_begun_once(tmp_path: Path) -> None:
    """config.json is the first start's; a later one keeps its time, and may differ in what is not the training."""
    first = settings() | {"started": "first"}
    second = settings(workers=3, log_every=7, threads=2, min_accuracy=0.5) | {"started": "second"}
    for config in (first, second):
        output = RunFolder(tmp_path, "a", "local")
        with output.begin(config) as verdict:
            assert verdict is None
            assert output.manifest == config | {"started": "first"}
            assert json.loads((output.folder / "config.json").read_text()) == first


def test_run_that_was_published_in_the_meantime_is_not_trained_again(tmp_path: Path) -> None:
    """Who comes to begin a run that another process has published since is given its verdict."""
    verdict = published(tmp_path).promote()
    before = tree(tmp_path)
    with RunFolder(tmp_path, "a", "local").begin(settings()) as found:
        assert found == verdict
    assert tree(tmp_path) == before


def test_run_of_other_settings_is_78_and_names_them(tmp_path: Path) -> None:
    """Every difference is named with both values, and nothing is changed."""
    with RunFolder(tmp_path, "a", "local").begin(settings(batch_size=100, seed=0, learning_rate=1.0)):
        pass
    before = tree(tmp_path)
    changed = settings(batch_size=64, seed=3, learning_rate=0.5)
    with pytest.raises(JobError) as caught, RunFolder(tmp_path, "a", "local").begin(changed):
        pytest.fail("begun")
    assert (caught.value.code, caught.value.reason) == (Exit.SETTINGS, "other-settings")
    assert caught.value.message == (
        "run 'a' was begun with batch_size 100 and now 64, seed 0 and now 3, learning_rate 1.0 and now 0.5"
    )
    assert tree(tmp_path) == before


def test_run_of_other_data_is_65(tmp_path: Path) -> None:
    """Whatever else differs too, it is the data that is named, with what to do; nothing is changed."""
    with RunFolder(tmp_path, "a", "local").begin(settings()):
        pass
    before = tree(tmp_path)
    for split in ("train", "test"):
        changed = settings(seed=3)
        changed["must_match"][split] = "c" * 64
        with pytest.raises(JobError) as caught, RunFolder(tmp_path, "a", "local").begin(changed):
            pytest.fail("begun")
        assert (caught.value.code, caught.value.reason) == (Exit.DATA_DAMAGED, "dataset-other")
        assert str(caught.value) == "run 'a' was begun on other data; give it that data again, or use another --name"
    assert tree(tmp_path) == before


def test_name_of_another_job_is_64(tmp_path: Path) -> None:
    """Neither begun nor, once published, taken for this Job's own; nothing is changed."""
    published(tmp_path)
    before = tree(tmp_path)
    other = RunFolder(tmp_path, "a", "0f6e")
    with pytest.raises(JobError) as beginning, other.begin(settings("0f6e")):
        pytest.fail("begun")
    with pytest.raises(JobError) as asking:
        other.published_verdict()
    for caught in (beginning, asking):
        assert (caught.value.code, caught.value.reason) == (Exit.USAGE, "run-taken")
        assert caught.value.message == "run 'a' belongs to another Job, local"
        assert caught.value.hint == "use another name, or --continue to take it up"
    assert tree(tmp_path) == before


def test_run_of_another_job_is_taken_up_when_asked_for(tmp_path: Path) -> None:
    """It goes on as that Job's, keeps its start, must have its settings, and is published once."""
    first = settings("0f6e") | {"started": "first"}
    with RunFolder(tmp_path, "a", "0f6e").begin(first):
        pass
    output = RunFolder(tmp_path, "a", "77aa", take_over=True)
    with pytest.raises(JobError) as caught, output.begin(settings("77aa", seed=1)):
        pytest.fail("begun")
    assert caught.value.code == Exit.SETTINGS
    with output.begin(settings("77aa") | {"started": "second"}) as verdict:
        assert verdict is None
        assert output.manifest == settings("77aa") | {"started": "first"}
        output.publish(fill())
    assert json.loads((output.folder / "config.json").read_text()) == first
    assert output.published_verdict() == RunFolder(tmp_path, "a", "0f6e").published_verdict()


@pytest.mark.parametrize("job_uid", ["", "../a", "a/b", ".", "a\n"])
def test_job_cannot_leave_the_folder(tmp_path: Path, job_uid: str) -> None:
    """A Job's UID becomes part of a temporary's name, and is checked like the run's."""
    with pytest.raises(JobError) as caught:
        RunFolder(tmp_path, "a", job_uid)
    assert caught.value.code == Exit.USAGE


def test_run_in_training_is_64_for_a_second_process(tmp_path: Path) -> None:
    """The lock is this run's alone, refuses soon, leaves what is half done alone, and is free after the run."""
    output = RunFolder(tmp_path, "a", "local")
    half = tmp_path / "models" / ".a.local"
    with output.begin(settings()), RunFolder(tmp_path, "b", "local").begin(settings()):
        half.mkdir(parents=True)
        with pytest.raises(JobError) as caught, RunFolder(tmp_path, "a", "local").begin(settings()):
            pytest.fail("begun")
        assert (caught.value.code, caught.value.reason) == (Exit.USAGE, "run-in-use")
        assert half.is_dir()
    with RunFolder(tmp_path, "a", "local").begin(settings()):
        assert not half.exists()


def test_a_look_at_the_lock_refuses_no_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As prune takes one, to see whether the run is being trained."""
    with RunFolder(tmp_path, "a", "local").begin(settings()):
        pass
    lock = os.open(tmp_path / "runs" / "a" / "lock", os.O_RDONLY)
    fcntl.flock(lock, fcntl.LOCK_SH)
    monkeypatch.setattr("job.output.run_lock.time.sleep", lambda _: os.close(lock))
    with RunFolder(tmp_path, "a", "local").begin(settings()) as verdict:
        assert verdict is None


def test_job_waits_for_its_runs_lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The lock of a node that died goes late: who comes after waits for it, and in the end leaves with 75."""
    monkeypatch.setattr(run_lock, "POLL_S", 0.01)
    first, second = (RunFolder(tmp_path, "a", "0f6e") for _ in range(2))
    with first.begin(settings("0f6e")):
        monkeypatch.setattr(run_lock, "JOB_WAIT_S", 0.05)
        with pytest.raises(JobError) as caught, second.begin(settings("0f6e")):
            pytest.fail("begun")
    assert (caught.value.code, caught.value.reason) == (Exit.TRY_AGAIN, "run-in-use")
    assert caught.value.message == "run 'a' is being trained by another process, which has held its lock for 0.05 s"

    monkeypatch.setattr(run_lock, "JOB_WAIT_S", 60)
    with contextlib.ExitStack() as holder:
        holder.enter_context(first.begin(settings("0f6e")))
        # The other one's first look at the lock finds it held; then it is let go.
        monkeypatch.setattr(time, "sleep", lambda _: holder.close())
        with second.begin(settings("0f6e")) as verdict:
            assert verdict is None


def test_name_cannot_leave_the_folder(tmp_path: Path) -> None:
    """A run's name from wherever is checked before it becomes a path."""
    for name in ("../a", "a/b", "", ".a"):
        with pytest.raises(JobError) as caught:
            RunFolder(tmp_path, name, "local")
        assert caught.value.code == Exit.USAGE


def test_verdict_is_written_and_latest_moves(tmp_path: Path) -> None:
    """The first model becomes latest by a relative link, which still holds where the folder is mounted elsewhere."""
    output = published(tmp_path / "here")
    expected = Verdict("promoted", 0, "there was no model before", None)
    assert output.promote() == expected
    assert json.loads((output.folder / "verdict.json").read_text()) == {
        "verdict": "promoted",
        "code": 0,
        "reason": "there was no model before",
        "compared_with": None,
    }
    assert latest(tmp_path / "here") == "models/a"
    moved = (tmp_path / "here").rename(tmp_path / "there")
    assert (moved / "latest" / "report.json").is_file()


@pytest.mark.parametrize(("accuracy", "started", "word"), [(0.5, 2, "rejected"), (0.95, 0, "kept")])
def test_latest_stays_where_the_verdict_says_so(tmp_path: Path, accuracy: float, started: int, word: str) -> None:
    """A rejected or kept model is published, and `latest` names the one before."""
    published(tmp_path, "first").promote()
    output = published(tmp_path, "second", accuracy, started)
    verdict = output.promote()
    assert (verdict.verdict, verdict.compared_with, latest(tmp_path)) == (word, "first", "models/first")
    assert output.model.is_dir()


def test_better_model_takes_over(tmp_path: Path) -> None:
    """`latest` moves from one model to the next, and no temporary link is left."""
    published(tmp_path, "first").promote()
    published(tmp_path, "second", 0.95, 2).promote()
    assert latest(tmp_path) == "models/second"
    assert sorted(path.name for path in tmp_path.iterdir()) == [".promotion-lock", "latest", "models", "runs"]


def test_verdict_is_decided_once_and_obeyed(tmp_path: Path) -> None:
    """Asked again beside another latest, it is what was decided, and nothing changes."""
    published(tmp_path, "first").promote()
    output = published(tmp_path, "second", 0.5, 2)
    decided = output.promote()
    published(tmp_path, "third", 0.4, 3, policy="always").promote()
    before = tree(tmp_path)
    assert output.promote() == output.published_verdict() == decided
    assert tree(tmp_path) == before


def test_promotion_cut_short_is_finished(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The verdict stands before `latest` moves; a process that dies between the two is made good by the next."""
    published(tmp_path, "first").promote()
    output = published(tmp_path, "second", 0.95, 2)

    def dies(*_: object) -> None:
        raise RuntimeError("killed")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "symlink_to", dies)
        with pytest.raises(RuntimeError, match="killed"):
            output.promote()
    assert (output.folder / "verdict.json").is_file()
    assert latest(tmp_path) == "models/first"
    verdict = RunFolder(tmp_path, "second", "local").published_verdict()
    assert verdict == Verdict("promoted", 0, "not worse than first, whose accuracy is 0.9000", "first")
    assert latest(tmp_path) == "models/second"


def test_verdict_is_made_where_publication_was_the_last_thing_done(tmp_path: Path) -> None:
    """A run published and not judged is judged by what its report says; one not published has no verdict."""
    output = RunFolder(tmp_path, "a", "local")
    with output.begin(settings()):
        assert output.published_verdict() is None
        output.publish(fill(0.9, min_accuracy=0.99))
    expected = Verdict("rejected", 69, "accuracy 0.9000 is below the minimum 0.99", None)
    assert RunFolder(tmp_path, "a", "local").published_verdict() == expected
    assert latest(tmp_path) is None


def test_older_run_asked_again_does_not_take_latest_back(tmp_path: Path) -> None:
    """A promoted run that is started again after a newer one was promoted leaves `latest` alone."""
    first = published(tmp_path, "first")
    verdict = first.promote()
    published(tmp_path, "second", 0.95, 2).promote()
    assert first.published_verdict() == verdict
    assert latest(tmp_path) == "models/second"


def test_latest_that_was_moved_back_by_hand_stays_there(tmp_path: Path) -> None:
    """A promoted run that is started again does not undo a roll-back to the run before it."""
    published(tmp_path, "first").promote()
    second = published(tmp_path, "second", 0.95, 2)
    verdict = second.promote()
    (tmp_path / "latest").unlink()
    (tmp_path / "latest").symlink_to("models/first")
    assert second.published_verdict() == verdict
    assert latest(tmp_path) == "models/first"


def test_latest_with_a_damaged_report_is_as_none(tmp_path: Path) -> None:
    """What cannot be read is not compared with, and the verdict says so."""
    published(tmp_path, "first").promote()
    (tmp_path / "models" / "first" / "report.json").write_text("{")
    reason = "the report of the present latest, first, cannot be read"
    assert published(tmp_path, "second").promote() == Verdict("promoted", 0, reason, None)
    assert latest(tmp_path) == "models/second"


def test_link_to_a_model_that_is_gone_is_replaced(tmp_path: Path) -> None:
    """A dangling `latest` is as none."""
    (tmp_path / "latest").symlink_to("models/gone")
    assert published(tmp_path).promote().verdict == "promoted"
    assert latest(tmp_path) == "models/a"


@pytest.mark.parametrize(
    ("policy", "accuracy", "word", "now"),
    [
        ("always", 0.1, "promoted", "second"),
        ("unless-worse", 0.1, "rejected", "first"),
        ("never", 0.99, "kept", "first"),
    ],
)
def test_policy_is_that_of_the_process_that_published(
    tmp_path: Path, policy: str, accuracy: float, word: str, now: str
) -> None:
    """It stands in the report, not with who repeats the promotion."""
    published(tmp_path, "first").promote()
    assert published(tmp_path, "second", accuracy, 2, policy).promote().verdict == word
    assert latest(tmp_path) == f"models/{now}"


def test_latest_is_moved_by_hand(tmp_path: Path) -> None:
    """To any published run, also a rejected or an older one, and back; once more changes nothing."""
    published(tmp_path, "first").promote()
    published(tmp_path, "worse", 0.1, 2).promote()
    assert move_latest(tmp_path, "worse") == "first"
    assert latest(tmp_path) == "models/worse"
    before = tree(tmp_path)
    assert move_latest(tmp_path, "worse") == "worse"
    assert tree(tmp_path) == before
    assert move_latest(tmp_path, "first") == "worse"
    assert latest(tmp_path) == "models/first"
    assert sorted(path.name for path in tmp_path.iterdir()) == [".promotion-lock", "latest", "models", "runs"]


def test_latest_is_made_by_hand_where_there_is_none(tmp_path: Path) -> None:
    """Also in place of a link that leads nowhere, or out of the folder, whose target is left alone."""
    published(tmp_path)
    assert move_latest(tmp_path, "a") is None
    for target in ("models/gone", "nowhere", tmp_path / "outside"):
        (tmp_path / "outside").mkdir(exist_ok=True)
        (tmp_path / "latest").unlink()
        (tmp_path / "latest").symlink_to(target)
        move_latest(tmp_path, "a")
        assert latest(tmp_path) == "models/a"
    assert list((tmp_path / "outside").iterdir()) == []


def test_by_hand_only_a_published_run_becomes_latest(tmp_path: Path) -> None:
    """64 otherwise, naming those that are, and the folder stays as it is."""
    with RunFolder(tmp_path, "begun", "local").begin(settings()):
        pass
    (tmp_path / "models" / ".begun.local").mkdir(parents=True)
    found = []
    for root in (tmp_path, tmp_path / "absent"):
        for name in ("begun", "absent", "../runs", ""):
            before = tree(tmp_path)
            with pytest.raises(JobError) as caught:
                move_latest(root, name)
            assert caught.value.code == Exit.USAGE
            assert tree(tmp_path) == before
            found.append(caught.value.hint)
    assert found == ["no run is", "no run is", "", ""] * 2
    published(tmp_path, "one")
    published(tmp_path, "two")
    with pytest.raises(JobError) as caught:
        move_latest(tmp_path, "begun")
    assert str(caught.value) == f"run 'begun' is not published in {tmp_path}; published are one, two"


def test_command_that_moves_latest_says_what_it_was_and_is(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One line."""
    for name in ("a", "b"):
        published(tmp_path, name)
        promote(parser().parse_args(["promote", name, f"--output={tmp_path}"]))
    assert capsys.readouterr().out == "latest is a; there was none before\nlatest is b; it was a\n"


def test_roll_back_stays_and_the_next_run_is_compared_with_it(tmp_path: Path) -> None:
    """The run that was rolled back does not return when it is started again; a later one may be promoted as always."""
    published(tmp_path, "first").promote()
    second = published(tmp_path, "second", 0.95, 2)
    verdict = second.promote()
    move_latest(tmp_path, "first")
    assert second.published_verdict() == verdict
    assert latest(tmp_path) == "models/first"
    assert published(tmp_path, "third", 0.9, 3).promote().compared_with == "first"
    assert latest(tmp_path) == "models/third"


@pytest.mark.parametrize("between", ["nothing", "another run is promoted"])
def test_roll_back_stays_though_the_promotion_before_it_was_cut_short(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, between: str
) -> None:
    """A run killed right after it became latest does not become so again once it was left for another one."""
    published(tmp_path, "first").promote()
    second = published(tmp_path, "second", 0.95, 2)

    def dies(path: Path) -> None:
        if path == tmp_path:
            raise RuntimeError("killed")

    with monkeypatch.context() as patch:
        patch.setattr("job.output.latest.sync", dies)
        with pytest.raises(RuntimeError, match="killed"):
            second.promote()
    assert latest(tmp_path) == "models/second"
    if between != "nothing":
        published(tmp_path, "third", 0.95, 3).promote()
        assert latest(tmp_path) == "models/third"
    move_latest(tmp_path, "first")
    assert second.published_verdict() == Verdict(
        "promoted", 0, "not worse than first, whose accuracy is 0.9000", "first"
    )
    assert latest(tmp_path) == "models/first"


LINKS = (
    "runs",
    "models",
    "runs/a",
    "models/a",
    "models/.a.local",
    "models/.a.77aa",
    ".promotion-lock",
    *(
        f"runs/a/{name}"
        for name in (
            "lock",
            "config.json",
            ".config.json.tmp",
            "verdict.json",
            ".verdict.json.tmp",
            "promoted",
            "events.jsonl",
            "checkpoints",
            "checkpoints/7.safetensors",
            "tensorboard",
            "tensorboard/events.out",
        )
    ),
)


@pytest.mark.parametrize("at", LINKS)
@pytest.mark.parametrize("kind", ["folder", "file", "nothing"])
def test_nothing_is_written_through_a_link(tmp_path: Path, at: str, kind: str) -> None:
    """73 in whatever is done with the run, naming the link; what it leads to stays as it is."""
    root, outside = tmp_path / "root", tmp_path / "outside"
    published(root)
    (root / "runs/a/checkpoints").mkdir()
    (root / "runs/a/tensorboard").mkdir()
    target = outside / "target"
    outside.mkdir()
    if (root / at).is_dir():  # what was there goes along, so that all is found as ever
        (root / at).rename(target)
    elif kind == "folder":
        target.mkdir()
    elif kind == "file":
        target.write_text("{}")
    (root / at).unlink(missing_ok=True)
    (root / at).symlink_to(target)
    before = tree(tmp_path)
    output = RunFolder(root, "a", "local")

    def begin() -> None:
        with output.begin(settings()):
            pytest.fail("begun")

    actions: list[Callable[[], object]] = [
        begin,
        output.published_verdict,
        output.promote,
        lambda: output.publish(fill()),
        lambda: move_latest(root, "a"),
    ]
    for action in actions:
        with pytest.raises(JobError) as caught:
            action()
        assert (caught.value.code, caught.value.reason) == (Exit.OUTPUT, "output-link")
        assert str(caught.value) == f"{root / at} is a symbolic link, and nothing is written through one; remove it"
        assert tree(tmp_path) == before


def test_links_that_are_nobodys_danger_are_let_be(tmp_path: Path) -> None:
    """The folder itself may be one, `latest` is one, and what a killed promotion left is replaced."""
    (tmp_path / "real").mkdir()
    root = tmp_path / "link"
    root.symlink_to("real")
    outside = tmp_path / "outside"
    outside.mkdir()
    (root / "latest").symlink_to(outside)
    (root / ".latest.a").symlink_to(outside)
    assert published(root).promote().verdict == "promoted"
    assert latest(root) == "models/a"
    assert not os.path.lexists(root / ".latest.a")
    assert list(outside.iterdir()) == []


@pytest.mark.parametrize("name", ["runs/a/config.json", "runs/a/verdict.json", "models/a/report.json"])
@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"5", b'"text"', b"{}", b"\xff\xfe", b'{"verdict": "kept"}'])
def test_own_file_that_cannot_be_read_is_73(tmp_path: Path, name: str, content: bytes) -> None:
    """Named, with what to do, and nothing is changed."""
    output = published(tmp_path)
    if name.endswith("verdict.json"):
        output.promote()
    (tmp_path / name).write_bytes(content)
    (tmp_path / ".promotion-lock").touch()
    before = tree(tmp_path)
    with pytest.raises(JobError) as caught:
        output.published_verdict()
    assert (caught.value.code, caught.value.reason) == (Exit.OUTPUT, "output-damaged")
    assert caught.value.message.startswith(f"{tmp_path / name} is damaged: ")
    assert caught.value.hint == "put it back, or use another --name"
    assert tree(tmp_path) == before


def test_runs_are_judged_one_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From reading the present latest to moving it, the promotion lock is held."""
    output = published(tmp_path)

    def plan(*_: object) -> Promotion:
        locked()
        return Promotion(Verdict("promoted", 0, "tested", None), moves_latest=True)

    def sync(path: Path) -> None:
        locked()
        files.sync(path)

    def locked() -> None:
        with (tmp_path / ".promotion-lock").open() as other, pytest.raises(BlockingIOError):
            fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)

    monkeypatch.setattr("job.output.latest.plan_promotion", plan)
    monkeypatch.setattr("job.output.latest.sync", sync)
    output.promote()
    assert latest(tmp_path) == "models/a"


@pytest.mark.parametrize(
    ("number", "code", "reason"),
    [
        *((number, Exit.TRY_AGAIN, "output-io") for number in (errno.EIO, errno.ESTALE, errno.ETIMEDOUT)),
        *(
            (number, Exit.OUTPUT, "output-not-writable")
            for number in (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOTDIR)
        ),
    ],
)
def test_what_may_pass_is_75_and_all_else_73(tmp_path: Path, number: int, code: Exit, reason: str) -> None:
    """Each refusal of the file system by its exit code, in a sentence that names the place and says what to do."""
    output = RunFolder(tmp_path, "a", "local")
    for where in (tmp_path / "file", None):
        with pytest.raises(JobError) as caught, output.errors():
            raise OSError(number, os.strerror(number), where)
        assert (caught.value.code, caught.value.reason) == (code, reason)
        assert caught.value.message.endswith(f" at {where or tmp_path}: {os.strerror(number)}")
        assert caught.value.hint


@pytest.mark.parametrize("root", ["", "absent", "absent/deeper"])
def test_probe_leaves_the_folder_as_it_was(tmp_path: Path, root: str) -> None:
    """A folder that can be written, or made, passes; nothing of the try stays."""
    RunFolder(tmp_path / root, "a", "local").probe()
    assert tree(tmp_path) == {}


def test_probe_refuses_a_file_system_without_rename(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """73 before anything is trained, and nothing of the try stays."""

    def refuse(self: Path, _: Path) -> None:
        raise OSError(errno.EPERM, os.strerror(errno.EPERM), self)

    monkeypatch.setattr(Path, "rename", refuse)
    with pytest.raises(JobError) as caught:
        RunFolder(tmp_path, "a", "local").probe()
    assert caught.value.code == Exit.OUTPUT
    assert tree(tmp_path) == {}


def test_file_in_the_folders_place_is_73(tmp_path: Path) -> None:
    """An --output that is a file is named."""
    (tmp_path / "file").touch()
    with pytest.raises(JobError) as caught:
        RunFolder(tmp_path / "file", "a", "local").probe()
    assert (caught.value.code, str(tmp_path / "file") in caught.value.message) == (Exit.OUTPUT, True)


def test_read_only_volume_is_73(volume: Mount) -> None:
    """Found by the probe, whether the output folder is there or has to be made."""
    folder = volume("size=64k")
    (folder / "there").mkdir()
    volume("ro")
    for root in (folder / "there", folder / "absent"):
        with pytest.raises(JobError) as caught:
            RunFolder(root, "a", "local").probe()
        assert caught.value.code == Exit.OUTPUT
        assert caught.value.message.endswith("Read-only file system")


def test_full_volume_is_73_and_has_nothing_half_published(volume: Mount) -> None:
    """A model that does not fit leaves no trace, and what was there is as it was."""

    def too_large(folder: Path) -> None:
        fill()(folder)
        (folder / "large").write_bytes(bytes(2**20))

    root = volume("size=64k")
    published(root, "first").promote()
    output = RunFolder(root, "a", "local")
    with output.begin(settings()):
        before = tree(root)
        with pytest.raises(JobError) as caught:
            output.publish(too_large)
    assert caught.value.code == Exit.OUTPUT
    assert caught.value.message.endswith("No space left on device")
    assert tree(root) == before
