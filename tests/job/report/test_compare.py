"""Tests of runs side by side."""

from __future__ import annotations

import errno
import html
import io
import json
import os
import re
import shutil
from typing import TYPE_CHECKING, Any

import jsonschema
import numpy as np
import pytest
from selenium.webdriver.common.by import By

from job.errors import Exit, JobError
from job.output.significance import WorseClass, mcnemar
from job.report import compare, published_run
from job.report.compare import block_curves
from job.report.comparison import Difference, differing_settings
from job.report.schema import SCHEMA
from tests.job import report_samples as samples
from tests.job.report.test_page import CONTRASTS

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from numpy.typing import NDArray
    from selenium import webdriver


def right(*wrong: range) -> NDArray[np.bool_]:
    """Which of 1,000 examples are correct: all but those."""
    found = np.ones(1000, bool)
    for part in wrong:
        found[list(part)] = False
    return found


@pytest.fixture
def output(tmp_path: Path) -> Path:
    """Five published runs: the latest, a clearly worse one, a similar one, and two trained or tested on other data."""
    samples.publish(tmp_path, "base", right(range(100)))
    samples.publish(
        tmp_path,
        "slow",
        right(range(160)),
        "rejected",
        started="2026-11-24T01:00:00+00:00",
        settings={"learning_rate": 0.01, "schedule": "constant"},
    )
    samples.publish(tmp_path, "twin", right(range(3, 104)), "kept", started="2026-11-25T01:00:00+00:00")
    fingerprint = samples.run().manifest["fingerprint"]
    other = fingerprint | {
        "classes": ["no", "yes"],
        "test": {"sha256": "e" * 64, "count": 1000},
    }
    samples.publish(tmp_path, "other", right(), fingerprint=other, started="2026-11-22T01:00:00+00:00")
    samples.publish(
        tmp_path,
        "retrained",
        right(range(95)),
        started="2026-11-23T01:00:00+00:00",
        fingerprint=fingerprint | {"classes": ["no", "yes"], "train": {"sha256": "f" * 64, "count": 9}},
        curve=[],
    )
    (tmp_path / "latest").symlink_to("models/base")
    (tmp_path / "runs" / "begun").mkdir()
    (tmp_path / "models" / ".half.uid").mkdir()
    return tmp_path


def test_runs_are_compared_with_latest(output: Path) -> None:
    """Newest first; differences on the same test examples, with corrected p-values; other runs are named."""
    found = compare.compare_folder(output)
    assert [(one.name, one.verdict, one.latest) for one in found.runs] == [
        ("twin", "kept", False),
        ("slow", "rejected", False),
        ("base", "promoted", True),
        ("retrained", "promoted", False),
        ("other", "promoted", False),
    ]
    assert found.reference.name == "base"
    assert found.differences == {
        "twin": Difference("twin", -0.001, 3, 4, 1.0, beyond_chance=False, worse_classes=[]),
        "slow": Difference(
            *("slow", -0.06, 0, 60, 3 * mcnemar(0, 60)),
            beyond_chance=True,
            worse_classes=[WorseClass("no", 0.84, 0.9, 2 * mcnemar(0, 60))],  # all test examples are of this class
        ),
        "retrained": Difference("retrained", 0.005, 5, 0, 0.125, beyond_chance=False, worse_classes=[]),
    }
    assert found.other_training == ["retrained"]
    assert (found.not_comparable, found.damaged, found.unpublished) == (["other"], {}, ["begun"])
    assert differing_settings(found.runs) == ["learning_rate", "schedule"]


def test_table_says_what_is_significant(output: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The whole printed page."""
    compare.run(output)
    printed = [line.rstrip() for line in capsys.readouterr().out.splitlines()]
    called = "base (latest)"
    table = """
run             started (UTC)     accuracy  95% interval      difference  by epoch  verdict   learning-rate  schedule
twin            2026-11-25 01:00    89.90%  87.88 to 91.62%        -0.10  ▁█        kept               1.25    cosine
slow            2026-11-24 01:00    84.00%  81.60 to 86.14%      * -6.00  ▁█        rejected           0.01  constant
base <- latest  2026-11-23 06:54    90.00%  87.98 to 91.71%    reference  ▁█        promoted           1.25    cosine
retrained       2026-11-23 01:00    90.50%  88.52 to 92.17%        +0.50            promoted           1.25    cosine
other           2026-11-22 01:00   100.00%  99.62 to 100.00%  other data  ▁█        promoted           1.25    cosine
"""
    assert printed == [
        *table.strip().splitlines(),
        "",
        f"Compared with {called}, in percentage points; * is significant (McNemar's exact test, Holm, 5%):",
        "  slow is worse: it alone classifies 0 examples correctly, base alone 60 (p = 5.2e-18)",
        "  slow is worse for class no (recall 0.8400 after 0.9000, p = 3.5e-18)",
        "  no significant difference: twin (p = 1), retrained (p = 0.12)",
        "twin, the newest, was kept: it is kept",
        f"Trained on other data than {called}: retrained",
        f"Tested on other data than {called}, so not comparable: other",
        "Started but not published: begun",
    ]


def test_rows_are_whole_lines_without_a_terminal(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """However narrow the terminal is said to be, and however long the names are."""
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("FORCE_COLOR", "1")
    names = [f"{letter}{'-long' * 12}" for letter in "ab"]
    for number, name in enumerate(names, 1):
        settings = dict.fromkeys(("epochs", "batch_size", "seed", "log_every", "sync_every", "threads"), number)
        samples.publish(tmp_path, name, right(), settings={**settings, "learning_rate": number / 7})
    compare.run(tmp_path)
    header, *rows = [line.rstrip() for line in capsys.readouterr().out.splitlines()[:3]]
    assert len(header) > 160
    assert sorted(row[: len(names[0])] for row in rows) == names
    assert sorted(row.split()[-1] for row in rows) == ["1", "2"]


def test_settings_are_named_as_their_flags(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """In the table and on the page. Those that do not change what is trained are left out."""
    changed: dict[str, Any] = {"batch_size": 7, "continue_": True, "join_timeout": 7, "stall_timeout": 7}
    samples.publish(tmp_path, "one", right())
    samples.publish(tmp_path, "two", right(), settings={**changed, "checkpoint_every": 7})
    compare.run(tmp_path)
    assert capsys.readouterr().out.splitlines()[0].split()[-2:] == ["verdict", "batch-size"]
    assert re.findall(r'<th scope="col">([-\w]+)</th></tr>', page_of(tmp_path))[0] == "batch-size"


def test_json_has_all_that_the_table_has(output: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One object, with the settings of each run and its difference from the reference."""
    compare.run(output, as_json=True)
    printed = json.loads(capsys.readouterr().out)
    slow = next(one for one in printed["runs"] if one["name"] == "slow")
    assert slow["vs_reference"]["beyond_chance"] is True
    assert [each["name"] for each in slow["vs_reference"]["worse_classes"]] == ["no"]
    assert slow["settings"]["learning_rate"] == 0.01
    assert (slow["reason"], slow["curve"]) == ("it is rejected", samples.run().curve)
    assert {key: value for key, value in printed.items() if key != "runs"} == {
        "reference": "base",
        "latest": "base",
        "not_comparable": ["other"],
        "other_training": ["retrained"],
        "other_models": {},
        "damaged": {},
        "unpublished": ["begun"],
    }


def test_runs_of_different_models_are_distinguished(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The start of the SHA-256 of model.py is shown like a setting, and a sentence says from which line on they differ.

    Reports of earlier versions have no hash.
    """
    sources = {"one": "a = 1\nb = 2\n", "two": "a = 1\nb = 3\n", "four": "a = 1\nb = 2\n\nc = 4\n"}
    for name, model in (("one", "a" * 64), ("two", "b" * 64), ("four", "c" * 64), ("three", "d" * 64), ("old", "")):
        folder = samples.publish(tmp_path, name, right(), must_match={"model": model})
        if name in sources:
            (folder / "model.py").write_text(sources[name])
        if not model:
            report = json.loads((folder / "report.json").read_bytes())
            del report["model_sha256"]
            jsonschema.validate(report, SCHEMA, jsonschema.Draft202012Validator)
            (folder / "report.json").write_text(json.dumps(report))
    (tmp_path / "latest").symlink_to("models/one")
    compare.run(tmp_path)
    printed = capsys.readouterr().out
    header, *rows = [line.split() for line in printed.splitlines()[:6]]
    assert header[-1] == "model"
    hashes = {"one": "a" * 12, "two": "b" * 12, "four": "c" * 12, "three": "d" * 12, "old": "-"}
    assert {row[0]: row[-1] for row in rows} == hashes
    # In the order of the table; nothing is known of where the model of `three` differs.
    [sentence] = [line for line in printed.splitlines() if line.startswith("Trained with another model.py than one")]
    assert sentence == (
        "Trained with another model.py than one (latest): two (from line 2 on), three, four (from line 3 on)"
    )
    compare.run(tmp_path, as_json=True)
    assert json.loads(capsys.readouterr().out)["other_models"] == {"two": 2, "three": None, "four": 3}


def test_learning_curve_in_blocks(tmp_path: Path) -> None:
    """One block for each epoch, at most ten and always the last, on one scale for all runs."""
    curves = {"long": [0.5 + step / 100 for step in range(25)], "flat": [0.5, 0.5], "none": []}
    for name, accuracies in curves.items():
        curve = [{"epoch": 1, "step": at, "loss": 1.0, "accuracy": value} for at, value in enumerate(accuracies)]
        samples.publish(tmp_path, name, right(), curve=curve)
    found = compare.compare_folder(tmp_path)
    assert block_curves(found.runs) == {
        "long": "▁▂▃▄▅▅▆▇█",
        "flat": "▁▁",
        "none": "",
    }


def page_of(output: Path) -> str:
    """The page, as the command writes it."""
    compare.run(output, html=output / "page.html")
    return (output / "page.html").read_text(encoding="utf-8")


def test_page_is_complete_and_self_contained(output: Path) -> None:
    """It has the figures of each run, which run is latest, the reasons of verdicts, and the data."""
    page = page_of(output)
    text = re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", page.split("</style>")[1]))
    for told in (
        "base is latest",
        "5 published runs",
        "base latest 2026-11-23 06:54 90.00% 87.98 to 91.71% reference",
        "slow 2026-11-24 01:00 84.00% 81.60 to 86.14% -6.00 5.2e-18 rejected it is rejected bbbbbbbb cccccccc 0.01",
        "twin, the newest, was kept: it is kept",
        "slow is worse for class no (recall 0.8400 after 0.9000, p = 3.5e-18)",
        "Trained on other data than base (latest): retrained",
    ):
        assert told in text
    outside = set(re.findall(r"https?://[^\s\"'<)]+", page))
    assert outside <= {"http://www.w3.org/1999/xlink", "http://www.w3.org/2000/svg"}
    assert not re.search(r"(?:src|href)=\"(?!data:|#)|<script", page)
    ids = re.findall(r'\bid="([^"]+)"', page)
    assert len(ids) == len(set(ids))
    (output / "latest").unlink()
    assert "other is the most accurate; no run is latest" in page_of(output)


def test_page_that_cannot_be_written(output: Path) -> None:
    """It ends with 73 and one sentence."""
    with pytest.raises(JobError, match=r"nowhere/page\.html cannot be written: No such file") as caught:
        compare.run(output, html=output / "nowhere" / "page.html")
    assert caught.value.code == Exit.OUTPUT


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_page_is_legible_quiet_and_fits(output: Path, visit: Callable[..., webdriver.Chrome], scheme: str) -> None:
    """In Chromium: contrast of at least 4.5 to 1, an empty console, no wider than a phone; markup in names is text."""
    name = "<img src=x onerror=alert(1)>"
    samples.publish(output, name, right(range(90)), "kept", started="2026-11-26T01:00:00+00:00")
    page_of(output)
    browser = visit(output / "page.html", width=360, scheme=scheme)
    assert browser.execute_script("return document.documentElement.scrollWidth") == 360
    found = browser.execute_script(CONTRASTS)
    assert len(found) > 100
    assert [pair for pair in found if pair[0] < 4.5] == []
    assert browser.find_elements(By.TAG_NAME, "img") == []
    assert name in [cell.text.split("\n")[0] for cell in browser.find_elements(By.CSS_SELECTOR, "tbody th")]
    assert browser.get_log("browser") == []  # type: ignore[no-untyped-call]


def test_without_latest_the_most_accurate_is_the_reference(output: Path) -> None:
    """A dangling `latest` is no error."""
    (output / "latest").unlink()
    (output / "latest").symlink_to("models/gone")
    found = compare.compare_folder(output)
    assert found.reference.name == "other"
    assert not any(one.latest for one in found.runs)


def test_folder_without_runs_is_66(tmp_path: Path) -> None:
    """The folder may be missing, or hold a run that is not published."""
    (tmp_path / "begun" / "runs" / "first").mkdir(parents=True)
    for folder, told in (("absent", ""), ("begun", "; started but not published: first")):
        with pytest.raises(JobError) as caught:
            compare.run(tmp_path / folder)
        assert caught.value.code == Exit.DATA_MISSING
        assert caught.value.message == f"there is no published run in {tmp_path / folder}{told}"


@pytest.mark.parametrize(
    ("file", "content", "told"),
    [
        ("report.json", None, "report.json is missing"),
        ("report.json", b"{", "report.json is not JSON"),
        ("report.json", b"{}", "'test' is missing"),
        ("report.json", b"[]", "list indices must be integers or slices, not str"),
        ("report.json", "yesterday", "the run's start in report.json is not a time: 'yesterday'"),
        ("predictions.npz", None, "predictions.npz is missing"),
        ("predictions.npz", b"PK\x03\x04torn", "File is not a zip file"),
        ("predictions.npz", b"", "No data left in file"),
        ("../../runs/slow/verdict.json", b"{", "verdict.json cannot be read"),
    ],
)
def test_damaged_run_is_named_after_the_others_are_shown(
    output: Path, capsys: pytest.CaptureFixture[str], file: str, content: bytes | str | None, told: str
) -> None:
    """65 and one sentence; the other runs are still compared, and the damaged one is named with them."""
    damaged = output / "models" / "slow" / file
    if isinstance(content, str):  # a sound report that began then
        content = damaged.read_bytes().replace(b"2026-11-24T01:00:00+00:00", content.encode())
    damaged.unlink()
    if content is not None:
        damaged.write_bytes(content)
    with pytest.raises(JobError) as caught:
        compare.run(output, html=output / "page.html")
    assert (caught.value.code, caught.value.message) == (
        Exit.DATA_DAMAGED,
        f"the published run slow is damaged: {told}",
    )
    said = capsys.readouterr().out
    assert said.startswith("run ")
    sentence = f"slow is damaged and left out: {told}"
    assert sentence in said.splitlines()
    assert sentence in html.unescape((output / "page.html").read_text(encoding="utf-8"))


def test_damaged_latest_is_named(output: Path) -> None:
    """The others are compared with the most accurate run."""
    (output / "models" / "base" / "report.json").unlink()
    found = compare.compare_folder(output)
    assert (found.reference.name, found.latest) == ("other", "base")
    assert "other is the most accurate; latest points to base, which is damaged" in page_of_damaged(output)


def page_of_damaged(output: Path) -> str:
    """The page, as the command writes it before it ends with 65."""
    with pytest.raises(JobError, match="is damaged"):
        compare.run(output, html=output / "page.html")
    return (output / "page.html").read_text(encoding="utf-8")


@pytest.mark.parametrize("file", ["models/slow/report.json", "models/slow/predictions.npz", "runs/slow/verdict.json"])
@pytest.mark.parametrize(
    ("number", "code", "told"),
    [
        (errno.EIO, Exit.TRY_AGAIN, "the output folder failed at {}: Input/output error"),
        (errno.ESTALE, Exit.TRY_AGAIN, "the output folder failed at {}: Stale file handle"),
        (errno.EACCES, Exit.OUTPUT, "the output folder cannot be read at {}: Permission denied"),
    ],
)
def test_failing_file_system_is_not_damage(
    output: Path, monkeypatch: pytest.MonkeyPatch, file: str, number: int, code: Exit, told: str
) -> None:
    """The exit codes are those of the other commands."""
    original = io.open

    def refused(path: Any, *arguments: Any, **options: Any) -> Any:
        if path == output / file:
            raise OSError(number, os.strerror(number), str(path))
        return original(path, *arguments, **options)

    monkeypatch.setattr("io.open", refused)
    with pytest.raises(JobError) as caught:
        compare.run(output)
    assert (caught.value.code, caught.value.message) == (code, told.format(output / file))


def test_run_that_is_pruned_during_the_comparison_is_left_out(output: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It does not count as damaged; without any run left there is nothing to compare."""
    original = published_run._read_run

    def read(folder: Path, *arguments: Any, **options: Any) -> published_run.PublishedRun:
        if folder.name in pruned:
            shutil.rmtree(folder)
        return original(folder, *arguments, **options)

    monkeypatch.setattr(published_run, "_read_run", read)
    pruned = {"slow"}
    found = compare.compare_folder(output)
    assert ([one.name for one in found.runs], found.damaged) == (["twin", "base", "retrained", "other"], {})
    pruned = {one.name for one in found.runs}
    with pytest.raises(JobError, match="there is no published run in"):
        compare.compare_folder(output)


def test_page_says_how_many_curves_it_draws(output: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It draws all curves, or those of the newest runs and of latest."""
    assert "A line for each run." in page_of(output)
    monkeypatch.setattr("job.report.compare_page.CURVES", 3)
    said = "a line for each of the newest 3 of 5 runs, and for latest"
    assert page_of(output).lower().count(said) == 3  # above them, and where each is described


def test_predictions_of_another_run_are_damage(output: Path) -> None:
    """Predictions that do not match the report's accuracy are not compared."""
    (output / "models" / "twin" / "predictions.npz").write_bytes(
        (output / "models" / "slow" / "predictions.npz").read_bytes()
    )
    assert compare.compare_folder(output).damaged == {"twin": "report.json and predictions.npz do not belong together"}


def test_nothing_readable_is_65(tmp_path: Path) -> None:
    """If all published runs are damaged there is no table, and each is named."""
    samples.publish(tmp_path, "only", right()).joinpath("report.json").unlink()
    with pytest.raises(JobError) as caught:
        compare.run(tmp_path)
    assert caught.value.code == Exit.DATA_DAMAGED
    assert caught.value.message == (f"no published run in {tmp_path} can be read (only: report.json is missing)")
