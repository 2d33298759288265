"""Tests of what is unusual in a dataset, of what report.json says about it, and of `data --check`."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import jsonschema
import numpy as np
import pytest

from job.config import Config
from job.dataset import description
from job.dataset.description import describe
from job.dataset.rows import MEMORY_LIMIT, Dataset, Rows, load_dataset
from job.errors import Exit, JobError
from job.output.significance import Predictions
from job.report import data_check
from job.report.beside_latest import beside_latest
from job.report.data_changes import changes, findings
from job.report.schema import SCHEMA
from tests.job import report_samples as samples

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray


def dataset(train: NDArray[np.uint8], test: NDArray[np.uint8], sha256: str = "b" * 64) -> Dataset:
    """A dataset of two classes that take turns; the SHA-256 is that of the training set."""
    fingerprint = {
        "dataset": "mnist",
        "version": "1.0.0",
        "classes": ["no", "yes"],
        "train": {"sha256": sha256, "count": len(train)},
        "test": {"sha256": "c" * 64, "count": len(test)},
    }
    made = (Rows(images, np.arange(len(images), dtype=np.int32) % 2) for images in (train, test))
    return Dataset(("no", "yes"), fingerprint, *made)


def noise(count: int, seed: int) -> NDArray[np.uint8]:
    """Random pictures of 4 x 4 pixels."""
    return np.random.default_rng(seed).integers(0, 256, (count, 4, 4), np.uint8)


def described(**changed: Any) -> dict[str, Any]:
    """An ordinary description, with other values for some keys of the training set, or for `shared` or `classes`."""
    split = {"count": 1000, "classes": [500, 500], "mean": 33.0, "spread": 80.0}
    whole = {key: changed.pop(key) for key in ("shared", "names") if key in changed}
    names = whole.get("names", ["no", "yes"])
    return {"classes": names, "train": split | changed, "test": dict(split), "shared": whole.get("shared", 0)}


def test_description_of_a_dataset(monkeypatch: pytest.MonkeyPatch) -> None:
    """Counts, mean and spread as NumPy gives them, also for more rows than are read at a time."""
    monkeypatch.setattr(description, "BLOCK", 16 * 1000)
    train, test = noise(2001, 1), noise(40, 2)
    test[7] = test[8] = train[1500]
    found = describe(dataset(train, test))
    assert found == {
        "classes": ["no", "yes"],
        "train": {
            "count": 2001,
            "classes": [1001, 1000],
            "mean": pytest.approx(train.mean()),
            "spread": pytest.approx(train.std()),
        },
        "test": {
            "count": 40,
            "classes": [20, 20],
            "mean": pytest.approx(test.mean()),
            "spread": pytest.approx(test.std()),
        },
        "shared": 2,
    }


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (described(), []),
        (described(mean=36.0, spread=84.0, classes=[530, 470], shared=10), []),
        (
            described(shared=11),
            ["11 test images (1.1%) are in the training set too, so the test accuracy is too high"],
        ),
        (
            described(classes=[1000, 0]),
            [
                "the training set has no example of class yes",
                "class no is 50.0% of the test set, and 100.0% of the training set",
                "class yes is 50.0% of the test set, and 0.0% of the training set",
            ],
        ),
        (
            described(mean=222.0, spread=100.0),
            [
                "the mean pixel of the test set is 33.0, and 222.0 in the training set",
                "the pixels of the test set spread by 80.0, and by 100.0 in the training set",
            ],
        ),
    ],
)
def test_findings_in_one_dataset(data: dict[str, Any], expected: list[str]) -> None:
    """What is unusual, a sentence each."""
    assert findings(data) == expected


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (described(), []),
        (described(count=1050, classes=[525, 525], mean=36.0), []),
        (
            described(count=500, classes=[150, 350]),
            [
                "the training set has 500 examples; that of base has 1,000",
                "class no is 30.0% of the training set, and 50.0% of that of base",
                "class yes is 70.0% of the training set, and 50.0% of that of base",
            ],
        ),
        (described(names=["no", "maybe"]), ["the classes are no, maybe; those of base are no, yes"]),
        (
            described(mean=0.13, spread=0.31),
            [
                "the mean pixel of the training set is 0.1, and 33.0 in that of base",
                "the pixels of the training set spread by 0.3, and by 80.0 in that of base",
            ],
        ),
    ],
)
def test_changes_since_another_dataset(data: dict[str, Any], expected: list[str]) -> None:
    """What differs more than two random halves of a dataset do, a sentence each."""
    assert changes(data, described(), "base") == expected


@pytest.fixture
def latest(tmp_path: Path) -> Path:
    """An output folder whose latest model, base, classifies 40 of 40 test images correctly."""
    data = describe(dataset(noise(100, 1), noise(40, 2)))
    fingerprint = dataset(noise(100, 1), noise(40, 2)).fingerprint
    samples.publish(tmp_path, "base", np.ones(40, bool), fingerprint=fingerprint, data=data)
    (tmp_path / "latest").symlink_to("models/base")
    return tmp_path


def test_report_compares_with_latest(latest: Path, tmp_path: Path) -> None:
    """A class that became worse, and data that became fewer; the report is valid, and its page says both."""
    labels = np.zeros(40, np.int32)
    labels[30:] = 1
    other = dataset(noise(50, 1), noise(40, 2), "f" * 64)
    predictions = Predictions(np.zeros(40, np.int32), labels)
    beside = beside_latest(latest, other.fingerprint, describe(other), predictions)
    assert beside is not None
    assert beside["run"] == "base"
    assert [(each["name"], each["recall"], each["recall_before"]) for each in beside["worse_classes"]] == [
        ("no", 0.75, 1.0)
    ]
    assert beside["data_changes"] == ["the training set has 50 examples; that of base has 100"]
    assert beside["data"] == describe(dataset(noise(100, 1), noise(40, 2)))
    facts = samples.run(classes=["no", "yes"], data=describe(other), beside_latest=beside)
    (tmp_path / "page").mkdir()
    built = samples.write(tmp_path / "page", facts, None, samples.images(40))
    jsonschema.validate(built, SCHEMA, jsonschema.Draft202012Validator)
    page = (tmp_path / "page" / "report.html").read_text()
    assert "<b>Class no</b> is worse beyond chance: recall 75.00% after 100.00%, p = 0.0039." in page
    assert "The training set has 50 examples; that of base has 100." in page


def test_same_data_are_not_compared(latest: Path) -> None:
    """Only the classes are."""
    same = dataset(noise(100, 1), noise(40, 2))
    predictions = Predictions(np.zeros(40, np.int32), np.zeros(40, np.int32))
    expected: dict[str, Any] = {"run": "base", "worse_classes": [], "data": None, "data_changes": None}
    assert beside_latest(latest, same.fingerprint, describe(same), predictions) == expected


@pytest.mark.parametrize("damage", ["report.json", "predictions.npz", "latest"])
def test_latest_that_cannot_be_read_is_left_out(latest: Path, damage: str) -> None:
    """A report without a comparison is published all the same."""
    (latest / (damage if damage == "latest" else f"models/base/{damage}")).unlink()
    same = dataset(noise(100, 1), noise(40, 2))
    predictions = Predictions(np.zeros(40, np.int32), np.zeros(40, np.int32))
    assert beside_latest(latest, same.fingerprint, describe(same), predictions) is None


def findings_said(data: dict[str, Any]) -> list[str]:
    """What `data --check` says of a dataset by itself, after the table."""
    return [f"unusual: {sentence}" for sentence in findings(data)]


def damage_report(output: Path, *keys: str, value: Any = None) -> None:
    """Take a value out of the report of latest, or put another one there; without keys, all of it."""
    path = output / "models" / "base" / "report.json"
    report = inner = json.loads(path.read_bytes())
    for key in keys[:-1]:
        inner = inner[key]
    if not keys:
        inner.clear()
    elif value is None:
        del inner[keys[-1]]
    else:
        inner[keys[-1]] = value
    path.write_text(json.dumps(report))


DAMAGES: list[tuple[tuple[str, ...], Any]] = [
    ((), None),
    (("dataset", "train"), None),
    (("dataset",), []),
    (("data", "train"), None),
    (("data", "test", "spread"), "80"),
    (("data", "test", "classes"), [20]),
    (("data", "train", "count"), 0),
]


@pytest.mark.parametrize(("keys", "value"), [*DAMAGES, (("data", "shared"), None)])
def test_incomplete_report_of_latest_is_left_out(latest: Path, keys: tuple[str, ...], value: Any) -> None:
    """A report without a comparison is published all the same."""
    damage_report(latest, *keys, value=value)
    other = dataset(noise(50, 1), noise(40, 2), "f" * 64)
    predictions = Predictions(np.zeros(40, np.int32), np.zeros(40, np.int32))
    assert beside_latest(latest, other.fingerprint, describe(other), predictions) is None


def test_predictions_that_are_too_few_are_left_out(latest: Path) -> None:
    """As are those that cannot be read."""
    np.savez(latest / "models/base/predictions.npz", labels=np.zeros(40, np.uint8), predicted=np.zeros(39, np.uint8))
    same = dataset(noise(100, 1), noise(40, 2))
    predictions = Predictions(np.zeros(40, np.int32), np.zeros(40, np.int32))
    assert beside_latest(latest, same.fingerprint, describe(same), predictions) is None


def test_latest_that_is_no_link_is_left_out(tmp_path: Path) -> None:
    """As is one that names no model."""
    (tmp_path / "latest").mkdir()
    same = dataset(noise(100, 1), noise(40, 2))
    predictions = Predictions(np.zeros(40, np.int32), np.zeros(40, np.int32))
    assert beside_latest(tmp_path, same.fingerprint, describe(same), predictions) is None


@pytest.mark.parametrize(("keys", "value"), DAMAGES)
def test_check_says_that_the_report_of_latest_cannot_be_read(
    latest: Path, keys: tuple[str, ...], value: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After all that it says of the dataset itself."""
    damage_report(latest, *keys, value=value)
    monkeypatch.setattr(data_check, "load_dataset", lambda *_: dataset(noise(50, 1), noise(40, 2), "f" * 64))
    printed: list[str] = []
    data_check.check(Config(output=latest), printed.append)
    assert printed[8:] == [
        *findings_said(describe(dataset(noise(50, 1), noise(40, 2)))),
        "the report of the current latest, base, cannot be read",
    ]


def test_check_of_an_output_folder_that_cannot_be_read_is_73(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As in training."""
    (tmp_path / "latest").mkdir()
    monkeypatch.setattr(data_check, "load_dataset", lambda *_: dataset(noise(50, 1), noise(40, 2)))
    with pytest.raises(JobError) as caught:
        data_check.check(Config(output=tmp_path), lambda _: None)
    assert caught.value.code == Exit.OUTPUT


def test_check_prints_a_table_and_what_is_out_of_the_ordinary(latest: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The whole text, beside the data of latest."""
    train = np.full((50, 4, 4), 200, np.uint8)
    other = dataset(train, train[:10], "f" * 64)
    monkeypatch.setattr(data_check, "load_dataset", lambda *_: other)
    printed: list[str] = []
    data_check.check(Config(output=latest), printed.append)
    base = json.loads((latest / "models" / "base" / "report.json").read_text())["data"]
    assert printed[:8] == [
        "mnist in data/mnist",
        "                      training        test",
        "examples                    50          10",
        "mean of pixels           200.0       200.0",
        "spread of pixels           0.0         0.0",
        "class no                 50.0%       50.0%",
        "class yes                50.0%       50.0%",
        "test images that are in the training set too: 10",
    ]
    assert printed[8:] == [
        *findings_said(describe(other)),
        *(f"compared with the current latest: {sentence}" for sentence in changes(describe(other), base, "base")),
    ]
    assert len(printed) > 12
    printed.clear()
    data_check.check(Config(output=latest / "none"), printed.append)
    assert len(printed) == 9


@pytest.mark.parametrize(("size", "blocks"), [(512, [4, 1]), (2048, [1] * 5)])
def test_description_takes_at_most_a_million_pixels_at_a_time(
    size: int, blocks: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Large images are taken in small blocks, and one at a time if need be."""
    take, taken = Rows.take, []

    def note(rows: Rows, indices: NDArray[np.int64]) -> Any:
        taken.append(len(indices))
        return take(rows, indices)

    monkeypatch.setattr(Rows, "take", note)
    describe(dataset(np.zeros((5, size, size), np.uint8), np.zeros((1, 4, 4), np.uint8)))
    assert taken == [*blocks, 1]


def test_description_of_rows_on_disk(prepared: Path) -> None:
    """The description does not depend on where the rows are."""
    on_disk, in_memory = (describe(load_dataset(prepared, "mnist", memory_limit=limit)) for limit in (0, MEMORY_LIMIT))
    assert on_disk == in_memory
