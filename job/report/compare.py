"""`python -m job compare`: published runs side by side, and which differences are beyond chance."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import sys
import zipfile
import zlib
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from job.errors import Exit, JobError
from job.output.io_errors import output_errors
from job.report import compare_text
from job.report import statistics as metrics
from job.system import files

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

SIGNIFICANCE = 0.05


@dataclass(frozen=True)
class Published:
    """One published run as its folder tells it; right says of each test example whether the model got it right [n].

    reason is promotion's sentence on the verdict; curve the moments of the training, as in report.json.
    """

    name: str
    started: str
    settings: Mapping[str, Any]
    train_sha256: str
    test_sha256: str
    accuracy: float
    interval: tuple[float, float]
    verdict: str
    reason: str
    latest: bool
    curve: Sequence[Mapping[str, Any]]
    right: NDArray[np.bool_]


@dataclass(frozen=True)
class Difference:
    """A run beside the reference, on the same test examples.

    difference is of accuracies; only_run and only_reference count the examples that just one of them gets right;
    p_value is McNemar's, corrected by Holm for the number of runs compared.
    """

    run: str
    difference: float
    only_run: int
    only_reference: int
    p_value: float
    beyond_chance: bool


@dataclass(frozen=True)
class Comparison:
    """All published runs, newest first, each compared with the reference: `latest`, or without it the most accurate.

    latest is the run that `latest` leads to, also where that is damaged; not_comparable are tested on other data than
    the reference, other_training on the same after a training on other data; damaged gives a sentence for each folder
    that contradicts itself or lacks a file; unpublished are runs begun and without a model.
    """

    reference: str
    latest: str | None
    runs: Sequence[Published]
    differences: Mapping[str, Difference]
    not_comparable: Sequence[str]
    other_training: Sequence[str]
    damaged: Mapping[str, str]
    unpublished: Sequence[str]


def run(output: Path, *, as_json: bool = False, html: Path | None = None) -> None:
    """Print the comparison of an output folder's published runs, as a table or as JSON (see Comparison).

    Args:
        output: the folder.
        as_json: print JSON.
        html: where to write it as a page of its own as well.

    Raises:
        JobError: 66 when there is no published run; 73 when the page cannot be written; 73 or 75 when the file system
            lets none be read; 65, after everything that can be read is printed, when a run's folder is damaged.
    """
    found = compare(output)
    if html:
        from job.report import compare_page  # noqa: PLC0415 - matplotlib takes 0.5 s

        try:
            files.write(html, compare_page.render(found).encode())
        except OSError as error:
            message = f"{html} cannot be written: {error.strerror or error}"
            raise JobError(Exit.OUTPUT, "page-not-writable", message, "give another file with --html") from error
    if as_json:
        sys.stdout.write(json.dumps(_plain(found), indent=2, ensure_ascii=False) + "\n")
    else:
        compare_text.show(found)
    if found.damaged:
        name, message = next(iter(found.damaged.items()))
        more = f" (and {len(found.damaged) - 1} more)" if len(found.damaged) > 1 else ""
        raise JobError(Exit.DATA_DAMAGED, "run-damaged", f"the published run {name} is damaged: {message}{more}")


def compare(output: Path) -> Comparison:
    """Read an output folder's published runs and compare them.

    Raises:
        JobError: 66 when there is no published run; 65 when all are damaged; 73 or 75 from the file system.
    """
    with output_errors(output, "read"):
        latest, runs, damaged, unpublished = _found(output)
    if not runs and not damaged:
        begun = f"; begun and not published: {', '.join(unpublished)}" if unpublished else ""
        message = f"there is no published run in {output}{begun}"
        raise JobError(Exit.DATA_MISSING, "no-runs", message, "`python -m job train` makes one")
    if not runs:
        told = "; ".join(f"{name}: {message}" for name, message in damaged.items())
        raise JobError(Exit.DATA_DAMAGED, "run-damaged", f"no published run in {output} can be read ({told})")
    runs.sort(key=lambda published: (published.started, published.name), reverse=True)
    reference = next((one for one in runs if one.latest), max(runs, key=lambda one: one.accuracy))
    same = [one for one in runs if one is not reference and one.test_sha256 == reference.test_sha256]
    return Comparison(
        reference=reference.name,
        latest=latest,
        runs=runs,
        differences=_differences(reference, same),
        not_comparable=[one.name for one in runs if one.test_sha256 != reference.test_sha256],
        other_training=[one.name for one in same if one.train_sha256 != reference.train_sha256],
        damaged=damaged,
        unpublished=unpublished,
    )


class _DamageError(Exception):
    """A run's folder contradicts itself."""


# What the file system refuses is no damage, but for a file that is not there.
_DAMAGE = (
    *(FileNotFoundError, NotADirectoryError, IsADirectoryError, EOFError, zipfile.BadZipFile, zlib.error),
    *(ValueError, KeyError, TypeError, AttributeError, IndexError, _DamageError),
)


def _found(output: Path) -> tuple[str | None, list[Published], dict[str, str], list[str]]:
    """The run that `latest` leads to, all that can be read, a sentence for each damaged one, and the unpublished."""
    folders = _folders(output / "models")
    unpublished = sorted({folder.name for folder in _folders(output / "runs")} - {folder.name for folder in folders})
    latest: str | None = None
    with contextlib.suppress(RuntimeError):  # a link that leads to itself
        led = (output / "latest").resolve()
        latest = next((folder.name for folder in folders if folder.resolve() == led), None)
    runs, damaged = [], {}
    for folder in folders:
        try:
            runs.append(_read(folder, output / "runs" / folder.name, latest=folder.name == latest))
        except _DAMAGE as error:
            if folder.is_dir():  # else it was pruned meanwhile
                damaged[folder.name] = _sentence(error)
    return latest, runs, damaged, unpublished


def _folders(parent: Path) -> list[Path]:
    """The runs' folders in it; a name with a dot in front is a publication under way."""
    if not parent.is_dir():
        return []
    return sorted(folder for folder in parent.iterdir() if folder.is_dir() and not folder.name.startswith("."))


def _read(folder: Path, run_folder: Path, *, latest: bool) -> Published:
    report = json.loads((folder / "report.json").read_bytes())
    # Opened here, since np.load leaves a file open that turns out to be none of its own.
    with (folder / "predictions.npz").open("rb") as file, np.load(file, allow_pickle=False) as predictions:
        right = predictions["labels"] == predictions["predicted"]
    test = report["test"]
    if right.shape != (test["examples"],) or right.sum() != test["correct"]:
        raise _DamageError("report.json and predictions.npz do not belong together")
    low, high = test["accuracy_interval"]
    started = str(report["run"]["started"])
    try:
        datetime.fromisoformat(started)
    except ValueError:
        raise _DamageError(f"report.json gives no time as the run's start, but {started!r}") from None
    verdict, reason = _verdict(run_folder / "verdict.json")
    return Published(
        name=folder.name,
        started=started,
        settings={str(key): value for key, value in report["settings"].items()},
        train_sha256=str(report["dataset"]["train"]["sha256"]),
        test_sha256=str(report["dataset"]["test"]["sha256"]),
        accuracy=float(test["accuracy"]),
        interval=(float(low), float(high)),
        verdict=verdict,
        reason=reason,
        latest=latest,
        curve=[{key: moment[key] for key in ("epoch", "step", "loss", "accuracy")} for moment in report["curve"]],
        right=right,
    )


def _verdict(path: Path) -> tuple[str, str]:
    """promoted, kept or rejected, and why; `-` where the run's folder is gone or promotion has not been decided."""
    try:
        found = json.loads(path.read_bytes())
        return str(found["verdict"]), str(found["reason"])
    except FileNotFoundError:
        return "-", ""
    except (KeyError, TypeError, ValueError):
        raise _DamageError("verdict.json cannot be read") from None


def _sentence(error: Exception) -> str:
    if isinstance(error, FileNotFoundError):
        return f"{Path(error.filename).name} is missing"
    if isinstance(error, KeyError):
        return f"{error} is missing"
    if isinstance(error, json.JSONDecodeError | UnicodeDecodeError):
        return "report.json is not JSON"
    return str(error).splitlines()[0] if str(error) else type(error).__name__


def _differences(reference: Published, others: Sequence[Published]) -> dict[str, Difference]:
    only_run = [int((other.right & ~reference.right).sum()) for other in others]
    only_reference = [int((reference.right & ~other.right).sum()) for other in others]
    p_values = metrics.holm([metrics.mcnemar(*pair) for pair in zip(only_run, only_reference, strict=True)])
    return {
        other.name: Difference(
            run=other.name,
            difference=(gained - lost) / reference.right.size,
            only_run=gained,
            only_reference=lost,
            p_value=p_value,
            beyond_chance=p_value < SIGNIFICANCE,
        )
        for other, gained, lost, p_value in zip(others, only_run, only_reference, p_values, strict=True)
    }


def _plain(found: Comparison) -> dict[str, Any]:
    """A Comparison as JSON values; of each run everything but its predictions, with its difference."""
    runs = []
    for one in found.runs:
        values = {field.name: getattr(one, field.name) for field in dataclasses.fields(one) if field.name != "right"}
        difference = found.differences.get(one.name)
        runs.append(values | {"vs_reference": dataclasses.asdict(difference) if difference else None})
    return {
        "reference": found.reference,
        "latest": found.latest,
        "runs": runs,
        "not_comparable": found.not_comparable,
        "other_training": found.other_training,
        "damaged": found.damaged,
        "unpublished": found.unpublished,
    }
