"""Tests of the way from a picture file to 28x28 pixels: formats, sizes, and every kind of picture that people make."""

from __future__ import annotations

import shlex
import subprocess
import sys
import warnings
from typing import TYPE_CHECKING

import numpy as np
import pytest
from PIL import Image

from job.errors import Exit, JobError
from job.predict import read
from tests.job.predict import pictures

if TYPE_CHECKING:
    from pathlib import Path

COUNT = 25
# Kinds whose pictures are large or slow to make are tried with fewer.
FEW = {"phone, 12 megapixels": 8, "scan, 1,200 pixels": 10}
LEAST = 0.88  # of the pictures whose digit the model reads in the dataset; benchmarks/pictures.py measures all 200
# Strokes of a few pixels.
LOWER = dict.fromkeys(("thin pen", "thin pen, uneven light", "ball pen in a large picture"), 0.85)


@pytest.mark.parametrize("kind", pictures.KINDS)
def test_digits_are_read_in_every_kind_of_picture(tmp_path: Path, kind: str) -> None:
    """Nearly as many as of the same images of the dataset."""
    known, count = pictures.digits(), FEW.get(kind, COUNT)
    right = 0
    for picture, label in pictures.made(kind, count):
        try:
            right += known.classify(read.read_picture(pictures.save(picture, tmp_path)))[0] == label
        except JobError as error:
            assert error.reason == "image-no-digit"  # noqa: PT017 - a refusal is an answer, and counts as wrong
    own = sum(known.classify(image)[0] == label for image, label in zip(known.images, known.labels, strict=True))
    assert right >= LOWER.get(kind, LEAST) * count * own / len(known.images)


@pytest.mark.parametrize("kind", pictures.BLANK)
def test_pictures_without_a_digit_are_refused(tmp_path: Path, kind: str) -> None:
    """Each of them, in one sentence."""
    for picture in pictures.blank(kind, 20):
        with pytest.raises(JobError, match="is not read as a digit") as caught:
            read.read_picture(pictures.save(picture, tmp_path))
        assert (caught.value.code, caught.value.reason) == (Exit.DATA_DAMAGED, "image-no-digit")


def test_two_digits_are_refused(tmp_path: Path) -> None:
    """Two digits side by side are no single digit: at least 15 of 20 such pictures say so."""
    images, rng = pictures.digits().images, np.random.default_rng(0)
    refused = 0
    for pair in zip(images[:20], images[20:40], strict=True):
        ink = np.hstack([pictures.place(image, rng, 0.9, (160, 120)) for image in pair])
        pictures.grey(pictures.dark(np.pad(ink, 40))).save(tmp_path / "two.png")
        try:
            read.read_picture(tmp_path / "two.png")
        except JobError:
            refused += 1
    assert refused >= 15


def test_images_of_the_dataset_are_unchanged(tmp_path: Path) -> None:
    """They stay the same bit for bit, and are inverted if they are dark on light."""
    for image in pictures.digits().images:
        for stored in (image, 255 - image):
            Image.fromarray(stored).save(tmp_path / "own.png")
            np.testing.assert_array_equal(read.read_picture(tmp_path / "own.png"), image)


def test_size_alone_does_not_make_an_image_of_the_dataset(tmp_path: Path) -> None:
    """The same digit moved by two pixels comes back to the middle."""
    image = pictures.digits().images[0]
    Image.fromarray(np.roll(image, (2, 3), (0, 1))).save(tmp_path / "moved.png")
    moved = read.read_picture(tmp_path / "moved.png")
    for mass in (moved.sum(axis=1, dtype=float), moved.sum(axis=0, dtype=float)):
        assert abs(mass @ np.arange(28) / mass.sum() - 14) < 0.6


def test_images_of_another_dataset_are_known_by_their_size(tmp_path: Path) -> None:
    """Clothes fill the image, and are not digits."""
    whole = np.random.default_rng(0).integers(0, 256, (28, 28), dtype=np.uint8)
    whole[0, 0] = 0
    Image.fromarray(whole).save(tmp_path / "shirt.png")
    np.testing.assert_array_equal(read.read_picture(tmp_path / "shirt.png", "fashion_mnist"), whole)


def test_unreadable_files_are_named_with_a_remedy(tmp_path: Path) -> None:
    """A missing file, a folder, a text, an empty and a torn file, and formats that need another program."""
    (tmp_path / "text.png").write_text("no picture")
    (tmp_path / "empty.png").touch()
    Image.effect_noise((900, 1200), 50).save(tmp_path / "whole.png")
    (tmp_path / "torn.png").write_bytes((tmp_path / "whole.png").read_bytes()[:600])
    Image.new("L", (40, 40)).save(tmp_path / "exif.png", exif=b"Exif\0\0II*\0")
    (tmp_path / "photo.heic").write_bytes(b"\0\0\0\x18ftypheic" + bytes(40))
    (tmp_path / "photo.jpg").write_bytes(b"\0\0\0\x18ftypmif1" + bytes(40))
    (tmp_path / "page.pdf").write_bytes(b"%PDF-1.7")
    for name, code, reason, words in (
        ("absent.png", Exit.DATA_MISSING, "image-missing", "no picture at"),
        (".", Exit.DATA_DAMAGED, "image-unreadable", "cannot be read"),
        ("text.png", Exit.DATA_DAMAGED, "image-unreadable", "is not a picture"),
        ("empty.png", Exit.DATA_DAMAGED, "image-unreadable", "is empty"),
        ("torn.png", Exit.DATA_DAMAGED, "image-unreadable", "cannot be read"),
        ("exif.png", Exit.DATA_DAMAGED, "image-unreadable", "cannot be read"),
        ("photo.heic", Exit.DATA_DAMAGED, "image-unreadable", "is HEIC, which cannot be read; convert it: magick"),
        ("photo.jpg", Exit.DATA_DAMAGED, "image-unreadable", "is HEIC"),
        ("page.pdf", Exit.DATA_DAMAGED, "image-unreadable", "is PDF"),
    ):
        with pytest.raises(JobError) as caught:
            read.read_picture(tmp_path / name)
        assert (caught.value.code, caught.value.reason) == (code, reason)
        assert str(tmp_path / name) in caught.value.message
        assert words in str(caught.value)
        assert "\n" not in str(caught.value)


def test_remedies_can_be_run_with_any_file_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A name with a blank and a quote is one argument of each command that the message prints."""
    monkeypatch.setattr(read, "LARGE", 1000)
    photo, clear = tmp_path / "my son's 5.heic", tmp_path / "my son's 5.png"
    photo.write_bytes(b"\0\0\0\x18ftypheic" + bytes(40))
    Image.new("RGBA", (100, 100)).save(clear)
    for path in (photo, clear):
        with pytest.raises(JobError) as caught:
            read.read_picture(path)
        commands = [["magick", *rest.split(", or ")[0].split("\n")] for rest in str(caught.value).split("magick ")[1:]]
        assert all(str(path) in shlex.split(words[1].rstrip(")")) for words in commands)
        assert len(commands) == 1


@pytest.mark.parametrize("name", ["large.jpg", "large.png"])
def test_two_hundred_megapixels_take_less_than_500_megabytes(tmp_path: Path, name: str) -> None:
    """A new process reads the picture, without TensorFlow; nothing warns of its size."""
    side = 14142
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        large = Image.new("RGB", (side, side), (240, 240, 230))
        large.paste((20, 20, 60), (7000, 4000, 7900, 10000))
        large.save(tmp_path / name, compress_level=1)
    code = f"""
from pathlib import Path
from job.predict import read
assert read.read_picture(Path({str(tmp_path / name)!r})).any()
# Not getrusage(): its peak includes that of the process before exec(), which made the picture.
print(next(line.split()[1] for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM")))
"""
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr == ""
    assert int(done.stdout) * 1024 < 500e6


def test_a_picture_that_would_fill_the_memory_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Transparency needs all bytes of the picture at once: one sentence with the command that makes it smaller."""
    monkeypatch.setattr(read, "LARGE", 1000)
    Image.new("RGBA", (100, 100)).save(tmp_path / "clear.png")
    with pytest.raises(JobError, match=r"make it smaller: magick .*clear\.png -resize") as caught:
        read.read_picture(tmp_path / "clear.png")
    assert caught.value.reason == "image-unreadable"
