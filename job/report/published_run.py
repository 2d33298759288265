"""The published runs of an output folder, read from it."""

from __future__ import annotations

import contextlib
import json
import math
import zipfile
import zlib
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from tokenize import TokenError
from typing import TYPE_CHECKING, Any

from job.errors import first_line
from job.must_match import SHORT
from job.output.layout import MODEL_SOURCE
from job.output.significance import read_predictions

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from job.output.significance import Predictions


@dataclass(frozen=True)
class PublishedRun:
    """One published run.

    settings are the report's, plus `model`, the first digits of the SHA-256 of model.py; source is the text of that
    file, None in a run of an earlier version; accuracy and interval are of the test set; verdict and reason are
    promotion's, `-` and empty if it decided nothing; curve is that of report.json; classes are the names of the
    classes.
    """

    name: str
    started: str
    settings: Mapping[str, Any]
    source: str | None
    train_sha256: str
    test_sha256: str
    accuracy: float
    interval: tuple[float, float]
    verdict: str
    reason: str
    latest: bool
    curve: Sequence[Mapping[str, Any]]
    classes: Sequence[str]
    predictions: Predictions

    @property
    def started_at(self) -> datetime:
        """The start; UTC if it has no time zone."""
        at = datetime.fromisoformat(self.started)
        return at if at.tzinfo else at.replace(tzinfo=UTC)


@dataclass(frozen=True)
class PublishedRuns:
    """What an output folder holds.

    latest is the run that `latest` points to, even if it is damaged; damaged has a sentence for each run whose files
    are missing or contradict each other; unpublished are the runs without a model.
    """

    runs: Sequence[PublishedRun]
    latest: str | None
    damaged: Mapping[str, str]
    unpublished: Sequence[str]


def read_published_runs(output: Path) -> PublishedRuns:
    """Read all published runs of an output folder.

    Raises:
        OSError: from the file system; a missing file makes its run a damaged one.
    """
    folders = _run_folders(output / "models")
    unpublished = {folder.name for folder in _run_folders(output / "runs")} - {folder.name for folder in folders}
    latest: str | None = None
    with contextlib.suppress(RuntimeError):  # a link that points to itself
        target = (output / "latest").resolve()
        latest = next((folder.name for folder in folders if folder.resolve() == target), None)
    runs, damaged = [], {}
    for folder in folders:
        try:
            runs.append(_read_run(folder, output / "runs" / folder.name, latest=folder.name == latest))
        except _DAMAGE as error:
            if folder.is_dir():  # else it has just been pruned
                damaged[folder.name] = _damage_sentence(error)
    return PublishedRuns(runs, latest, damaged, sorted(unpublished))


CURVE = ("epoch", "step", "loss", "accuracy")


class _DamageError(Exception):
    """The files of a run contradict each other."""


# Any other OSError is a failure of the file system, not damage.
_DAMAGE = (
    *(FileNotFoundError, NotADirectoryError, IsADirectoryError, EOFError, zipfile.BadZipFile, zlib.error),
    *(ValueError, KeyError, TypeError, AttributeError, IndexError, SyntaxError, TokenError, _DamageError),
    *(ArithmeticError, RecursionError),
)


def _run_folders(parent: Path) -> list[Path]:
    """The folders of runs; a leading dot marks a publication in progress."""
    if not parent.is_dir():
        return []
    return sorted(folder for folder in parent.iterdir() if folder.is_dir() and not folder.name.startswith("."))


def _read_run(folder: Path, run_folder: Path, *, latest: bool) -> PublishedRun:
    report = json.loads((folder / "report.json").read_bytes())
    predictions = read_predictions(folder)
    correct, test = predictions.correct, report["test"]
    if correct.shape != (test["examples"],) or correct.sum() != test["correct"]:
        raise _DamageError("report.json and predictions.npz do not belong together")
    low, high = test["accuracy_interval"]
    started = str(report["run"]["started"])
    try:
        datetime.fromisoformat(started)
    except ValueError:
        raise _DamageError(f"the run's start in report.json is not a time: {started!r}") from None
    verdict, reason = _read_verdict(run_folder / "verdict.json")
    # Shown like a setting, in place of its file's name, and short. Reports of earlier versions have none.
    model = {"model": str(report["model_sha256"])[:SHORT]} if "model_sha256" in report else {}
    return PublishedRun(
        name=folder.name,
        started=started,
        settings={str(key): value for key, value in report["settings"].items() if key != "model"} | model,
        source=_read_source(folder / MODEL_SOURCE),
        train_sha256=str(report["dataset"]["train"]["sha256"]),
        test_sha256=str(report["dataset"]["test"]["sha256"]),
        accuracy=float(test["accuracy"]),
        interval=(float(low), float(high)),
        verdict=verdict,
        reason=reason,
        latest=latest,
        curve=[{key: _number(point[key]) for key in CURVE} for point in report["curve"]],
        classes=[str(each["name"]) for each in test["classes"]],
        predictions=predictions,
    )


def _number(value: Any) -> float | None:
    if value is not None and not (isinstance(value, int | float) and math.isfinite(value)):
        raise _DamageError(f"the curve in report.json contains {value!r}")
    return value


def _read_source(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return None


def _read_verdict(path: Path) -> tuple[str, str]:
    """The verdict and its reason; `-` if the run's folder is gone or promotion has not decided."""
    try:
        verdict = json.loads(path.read_bytes())
        return str(verdict["verdict"]), str(verdict["reason"])
    except FileNotFoundError:
        return "-", ""
    except (KeyError, TypeError, ValueError):
        raise _DamageError("verdict.json cannot be read") from None


def _damage_sentence(error: Exception) -> str:
    if isinstance(error, FileNotFoundError):
        return f"{Path(error.filename).name} is missing"
    if isinstance(error, KeyError):
        return f"{error} is missing"
    if isinstance(error, json.JSONDecodeError | UnicodeDecodeError):
        return "report.json is not JSON"
    return first_line(error)
