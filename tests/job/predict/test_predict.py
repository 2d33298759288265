"""Tests of prediction on picture files by a published model."""

from __future__ import annotations

import builtins
import errno
import io
import json
import os
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from job.errors import Exit, JobError
from job.predict import predict, read
from tests.job import report_samples as samples
from tests.job.predict import pictures

if TYPE_CHECKING:
    from pathlib import Path

MODEL = samples.layers(784, 10)
PICTURES = pictures.digits().images[[1, 2, 6]]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A published model: a SavedModel with the job's signatures, and its report."""
    folder = tmp_path_factory.mktemp("models") / "mnist-a"
    (weights, bias, _) = MODEL[0]
    module = tf.Module()
    module.weights, module.bias = tf.Variable(weights), tf.Variable(bias)

    @tf.function(input_signature=[tf.TensorSpec([None, 28, 28], tf.uint8, name="images")])
    def classify(images: tf.Tensor) -> dict[str, tf.Tensor]:
        flat = tf.cast(tf.reshape(images, [-1, 784]), tf.float32) / 255.0
        probabilities = tf.nn.softmax(flat @ module.weights + module.bias)
        return {"probabilities": probabilities, "class": tf.argmax(probabilities, axis=1)}

    tf.saved_model.save(module, str(folder / "saved_model" / "1"), {"serving_default": classify, "classify": classify})
    samples.write(folder, samples.run(classes=samples.LONG_NAMES), MODEL, samples.images(40))
    return folder


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    """Test images as files: one unchanged, two enlarged as dark ink on white paper."""
    paths = [tmp_path / f"{index}.png" for index in range(3)]
    Image.fromarray(PICTURES[0]).save(paths[0])
    for path, picture in zip(paths[1:], PICTURES[1:], strict=True):
        Image.fromarray(255 - np.pad(picture.repeat(9, axis=0).repeat(9, axis=1), 20)).save(path)
    return paths


def test_pictures_are_classified_by_their_pixels(
    model: Path, files: list[Path], capsys: pytest.CaptureFixture[str]
) -> None:
    """The whole JSON, for an unchanged test image and for two that are scaled to 28x28."""
    predict.run(model, files, as_json=True)
    pixels = np.stack([read.read_picture(path) for path in files])
    np.testing.assert_array_equal(pixels[0], PICTURES[0])
    expected = samples.forward(MODEL, pixels).astype(float)
    best = expected.argmax(axis=1)
    assert json.loads(capsys.readouterr().out) == [
        {
            "image": str(path),
            "class": index,
            "name": samples.LONG_NAMES[index],
            "probability": pytest.approx(row[index], abs=1e-6),
            "probabilities": pytest.approx(dict(zip(samples.LONG_NAMES, row, strict=True)), abs=1e-6),
        }
        for path, index, row in zip(files, best, expected, strict=True)
    ]


def test_table_has_a_line_for_each_picture(model: Path, files: list[Path], capsys: pytest.CaptureFixture[str]) -> None:
    """It has the class's name, each probability, and the file's name unchanged, even with brackets."""
    odd = files[0].rename(files[0].with_name("[bold]x.png"))
    predict.run(model, [odd, files[1]])
    header, first, second = capsys.readouterr().out.splitlines()
    assert header.split()[:2] == ["image", "says"]
    for line, path in ((first, odd), (second, files[1])):
        (row,) = samples.forward(MODEL, read.read_picture(path)[None])
        cells = line.removeprefix(str(path)).split()
        name = samples.LONG_NAMES[row.argmax()].split()
        assert cells == [*name, *(f"{100 * share:.1f}%" for share in row)]


def test_output_has_nothing_but_the_result(model: Path, files: list[Path]) -> None:
    """A new process prints JSON, and no message of TensorFlow."""
    call = f"predict.run(Path({str(model)!r}), [Path({str(files[0])!r})], as_json=True)"
    code = f"from pathlib import Path; from job.predict import predict; {call}"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr == ""
    assert len(json.loads(done.stdout)) == 1


def test_a_picture_without_a_digit_does_not_stop_the_others(
    model: Path, files: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The code is 65; the JSON has an entry for each picture, the table a line for each that is read."""
    Image.new("L", (90, 90), 200).save(tmp_path / "wall.png")
    (tmp_path / "text.png").write_text("no picture")
    given = [files[0], tmp_path / "wall.png", tmp_path / "text.png", files[1]]
    assert predict.run(model, given, as_json=True) == Exit.DATA_DAMAGED
    first, wall, text, last = json.loads(capsys.readouterr().out)
    assert {"class", "probability"} <= first.keys() & last.keys()
    assert (wall["reason"], text["reason"]) == ("image-no-digit", "image-unreadable")
    assert "wall.png" in wall["error"]
    assert predict.run(model, given) == Exit.DATA_DAMAGED
    printed = capsys.readouterr()
    assert len(printed.out.splitlines()) == 3
    assert [line.startswith("error: ") for line in printed.err.splitlines()] == [True, True]
    assert predict.run(model, given[1:3]) == Exit.DATA_DAMAGED
    assert capsys.readouterr().out == ""


def test_without_opencv_the_command_says_how_to_install_it(
    model: Path, files: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The command ends with 64 and one sentence."""
    monkeypatch.setitem(sys.modules, "cv2", None)
    monkeypatch.delitem(sys.modules, "job.predict.read", raising=False)
    monkeypatch.delitem(sys.modules, "job.predict.ink", raising=False)
    monkeypatch.delattr("job.predict.read", raising=False)
    monkeypatch.delattr("job.predict.ink", raising=False)
    with pytest.raises(JobError) as caught:
        predict.run(model, files)
    assert (caught.value.code, caught.value.reason) == (Exit.USAGE, "opencv-missing")
    assert "pip install" in caught.value.hint


def test_missing_model_is_66(files: list[Path], tmp_path: Path) -> None:
    """One sentence that names the path, before TensorFlow is loaded."""
    with pytest.raises(JobError) as caught:
        predict.run(tmp_path / "gone", files)
    assert (caught.value.code, caught.value.reason) == (Exit.DATA_MISSING, "model-missing")
    assert "gone" in caught.value.message


def test_a_missing_picture_does_not_stop_the_others(
    model: Path, files: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The code is 66 if pictures are only missing, and 65 if one is also not read as a digit."""
    gone, text = tmp_path / "gone.png", tmp_path / "text.png"
    text.write_text("no picture")
    assert predict.run(model, [gone, files[0]], as_json=True) == Exit.DATA_MISSING
    printed = capsys.readouterr()
    first, second = json.loads(printed.out)
    assert (first["reason"], "class" in second) == ("image-missing", True)
    assert printed.err == f"error: there is no picture at {gone}\n"
    assert predict.run(model, [gone]) == Exit.DATA_MISSING
    assert predict.run(model, [gone, text]) == Exit.DATA_DAMAGED


def test_damaged_model_is_65(model: Path, files: list[Path], tmp_path: Path) -> None:
    """Its graph or its report is missing."""
    (tmp_path / "m" / "saved_model" / "1").mkdir(parents=True)
    for content in (None, "{}", (model / "report.json").read_text()):
        if content:
            (tmp_path / "m" / "report.json").write_text(content)
        with pytest.raises(JobError) as caught:
            predict.run(tmp_path / "m", files)
        assert (caught.value.code, caught.value.reason) == (Exit.DATA_DAMAGED, "model-damaged")
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("damaged", ["picture", "model"])
def test_a_disk_that_fails_for_now_is_75(
    damaged: str, model: Path, files: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is neither a damaged picture nor a damaged model."""
    file = files[0] if damaged == "picture" else model / "report.json"
    opened = io.open

    def refuse(path: object, *arguments: Any, **options: Any) -> Any:
        if str(path) == str(file):
            raise OSError(errno.EIO, os.strerror(errno.EIO), str(file))
        return opened(path, *arguments, **options)  # type: ignore[call-overload]

    monkeypatch.setattr(io, "open", refuse)  # what Path.open() calls
    monkeypatch.setattr(builtins, "open", refuse)
    with pytest.raises(JobError) as caught:
        predict.run(model, files)
    assert caught.value.code == Exit.TRY_AGAIN
    where = (
        f"the picture {file} could not be read" if damaged == "picture" else f"the model could not be read at {file}"
    )
    assert str(caught.value) == f"{where}: Input/output error; try again"
