"""Tests of prune: which runs go, which stay, and that each run is whole or gone after an interruption."""

from __future__ import annotations

import contextlib
import datetime as dt
import errno
import fcntl
import json
import os
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from job import __main__ as entry
from job.errors import Exit, JobError
from job.output import inventory, prune, run_lock
from job.output.latest import move_latest, promotion_lock
from job.output.run_folder import RunFolder
from job.system import files

if TYPE_CHECKING:
    from collections.abc import Iterator


def begin(output: Path, name: str, day: int, *, published: bool = True) -> None:
    """A run that began on a day of 2026-11 and ended long ago."""
    folder = output / "runs" / name
    (folder / "checkpoints").mkdir(parents=True)
    (folder / "lock").touch()
    (folder / "config.json").write_text(json.dumps({"started": f"2026-11-{day:02}T06:00:00.000000+00:00"}))
    (folder / "checkpoints" / "9.safetensors").write_bytes(bytes(1000))
    if published:
        model = output / "models" / name
        model.mkdir(parents=True)
        (model / "report.json").write_bytes(bytes(500))
        (folder / "verdict.json").write_text("{}")
    for path in (folder / "checkpoints", folder):
        os.utime(path, (0, 0))


def remaining(output: Path) -> list[str]:
    """The runs and models in the folder."""
    return sorted(f"{kind}/{path.name}" for kind in ("models", "runs") for path in (output / kind).iterdir())


@pytest.fixture
def output(tmp_path: Path) -> Path:
    """Five models, the second of which is `latest`; two runs without a model, one began before and one after them."""
    for day, name in enumerate(["first", "second", "third", "fourth", "fifth"], 2):
        begin(tmp_path, name, day)
    begin(tmp_path, "old", 1, published=False)
    begin(tmp_path, "new", 9, published=False)
    (tmp_path / "latest").symlink_to("models/second")
    return tmp_path


def names(planned: dict[str, Any]) -> list[str]:
    """The names of the runs that go."""
    return [found["name"] for found in planned["prune"]]


def test_old_models_go(output: Path) -> None:
    """The newest models, all runs since, and `latest` stay; the other models go with their runs.

    Runs without a model stay: they may be suspended, or waiting for their workers.
    """
    planned = prune.plan_pruning(output, 2)
    assert planned["before"] == "2026-11-05T06:00:00.000000+00:00"
    assert [(found["name"], found["published"], found["bytes"]) for found in planned["prune"]] == [
        ("first", True, 1500 + 49),
        ("third", True, 1500 + 49),
    ]
    assert planned["kept"] == {
        "old": "it has no model, and --keep alone does not prune it",
        "second": "`latest` points to it",
        "fourth": "",
        "fifth": "",
        "new": "",
    }
    assert prune.prune(output, planned) == ["first", "third"]
    assert remaining(output) == [
        *(f"models/{name}" for name in ("fifth", "fourth", "second")),
        *(f"runs/{name}" for name in ("fifth", "fourth", "new", "old", "second")),
    ]
    assert [path.name for path in (output / ".pruned").iterdir()] == ["lock"]
    assert names(prune.plan_pruning(output, 2)) == []


@pytest.mark.parametrize(
    ("keep", "age", "only", "gone"),
    [
        (1, 0, (), ["first", "third", "fourth"]),
        (5, 0, (), []),
        (5, 0, ("old", "new"), ["old"]),
        (5, 2.5, (), ["old"]),
        (6, 2.5, (), []),  # there are fewer models
        (1, 2.5, (), ["old", "first"]),
        (1, 100, (), []),
        (1, 0, ("fourth", "fifth", "second"), ["fourth"]),
    ],
)
def test_number_age_and_names_limit_what_goes(
    output: Path, keep: int, age: float, only: tuple[str, ...], gone: list[str]
) -> None:
    """A run goes only if the number and the age allow it, and only named runs go if any are named."""
    began = dt.datetime(2026, 11, 5, 6, tzinfo=dt.UTC)  # the fourth
    older_than_s = (dt.datetime.now(dt.UTC) - began).total_seconds() + (age - 0.5) * 86_400 if age else 0
    assert names(prune.plan_pruning(output, keep, int(older_than_s), only)) == gone


def test_run_in_training_stays(output: Path) -> None:
    """Its lock shows it, or a recent write; a run that begins after the plan was made stays too."""
    named = ("old", "first", "fourth")
    planned = prune.plan_pruning(output, 1, names=named)
    with (output / "runs/first/lock").open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert prune.plan_pruning(output, 1)["kept"]["first"] == "it is being trained"
        os.utime(output / "runs/old")
        resting = "it was written to within the last 20 min, and may continue"
        assert prune.plan_pruning(output, 1, names=named)["kept"]["old"] == resting
        (output / "latest").unlink()
        (output / "latest").symlink_to("models/third")
        assert prune.prune(output, planned) == ["fourth"]
    assert names(prune.plan_pruning(output, 1)) == ["first", "second"]
    (output / "runs/first/verdict.json").unlink()  # its model may be about to be promoted
    assert prune.plan_pruning(output, 1)["kept"]["first"] == resting


def test_age_of_an_unfinished_run_is_that_of_its_last_write(output: Path) -> None:
    """For --older-than: a run that began long ago may have been suspended recently."""
    at = dt.datetime.now(dt.UTC).timestamp() - 7200
    (output / "runs/old/events.jsonl").touch()
    os.utime(output / "runs/old/events.jsonl", (at, at))
    os.utime(output / "runs/old", (0, 0))
    assert prune.plan_pruning(output, 5, 7300)["kept"]["old"] == "it was written to within --older-than"
    assert names(prune.plan_pruning(output, 5, 7100)) == ["old"]


def test_unfinished_files_of_a_run_go_with_it(output: Path) -> None:
    """An unfinished model, a probe and an unfinished link go; those of other runs stay."""
    for name in ("first", "fourth"):
        (output / f"models/.{name}.0f6e-1").mkdir()
        (output / f"models/.{name}.0f6e-1/variables").write_bytes(bytes(5000))
        (output / f".probe.{name}.x").mkdir()
        (output / f".latest.{name}").symlink_to(f"models/{name}")
    planned = prune.plan_pruning(output, 3)
    [first] = planned["prune"]
    assert (first["name"], first["bytes"]) == ("first", 1500 + 49 + 5000)
    assert prune.prune(output, planned) == ["first"]
    assert {path.name for path in output.iterdir()} == {
        *(".latest.fourth", ".probe.fourth.x", ".promotion-lock", ".pruned", "latest", "models", "runs")
    }
    assert [path.name for path in (output / "models").glob(".*")] == [".fourth.0f6e-1"]
    assert [path.name for path in (output / ".pruned").iterdir()] == ["lock"]


@pytest.mark.parametrize("moment", ["_started", "_lock_problem", "size_of"])
def test_run_that_disappears_during_the_inventory(output: Path, moment: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another prune may remove it; this is no error."""
    shutil.rmtree(output / "models/first")
    original = getattr(inventory, moment)

    def remove_first(*arguments: Any) -> Any:
        if "first" in str(arguments):
            shutil.rmtree(output / "runs/first", ignore_errors=True)
        return original(*arguments)

    monkeypatch.setattr(inventory, moment, remove_first)
    (output / "runs/first/config.json").unlink()
    os.utime(output / "runs/first", (0, 0))
    planned = prune.plan_pruning(output, 4, names=("first", "old"))
    monkeypatch.undo()
    assert "first" not in planned["kept"]
    assert planned["unknown"] == (["first"] if moment == "_started" else [])
    assert prune.prune(output, planned) == ["old"]


def test_run_that_waits_for_its_lock_while_it_is_pruned(output: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It starts in a new folder, not in the one that was renamed away."""
    planned = prune.plan_pruning(output, 1, names=("first",))
    wait_for = run_lock._wait_for
    held: list[int] = []

    def slow(lock: int, *arguments: str) -> None:
        if not held:
            assert prune.prune(output, planned) == ["first"]
        held.append(lock)
        wait_for(lock, *arguments)

    monkeypatch.setattr(run_lock, "_wait_for", slow)
    (output / "runs/first/config.json").unlink()
    shutil.rmtree(output / "models/first")
    os.utime(output / "runs/first", (0, 0))
    settings = {"job_uid": "local", "started": "2026-11-20", "must_match": {}}
    with RunFolder(output, "first", "local").begin(settings) as verdict:
        assert verdict is None
        assert len(held) == 2
        assert files.read_json(output / "runs/first/config.json") == settings
        assert prune.plan_pruning(output, 1)["kept"]["first"] == ""
        with (output / "runs/first/lock").open() as lock, pytest.raises(BlockingIOError):
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)


@pytest.mark.parametrize("step", ["rename", "delete"])
@pytest.mark.parametrize("moment", range(4))
def test_killed_prune_leaves_whole_runs(output: Path, step: str, moment: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each run is whole, without its model, or gone; the next prune removes the rest."""

    class Killed(BaseException):
        pass

    count = 0

    def counted(original: Any) -> Any:
        def call(*arguments: Any, **options: Any) -> Any:
            nonlocal count
            if count == moment:
                raise Killed
            count += 1
            return original(*arguments, **options)

        return call

    planned = prune.plan_pruning(output, 1, 3600)
    with monkeypatch.context() as patch:
        if step == "rename":
            patch.setattr("pathlib.Path.rename", counted(type(output).rename))
        else:
            patch.setattr(prune, "_delete", counted(prune._delete))
        with pytest.raises(Killed):
            prune.prune(output, planned)
    for path in (output / "models").iterdir():
        assert (path / "report.json").is_file()
        assert (output / "runs" / path.name / "config.json").is_file()
    for path in (output / "runs").iterdir():
        assert (path / "checkpoints/9.safetensors").is_file()
    prune.prune(output, prune.plan_pruning(output, 1))
    runs = [path for path in remaining(output) if path != "runs/old"]
    assert runs == ["models/fifth", "models/second", "runs/fifth", "runs/new", "runs/second"]
    assert [path.name for path in (output / ".pruned").iterdir()] == ["lock"]


def test_served_models_stay(output: Path) -> None:
    """Those of the versions in serving/, also if `latest` has moved on since the plan was made."""
    planned = prune.plan_pruning(output, 1)
    assert names(planned) == ["first", "third", "fourth"]
    for number, name in enumerate(["first", "third", "second"], 5):
        (output / f"serving/{number}").mkdir(parents=True)
        (output / f"serving/{number}/run").write_text(f"{name}\n")
    (output / "serving/4").mkdir()  # of an unknown run
    again = prune.plan_pruning(output, 1)
    assert {name: why for name, why in again["kept"].items() if why} == {
        "first": "serving/5 is its model",
        "old": "it has no model, and --keep alone does not prune it",
        "second": "`latest` points to it",
        "third": "serving/6 is its model",
    }
    assert names(again) == ["fourth"]
    assert prune.prune(output, planned) == ["fourth"]


def test_links_and_other_entries_are_left_alone(output: Path) -> None:
    """No link is followed, and entries that are not runs stay."""
    elsewhere = output / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "precious").touch()
    (output / "models/linked").symlink_to(elsewhere)
    (output / "runs/file").touch()
    (output / "runs/-rf ..\n").mkdir()
    (output / "runs/first/checkpoints/out").symlink_to(elsewhere)
    (output / "runs/third/lock").unlink()
    (output / "runs/third/lock").symlink_to(elsewhere / "precious")
    os.utime(output / "runs/first/checkpoints", (0, 0))
    planned = prune.plan_pruning(output, 1)
    assert {name: why for name, why in planned["kept"].items() if why} == {
        "-rf ..\n": "it is not a run's name",
        "file": "it is a symbolic link or a file",
        "linked": "it is a symbolic link or a file",
        "old": "it has no model, and --keep alone does not prune it",
        "second": "`latest` points to it",
        "third": f"its lock cannot be opened: {os.strerror(errno.ELOOP)}",
    }
    assert prune.prune(output, planned) == ["first", "fourth"]
    assert (elsewhere / "precious").is_file()
    assert {"models/linked", "runs/-rf ..\n", "runs/file", "runs/third"} <= set(remaining(output))


@pytest.mark.parametrize("place", ["runs", "models", ".pruned"])
def test_folder_that_is_a_link_is_refused(output: Path, place: str) -> None:
    """A link could lead out of the output folder."""
    aside = output.with_name(f"{output.name}-aside")
    (output / place).mkdir(exist_ok=True)
    (output / place).rename(aside)
    (output / place).symlink_to(aside)
    with pytest.raises(JobError, match="is a symbolic link, and `prune` does not follow links; remove it"):
        prune.plan_pruning(output, 1)


@pytest.mark.parametrize("target", ["elsewhere", "models", "models/second/..", "latest", "/"])
def test_latest_that_leads_elsewhere_is_refused(output: Path, target: str) -> None:
    """It is then unknown which model is in use."""
    (output / "latest").unlink()
    (output / "latest").symlink_to(target)
    with pytest.raises(JobError, match=r"does not point to a model in .*, so nothing was pruned"):
        prune.plan_pruning(output, 1)


def test_run_without_its_files_is_as_old_as_its_folder(output: Path) -> None:
    """A run that was killed before it wrote config.json, or whose files are damaged, can go too."""
    (output / "runs/empty").mkdir()
    os.utime(output / "runs/empty", (0, 0))
    (output / "runs/first/config.json").write_text("{")
    (output / "models/first/report.json").write_text(json.dumps({"run": {"started": "2026-11-02T08:00:00+02:00"}}))
    for path in ("runs/first", "models/first"):
        os.utime(output / path, (0, 0))
    found = [
        (one["name"], one["started"][:16])
        for one in prune.plan_pruning(output, 4, names=("empty", "old", "first"))["prune"]
    ]
    assert found == [("empty", "1970-01-01T00:00"), ("old", "2026-11-01T06:00"), ("first", "2026-11-02T06:00")]


def test_pruned_model_is_not_promoted(output: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`latest` never points to nothing, even if the model is pruned just before promote takes its lock."""
    planned = prune.plan_pruning(output, 1)

    @contextlib.contextmanager
    def late(root: Path) -> Iterator[None]:
        assert prune.prune(root, planned) == ["first", "third", "fourth"]
        with promotion_lock(root):
            yield

    monkeypatch.setattr("job.output.latest.promotion_lock", late)
    with pytest.raises(JobError, match=r"run 'first' is not published in .*; published are fifth, second") as caught:
        move_latest(output, "first")
    assert caught.value.code == Exit.USAGE
    assert (output / "latest").readlink().name == "second"


def test_second_prune_waits_and_promotion_does_not(output: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """While files are deleted, the lock of prune is held and the promotion lock is free."""
    delete, deleted = prune._delete, []

    def check_locks(path: Path) -> None:
        with (output / ".pruned/lock").open() as lock, pytest.raises(BlockingIOError):
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        with (output / ".promotion-lock").open() as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        delete(path)
        deleted.append(path)

    monkeypatch.setattr(prune, "_delete", check_locks)
    assert len(prune.prune(output, prune.plan_pruning(output, 2))) == len(deleted) == 2


def command(monkeypatch: pytest.MonkeyPatch, *words: str) -> int:
    """Run `python -m job prune`; returns the exit code."""
    monkeypatch.setattr(sys, "argv", ["job", "prune", *words])
    return entry.main()


def test_command_shows_the_plan_and_asks(
    output: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nothing goes without confirmation: an answer on a terminal, or a flag."""
    flags = [f"--output={output}", "--keep=2", "--older-than=1h"]
    monkeypatch.setattr("sys.stdin.isatty", lambda: False, raising=False)
    assert command(monkeypatch, *flags) == 64
    assert capsys.readouterr() == (
        "",
        (
            "error: prune asks before it removes anything, and standard input is not a terminal; "
            "--dry-run shows what would be pruned, --yes prunes it\n"
        ),
    )
    said = [
        "'second' is kept: `latest` points to it",
        "to prune, 3 runs, which frees 0.0 MB:",
        "  old    2026-11-01 06:00 UTC       0.0 MB  unpublished",
        "  first  2026-11-02 06:00 UTC       0.0 MB  model and run",
        "  third  2026-11-04 06:00 UTC       0.0 MB  model and run",
    ]
    before = remaining(output)
    assert command(monkeypatch, *flags, "--dry-run") == 0
    assert capsys.readouterr().out.splitlines() == said
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    for answer, end in (("", "nothing was pruned"), ("yes", "pruned 3 runs")):
        assert remaining(output) == before
        monkeypatch.setattr("builtins.input", lambda _, answer=answer: answer)
        assert command(monkeypatch, *flags) == 0
        assert capsys.readouterr().out.splitlines() == [*said, end]
    assert len(remaining(output)) == len(before) - 5
    assert command(monkeypatch, *flags, "--yes", "--json") == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["prune"], told["pruned"], told["kept"]["second"]) == ([], [], "`latest` points to it")
    assert command(monkeypatch, *flags, "--json") == 64
    assert capsys.readouterr().err.startswith(
        "error: prune asks before it removes anything, and JSON output leaves no pl"
    )


def test_command_says_why_a_named_run_stays(
    output: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """An unknown name is refused on a terminal, and reported in JSON."""
    flags = [f"--output={output}", "--keep=2", "--yes", "second", "new", "fifth"]
    before = remaining(output)
    assert command(monkeypatch, *flags) == 0
    assert capsys.readouterr().out.splitlines() == [
        "'second' is kept: `latest` points to it",
        "'fifth' is kept: it is among the newest 2 models, or started since",
        "'new' is kept: it is among the newest 2 models, or started since",
        "there is nothing to prune",
    ]
    assert command(monkeypatch, *flags, "first", "fist") == 64
    said = f"error: there is no run 'fist' in {output}; nothing was pruned\n"
    assert capsys.readouterr() == ("", said)
    assert remaining(output) == before
    assert command(monkeypatch, *flags[:1], "--keep=6", "--yes", "old") == 0
    assert capsys.readouterr().out.startswith("'old' is kept: there are fewer than 6 models\n")
    assert command(monkeypatch, *flags, "first", "fist", "--json") == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["pruned"], told["unknown"]) == (["first"], ["fist"])


def test_folder_without_runs_is_66(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    """For example after a typing error in --output; nothing is created."""
    for folder in (tmp_path, tmp_path / "outptu"):
        assert command(monkeypatch, f"--output={folder}", "--keep=2", "--yes") == 66
        assert capsys.readouterr().err == (
            f"error: {folder} has neither runs nor models; use the --output folder of `train`\n"
        )
    assert list(tmp_path.iterdir()) == []


def test_command_in_a_relative_folder(output: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The default folder is relative too."""
    monkeypatch.chdir(output.parent)
    assert command(monkeypatch, f"--output={output.name}", "--keep=2", "--yes") == 0
    assert "models/first" not in remaining(output)
    assert [path.name for path in (output / ".pruned").iterdir()] == ["lock"]


@pytest.mark.parametrize("flag", ["--json", "--output=."])
def test_command_removes_what_a_killed_prune_left(
    output: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], flag: str
) -> None:
    """Even if no run goes; without such remains nothing changes."""
    monkeypatch.chdir(output)
    assert command(monkeypatch, flag, f"--output={output}", "--keep=6", "--yes") == 0
    assert not (output / ".pruned").exists()
    (output / ".pruned/first.x/runs").mkdir(parents=True)
    (output / ".pruned/first.x/runs/file").write_bytes(bytes(200_000))
    capsys.readouterr()
    assert command(monkeypatch, flag, f"--output={output}", "--keep=6", "--dry-run") == 0
    said = capsys.readouterr().out
    if flag == "--json":
        assert json.loads(said)["left"] == 200_000
    else:
        assert said == "0.2 MB that an interrupted prune left behind will be deleted\nthere is nothing to prune\n"
    assert command(monkeypatch, flag, f"--output={output}", "--keep=6", "--yes") == 0
    assert [path.name for path in (output / ".pruned").iterdir()] == ["lock"]


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--keep=0"], "--keep must be at least 1, not 0"),
        (
            ["--keep=1", "--older-than=800000d"],
            "--older-than must be seconds or a duration such as 30m, 6h or 7d, at most 36500d, not '800000d'",
        ),
        (
            ["--keep=1", "--older-than=x"],
            "--older-than must be seconds or a duration such as 30m, 6h or 7d, at most 36500d, not 'x'",
        ),
        ([], "the following arguments are required: --keep; see `python -m job prune --help`"),
    ],
)
def test_wrong_flags(
    words: list[str], sentence: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """They end with 64 and one sentence."""
    assert command(monkeypatch, *words, "--yes") == 64
    assert capsys.readouterr().err == f"error: {sentence}\n"


@pytest.mark.parametrize("file", ["runs/third/config.json", "latest"])
def test_a_volume_that_fails_for_now_is_asked_again(file: str, output: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The age of a run and the target of `latest` are not guessed from other files."""

    def failing(name: str) -> None:
        call = getattr(Path, name)

        def fail(path: Path, **options: Any) -> Any:
            if path == output / file:
                raise OSError(errno.EIO, os.strerror(errno.EIO), str(path))
            return call(path, **options)

        monkeypatch.setattr(Path, name, fail)

    failing("lstat")
    failing("read_text")
    with pytest.raises(OSError, match="Input/output error"):
        prune.plan_pruning(output, 2)
