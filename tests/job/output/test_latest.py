"""Tests of `latest`: promotion decides once and moves it; a person may move it by hand."""

from __future__ import annotations

import fcntl
import json
from pathlib import Path

import numpy as np
import pytest

from job.__main__ import parser, promote
from job.errors import Exit, JobError
from job.output.latest import move_latest
from job.output.promotion import Promotion, Verdict
from job.output.run_folder import RunFolder
from job.system import files
from tests.job.output.runs import fill, latest, manifest, published, tree


def test_verdict_is_written_and_latest_moves(tmp_path: Path) -> None:
    """The first model becomes latest by a relative link, which still holds if the folder is mounted elsewhere."""
    output = published(tmp_path / "here")
    expected = Verdict("promoted", 0, "there was no model before", None)
    assert output.promote() == expected
    assert json.loads((output.folder / "verdict.json").read_text()) == {
        "verdict": "promoted",
        "code": 0,
        "reason": "there was no model before",
        "compared_with": None,
        "worse_classes": [],
    }
    assert latest(tmp_path / "here") == "models/a"
    moved = (tmp_path / "here").rename(tmp_path / "there")
    assert (moved / "latest" / "report.json").is_file()


@pytest.mark.parametrize(("accuracy", "started", "word"), [(0.5, 2, "rejected"), (0.95, 0, "kept")])
def test_latest_stays_if_the_verdict_says_so(tmp_path: Path, accuracy: float, started: int, word: str) -> None:
    """A rejected or kept model is published, and `latest` still names the previous one."""
    published(tmp_path, "first").promote()
    output = published(tmp_path, "second", accuracy, started)
    verdict = output.promote()
    assert (verdict.verdict, verdict.compared_with, latest(tmp_path)) == (word, "first", "models/first")
    assert output.model.is_dir()


def test_verdict_is_decided_only_once(tmp_path: Path) -> None:
    """A repeated promotion returns the first verdict, even beside another latest, and changes nothing."""
    published(tmp_path, "first").promote()
    output = published(tmp_path, "second", 0.5, 2)
    decided = output.promote()
    published(tmp_path, "third", 0.4, 3, policy="always").promote()
    before = tree(tmp_path)
    assert output.promote() == output.promote_if_published() == decided
    assert tree(tmp_path) == before


def publish_with_predictions(root: Path, name: str, started: int, right: list[int]) -> RunFolder:
    """A published run that classifies so many of the 50 test examples of each class correctly."""
    output = RunFolder(root, name, "local")
    labels = np.repeat(np.arange(len(right)), 50)
    predicted = np.where(np.arange(labels.size) % 50 < np.repeat(right, 50), labels, labels + 1)

    def write(folder: Path) -> None:
        fill(0.9, started, name)(folder)
        report = json.loads((folder / "report.json").read_text())
        report["test"]["classes"] = [
            {"name": f"class-{label}", "recall": count / 50, "support": 50} for label, count in enumerate(right)
        ]
        (folder / "report.json").write_text(json.dumps(report))
        np.savez(folder / "predictions.npz", labels=labels, predicted=predicted)

    with output.begin(manifest()):
        output.publish(write)
    return output


def test_verdict_compares_each_class_with_that_of_latest(tmp_path: Path) -> None:
    """One class is clearly worse, one is a little worse, one better; the verdict that is read back is the same."""
    publish_with_predictions(tmp_path, "first", 1, [45, 45, 30]).promote()
    second = publish_with_predictions(tmp_path, "second", 2, [30, 43, 45])
    verdict = second.promote()
    told = "class-0 (recall 0.6000 after 0.9000, p = 0.00018)"
    assert verdict == Verdict(
        "promoted",
        0,
        f"not worse than first, whose accuracy is 0.9000; the new model is worse beyond chance for class {told}",
        "first",
        ["class-0"],
    )
    assert second.promote() == verdict


@pytest.mark.parametrize("name", ["first", "second"])
@pytest.mark.parametrize("content", [None, b"PK\x03\x04torn", b""])
def test_unreadable_predictions_do_not_stop_a_promotion(tmp_path: Path, name: str, content: bytes | None) -> None:
    """The classes are then not compared."""
    publish_with_predictions(tmp_path, "first", 1, [45, 45]).promote()
    second = publish_with_predictions(tmp_path, "second", 2, [10, 45])
    predictions = tmp_path / "models" / name / "predictions.npz"
    predictions.unlink()
    if content is not None:
        predictions.write_bytes(content)
    verdict = Verdict("promoted", 0, "not worse than first, whose accuracy is 0.9000", "first")
    assert second.promote() == verdict


def test_verdict_of_an_earlier_version_is_obeyed(tmp_path: Path) -> None:
    """It has no list of classes."""
    output = published(tmp_path)
    verdict = {"verdict": "kept", "code": 0, "reason": "--promote is never", "compared_with": None}
    files.write_json(output.folder / "verdict.json", verdict)
    assert output.promote() == Verdict("kept", 0, "--promote is never", None)


def test_interrupted_promotion_is_finished(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The verdict is written before `latest` moves; the next process moves it if the first was killed in between."""
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
    verdict = RunFolder(tmp_path, "second", "local").promote_if_published()
    assert verdict == Verdict("promoted", 0, "not worse than first, whose accuracy is 0.9000", "first")
    assert latest(tmp_path) == "models/second"


def test_published_run_without_verdict_gets_one(tmp_path: Path) -> None:
    """The verdict follows from the report; a run that is not published has none."""
    output = RunFolder(tmp_path, "a", "local")
    with output.begin(manifest()):
        assert output.promote_if_published() is None
        output.publish(fill(0.9, min_accuracy=0.99))
    expected = Verdict("rejected", 69, "accuracy 0.9000 is below the minimum 0.99", None)
    assert RunFolder(tmp_path, "a", "local").promote_if_published() == expected
    assert latest(tmp_path) is None


def test_restarted_older_run_does_not_take_latest_back(tmp_path: Path) -> None:
    """A promoted run that is started again after a newer one was promoted does not move `latest`."""
    first = published(tmp_path, "first")
    verdict = first.promote()
    published(tmp_path, "second", 0.95, 2).promote()
    assert first.promote_if_published() == verdict
    assert latest(tmp_path) == "models/second"


def test_latest_with_a_damaged_report_is_replaced(tmp_path: Path) -> None:
    """It is not compared with, and the verdict says so."""
    published(tmp_path, "first").promote()
    (tmp_path / "models" / "first" / "report.json").write_text("{")
    reason = "the report of the current latest, first, cannot be read"
    assert published(tmp_path, "second").promote() == Verdict("promoted", 0, reason, None)
    assert latest(tmp_path) == "models/second"


def test_link_to_a_model_that_is_gone_is_replaced(tmp_path: Path) -> None:
    """A dangling `latest` counts as none."""
    (tmp_path / "latest").symlink_to("models/gone")
    assert published(tmp_path).promote().verdict == "promoted"
    assert latest(tmp_path) == "models/a"


@pytest.mark.parametrize(
    ("policy", "accuracy", "word", "now"),
    [
        ("always", 0.1, "promoted", "second"),
        ("never", 0.99, "kept", "first"),
    ],
)
def test_policy_comes_from_the_report(tmp_path: Path, policy: str, accuracy: float, word: str, now: str) -> None:
    """The process that published has written it there."""
    published(tmp_path, "first").promote()
    assert published(tmp_path, "second", accuracy, 2, policy).promote().verdict == word
    assert latest(tmp_path) == f"models/{now}"


def test_latest_is_moved_by_hand(tmp_path: Path) -> None:
    """It moves to any published run, even a rejected or older one, and back; a repetition changes nothing."""
    published(tmp_path, "first").promote()
    published(tmp_path, "worse", 0.1, 2).promote()
    assert move_latest(tmp_path, "worse") == "first"
    assert latest(tmp_path) == "models/worse"
    before = tree(tmp_path)
    assert move_latest(tmp_path, "worse") == "worse"
    assert tree(tmp_path) == before
    assert move_latest(tmp_path, "first") == "worse"
    assert latest(tmp_path) == "models/first"
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        *(".promotion-lock", "latest", "models", "runs", "serving")
    ]


def test_latest_is_created_by_hand(tmp_path: Path) -> None:
    """It also replaces a link that leads nowhere or out of the folder, and leaves that target alone."""
    published(tmp_path)
    assert move_latest(tmp_path, "a") is None
    for target in ("models/gone", "nowhere", tmp_path / "outside"):
        (tmp_path / "outside").mkdir(exist_ok=True)
        (tmp_path / "latest").unlink()
        (tmp_path / "latest").symlink_to(target)
        move_latest(tmp_path, "a")
        assert latest(tmp_path) == "models/a"
    assert list((tmp_path / "outside").iterdir()) == []


def test_only_a_published_run_becomes_latest_by_hand(tmp_path: Path) -> None:
    """Any other is refused with 64 and the names of the published runs; nothing changes."""
    with RunFolder(tmp_path, "begun", "local").begin(manifest()):
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


def test_promote_command_prints_both_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One line names the new and the previous run."""
    for name in ("a", "b"):
        published(tmp_path, name)
        promote(parser().parse_args(["promote", name, f"--output={tmp_path}"]))
    assert capsys.readouterr().out == "latest is a; there was none before\nlatest is b; it was a\n"


def test_roll_back_lasts(tmp_path: Path) -> None:
    """The run that was left does not return when it is started again; a later run may be promoted."""
    published(tmp_path, "first").promote()
    second = published(tmp_path, "second", 0.95, 2)
    verdict = second.promote()
    move_latest(tmp_path, "first")
    assert second.promote_if_published() == verdict
    assert latest(tmp_path) == "models/first"
    assert published(tmp_path, "third", 0.9, 3).promote().compared_with == "first"
    assert latest(tmp_path) == "models/third"


@pytest.mark.parametrize("between", ["nothing", "another run is promoted"])
def test_roll_back_lasts_after_an_interrupted_promotion(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, between: str
) -> None:
    """A run that was killed right after it became latest does not return after `latest` was moved away."""
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
    assert second.promote_if_published() == Verdict(
        "promoted", 0, "not worse than first, whose accuracy is 0.9000", "first"
    )
    assert latest(tmp_path) == "models/first"


def test_runs_are_promoted_one_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The promotion lock is held from the decision to the end of the move."""
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
