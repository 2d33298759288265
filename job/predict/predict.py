"""`python -m job predict`: classify picture files with a published model."""

from __future__ import annotations

import contextlib
import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from job.error_table import errors_from
from job.errors import Exit, JobError
from job.predict import digit

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray


def run(model: Path, pictures: Sequence[Path], *, as_json: bool = False) -> None:
    """Print each picture's class and the probability of every class, as a table or as JSON.

    The JSON is a list, in the order given, of {"image", "class", "name", "probability", "probabilities": {name: p}}.

    Args:
        model: a published model's folder, models/<run> or latest.
        pictures: picture files; job/predict/digit.py says how they become 28x28 pixels.
        as_json: print JSON.

    Raises:
        JobError: 66 if the model or a picture does not exist, 65 if one cannot be read; nothing is printed.
    """
    names = _read_class_names(model)
    pixels = np.stack([digit.read_picture(picture) for picture in pictures])
    probabilities = _classify(model, pixels)
    if probabilities.shape[1] != len(names):
        message = f"the model in {model} gives {probabilities.shape[1]} classes, but its report names {len(names)}"
        raise JobError(Exit.DATA_DAMAGED, "model-damaged", message)
    if as_json:
        sys.stdout.write(_as_json(pictures, names, probabilities) + "\n")
    else:
        # Wide enough for the column of each class if the output is not a terminal.
        console = Console()
        (console if console.is_terminal else Console(width=1000)).print(_as_table(pictures, names, probabilities))


def _read_class_names(model: Path) -> list[str]:
    """The class names, which are in the report beside the model."""
    if not (model / "saved_model" / "1").is_dir():
        hint = "give --model the folder of a published run, output/models/<run> or output/latest"
        raise JobError(Exit.DATA_MISSING, "model-missing", f"there is no model in {model}", hint)
    report = model / "report.json"
    try:
        with errors_from("model", report):
            names = json.loads(report.read_bytes())["dataset"]["classes"]
        return [str(name) for name in names]
    except (OSError, ValueError, KeyError, TypeError) as error:
        message = f"the class names cannot be read from {report}"
        raise JobError(Exit.DATA_DAMAGED, "model-damaged", message) from error


def _classify(model: Path, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
    """The model's probabilities, float32 [n, classes], for pixels [n, 28, 28]."""
    os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")  # a few pictures do not need a GPU
    with _silent_stderr():
        from job.training import export  # noqa: PLC0415 - importing TensorFlow takes seconds; check the pictures first

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


def _as_json(pictures: Sequence[Path], names: Sequence[str], probabilities: NDArray[np.float32]) -> str:
    predictions: list[dict[str, Any]] = []
    for picture, row in zip(pictures, probabilities.astype(float), strict=True):
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


def _as_table(pictures: Sequence[Path], names: Sequence[str], probabilities: NDArray[np.float32]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("image", overflow="fold")
    table.add_column("says", style="bold")
    for name in names:
        table.add_column(escape(name), justify="right")
    for picture, row in zip(pictures, probabilities, strict=True):
        best = int(row.argmax())
        cells = [f"{100 * share:.1f}%" for share in row]
        cells[best] = f"[bold]{cells[best]}[/bold]"
        table.add_row(escape(str(picture)), escape(names[best]), *cells)
    return table
