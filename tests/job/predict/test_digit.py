"""Tests of the conversion of any picture to 28x28 pixels."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
from PIL import Image

from job.errors import Exit, JobError
from job.predict import digit
from tests.job import report_samples as samples

if TYPE_CHECKING:
    from pathlib import Path


def seven(height: int = 120, width: int = 90) -> digit.Pixels:
    """A clear 7, light on dark, not in the middle of the picture."""
    grey = np.zeros((height, width), np.uint8)
    grey[20:30, 15:60] = 255
    for row in range(30, 100):
        left = 50 - (row - 30) // 2
        grey[row, left : left + 10] = 255
    return grey


def test_longer_side_fills_the_box_and_the_mass_is_in_the_middle() -> None:
    """A solid bar of 40x10 becomes 20x5; its centre of mass, row 9.5 and column 2, falls into pixel 14."""
    ink = np.zeros((100, 70))
    ink[50:90, 3:13] = 1
    expected = np.zeros((28, 28), np.uint8)
    expected[5:25, 12:17] = 255
    np.testing.assert_array_equal(digit.normalise(ink), expected)


def test_shrinking_averages_by_area() -> None:
    """From 30 columns to 20, each new pixel covers one and a half old ones; halves round up."""
    ink = np.zeros((30, 30))
    ink[:, ::3] = 1  # the first of each three old columns: two thirds of one new column and nothing of the next
    ink[:, 29] = 1
    row = digit.normalise(ink)[14]
    begin = int(np.flatnonzero(row)[0])
    assert row[begin : begin + 20].tolist() == [170, 0] * 9 + [170, 170]


def test_dataset_images_come_back_unchanged() -> None:
    """A normalised image stays unchanged, also if it is enlarged and moved."""
    for picture in samples.images(20):
        np.testing.assert_array_equal(digit.normalise(picture / 255), picture)
        larger = np.pad(picture.repeat(7, axis=0).repeat(7, axis=1), ((5, 40), (60, 0)))
        np.testing.assert_array_equal(digit.normalise(larger / 255), picture)


def test_mass_at_the_edge_never_pushes_ink_off() -> None:
    """A heavy foot would push the stem above the first row: the shift stops there."""
    ink = np.zeros((200, 200))
    ink[:, 99:102] = 0.2
    ink[190:, :] = 1
    found = digit.normalise(ink)
    assert found[:20].any(axis=1).all()
    assert not found[20:].any()


def test_no_ink_is_a_blank_field() -> None:
    """There is no division by zero."""
    assert not digit.normalise(np.zeros((50, 50))).any()


def pictures() -> dict[str, Image.Image]:
    """The same 7 in each kind of picture."""
    light = seven()
    alpha = Image.fromarray(light)
    red_on_blue = np.where(light[..., None] > 0, np.array([255, 0, 0]), np.array([0, 0, 60])).astype(np.uint8)
    black = Image.new("L", alpha.size, 0)
    rotated = Image.fromarray(light).transpose(Image.Transpose.ROTATE_90)
    rotated.getexif()[0x0112] = 6  # rotate by 90 degrees clockwise
    return {
        "light on dark": Image.fromarray(light),
        "dark on light": Image.fromarray(255 - light),
        "pencil on grey paper": Image.fromarray((180 - light // 3).astype(np.uint8)),
        "colour": Image.fromarray(red_on_blue),
        "black ink on transparency": Image.merge("LA", (black, alpha)),
        "white ink on transparency": Image.merge("LA", (Image.new("L", alpha.size, 255), alpha)),
        "one bit": Image.fromarray(light).convert("1"),
        "palette": Image.fromarray(red_on_blue).quantize(4),
        "sixteen bits": Image.fromarray(light.astype(np.uint16) * 257),
        "turned by its camera": rotated,
    }


@pytest.mark.parametrize("kind", pictures())
def test_every_kind_of_picture_is_read_alike(tmp_path: Path, kind: str) -> None:
    """Polarity, colour, transparency, depth and the camera's orientation make no difference."""
    picture = pictures()[kind]
    picture.save(tmp_path / "seven.png", exif=picture.getexif())
    np.testing.assert_array_equal(digit.read_picture(tmp_path / "seven.png"), digit.normalise(seven() / 255))


def test_picture_of_28_by_28_is_unchanged(tmp_path: Path) -> None:
    """A test image exported as PNG gives its own pixels, also if it fills the field or is inverted."""
    whole = np.random.default_rng(0).integers(0, 256, (28, 28), dtype=np.uint8)
    whole[0, 0] = 0
    for name, picture, expected in (
        ("digit", samples.images(1)[0], samples.images(1)[0]),
        ("full", whole, whole),
        ("turned over", 255 - samples.images(1)[0], samples.images(1)[0]),
    ):
        Image.fromarray(picture).save(tmp_path / f"{name}.png")
        np.testing.assert_array_equal(digit.read_picture(tmp_path / f"{name}.png"), expected)


def test_photograph_is_read_like_a_small_picture() -> None:
    """3,600 by 4,800 pixels become the same 28x28, up to the rounding of averages to bytes."""
    photograph = Image.fromarray(255 - seven().repeat(40, axis=0).repeat(40, axis=1))
    difference = digit.picture_to_pixels(photograph).astype(int) - digit.normalise(seven() / 255)
    assert np.abs(difference).max() <= 2


def test_grain_of_the_paper_is_not_ink() -> None:
    """Noise below a tenth of the contrast does not widen the crop or darken the field."""
    noise = np.random.default_rng(0).integers(0, 20, seven().shape, dtype=np.uint8)
    noisy = np.where(seven() > 0, 255, noise).astype(np.uint8)
    np.testing.assert_array_equal(digit.picture_to_pixels(Image.fromarray(noisy)), digit.normalise(seven() / 255))


def test_unreadable_pictures_are_refused(tmp_path: Path) -> None:
    """A missing file, a folder, a text, a truncated and a blank picture: each has its exit code and is named."""
    (tmp_path / "text.png").write_text("no picture")
    Image.fromarray(seven()).resize((900, 1200)).save(tmp_path / "whole.png")
    (tmp_path / "torn.png").write_bytes((tmp_path / "whole.png").read_bytes()[:600])
    Image.new("L", (50, 50), 200).save(tmp_path / "blank.png")
    for name, code, reason in (
        ("absent.png", Exit.DATA_MISSING, "image-missing"),
        (".", Exit.DATA_DAMAGED, "image-unreadable"),
        ("text.png", Exit.DATA_DAMAGED, "image-unreadable"),
        ("torn.png", Exit.DATA_DAMAGED, "image-unreadable"),
        ("blank.png", Exit.DATA_DAMAGED, "image-blank"),
    ):
        with pytest.raises(JobError) as caught:
            digit.read_picture(tmp_path / name)
        assert (caught.value.code, caught.value.reason) == (code, reason)
        assert str(tmp_path / name) in caught.value.message
