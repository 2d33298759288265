"""Any picture of a digit -> 28x28 pixels, normalised like the images of MNIST.

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

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from job.error_table import errors_from
from job.errors import Exit, JobError

if TYPE_CHECKING:
    from pathlib import Path

SIDE = 28
BOX = 20
SLACK = 2.0**-20
# The share of a picture's contrast that counts as the grain of the paper or the noise of a scanner.
FLOOR = 0.1
LARGE = 1024  # pixels a side

Ink = NDArray[np.float64]
Pixels = NDArray[np.uint8]


def read_picture(path: Path) -> Pixels:
    """The 28x28 pixels of a picture file; see picture_to_pixels().

    Raises:
        JobError: 66 if the file does not exist; 65 if it is not a picture, or a blank one; 75 if it could not be read
            for now.
    """
    try:
        with errors_from("picture", path), Image.open(path) as picture:
            pixels = picture_to_pixels(ImageOps.exif_transpose(picture))
    except FileNotFoundError:
        raise JobError(Exit.DATA_MISSING, "image-missing", f"there is no picture at {path}") from None
    except UnidentifiedImageError:
        raise JobError(Exit.DATA_DAMAGED, "image-unreadable", f"{path} is not a picture") from None
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        message = f"the picture {path} cannot be read ({error})"
        raise JobError(Exit.DATA_DAMAGED, "image-unreadable", message) from error
    if not pixels.any():
        raise JobError(Exit.DATA_DAMAGED, "image-blank", f"the picture {path} is blank")
    return pixels


def picture_to_pixels(picture: Image.Image) -> Pixels:
    """A picture in the form of MNIST: uint8 [28, 28], 0 paper, 255 ink; all 0 for a blank picture.

    An opaque picture of 28x28 counts as an image of the dataset and is left unchanged, but is inverted if all four
    corners are light. (None of the 140,000 images of MNIST and Fashion-MNIST has four light corners.) Any other picture
    is turned into ink, whether light on dark or dark on light, and then normalised.
    """
    grey, alpha = _grey_and_alpha(picture)
    if grey.shape == (SIDE, SIDE) and alpha.min() == 1:
        pixels = np.rint(grey * 255).astype(np.uint8)
        corners = pixels[[0, 0, -1, -1], [0, -1, 0, -1]]
        return 255 - pixels if corners.min() > 127 else pixels
    return normalise(_ink(grey, alpha))


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


def _grey_and_alpha(picture: Image.Image) -> tuple[Ink, Ink]:
    """Brightness (ITU-R 601 luma) and opacity of each pixel, both [h, w] from 0 to 1."""
    if picture.mode.startswith(("I", "F")):  # 16 bits or more a pixel, which Pillow would clip at 255
        values = np.asarray(picture, np.float64)
        grey = values / (65535.0 if values.max() > 255 else 255.0)
        return np.clip(grey, 0, 1), np.ones_like(grey)
    # A photograph is first averaged to about LARGE pixels a side: as floats it would take gigabytes.
    factor = max(1, max(picture.size) // LARGE)
    light, alpha = (band.reduce(factor) for band in picture.convert("RGBA").convert("LA").split())
    return np.asarray(light, np.float64) / 255, np.asarray(alpha, np.float64) / 255


def _ink(grey: Ink, alpha: Ink) -> Ink:
    """Ink [h, w] from 0 to 1: how much each pixel differs from the paper, in the direction of the largest difference.

    The brightness of the paper is the median of the picture's edge if that is mostly opaque. Otherwise the picture is
    ink on a transparent ground, and the paper is black for light ink and white for dark ink.
    """
    edge = np.ones(grey.shape, bool)
    edge[1:-1, 1:-1] = False
    opaque = edge & (alpha > 0.5)
    if 2 * opaque.sum() > edge.sum():
        paper = float(np.median(grey[opaque]))
    else:
        paper = 0.0 if 2 * (grey * alpha).sum() > alpha.sum() else 1.0
    difference = alpha * (grey - paper)
    light, dark = float(difference.max()), -float(difference.min())
    if max(light, dark) < FLOOR:
        return np.zeros_like(grey)
    ink = difference / light if light > dark else -difference / dark
    return np.where(ink < FLOOR, 0.0, ink)
