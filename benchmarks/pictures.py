"""Measure how `predict` reads people's own pictures: `python -m benchmarks.pictures [COUNT]` prints a table.

For each kind of tests/job/predict/pictures.py: the share of COUNT (200) pictures that a softmax regression classifies
rightly, the share that is refused, and the share that is wrong at more than 90%. Of blank pictures: the share refused.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from job.errors import JobError
from job.predict import read
from tests.job.predict import pictures

if TYPE_CHECKING:
    from PIL import Image


def main(count: int = 200) -> None:
    """Print the table, a line as soon as it is measured."""
    print("| kind | right | refused | wrong at more than 90% |", "|---|---|---|---|", sep="\n")
    with tempfile.TemporaryDirectory() as folder:
        for kind in pictures.KINDS:
            answers = [(classify(one, Path(folder)), label) for one, label in pictures.made(kind, count)]
            right = sum(answer == label for (answer, _), label in answers) / count
            refused = sum(answer is None for (answer, _), _ in answers) / count
            wrong = sum(answer != label and share > 0.9 for (answer, share), label in answers) / count
            print(f"| {kind} | {right:.1%} | {refused:.1%} | {wrong:.1%} |", flush=True)
        for kind in pictures.BLANK:
            refused = sum(classify(one, Path(folder))[0] is None for one in pictures.blank(kind, count)) / count
            print(f"| without a digit: {kind} | | {refused:.1%} | |", flush=True)


def classify(picture: Image.Image, folder: Path) -> tuple[int | None, float]:
    """The class of a picture, or None if it is refused, and its probability."""
    try:
        return pictures.digits().classify(read.read_picture(pictures.save(picture, folder)))
    except JobError:
        return None, 0.0


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
