"""A picture file -> 28x28 pixels like those of the dataset.

To save memory, a JPEG is decoded at an eighth of its size, and another large picture row by row as grey. A picture of
200 megapixels then takes less than 300 MB.
"""

from __future__ import annotations

import shlex
import struct
import warnings
from typing import TYPE_CHECKING

import cv2
import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from job.error_table import errors_from
from job.errors import Exit, JobError
from job.predict import digit, ink

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

LARGE = 35_000_000  # pixels; Pillow takes four bytes for each, and as much again to convert them
MOST = 300_000_000  # pixels; OpenCV takes one byte for each
SEEN = 1600  # pixels of the longer side that are kept
RAW = "a camera's raw format"
UNREAD = {
    ".heic": "HEIC",
    ".heif": "HEIC",
    ".pdf": "PDF",
    ".svg": "SVG",
    ".dng": RAW,
    ".cr2": RAW,
    ".nef": RAW,
    ".arw": RAW,
}
OPAQUE = 0.9
TRACE = 24  # of 255: what JPEG leaves around a stroke
# What Pillow raises for damaged files, for example for damaged Exif data.
OF_PILLOW = (OSError, SyntaxError, TypeError, LookupError, EOFError, ArithmeticError, struct.error)
HEIC = {b"heic", b"heix", b"hevc", b"heim", b"heis", b"mif1", b"msf1"}  # brands in an ISO media file's first box


def read_picture(path: Path, dataset: str = "mnist") -> digit.Pixels:
    """The digit in a picture file, uint8 [28, 28], 0 paper, 255 ink.

    A picture that is already prepared like the dataset's images is returned unchanged, or inverted if it is dark on
    light. For MNIST this is known from the form of the digit, for other datasets from the size alone.

    Raises:
        JobError: 66 if the file does not exist; 65 if it is not a picture, or does not show exactly one digit.
    """
    try:
        colours = _load(path)
    except FileNotFoundError:
        raise JobError(Exit.DATA_MISSING, "image-missing", f"there is no picture at {path}") from None
    except UnidentifiedImageError:
        raise _unidentified(path) from None
    except (*OF_PILLOW, ValueError, MemoryError, cv2.error) as error:
        cause = str(error).splitlines()[0] if str(error) else type(error).__name__
        message = f"the picture {path} cannot be read ({cause})"
        raise JobError(Exit.DATA_DAMAGED, "image-unreadable", message) from error
    prepared = _prepared(colours, dataset)
    if prepared is not None:
        return prepared
    try:
        return digit.normalise(ink.find(colours).astype(np.float64))
    except ink.NotADigitError as error:
        message = f"the picture {path} is not read as a digit: {error}"
        raise JobError(Exit.DATA_DAMAGED, "image-no-digit", message) from None


def _prepared(colours: ink.Floats, dataset: str) -> digit.Pixels | None:
    """The pixels of a picture that has the form of the dataset's images; None for any other.

    In all of MNIST's 70,000 images, the ink fills a box of 20 pixels and its centre of mass is in the middle. Rounding
    and traces of JPEG are allowed for.
    """
    if colours.shape[:2] != (digit.SIDE, digit.SIDE) or np.ptp(colours, axis=2).max() > 0:
        return None
    grey = np.rint(255 * colours[..., 0]).astype(np.uint8)
    if dataset != "mnist":
        return 255 - grey if grey[[0, 0, -1, -1], [0, -1, 0, -1]].min() > 127 else grey
    for pixels in (grey, 255 - grey):
        drawn = np.where(pixels > TRACE, pixels, 0)
        rows, columns = (np.flatnonzero(drawn.any(axis=axis)) for axis in (1, 0))
        if pixels.max() < 230 or not 18 <= max(np.ptp(rows), np.ptp(columns)) + 1 <= digit.BOX + 1:
            continue
        masses = (drawn.sum(axis=axis, dtype=float) for axis in (1, 0))
        if max(abs(mass @ np.arange(digit.SIDE) / mass.sum() - digit.SIDE // 2) for mass in masses) < 0.6:
            return pixels
    return None


def _load(path: Path) -> ink.Floats:
    """The picture's colours, float32 [h, w, channels], at most about SEEN pixels a side, 1 at the brightest."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow warns of large files and of damaged metadata
        limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
        try:
            with errors_from("picture", path), Image.open(path) as picture:
                return _decode(path, picture)
        finally:
            Image.MAX_IMAGE_PIXELS = limit


def _decode(path: Path, picture: Image.Image) -> ink.Floats:
    pixels = picture.width * picture.height
    whole = picture.format == "TIFF" or (picture.format == "JPEG" and bool(picture.info.get("progressive")))
    rich = picture.mode.startswith(("I", "F")) or picture.has_transparency_data
    if pixels > (LARGE if rich else 2 * LARGE if whole else MOST):
        reduced = path.with_name(path.stem + "-small.png")
        remedy = f"make it smaller: {shlex.join(['magick', str(path), '-resize', '2000x2000', str(reduced)])}"
        raise ValueError(f"it has {pixels / 1e6:.0f} megapixels, and would fill the memory; {remedy}")
    if picture.format == "JPEG":
        picture.draft(None, (SEEN, SEEN))
    elif pixels > LARGE and not whole:
        grey = cv2.imread(str(path), cv2.IMREAD_REDUCED_GRAYSCALE_8)
        if grey is None:
            raise ValueError("its content is damaged")
        return np.asarray(grey[..., None] / np.float32(255), np.float32)
    ImageOps.exif_transpose(picture, in_place=True)
    if picture.mode.startswith(("I", "F")):
        return _scaled(np.asarray(picture, np.float32))
    if picture.mode in {"P", "1", "CMYK", "YCbCr", "LAB", "HSV", "PA", "La", "RGBa", "RGBX"}:
        picture = picture.convert("RGBA" if picture.has_transparency_data else "RGB")
    small = picture.reduce(max(1, max(picture.size) // SEEN))
    values = np.asarray(np.asarray(small) / np.float32(255), np.float32)
    bands = small.getbands()
    return _opaque(values[..., :-1], values[..., -1]) if bands[-1] == "A" else values.reshape(*values.shape[:2], -1)


def _scaled(values: NDArray[np.float32]) -> ink.Floats:
    """Grey of any range, such as 12 bits in 16 or floats: the largest value is 1."""
    share = min(1.0, SEEN / max(values.shape))
    values = np.nan_to_num(cv2.resize(values, None, fx=share, fy=share, interpolation=cv2.INTER_AREA))
    values = values - min(0.0, float(values.min()))
    return np.asarray(values / max(float(values.max()), 1e-9), np.float32)[..., None]


def _opaque(colours: ink.Floats, alpha: NDArray[np.float32]) -> ink.Floats:
    """The picture on its own paper: transparent parts of a card get the colour of the card.

    In a picture of one colour, the opacity is the ink.
    """
    solid = alpha > OPAQUE
    inner = cv2.erode(solid.astype(np.uint8), np.ones((3, 3), np.uint8)) > 0
    if not inner.any() or np.ptp(colours[inner].mean(axis=1)) < ink.FAINT:
        return alpha[..., None]
    return np.where(solid[..., None], colours, np.median(colours[solid], axis=0)).astype(np.float32)


def _unidentified(path: Path) -> JobError:
    """The error of a file that Pillow does not know, by its name and first bytes."""
    with path.open("rb") as file:
        begin = file.read(32)
    kind = UNREAD.get(path.suffix.lower())
    if begin[4:8] == b"ftyp" and begin[8:12] in HEIC:
        kind = "HEIC"
    if begin[:5] == b"%PDF-":
        kind = "PDF"
    if not begin:
        return JobError(Exit.DATA_DAMAGED, "image-unreadable", f"{path} is empty")
    if kind is None:
        return JobError(Exit.DATA_DAMAGED, "image-unreadable", f"{path} is not a picture")
    before, after = (shlex.quote(str(each)) for each in (path, path.with_suffix(".png")))
    hint = f"convert it: magick {before} {after}"
    if kind == "HEIC":
        hint += f", or on macOS: sips -s format png {before} --out {after}"
    return JobError(Exit.DATA_DAMAGED, "image-unreadable", f"{path} is {kind}, which cannot be read", hint)
