"""Photographs, scans and drawings of one digit -> the digit's ink, from 0 (paper) to 1.

1. Paper is the median of a wide window around each pixel, so light may change across the picture.
2. The colours are mixed so that ink and paper differ most; ink may be darker or lighter than paper.
3. Ink differs from paper by much more than the noise (the median absolute deviation), and is not much fainter than
   the strongest ink.
4. Thin lines across the picture, frames, specks, and what touches the picture's edge are not parts of the digit;
   its edges are sharper than those of light and shadow.
5. If the digit is small, the steps are repeated on the part of the picture around it.
6. A digit that fills a square picture was stretched to it, and is made narrower.
7. Strokes that are thinner or broader than those of the dataset are widened or narrowed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from collections.abc import Iterator

Floats = NDArray[np.float32]
Mask = NDArray[np.uint8]

SIDE = 400  # pixels of the longer side to which a picture is scaled; the lengths below are in these pixels
WINDOW = 181  # paper is the median of a window of this width
BLUR = 1.2  # takes fine noise away
LINE, THIN = 50, 9  # a ruled line has runs of LINE pixels, and is at most THIN pixels thick
SMALL = 16  # anything smaller is a speck
NOISE = 6.0  # standard deviations of the noise between paper and ink
FAINT = 0.04  # the smallest contrast of ink, as a share of the brightest value
EDGE = 0.4  # ink ends where the contrast falls below this share of the digit's
CUT = 0.25  # the digit ends where its ink, blurred by enlargement, is fainter than this share of the contrast
SHARP = 1 / 30  # the least steep edge of a stroke: contrasts of the digit per pixel; a shadow's or a lamp's is softer
GRAIN = 3.0  # an edge is so many times as steep as the picture elsewhere, where noise makes it uneven
FLAT = 3.0  # the most that a digit is wider than high; among the 70,000 of MNIST it is 2.5
SPECK = 0.03  # the smallest part of a digit, as a share of the largest part's mass
# The thickest stroke, and the thickest at the picture's edge, where shadows are, as a share of its part's longer side
MARKER, THICK = 0.7, 0.45
BIG = 250  # pixels; what is larger than this is as thick as a stroke at the edge at most
FILLED, NARROW = 0.9, 0.75  # a digit that fills so much of a square was stretched; MNIST's are 0.8 as wide as high
STROKE, BROAD = 0.15, 0.2  # the narrowest and the broadest stroke, as a share of the digit's longer side


class NotADigitError(ValueError):
    """The picture does not show one digit; the text says what it shows."""


class _Found(NamedTuple):
    """A digit: its ink [h, w] from 0 to 1, its contrast to the paper, and why it is no single digit, if it is none."""

    ink: Floats
    contrast: float
    complaint: str


def find(colours: Floats) -> Floats:
    """The ink of the digit, [h, w] from 0 to 1.

    Args:
        colours: [h, w, channels] of any size, at most 1.

    Raises:
        NotADigitError: if the picture shows nothing, several things or a pattern.
    """
    ink = _look(colours)
    factor = max(colours.shape[:2]) / SIDE
    top, bottom, left, right = (round(edge * factor) for edge in _box(ink))
    margin = max(bottom - top, right - left) // 2
    if 4 * margin < max(colours.shape[:2]) // 2:
        ink = _look(colours[max(0, top - margin) : bottom + margin, max(0, left - margin) : right + margin])
    elif min(bottom - top, right - left) > FILLED * max(colours.shape[:2]):
        ink = cv2.resize(ink, None, fx=NARROW, fy=1, interpolation=cv2.INTER_AREA).astype(np.float32)
    return _widen(np.where(ink < CUT, np.float32(0), ink))


def _box(ink: Floats) -> tuple[int, int, int, int]:
    """Where the ink is: its first row, the row after its last, and the same of its columns."""
    rows, columns = np.flatnonzero(ink.any(axis=1)), np.flatnonzero(ink.any(axis=0))
    return int(rows[0]), int(rows[-1]) + 1, int(columns[0]), int(columns[-1]) + 1


def _look(colours: Floats) -> Floats:
    """The ink in a picture that is brought to SIDE pixels, of the paper and the side of it that explain it best."""
    factor = SIDE / max(colours.shape[:2])
    size = [max(1, round(length * factor)) for length in colours.shape[1::-1]]
    scaled = cv2.resize(colours, size, interpolation=cv2.INTER_AREA if factor < 1 else cv2.INTER_CUBIC)
    blurred = cv2.GaussianBlur(scaled.astype(np.float32), (0, 0), BLUR)
    smooth = np.asarray(blurred.reshape(size[1], size[0], -1), np.float32)
    complaint = "nothing is drawn in it"
    for paper in _papers(smooth):
        sides = _contrasts(smooth, paper)
        found = [one for side in sides if (one := _digit(side, 2 * int(np.ceil(factor)) + 1))]
        if found:
            best = max(found, key=lambda one: (not one.complaint, float(one.ink.sum()) * one.contrast))
            complaint = best.complaint
            # Paper of one colour explains a picture only if the digit is most of what differs from it.
            rest = sum(float(side[(side > FAINT) & (best.ink == 0)].sum()) for side in sides)
            if not complaint and (paper.strides[0] or rest < 0.4 * best.contrast * float(best.ink.sum())):
                return best.ink
    raise NotADigitError(complaint)


def _contrasts(smooth: Floats, paper: Floats) -> tuple[Floats, Floats]:
    """How much lighter and darker than its paper each pixel is, in the mix of colours in which they differ most.

    Dark ink is divided by the paper's brightness, so that it counts the same in a shadow. Light ink on a dark
    background may shine by itself, as on a screen, so it is divided by the square root only.
    """
    light = np.maximum(paper.mean(axis=2), 0.1)
    away = (smooth - paper).reshape(-1, smooth.shape[2])
    weighted = away / light.reshape(-1, 1)
    mixture = np.linalg.eigh(weighted.T @ weighted)[1][:, -1]
    signal = (away @ (mixture if mixture.sum() >= 0 else -mixture)).reshape(light.shape)
    return np.asarray(signal / np.sqrt(light), np.float32), np.asarray(-signal / light, np.float32)


def _papers(smooth: Floats) -> Iterator[Floats]:
    """What the paper may look like: of one colour, if most of the picture's edge is; the median of a wide window."""
    ring = np.ones(smooth.shape[:2], bool)
    ring[3:-3, 3:-3] = False
    level = np.median(smooth[ring], axis=0)
    away = np.abs(smooth - level).max(axis=2)
    near = away < max(FAINT, 0.15 * float(np.percentile(away, 95)))
    plain, share = np.broadcast_to(level, smooth.shape), float(near[ring].mean())
    if share > 0.65:
        yield plain
    low, high = float(smooth.min()), max(float(smooth.max()), float(smooth.min()) + 1e-6)
    steps = np.rint((smooth - low) * (255 / (high - low))).astype(np.uint8)
    half = WINDOW // 2
    wide = cv2.copyMakeBorder(steps, half, half, half, half, cv2.BORDER_REFLECT_101).reshape(
        -1, steps.shape[1] + 2 * half, steps.shape[2]
    )
    bands = [cv2.medianBlur(np.ascontiguousarray(band), WINDOW) for band in np.moveaxis(wide, 2, 0)]
    paper = np.stack(bands, axis=2)[half:-half, half:-half].astype(np.float32)
    yield cv2.GaussianBlur(paper, (0, 0), 5 * BLUR).reshape(smooth.shape) * ((high - low) / 255) + low
    if 0.4 < share <= 0.65:  # the digit may be cut at the picture's edge
        yield plain


def _digit(signal: Floats, soft: int) -> _Found | None:
    """The digit on one side of the paper, if there is one.

    Args:
        signal: how far each pixel is from the paper, [h, w]; positive on the side that is looked at.
        soft: pixels beyond the strokes in which the ink may fade, odd.
    """
    below = signal[signal <= 0]  # there is no ink on this side of the paper's colour
    noise = 1.4826 * float(np.median(-below)) if below.size else 0.0
    threshold = max(NOISE * noise, FAINT, 0.12 * float(np.percentile(signal, 99.5)))
    for _ in range(3):  # what the digit's contrast is depends on its parts, and these on the contrast
        found = (signal > threshold).astype(np.uint8)
        labels, parts = _parts(_without_lines(found), signal)
        if not parts:
            return None
        main, complaint = _one(parts)
        mask = np.isin(labels, main).astype(np.uint8)
        full = float(np.percentile(signal[mask > 0], 80))
        threshold = max(EDGE * full, threshold)
    if not _sharp(signal, mask, full):
        return None
    others = cv2.dilate(found * (1 - mask), np.ones((3, 3), np.uint8))
    around = np.maximum(mask, cv2.dilate(mask, np.ones((soft, soft), np.uint8)) * (1 - others))
    ink = np.clip(signal / full, 0, 1) * around
    ink[ink < max(0.08, 2 * noise / full)] = 0
    return _Found(ink.astype(np.float32), full, complaint)


def _sharp(signal: Floats, mask: Mask, full: float) -> bool:
    """Whether the signal falls faster at the border of the mask than light and noise do: the median of its pixels."""
    slopes = np.hypot(*(cv2.Sobel(signal, cv2.CV_32F, x, 1 - x, scale=1 / 8) for x in (0, 1)))
    border = mask > cv2.erode(mask, np.ones((3, 3), np.uint8))
    return float(np.median(slopes[border])) > max(SHARP * full, GRAIN * float(np.median(slopes)))


def _without_lines(mask: Mask) -> Mask:
    """Remove thin lines across the picture, as on ruled or squared paper, but not the strokes that cross them."""
    for _ in range(2):
        runs = cv2.morphologyEx(mask, cv2.MORPH_OPEN, np.ones((1, LINE), np.uint8))
        joined = cv2.dilate(runs, np.ones((3, LINE), np.uint8))
        _, labels, stats, _ = cv2.connectedComponentsWithStats(joined)
        across = np.flatnonzero(stats[:, cv2.CC_STAT_WIDTH] >= 0.9 * mask.shape[1])
        thick = cv2.morphologyEx(mask, cv2.MORPH_OPEN, np.ones((THIN + 1, 1), np.uint8))
        line = np.isin(labels, across[across > 0]) & (runs > 0) & (thick == 0)
        mask = np.ascontiguousarray(np.where(line, 0, mask).T.astype(np.uint8))
    return mask


class _Part:
    """A connected part of the mask: its label, its box, and its mass, the sum of its signal."""

    def __init__(self, label: int, stat: NDArray[np.int32], mass: float) -> None:
        self.label, self.mass = label, mass
        self.left, self.top = int(stat[0]), int(stat[1])
        self.right, self.bottom = self.left + int(stat[2]), self.top + int(stat[3])
        self.size = int(max(stat[2], stat[3]))

    def gap(self, other: _Part) -> int:
        """Pixels between the boxes of the two, along the axis where they are further apart."""
        across = max(self.left - other.right, other.left - self.right, 0)
        down = max(self.top - other.bottom, other.top - self.bottom, 0)
        return max(across, down)


def _parts(mask: Mask, signal: Floats) -> tuple[NDArray[np.int32], list[_Part]]:
    """The labels of the mask's connected parts, and the parts that may be strokes, largest first."""
    count, found, stats, _ = cv2.connectedComponentsWithStats(mask)
    labels = np.asarray(found, np.int32)
    mass = np.bincount(labels.ravel(), np.maximum(signal, 0).ravel(), count)
    parts = [_Part(label, stats[label], float(mass[label])) for label in range(1, count)]
    parts = [part for part in parts if part.size >= 4]
    height, width = mask.shape
    inner = [
        part for part in parts if part.left > 1 and part.top > 1 and part.right < width - 1 and part.bottom < height - 1
    ]
    if any(part.size >= SIDE / 12 for part in inner):
        parts = inner
    # A digit that is cut at the picture's edge fills it; something small there is a part of what is outside.
    parts = [part for part in parts if part in inner or part.size >= SIDE / 4]
    parts = [
        part
        for part in parts
        if not _frame(part, labels, mask.shape)
        and not _thick(part, labels, MARKER if part in inner and part.size < BIG else THICK)
    ]
    parts.sort(key=lambda part: -part.mass)
    if not parts or parts[0].size < SMALL:
        return labels, []
    return labels, [part for part in parts if part.mass >= SPECK * parts[0].mass]


def _frame(part: _Part, labels: NDArray[np.int32], shape: tuple[int, ...]) -> bool:
    """Whether the part is large, and has nearly nothing in its middle, or is a sheet that fills its rim."""
    wide, high = part.right - part.left, part.bottom - part.top
    if min(wide, high) < 0.3 * min(shape):
        return False
    inside = labels[part.top : part.bottom, part.left : part.right] == part.label
    middle = inside[round(high * 0.12) : round(high * 0.88), round(wide * 0.12) : round(wide * 0.88)]
    rim = int(inside.sum()) - int(middle.sum())
    return bool(rim > 0.9 * inside.sum()) or rim > 0.85 * (inside.size - middle.size)


def _thick(part: _Part, labels: NDArray[np.int32], most: float) -> bool:
    """Whether the part is large, and thicker than a share of its longer side."""
    if part.size < SIDE / 4:
        return False
    inside = (labels[part.top : part.bottom, part.left : part.right] == part.label).astype(np.uint8)
    return bool(2 * cv2.distanceTransform(np.pad(inside, 1), cv2.DIST_L2, 5).max() > most * part.size)


def _one(parts: list[_Part]) -> tuple[list[int], str]:
    """The labels of the largest part and those near it, and why they are no single digit, or nothing."""
    main = parts[0]
    joined, rest = [main], parts[1:]
    while near := [part for part in rest if any(part.gap(other) <= 0.2 * main.size for other in joined)]:
        joined += near
        rest = [part for part in rest if part not in near]
    wide = max(part.right for part in joined) - min(part.left for part in joined)
    high = max(part.bottom for part in joined) - min(part.top for part in joined)
    complaint = "it shows a flat line" if wide > FLAT * high else ""
    if sum(part.mass for part in rest) > 0.25 * main.mass or len(parts) > 12:
        complaint = "it shows several things, or a pattern"
    for part in joined[1:]:
        across = max(part.left - main.right, main.left - part.right)
        if across > 0 and part.bottom - part.top > 0.6 * (main.bottom - main.top) and part.mass > 0.2 * main.mass:
            complaint = "it shows several things side by side"
    return [part.label for part in joined], complaint


def _widen(ink: Floats) -> Floats:
    """The ink with strokes from STROKE to BROAD wide."""
    top, bottom, left, right = _box(ink)
    inside = np.pad((ink > 0.5 * ink.max()).astype(np.uint8), 1)
    size = max(bottom - top, right - left)
    distance = cv2.distanceTransform(inside, cv2.DIST_L2, 5)
    ridge = distance[(distance >= cv2.dilate(distance, np.ones((3, 3)))) & (distance > 0)]
    stroke = 2 * float(np.median(ridge))
    change = np.clip(stroke, STROKE * size, BROAD * size) - stroke
    width = 2 * round(abs(change) / 2) + 1
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (width, width))
    return np.asarray((cv2.dilate if change > 0 else cv2.erode)(np.pad(ink, width), kernel))
