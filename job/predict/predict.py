"""`python -m job predict`: classify picture files with a published model."""

from __future__ import annotations

import contextlib
import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from rich.markup import escape
from rich.table import Table

from job.error_table import errors_from
from job.errors import Exit, JobError
from job.system import process
from job.system.console import table_console
from job.training.internals import light_import, run_public_modules

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

    Answer = NDArray[np.float32] | JobError


def run(model: Path, pictures: Sequence[Path], *, as_json: bool = False) -> Exit:
    """Print each picture's class and the probability of every class, as a table or as JSON.

    The JSON is a list, in the order given, of {"image", "class", "name", "probability", "probabilities": {name: p}}, or
    of {"image", "error", "reason"} for a picture that is missing or not read as a digit.

    Args:
        model: a published model's folder, models/<run> or latest.
        pictures: picture files; job/predict/read.py says how they become 28x28 pixels.
        as_json: print JSON.

    Returns:
        0; 65 if a picture cannot be read as a digit, 66 if pictures are only missing. Standard error names them, and
        the others are classified.

    Raises:
        JobError: 66 if the model does not exist, 65 if it is damaged, 64 without OpenCV; nothing is printed.
    """
    dataset, names = _read_dataset(model)
    read = [_read(picture, dataset) for picture in pictures]
    pixels = [one for one in read if not isinstance(one, JobError)]
    probabilities = _classify(model, np.stack(pixels)) if pixels else np.zeros((0, len(names)), np.float32)
    if probabilities.shape[1] != len(names):
        message = f"the model in {model} gives {probabilities.shape[1]} classes, but its report names {len(names)}"
        raise JobError(Exit.DATA_DAMAGED, "model-damaged", message)
    rows = iter(probabilities)
    answers = [one if isinstance(one, JobError) else next(rows) for one in read]
    with process.standard_output():
        if as_json:
            sys.stdout.write(_as_json(pictures, names, answers) + "\n")
        elif pixels:
            table_console().print(_as_table(pictures, names, answers))
    errors = [answer for answer in answers if isinstance(answer, JobError)]
    for error in errors:
        print(f"error: {error}", file=sys.stderr)
    if all(error.code == Exit.DATA_MISSING for error in errors):
        return Exit.DATA_MISSING if errors else Exit.OK
    return Exit.DATA_DAMAGED


def _read(picture: Path, dataset: str) -> NDArray[np.uint8] | JobError:
    """The picture's pixels, or why it has none."""
    try:
        from job.predict import read  # noqa: PLC0415 - OpenCV is an optional extra
    except ModuleNotFoundError as error:
        if error.name != "cv2":
            raise
        message = "predict reads pictures with OpenCV, which is not installed"
        hint = (
            "where this package is installed, run python -m pip install 'opencv-python-headless>=4.10'; "
            "the image leaves it out, so run predict on a machine to which you fetched the model"
        )
        raise JobError(Exit.USAGE, "opencv-missing", message, hint) from None
    try:
        return read.read_picture(picture, dataset)
    except JobError as error:
        if error.code not in {Exit.DATA_DAMAGED, Exit.DATA_MISSING}:
            raise
        return error


def _read_dataset(model: Path) -> tuple[str, list[str]]:
    """The dataset's name and those of its classes, which are in the report beside the model."""
    if not (model / "saved_model" / "1").is_dir():
        hint = "give --model the folder of a published run, output/models/<run> or output/latest"
        raise JobError(Exit.DATA_MISSING, "model-missing", f"there is no model in {model}", hint)
    report = model / "report.json"
    try:
        with errors_from("model", report):
            dataset = json.loads(report.read_bytes())["dataset"]
        return str(dataset["dataset"]), [str(name) for name in dataset["classes"]]
    except (OSError, ValueError, KeyError, TypeError) as error:
        message = f"the class names cannot be read from {report}"
        raise JobError(Exit.DATA_DAMAGED, "model-damaged", message) from error


def _classify(model: Path, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
    """The model's probabilities, float32 [n, classes], for pixels [n, 28, 28]."""
    os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")  # a few pictures do not need a GPU
    with _silent_stderr():
        with light_import():
            # Importing TensorFlow takes seconds; check the pictures first.
            from job.training import export  # noqa: PLC0415
        run_public_modules("saved_model")  # before the model is read, or a fault of this import would be the model's

        try:
            return export.classify(model / "saved_model" / "1", pixels)
        except ValueError as error:
            message = f"the model in {model} cannot be loaded ({error})"
            raise JobError(Exit.DATA_DAMAGED, "model-damaged", message) from error


@contextlib.contextmanager
def _silent_stderr() -> Iterator[None]:
    """Hide what is written to standard error: no setting silences all of TensorFlow's log. Exceptions still pass."""
    sys.stderr.flush()
    original = os.dup(2)
    try:
        with Path(os.devnull).open("wb") as nowhere:
            os.dup2(nowhere.fileno(), 2)
        yield
    finally:
        sys.stderr.flush()
        os.dup2(original, 2)
        os.close(original)


def _as_json(pictures: Sequence[Path], names: Sequence[str], answers: Sequence[Answer]) -> str:
    predictions: list[dict[str, Any]] = []
    for picture, answer in zip(pictures, answers, strict=True):
        if isinstance(answer, JobError):
            predictions.append({"image": str(picture), "error": str(answer), "reason": answer.reason})
            continue
        row = answer.astype(float)
        best = int(row.argmax())
        predictions.append(
            {
                "image": str(picture),
                "class": best,
                "name": names[best],
                "probability": row[best],
                "probabilities": dict(zip(names, row.tolist(), strict=True)),
            }
        )
    return json.dumps(predictions, indent=2, ensure_ascii=False)


def _as_table(pictures: Sequence[Path], names: Sequence[str], answers: Sequence[Answer]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("image", overflow="fold")
    table.add_column("says", style="bold")
    for name in names:
        table.add_column(escape(name), justify="right")
    for picture, row in zip(pictures, answers, strict=True):
        if isinstance(row, JobError):
            continue
        best = int(row.argmax())
        cells = [f"{100 * share:.1f}%" for share in row]
        cells[best] = f"[bold]{cells[best]}[/bold]"
        table.add_row(escape(str(picture)), escape(names[best]), *cells)
    return table
