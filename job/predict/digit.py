"""The ink of a digit -> 28x28 pixels, normalised like the images of MNIST.

The specification, which the drawing pad of the report (job/report/templates/page.js) follows with these constants:

1. Ink is a number from 0 (paper) to 1.
2. Crop to the ink. Scale its longer side to BOX pixels and the other in proportion (half up, at least 1), by area
   averaging: a new pixel is the mean of the old pixels that it covers, weighted by the covered part of each.
3. Shift by whole pixels, so that the centre of mass falls into pixel SIDE // 2 of a SIDE x SIDE field, or as near to
   it as possible without losing ink.
4. Pixels are floor(255 * ink + 1/2).

SLACK is added before each rounding, so that Python and JavaScript, which sum in different orders, round halves alike.

After http://yann.lecun.com/exdb/mnist ("size normalized to fit in a 20x20 pixel box while preserving their aspect ratio
... centered in a 28x28 image by computing the center of mass of the pixels"). The shift by whole pixels and rounding
are inferred from the data: 9,996 of MNIST's 10,000 test images come back unchanged.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

SIDE = 28
BOX = 20
SLACK = 2.0**-20

Ink = NDArray[np.float64]
Pixels = NDArray[np.uint8]


def normalise(ink: Ink) -> Pixels:
    """Steps 1 to 4 of the specification: ink [h, w] of any size -> uint8 [28, 28]; all 0 without ink."""
    rows, columns = np.flatnonzero(ink.any(axis=1)), np.flatnonzero(ink.any(axis=0))
    field = np.zeros((SIDE, SIDE))
    if rows.size:
        crop = ink[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
        height, width = (_scaled_length(length, max(crop.shape)) for length in crop.shape)
        small = _averaging_matrix(crop.shape[0], height) @ crop @ _averaging_matrix(crop.shape[1], width).T
        top, left = _offset(small.sum(axis=1)), _offset(small.sum(axis=0))
        field[top : top + height, left : left + width] = small
    return np.floor(255 * field + 0.5 + SLACK).astype(np.uint8)


def _scaled_length(length: int, longest: int) -> int:
    """A side after scaling: length * BOX / longest, rounded half up in whole numbers; at least 1."""
    return max(1, (2 * BOX * length + longest) // (2 * longest))


def _averaging_matrix(old: int, new: int) -> Ink:
    """The matrix [new, old] that averages old pixels to new ones by covered area."""
    step = old / new
    begin, edge = np.arange(new)[:, None] * step, np.arange(old)[None, :]
    covered = np.minimum(begin + step, edge + 1) - np.maximum(begin, edge)
    averaging: Ink = np.maximum(covered, 0) / step
    return averaging


def _offset(mass: Ink) -> int:
    """The position of the first row (or column) that puts the centre of mass into pixel SIDE // 2."""
    centre = float(mass @ np.arange(mass.size) / mass.sum())
    offset = int(np.floor(SIDE // 2 - centre + 0.5 + SLACK))
    return min(max(offset, 0), SIDE - mass.size)
