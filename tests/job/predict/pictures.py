"""Pictures of handwritten digits as people make them, and blank ones: a kind is a function of ink and a random source.

The digits are 200 of MNIST's test images. Each is enlarged smoothly, so that its strokes have sharp edges as in a scan,
and then drawn, lit and stored in the way that the kind's name says.
"""

from __future__ import annotations

import io
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

Plane = NDArray[np.float64]
SIDE = 300
# Shifts that bring the eight neighbours of a pixel to it, clockwise from the one above.
RING = ((1, 0), (1, -1), (0, -1), (-1, -1), (-1, 0), (-1, 1), (0, 1), (1, 1))


class Digits(NamedTuple):
    """Test images uint8 [n, 28, 28], their labels [n], and a softmax regression trained on the training images."""

    images: NDArray[np.uint8]
    labels: NDArray[np.uint8]
    weights: NDArray[np.float32]
    bias: NDArray[np.float32]

    def classify(self, pixels: NDArray[np.uint8]) -> tuple[int, float]:
        """The class of one image [28, 28], and its probability."""
        logits = pixels.reshape(-1) / 255.0 @ self.weights + self.bias
        shares = np.exp(logits - logits.max())
        return int(shares.argmax()), float(shares.max() / shares.sum())


def digits() -> Digits:
    """The 200 test images, and the weights with which `python -m job train` classifies 92.7% of all 10,000."""
    with np.load(Path(__file__).with_name("digits.npz")) as stored:
        return Digits(**{name: stored[name] for name in Digits._fields})


def enlarge(image: NDArray[np.uint8], side: int) -> Plane:
    """The image with its own margin, side x side, its strokes with sharp edges."""
    smooth = cv2.resize(image.astype(np.float32) / 255, (side, side), interpolation=cv2.INTER_CUBIC)
    smooth = cv2.GaussianBlur(smooth, (0, 0), side / 28 * 0.45)
    return np.asarray(np.clip((smooth - 0.42) * 6 + 0.5, 0, 1), np.float64)


def place(
    image: NDArray[np.uint8], rng: np.random.Generator, share: float = 0.7, shape: tuple[int, int] = (SIDE, SIDE)
) -> Plane:
    """Ink [h, w]: the image enlarged to a share of the shorter side, somewhat off the middle."""
    side = round(min(shape) * share)
    ink = np.zeros(shape)
    top, left = (int((length - side) * rng.uniform(0.3, 0.7)) for length in shape)
    ink[top : top + side, left : left + side] = enlarge(image, side)
    return ink


def grey(values: Plane) -> Image.Image:
    """A picture of 8 bits from values of 0 (black) to 1 (white)."""
    return Image.fromarray(np.rint(np.clip(values, 0, 1) * 255).astype(np.uint8))


def dark(ink: Plane, paper: float | Plane = 0.95, pen: float = 0.1) -> Plane:
    """Dark ink on light paper."""
    return np.asarray(paper * (1 - ink) + pen * ink * paper)


def width(image: NDArray[np.uint8], change: float) -> NDArray[np.uint8]:
    """The image with strokes that are wider or, with a negative change, thinner: by that many of its own pixels."""
    large = enlarge(image, 280)
    size = max(1, round(abs(change) * 10))
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (size, size))
    changed = (cv2.erode if change < 0 else cv2.dilate)(large, kernel)
    return np.rint(255 * np.clip(changed, 0, 1)).astype(np.uint8)


def thin(image: NDArray[np.uint8], side: int, stroke: float) -> Plane:
    """The middle line of each stroke, as a pen of so many pixels draws it, side x side (after Zhang and Suen)."""
    ink = cv2.GaussianBlur(enlarge(image, side), (0, 0), side / 80) > 0.5
    changed = True
    while changed:
        changed = False
        for first in (True, False):
            ring = [np.roll(ink, shift, (0, 1)) for shift in RING]
            count = np.sum(ring, axis=0)
            turns = sum(~one & other for one, other in zip(ring, [*ring[1:], ring[0]], strict=True))
            up, right, down, left = ring[0], ring[2], ring[4], ring[6]
            ends = (
                ~(up & right & down) & ~(right & down & left) if first else ~(up & right & left) & ~(up & down & left)
            )
            drop = ink & (count >= 2) & (count <= 6) & (turns == 1) & ends
            ink, changed = ink & ~drop, changed or bool(drop.any())
    wide = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (round(stroke), round(stroke)))
    return np.asarray(cv2.GaussianBlur(cv2.dilate(ink.astype(np.float64), wide), (0, 0), 0.7))


def ramp(rng: np.random.Generator, low: float, shape: tuple[int, int] = (SIDE, SIDE)) -> Plane:
    """Light that falls from 1 to `low` across the picture, in any direction."""
    angle = rng.uniform(0, 2 * np.pi)
    rows, columns = np.mgrid[-1 : 1 : shape[0] * 1j, -1 : 1 : shape[1] * 1j]
    along = rows * np.sin(angle) + columns * np.cos(angle)
    return np.asarray(low + (1 - low) * (along - along.min()) / np.ptp(along))


def shadow(rng: np.random.Generator, depth: float, soft: float = 0.1, shape: tuple[int, int] = (SIDE, SIDE)) -> Plane:
    """Light with a shadow over one side, whose edge takes a share `soft` of the picture."""
    angle = rng.uniform(0, 2 * np.pi)
    rows, columns = np.mgrid[-1 : 1 : shape[0] * 1j, -1 : 1 : shape[1] * 1j]
    along = rows * np.sin(angle) + columns * np.cos(angle) - rng.uniform(-0.3, 0.3)
    return np.asarray(1 - depth / (1 + np.exp(-along / (soft / 2))))


def vignette(depth: float, shape: tuple[int, int] = (SIDE, SIDE)) -> Plane:
    """Light that falls off towards the corners."""
    rows, columns = np.mgrid[-1 : 1 : shape[0] * 1j, -1 : 1 : shape[1] * 1j]
    return np.asarray(1 - depth * (rows**2 + columns**2) / 2)


def lines(step: int, strength: float, *, squared: bool, tilt: float = 0.0, wide: int = 2) -> Plane:
    """Ruled or squared paper: ink of the lines, SIDE x SIDE."""
    ink = np.zeros((SIDE, SIDE))
    for at in range(step // 2, SIDE + 40, step):
        fall = round(tilt * SIDE)
        cv2.line(ink, (0, at), (SIDE, at - fall), strength, wide, cv2.LINE_AA)
        if squared:
            cv2.line(ink, (at, 0), (at + fall, SIDE), strength, wide, cv2.LINE_AA)
    return ink


def box(strength: float, inset: int, wide: int = 3) -> Plane:
    """The frame of a form's field."""
    ink = np.zeros((SIDE, SIDE))
    cv2.rectangle(ink, (inset, inset), (SIDE - inset, SIDE - inset), strength, wide)
    return ink


def speck(rng: np.random.Generator) -> Plane:
    """A speck of 3 x 3 pixels near a corner."""
    ink = np.zeros((SIDE, SIDE))
    row, column = rng.integers(5, 30, 2)
    ink[row : row + 3, column : column + 3] = 1
    return np.rot90(ink, int(rng.integers(4)))


def ruled_blue(ink: Plane) -> Image.Image:
    """Blue lines on white paper, under a black pen."""
    under = coloured(lines(40, 0.6, squared=False), (1, 1, 1), (0.3, 0.5, 1))
    return Image.fromarray(np.rint(255 * under * (1 - 0.9 * ink[..., None])).astype(np.uint8))


def thin_strokes(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The image in strokes that are a pixel thinner."""
    return width(image, -1)


def fine(rng: np.random.Generator, scale: float, grain: float = 0.0, shape: tuple[int, ...] = (SIDE, SIDE)) -> Plane:
    """Noise of that standard deviation, of single pixels or of a coarser grain."""
    noise: Plane = rng.normal(0, 1, shape)
    if grain:
        noise = np.asarray(cv2.GaussianBlur(noise, (0, 0), grain), np.float64)
    return np.asarray(noise * scale / noise.std())


def spots(rng: np.random.Generator, count: int, radius: tuple[int, int], strength: float = 1.0) -> Plane:
    """Dust: dots anywhere."""
    ink = np.zeros((SIDE, SIDE))
    for _ in range(count):
        cv2.circle(ink, tuple(int(x) for x in rng.integers(0, SIDE, 2)), int(rng.integers(*radius)), strength, -1)
    return ink


def coloured(ink: Plane, paper: tuple[float, ...], pen: tuple[float, ...]) -> Plane:
    """Colours from 0 to 1, [h, w, 3]."""
    return np.asarray(ink[..., None] * np.array(pen) + (1 - ink[..., None]) * np.array(paper), np.float64)


def again(picture: Image.Image, **options: int) -> Image.Image:
    """The picture after JPEG."""
    file = io.BytesIO()
    picture.save(file, "JPEG", **options)
    return Image.open(file)


def alpha(ink: Plane, level: int) -> Image.Image:
    """Ink of one grey on a transparent ground: only the opacity says where it is."""
    opacity = grey(ink)
    return Image.merge("LA", (Image.new("L", opacity.size, level), opacity))


def card(picture: Image.Image) -> Image.Image:
    """The picture with round, clear corners, black where nothing is seen."""
    mask = np.zeros(picture.size[::-1], np.uint8)
    radius = min(picture.size) // 6
    cv2.rectangle(mask, (radius, 0), (picture.size[0] - radius, picture.size[1]), 255, -1)
    cv2.rectangle(mask, (0, radius), (picture.size[0], picture.size[1] - radius), 255, -1)
    for x in (radius, picture.size[0] - radius - 1):
        for y in (radius, picture.size[1] - radius - 1):
            cv2.circle(mask, (x, y), radius, 255, -1, cv2.LINE_AA)
    clear = Image.fromarray((np.asarray(picture.convert("RGB")) * (mask[..., None] > 0)).astype(np.uint8))
    clear.putalpha(Image.fromarray(mask))
    return clear


def phone(image: NDArray[np.uint8], rng: np.random.Generator) -> Image.Image:
    """12 megapixels: a small digit on a sheet of paper, uneven light, grain, JPEG."""
    shape = (3000, 4000)
    ink = place(image, rng, rng.uniform(0.1, 0.25), shape)
    light = ramp(rng, 0.75, (30, 40)) * vignette(0.25, (30, 40))
    values = dark(ink, np.asarray(0.85 * cv2.resize(light, shape[::-1]), np.float64), 0.25)
    values += cv2.resize(fine(rng, 0.02, shape=(1500, 2000)), shape[::-1])
    picture = np.clip(values, 0, 1)[..., None] * np.array([255, 250, 240])
    return again(Image.fromarray(picture.astype(np.uint8)), quality=85)


def table(image: NDArray[np.uint8], rng: np.random.Generator) -> Image.Image:
    """A sheet of paper on a darker table, seen with a margin of the table around it."""
    ink = place(image, rng, 0.45, (400, 400))
    values = dark(ink, 0.9, 0.2)
    values[:40], values[-30:], values[:, :50], values[:, -35:] = 0.35, 0.35, 0.35, 0.35
    return grey(values + fine(rng, 0.01, shape=(400, 400)))


def scanner(image: NDArray[np.uint8], rng: np.random.Generator) -> Image.Image:
    """A scan with the black edge of the scanner's lid on two sides."""
    values = dark(place(image, rng, 0.6))
    values[:, : int(rng.integers(4, 14))] = 0.05
    values[-int(rng.integers(4, 14)) :] = 0.05
    return grey(values)


def turned(picture: Image.Image) -> Image.Image:
    """The picture as a camera on its side stores it."""
    rotated = picture.transpose(Image.Transpose.ROTATE_90)
    rotated.getexif()[0x0112] = 6
    return rotated


def shrunk(picture: Image.Image, side: int = 28) -> Image.Image:
    """The picture as somebody brings it to the size that the model asks for."""
    return picture.resize((side, side), Image.Resampling.LANCZOS)


def high(picture: Image.Image) -> Image.Image:
    """The picture 28 pixels high, in its own proportions."""
    return picture.resize((max(1, round(28 * picture.width / picture.height)), 28), Image.Resampling.LANCZOS)


def tight(image: NDArray[np.uint8], margin: int, side: int = 200) -> Plane:
    """Ink cut to the digit, with a margin of so many pixels."""
    ink = enlarge(image, side)
    rows, columns = (np.flatnonzero((ink > 0.5).any(axis=axis)) for axis in (1, 0))
    return np.pad(ink[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1], margin)


def chalk(image: NDArray[np.uint8], rng: np.random.Generator) -> Image.Image:
    """Chalk on a board: broken light strokes, smears."""
    broken = np.clip(0.75 + fine(rng, 0.35, 1.0), 0, 1)
    board = 0.22 + fine(rng, 0.03, 12) + fine(rng, 0.015)
    return Image.fromarray(
        (np.clip(coloured(place(image, rng) * broken, (0.8, 1, 0.9), (4, 4, 4)) * board[..., None], 0, 1) * 255).astype(
            np.uint8
        )
    )


def deep(values: Plane, top: int) -> Image.Image:
    """16 bits a pixel, of which `top` is the largest value used."""
    return Image.fromarray(np.rint(np.clip(values, 0, 1) * top).astype(np.uint16))


def colours(ink: Plane, paper: tuple[float, ...], pen: tuple[float, ...]) -> Image.Image:
    """A picture in two colours."""
    return Image.fromarray(np.rint(255 * np.clip(coloured(ink, paper, pen), 0, 1)).astype(np.uint8))


def real(values: Plane) -> Image.Image:
    """Floats, as TIFF stores them."""
    return Image.fromarray(values.astype(np.float32))


KINDS: dict[str, Callable[[NDArray[np.uint8], np.random.Generator], Image.Image]] = {
    "dataset's own": lambda d, _: Image.fromarray(d),
    "dataset's own, dark on light": lambda d, _: Image.fromarray(255 - d),
    "dataset's own, as JPEG": lambda d, _: again(Image.fromarray(d), quality=90),
    "dataset's own, enlarged by pixels": lambda d, _: Image.fromarray(d.repeat(10, axis=0).repeat(10, axis=1)),
    "scan, dark on light": lambda d, r: grey(dark(place(d, r))),
    "scan, light on dark": lambda d, r: grey(place(d, r)),
    "scan, 60 pixels": lambda d, r: grey(dark(place(d, r, shape=(60, 60)))),
    "scan, 1,200 pixels": lambda d, r: grey(dark(place(d, r, shape=(1200, 1200)))),
    "off the middle": lambda d, r: grey(dark(np.roll(place(d, r, 0.4), (-50, 50), (0, 1)))),
    "wide": lambda d, r: grey(dark(place(d, r, shape=(150, 900)))),
    "tall": lambda d, r: grey(dark(place(d, r, shape=(900, 150)))),
    "cut to the digit": lambda d, _: grey(dark(tight(d, 0))),
    "cut closely": lambda d, _: grey(dark(tight(d, 8))),
    "cut to the digit, 28 high": lambda d, _: high(grey(dark(tight(d, 0)))),
    "one speck": lambda d, r: grey(dark(np.maximum(place(d, r, 0.6), speck(r)))),
    "dust": lambda d, r: grey(dark(np.maximum(place(d, r), spots(r, 40, (1, 4), 0.8)))),
    "ink blots": lambda d, r: grey(dark(np.maximum(place(d, r, 0.6), spots(r, 3, (4, 6))))),
    "light falls to 75%": lambda d, r: grey(dark(place(d, r), ramp(r, 0.75))),
    "light falls to 35%": lambda d, r: grey(dark(place(d, r), ramp(r, 0.35))),
    "light on dark, uneven": lambda d, r: grey(place(d, r) * 0.6 + 0.35 * ramp(r, 0.2)),
    "soft shadow": lambda d, r: grey(dark(place(d, r), 0.95 * shadow(r, 0.3))),
    "deep shadow": lambda d, r: grey(dark(place(d, r), 0.95 * shadow(r, 0.55))),
    "sharp shadow": lambda d, r: grey(dark(place(d, r), 0.95 * shadow(r, 0.3, 0.02))),
    "vignette": lambda d, r: grey(dark(place(d, r), 0.95 * vignette(0.5))),
    "fine noise": lambda d, r: grey(dark(place(d, r), 0.9) + fine(r, 0.06)),
    "strong noise": lambda d, r: grey(dark(place(d, r), 0.8) + fine(r, 0.15)),
    "coarse noise": lambda d, r: grey(dark(place(d, r), 0.85) + fine(r, 0.04, 2)),
    "colour noise": lambda d, r: Image.fromarray(
        (np.clip(dark(place(d, r), 0.85)[..., None] + fine(r, 0.08, shape=(SIDE, SIDE, 3)), 0, 1) * 255).astype(
            np.uint8
        )
    ),
    "salt and pepper": lambda d, r: grey(
        np.where(r.random((SIDE, SIDE)) < 0.02, r.integers(0, 2, (SIDE, SIDE)), dark(place(d, r)))
    ),
    "ruled paper, light": lambda d, r: grey(dark(np.maximum(place(d, r, 0.6), lines(40, 0.3, squared=False)))),
    "ruled paper, as dark as the pen": lambda d, r: grey(
        dark(np.maximum(place(d, r, 0.6), lines(60, 1, squared=False)))
    ),
    "ruled paper, tilted": lambda d, r: grey(
        dark(np.maximum(place(d, r, 0.6), lines(50, 0.5, squared=False, tilt=0.03)))
    ),
    "ruled in blue": lambda d, r: ruled_blue(place(d, r, 0.6)),
    "one ruled line": lambda d, r: grey(
        dark(np.maximum(np.roll(place(d, r, 0.5), -30, 0), lines(520, 0.2, squared=False, wide=1)))
    ),
    "squared paper, light": lambda d, r: grey(dark(np.maximum(place(d, r, 0.6), lines(25, 0.3, squared=True)))),
    "squared paper, strong": lambda d, r: grey(dark(np.maximum(place(d, r, 0.6), lines(50, 0.7, squared=True)))),
    "box around it": lambda d, r: grey(dark(np.maximum(place(d, r, 0.6), box(1, 25)))),
    "light box around it": lambda d, r: grey(dark(np.maximum(place(d, r, 0.6), box(0.5, 35, 2)))),
    "box at the edge": lambda d, r: grey(dark(np.maximum(place(d, r, 0.6), box(1, 1, 4)))),
    "pencil": lambda d, r: grey(dark(place(d, r), 0.9, 0.75) + fine(r, 0.015)),
    "hard pencil": lambda d, r: grey(dark(place(thin_strokes(d), r), 0.92, 0.82) + fine(r, 0.015)),
    "chalk on a board": chalk,
    "thin pen": lambda d, _: grey(dark(np.pad(thin(d, 260, 3), 20))),
    "thin pen, uneven light": lambda d, r: grey(dark(np.pad(thin(d, 260, 3), 20), ramp(r, 0.6)) + fine(r, 0.02)),
    "ball pen in a large picture": lambda d, _: grey(dark(np.pad(thin(d, 400, 4), 200))),
    "thick pen": lambda d, r: grey(dark(place(width(d, 1.2), r))),
    "marker": lambda d, r: grey(dark(place(width(d, 1.8), r))),
    "card with clear corners": lambda d, r: card(grey(dark(place(d, r, 0.65)))),
    "dark card with clear corners": lambda d, r: card(grey(0.1 + 0.8 * place(d, r, 0.65))),
    "black ink on nothing": lambda d, r: alpha(place(d, r), 0),
    "white ink on nothing": lambda d, r: alpha(place(d, r), 255),
    "colours of equal brightness": lambda d, r: colours(place(d, r), (0.9, 0.32, 0.3), (0.1, 0.6, 0.85)),
    "colours of equal brightness, noisy": lambda d, r: Image.fromarray(
        (
            np.clip(
                coloured(place(d, r), (0.75, 0.45, 0.4), (0.3, 0.6, 0.8)) + fine(r, 0.03, shape=(SIDE, SIDE, 3)), 0, 1
            )
            * 255
        ).astype(np.uint8)
    ),
    "red on blue": lambda d, r: colours(place(d, r), (0, 0, 0.25), (1, 0, 0)),
    "yellow on white": lambda d, r: colours(place(d, r), (1, 1, 1), (1, 0.95, 0.3)),
    "12 bits in 16": lambda d, r: deep(dark(place(d, r)), 4095),
    "10 bits in 16, light on dark": lambda d, r: deep(place(d, r), 1023),
    "16 bits": lambda d, r: deep(dark(place(d, r)), 65535),
    "floats from 0 to 1": lambda d, r: real(dark(place(d, r))),
    "floats from -1 to 1": lambda d, r: real(2 * place(d, r) - 1),
    "floats up to 255": lambda d, r: real(255 * dark(place(d, r))),
    "one bit": lambda d, r: grey(dark(place(d, r))).convert("1"),
    "palette": lambda d, r: colours(place(d, r), (1, 0.9, 0.7), (0.2, 0, 0.4)).quantize(8),
    "CMYK": lambda d, r: colours(place(d, r), (1, 1, 0.9), (0.1, 0.1, 0.4)).convert("CMYK"),
    "turned by its camera": lambda d, r: turned(colours(place(d, r), (0.9, 0.9, 0.9), (0.1, 0.1, 0.3))),
    "JPEG, low quality": lambda d, r: again(grey(dark(place(d, r), 0.9)), quality=15),
    "scanner's edge": scanner,
    "sheet on a table": table,
    "phone, 12 megapixels": phone,
    "28 pixels, from a scan": lambda d, r: shrunk(grey(dark(place(d, r, 0.9)))),
    "28 pixels, light on dark": lambda d, r: shrunk(grey(place(d, r, 0.9))),
    "28 pixels, small digit": lambda d, r: shrunk(grey(dark(place(d, r, 0.75)))),
    "28 pixels, off the middle": lambda d, r: shrunk(grey(np.roll(place(d, r, 0.8), (25, -25), (0, 1)))),
    "28 pixels, fills the picture": lambda d, _: shrunk(grey(tight(d, 4))),
    "28 pixels, dataset's moved": lambda d, _: Image.fromarray(np.roll(d, (2, 3), (0, 1))),
    "20 pixels": lambda d, r: shrunk(grey(dark(place(d, r, 0.9))), 20),
    "64 pixels": lambda d, r: shrunk(grey(dark(place(d, r, 0.8))), 64),
}

# Pictures without a digit: none of them may be read as one.
BLANK: dict[str, Callable[[np.random.Generator], Image.Image]] = {
    "white": lambda _: grey(np.ones((SIDE, SIDE))),
    "black": lambda _: grey(np.zeros((SIDE, SIDE))),
    "grey, 28 pixels": lambda r: Image.new("L", (28, 28), int(r.integers(256))),
    "wall, fine noise": lambda r: grey(r.uniform(0.3, 0.9) + fine(r, 0.03)),
    "wall, strong noise": lambda r: grey(0.6 + fine(r, 0.12)),
    "wall, coarse grain": lambda r: grey(0.7 + fine(r, 0.05, 3)),
    "wall, rough plaster": lambda r: grey(0.7 + fine(r, 0.06, 8) + fine(r, 0.02)),
    "wall, uneven light": lambda r: grey(ramp(r, 0.5) * 0.8 + fine(r, 0.02)),
    "wall, shadow": lambda r: grey(0.85 * shadow(r, 0.4) + fine(r, 0.015)),
    "wall, vignette": lambda r: grey(0.9 * vignette(0.5) + fine(r, 0.01)),
    "gradient": lambda r: grey(ramp(r, 0.1)),
    "vignette": lambda r: grey(vignette(r.uniform(0.2, 0.7))),
    "shadow without noise": lambda r: grey(shadow(r, 0.4)),
    "JPEG of a wall": lambda r: again(grey(0.7 + fine(r, 0.04)), quality=40),
    "colour noise": lambda r: Image.fromarray(
        (np.clip(0.5 + fine(r, 0.1, shape=(SIDE, SIDE, 3)), 0, 1) * 255).astype(np.uint8)
    ),
    "noise of 28 pixels": lambda r: Image.fromarray(r.integers(0, 256, (28, 28), dtype=np.uint8)),
    "empty ruled paper": lambda r: grey(dark(lines(int(r.integers(20, 60)), 0.5, squared=False)) + fine(r, 0.01)),
    "empty squared paper": lambda r: grey(dark(lines(int(r.integers(20, 60)), 0.5, squared=True)) + fine(r, 0.01)),
    "empty box": lambda r: grey(dark(box(1, int(r.integers(10, 60)))) + fine(r, 0.01)),
    "dust alone": lambda r: grey(dark(spots(r, 40, (1, 4), 0.8))),
    "clear": lambda _: Image.new("RGBA", (SIDE, SIDE), (0, 0, 0, 0)),
    "empty card": lambda r: card(grey(0.9 + fine(r, 0.01))),
    "12 bits of nothing": lambda r: deep(0.5 + fine(r, 0.01), 4095),
}


def save(picture: Image.Image, folder: Path) -> Path:
    """Write the picture as PNG, or as TIFF where PNG has no such pixels; a JPEG stays as it is."""
    path = folder / ("picture.tif" if picture.mode in {"F", "CMYK"} else "picture.png")
    picture.save(path, exif=picture.getexif())
    return path


def made(kind: str, count: int) -> Iterator[tuple[Image.Image, int]]:
    """Pictures of a kind, each with the digit that is in it."""
    known = digits()
    for index in range(count):
        rng = np.random.default_rng([index, *kind.encode()])
        yield KINDS[kind](known.images[index], rng), int(known.labels[index])


def blank(kind: str, count: int) -> Iterator[Image.Image]:
    """Pictures of a kind without a digit."""
    for index in range(count):
        yield BLANK[kind](np.random.default_rng([index, *kind.encode()]))
