"""Tests of whole runs, started with the command that users type, and of their results."""

from __future__ import annotations

import dataclasses
import datetime as dt
import errno
import hashlib
import json
import os
import platform
import re
import time
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import jsonschema
import numpy as np
import pytest
import tensorflow as tf
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from job import model, must_match, telemetry, train
from job.cluster import Cluster
from job.config import Config
from job.dataset.prepare import prepare_dataset
from job.dataset.rows import Dataset, Images, ImagesOnDisk, Indices, load_dataset
from job.errors import Exit, JobError
from job.must_match import settings_hash
from job.output import checkpoint
from job.output.run_folder import RunFolder
from job.report.report_page import MISTAKES
from job.report.schema import SCHEMA
from job.supervisor import trainer
from job.supervisor.trainer import manifest
from job.system import cgroup
from job.time_spent import TimeSpent
from job.training import export, step
from job.training.worker import Worker
from tests.job import plain_sgd, processes

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from job.telemetry import Record, Reporter
    from tests.conftest import Mount

TRAINING, TESTING = 600, 200
# 600 examples in batches of 64: ten steps an epoch, the last of 24, and neither 2 nor 3 workers divide them evenly.
FLAGS: dict[str, Any] = {"epochs": 3, "batch_size": 64, "learning_rate": 0.05, "seed": 3, "log_every": 4}
PHASES = ["waiting", "data", "joining", "compiling", "training", "evaluating", "publishing", "published"]


@dataclass(frozen=True)
class Run:
    """A finished `python -m job train`: its folders, exit code, standard output and standard error."""

    name: str
    output: Path
    code: int
    out: str
    error: str

    @property
    def folder(self) -> Path:
        """runs/<run>."""
        return self.output / "runs" / self.name

    @property
    def model(self) -> Path:
        """models/<run>."""
        return self.output / "models" / self.name

    def json(self, name: str) -> dict[str, Any]:
        """The content of a JSON file in the run's or the model's folder."""
        folder = self.model if name == "report.json" else self.folder
        return dict(json.loads((folder / name).read_bytes()))

    def records(self) -> list[Record]:
        """The records of all workers."""
        return [record for line in self.out.splitlines() if (record := telemetry.parse(line))]

    def latest(self) -> str:
        """The target of `latest`."""
        return str((self.output / "latest").readlink())

    def params(self) -> dict[str, NDArray[np.float32]]:
        """The published parameters."""
        module = tf.saved_model.load(str(self.model / "saved_model" / "1"))
        return {name: variable.numpy() for name, variable in module.params.items()}


def started(output: Path, data: Path, name: str, flags: Mapping[str, Any]) -> Run:
    """Run the command to its end."""
    options = {"name": name, "data": data, "output": output, **flags}
    arguments = [f"--{key.replace('_', '-')}={value}" for key, value in options.items()]
    ended = processes.run(*arguments)
    return Run(name, output, ended.code, ended.stdout, ended.stderr)


class Runs:
    """Runs by name, each started on its first use."""

    def __init__(self, output: Path, data: Path) -> None:
        self._output, self._data = output, data
        self._runs: dict[str, Run] = {}

    def __call__(self, name: str, **flags: Any) -> Run:
        """The finished run with these flags; all runs share an output folder."""
        if name not in self._runs:
            self._runs[name] = started(self._output, self._data, name, FLAGS | flags)
        run = self._runs[name]
        assert run.code in {0, Exit.REJECTED}, run.error
        return run

    def alone(self) -> Run:
        """A run of one worker."""
        return self("alone")

    def pair(self) -> Run:
        """A run of two workers."""
        return self("pair", workers=2)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory, prepared: Path) -> Runs:
    """Runs that several tests share, in one output folder."""
    return Runs(tmp_path_factory.mktemp("output"), prepared)


@pytest.fixture(scope="module")
def dataset(prepared: Path) -> Dataset:
    """The dataset of the runs."""
    return load_dataset(prepared, "mnist")


def reference(dataset: Dataset, **changes: Any) -> dict[str, NDArray[np.float64]]:
    """The parameters after the same training in plain NumPy."""
    values = FLAGS | changes
    return plain_sgd.train(
        dataset.train,
        epochs=values["epochs"],
        batch=values["batch_size"],
        rate=values["learning_rate"],
        seed=values["seed"],
        workers=values.get("workers", 1),
        sync_every=values.get("sync_every", 1),
    )


def assert_same(params: Mapping[str, NDArray[np.float32]], expected: Mapping[str, NDArray[np.float64]]) -> None:
    """Equal, except for the order in which floats were added."""
    assert params.keys() == expected.keys()
    for name in expected:
        np.testing.assert_allclose(params[name], expected[name], atol=2e-6)


@pytest.mark.parametrize(
    ("name", "flags"),
    [
        ("alone", {}),
        ("pair", {"workers": 2}),
        ("three", {"workers": 3}),
        # The third worker has padding only.
        ("crowd", {"workers": 3, "batch_size": 2, "epochs": 1, "log_every": 100, "learning_rate": 0.01}),
        ("doubling", {"workers": 6, "epochs": 1}),  # their sums go by pairs
    ],
)
def test_any_number_of_workers_trains_the_same_model(
    runs: Runs, dataset: Dataset, name: str, flags: dict[str, Any]
) -> None:
    """The parameters equal those of gradient descent in plain NumPy on the same global batches."""
    alone = {key: value for key, value in flags.items() if key != "workers"}
    assert_same(runs(name, **flags).params(), reference(dataset, **alone))


@pytest.mark.parametrize("workers", [1, 2])
def test_same_flags_train_the_same_to_the_bit(runs: Runs, workers: int) -> None:
    """A second run has the same parameters, learning curve and test figures."""
    first = runs.alone() if workers == 1 else runs.pair()
    second = runs(f"{first.name}-again", **({} if workers == 1 else {"workers": 2}))
    ours, theirs = first.json("report.json"), second.json("report.json")
    for key in ("parameters_sha256", "curve", "test", "settings_hash", "model_sha256"):
        assert ours[key] == theirs[key]


def test_each_worker_has_a_log(runs: Runs) -> None:
    """It holds what the worker said, to its end."""
    logs = runs.pair().folder / "logs"
    assert sorted(path.name for path in logs.iterdir()) == ["rank-0.log", "rank-1.log"]
    for rank, path in enumerate(sorted(logs.iterdir())):
        texts = [line.split(" ", 2)[2] for line in path.read_text("utf-8").splitlines()]
        said = [record for text in texts if (record := telemetry.parse(text))]
        assert {record.rank for record in said} == {rank}
        assert {"waiting", "training", "published"} <= {record.phase for record in said}


def test_report_has_the_hash_of_the_published_parameters(runs: Runs) -> None:
    """SHA-256 over name, dtype, shape and bytes of each parameter of the SavedModel, in name order."""
    run = runs.alone()
    params = run.params()
    whole = b"".join(
        f"{name} float32 {params[name].shape}\n".encode() + np.ascontiguousarray(params[name]).tobytes()
        for name in ("W", "b")
    )
    assert run.json("report.json")["parameters_sha256"] == hashlib.sha256(whole).hexdigest()


def test_sync_every_above_1_is_local_sgd(runs: Runs, dataset: Dataset) -> None:
    """Two workers are averaged every 4 steps and at the end of each epoch, and the report says so.

    The last batch of an epoch has 24 examples, all of them rank 0's, so that its parameters have a larger weight.
    """
    flags = {"workers": 2, "sync_every": 4}
    run = runs("averaged", **flags)
    assert_same(run.params(), reference(dataset, **flags))
    report = run.json("report.json")
    assert (report["settings"]["sync_every"], report["settings"]["workers"]) == (4, 2)
    assert [point["step"] for point in report["curve"]] == [4, 8, 10, 14, 18, 20, 24, 28, 30]


@pytest.mark.parametrize("name", ["alone", "pair"])
def test_report_follows_its_schema_and_describes_the_run(runs: Runs, dataset: Dataset, name: str) -> None:
    """report.json is valid and describes this run, and its curve has a point for each record."""
    run = runs.alone() if name == "alone" else runs.pair()
    report, config = run.json("report.json"), run.json("config.json")
    jsonschema.validate(report, SCHEMA, jsonschema.Draft202012Validator)
    workers = 1 if name == "alone" else 2
    assert {
        key: report[key] for key in ("run", "dataset", "workers", "replicas", "device", "settings", "versions")
    } == {
        "run": {"name": name, "job_uid": "local", "started": config["started"]},
        "dataset": dataset.fingerprint,
        "workers": workers,
        "replicas": workers,
        "device": "cpu",
        "settings": config["settings"],
        "versions": config["versions"],
    }
    ends = [(epoch, 10 * (epoch - 1) + step) for epoch in (1, 2, 3) for step in (4, 8, 10)]
    assert [(point["epoch"], point["step"]) for point in report["curve"]] == ends
    shown = [point["step"] for point in report["curve"] if point["accuracy"] is not None]
    assert shown == [10, 20, 30]
    assert report["curve"][-1]["accuracy"] == report["test"]["accuracy"]
    assert report["timing"]["steps"] == 30
    assert all(report["timing"].values())
    spent = report["timing"]["spent_s"]
    assert {"importing", "gathering", "compiling", "training", "evaluating", "publishing"} == spent.keys()
    assert all(seconds > 0 for seconds in spent.values())
    assert report["timing"]["goodput"] == spent["training"] / sum(spent.values())


@pytest.mark.parametrize("name", ["alone", "pair", "three"])
def test_evaluation_counts_each_test_example_once(runs: Runs, dataset: Dataset, name: str) -> None:
    """The report's figures equal those that plain NumPy counts with the published parameters on all 200 examples."""
    workers = {"alone": 1, "pair": 2, "three": 3}[name]
    run = runs.alone() if workers == 1 else runs(name, workers=workers)
    params = run.params()
    images, labels = dataset.test.take(np.arange(TESTING))
    logits = images.reshape(TESTING, -1) / 255 @ params["W"].astype(float) + params["b"]
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    probabilities = powers / powers.sum(axis=1, keepdims=True)
    predicted = probabilities.argmax(axis=1)
    counts = np.zeros([10, 10], int)
    np.add.at(counts, (labels, predicted), 1)
    test = run.json("report.json")["test"]
    assert test["confusion"] == counts.tolist()
    assert sum(map(sum, test["confusion"])) == test["examples"] == TESTING
    assert (test["correct"], test["accuracy"]) == (counts.trace(), counts.trace() / TESTING)
    assert test["loss"] == pytest.approx(-np.log(probabilities[np.arange(TESTING), labels]).mean(), rel=1e-4)
    with np.load(run.model / "predictions.npz") as kept:
        np.testing.assert_array_equal(kept["labels"], labels)
        np.testing.assert_array_equal(kept["predicted"], predicted)


def test_reported_loss_is_the_mean_training_loss(runs: Runs, dataset: Dataset) -> None:
    """The first point of the curve is the mean over the first four batches, computed in NumPy, for 1 and 2 workers."""
    order = np.random.RandomState([FLAGS["seed"], 0]).permutation(TRAINING)
    weights, bias = plain_sgd.zeros()
    losses = []
    for k in range(4):
        rate = FLAGS["learning_rate"] * 0.5 * (1 + np.cos(np.pi * k / 30))
        images, labels = dataset.train.take(order[k * 64 : (k + 1) * 64])
        loss, by_weights, by_bias = plain_sgd.gradient(weights, bias, images, labels)
        weights, bias = weights - rate * by_weights / 64, bias - rate * by_bias / 64
        losses.append(loss)
    for run in (runs.alone(), runs.pair()):
        assert run.json("report.json")["curve"][0]["loss"] == pytest.approx(sum(losses) / 256, rel=1e-5)


def test_config_json_is_the_manifest_of_the_run(runs: Runs, dataset: Dataset, prepared: Path) -> None:
    """All of its content."""
    run = runs.pair()
    content = run.json("config.json")
    started_at = dt.datetime.fromisoformat(content.pop("started"))
    assert started_at.utcoffset() == dt.timedelta(0)
    assert dt.timedelta(0) < dt.datetime.now(dt.UTC) - started_at < dt.timedelta(minutes=30)
    must_match = {
        "train": dataset.fingerprint["train"]["sha256"],
        "test": dataset.fingerprint["test"]["sha256"],
        "model": hashlib.sha256((processes.ROOT / "job/model.py").read_bytes()).hexdigest(),
        "batch_size": 64,
        "seed": 3,
        "learning_rate": 0.05,
        "schedule": "cosine",
        "epochs": 3,
        "sync_every": 1,
    }
    versions = {"python": platform.python_version()}
    for library in ("tensorflow", "tensorflow-cpu", "tensorflow-datasets", "numpy"):
        if any(True for _ in metadata.distributions(name=library)):
            versions[library] = metadata.version(library)
    defaults = {field.name: field.default for field in dataclasses.fields(Config)}
    options = {"name": "pair", "workers": 2, "threads": 1, "data": str(prepared), "output": str(run.output)}
    assert content == {
        "run": "pair",
        "job_uid": "local",
        "settings": defaults | FLAGS | options,
        "settings_hash": settings_hash(must_match),
        "must_match": must_match,
        "versions": versions,
        "cpus": min(cgroup.cpu_limit(), max(1, len(os.sched_getaffinity(0)) // 2)),  # a worker's share of them
        "fingerprint": dataset.fingerprint,
    }


def test_events_jsonl_has_the_records_of_rank_0(runs: Runs) -> None:
    """Every line is a record, from phase `compiling` on, and they have the figures of the report's learning curve."""
    run = runs.pair()
    lines = (run.folder / "events.jsonl").read_text().splitlines()
    records = [telemetry.parse(line) for line in lines]
    known = [record for record in records if record]
    assert len(known) == len(lines)
    assert {(record.run, record.rank) for record in known} == {("pair", 0)}
    points = [
        {key: getattr(record, key) for key in ("epoch", "step", "loss", "accuracy")}
        for record in known
        if record.phase == "training"
    ]
    *before, last = run.json("report.json")["curve"]
    assert points == [*before, last | {"accuracy": None}]  # the accuracy is in the record of `published`
    assert known[-1].accuracy == last["accuracy"]
    phases = [record.phase for record in known]
    assert phases == ["compiling", *["training"] * 9, "evaluating", "publishing", "published"]
    assert (known[-1].code, known[-1].reason) == (0, run.json("verdict.json")["verdict"])


def test_every_worker_reports_its_phases(runs: Runs) -> None:
    """Without a terminal, the phases of each worker are printed in order, and a summary at the end."""
    run = runs("three", workers=3)
    for rank in range(3):
        phases = list(dict.fromkeys(record.phase for record in run.records() if record.rank == rank))
        assert phases == PHASES
    summary = dict(pair.split("=", 1) for pair in run.out.splitlines()[-1].split())
    assert summary["phase"] == "done"
    assert summary["accuracy"] == f"{run.json('report.json')['test']['accuracy']:.4f}"
    assert (Path(summary["model"]), Path(summary["report"])) == (
        run.model / "saved_model" / "1",
        run.model / "report.html",
    )
    assert run.error == ""


def test_tensorboard_reads_the_scalars(runs: Runs) -> None:
    """Loss, accuracy and speed by step."""
    run = runs.pair()
    board = EventAccumulator(str(run.folder / "tensorboard"))
    board.Reload()
    scalars = {tag: {event.step: event.value for event in board.Scalars(tag)} for tag in board.Tags()["scalars"]}
    report = run.json("report.json")
    losses = {point["step"]: pytest.approx(point["loss"], rel=1e-6) for point in report["curve"]}
    accuracies = {
        point["step"]: pytest.approx(point["accuracy"]) for point in report["curve"] if point["accuracy"] is not None
    }
    assert scalars.keys() == {"loss", "accuracy", "examples_per_s"}
    assert scalars["loss"] == losses
    assert scalars["accuracy"] == accuracies
    assert scalars["examples_per_s"].keys() == losses.keys()


def test_published_folder_is_whole(runs: Runs) -> None:
    """It has the model, the report and the predictions, and SHA256SUMS of all these files."""
    run = runs.pair()
    files = {str(path.relative_to(run.model)) for path in run.model.rglob("*") if path.is_file()}
    assert {file for file in files if not file.startswith("saved_model/1/")} == {
        "report.json",
        "report.html",
        "predictions.npz",
        "model.py",
        "SHA256SUMS",
    }
    sums = dict(line.split("  ")[::-1] for line in (run.model / "SHA256SUMS").read_text().splitlines())
    assert sums == {
        file: hashlib.sha256((run.model / file).read_bytes()).hexdigest() for file in files - {"SHA256SUMS"}
    }
    assert {path.name for path in run.folder.iterdir()} == {
        "config.json",
        "events.jsonl",
        "verdict.json",
        "promoted",
        "checkpoints",
        "tensorboard",
        "lock",
        "logs",
    }


def test_rejected_run_is_69_and_latest_stays(runs: Runs) -> None:
    """Below --min-accuracy the model is published, the command says so in one sentence, and `latest` does not move."""
    runs.alone()
    before = runs.alone().latest()
    run = runs("poor", epochs=1, learning_rate=1e-9, batch_size=600, min_accuracy=0.999)
    accuracy = run.json("report.json")["test"]["accuracy"]
    assert run.code == Exit.REJECTED
    assert run.latest() == before
    assert run.json("report.json")["gate"] == {"min_accuracy": 0.999, "min_class_accuracy": 0.0, "passed": False}
    reason = f"accuracy {accuracy:.4f} is below the minimum 0.999"
    worse = [each["name"] for each in run.json("report.json")["beside_latest"]["worse_classes"]]
    assert run.json("verdict.json") == {
        "verdict": "rejected",
        "code": 69,
        "reason": reason,
        "compared_with": before.removeprefix("models/"),
        "worse_classes": worse,
    }
    assert worse
    assert run.error == f"error: poor is published, but rejected: {reason}; `latest` did not move\n"


def test_loss_that_is_not_finite_is_76(tmp_path: Path, prepared: Path) -> None:
    """The run stops at once with one sentence and a remedy, and publishes nothing."""
    flags = FLAGS | {"learning_rate": 1e38, "log_every": 1, "workers": 2}
    run = started(tmp_path, prepared, "wild", flags)
    assert run.code == Exit.NOT_FINITE
    step = max(record.step or 0 for record in run.records()) + 1
    # Every worker fails, and the error of the first one to end is printed.
    sentence = f"the loss was not finite at step {step}; use a smaller --learning-rate than 1e+38, and another --name\n"
    assert run.error in {f"error: worker {rank}: {sentence}" for rank in range(2)}
    assert not (tmp_path / "models").exists()
    assert not (tmp_path / "latest").exists()
    assert not (run.folder / "verdict.json").exists()


def test_another_model_file_trains_and_reports(tmp_path: Path, raw: Path, dataset: Dataset) -> None:
    """The example, given by --model, is trained and published, also by `predict`, and its report has a canvas.

    Its source is kept beside the model. The synthetic images stand in for Fashion-MNIST, in the same form and under
    that name.
    """
    source = (processes.ROOT / "examples" / "two_layer_fashion_mnist" / "model.py").read_bytes()
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "network.py").write_bytes(source)
    prepare_dataset(Config(data=tmp_path / "data", dataset="fashion_mnist"), raw, lambda _: None)
    flags = FLAGS | {"dataset": "fashion_mnist", "workers": 2, "model": tmp_path / "own" / "network.py"}
    run = started(tmp_path / "output", tmp_path / "data", "deep", flags)
    assert run.code == 0, run.error
    assert [path.name for path in (tmp_path / "own").iterdir()] == ["network.py"]
    assert (run.model / "model.py").read_bytes() == source
    params = run.params()
    assert {name: value.shape for name, value in params.items()} == {
        "hidden_weights": (784, 128),
        "hidden_bias": (128,),
        "out_weights": (128, 10),
        "out_bias": (10,),
    }
    report = run.json("report.json")
    jsonschema.validate(report, SCHEMA, jsonschema.Draft202012Validator)
    assert report["test"]["accuracy"] > 0.5  # chance is 0.1
    images, labels = dataset.test.take(np.arange(TESTING))
    hidden = np.maximum(images.reshape(TESTING, -1) / 255 @ params["hidden_weights"] + params["hidden_bias"], 0)
    predicted = (hidden @ params["out_weights"] + params["out_bias"]).argmax(axis=1)
    assert report["test"]["correct"] == np.count_nonzero(predicted == labels)
    assert report["model_sha256"] == hashlib.sha256(source).hexdigest()
    (tmp_path / "own" / "network.py").unlink()
    again = started(tmp_path / "output", tmp_path / "data", "deep", flags)  # a published run needs no model
    assert again.code == 0, again.error
    assert np.array_equal(export.classify(run.model / "saved_model" / "1", images).argmax(axis=1), predicted)
    page = (run.model / "report.html").read_text()
    assert '<canvas id="pad"' in page
    assert re.findall(r'"activation": "(\w+)"', page) == ["relu", "linear"]
    assert "Sneaker" in page


class Reports(list[dict[str, Any]]):
    """Keeps records, in place of a Reporter."""

    spent = TimeSpent(0.0)

    def __call__(self, phase: str, **fields: Any) -> None:
        """Keep a record."""
        self.append({"phase": phase, **fields})

    def heartbeat(self, phase: str = "", **fields: Any) -> None:
        """Ignore a heartbeat."""


class Alone:
    """This process as the only worker of a run, which is faster than starting one."""

    def __init__(self, output: Path, dataset: Dataset, *, stop_at: int | None = None) -> None:
        self.reports = Reports()
        self.output = RunFolder(output, "here", "local")
        self._dataset, self.stop_at = dataset, stop_at

    def train(self, **settings: Any) -> int:
        """Train, evaluate and publish; the exit code."""
        config = Config(**FLAGS | settings)
        cluster = Cluster("here", "local", 0, ("127.0.0.1:1",), ("127.0.0.1:2",))
        strategy = tf.distribute.get_strategy()
        threads = max(1, config.threads)
        worker = Worker(
            cluster, strategy, cast("Reporter", self.reports), self._stop_requested, threads, time.perf_counter()
        )
        with self.output.begin(manifest(config, cluster, self._dataset, threads)):
            return train.train_and_evaluate(config, worker, self._dataset, self.output)

    def _stop_requested(self) -> bool:
        return self.stop_at is not None and bool(self.reports) and self.reports[-1].get("step", 0) >= self.stop_at


def test_last_update_that_is_not_finite_is_76_too(tmp_path: Path, dataset: Dataset) -> None:
    """The loss of a step is computed before its update, so the last update shows only in the probabilities."""
    alone = Alone(tmp_path, dataset)
    with pytest.raises(JobError) as caught:
        alone.train(epochs=1, batch_size=600, learning_rate=3e38)
    assert (caught.value.code, caught.value.reason) == (Exit.NOT_FINITE, "loss-not-finite")
    assert not (tmp_path / "models").exists()


def test_local_sgd_of_unequal_parts_is_weighted(runs: Runs, dataset: Dataset) -> None:
    """Three workers have 22, 22 and 20 examples of a batch."""
    flags = {"workers": 3, "sync_every": 5, "epochs": 1}
    assert_same(runs("unequal", **flags).params(), reference(dataset, **flags))


def test_stop_takes_effect_at_once(tmp_path: Path, dataset: Dataset) -> None:
    """The worker exits with 75 within the next block, after a checkpoint, and publishes nothing."""
    alone = Alone(tmp_path, dataset, stop_at=14)
    with pytest.raises(JobError) as caught:
        alone.train()
    [checkpoint, _] = sorted(alone.output.checkpoints.iterdir(), reverse=True)
    assert (caught.value.code, caught.value.message) == (Exit.TRY_AGAIN, f"asked to stop at step {checkpoint.stem}")
    assert 14 < int(checkpoint.stem) <= 18
    assert alone.reports[-1]["step"] == 14
    assert not (tmp_path / "models").exists()


@pytest.mark.parametrize(
    ("threads", "told"), [(1, ""), (2, ", with 2 threads instead of 1, so the last bits of the result may differ")]
)
def test_a_run_that_resumes_with_other_threads_says_so(
    tmp_path: Path, dataset: Dataset, threads: int, told: str
) -> None:
    """In the one line that says where it resumes."""
    with pytest.raises(JobError):
        Alone(tmp_path, dataset, stop_at=4).train(threads=1)
    again = Alone(tmp_path, dataset)
    assert again.train(threads=threads) == 0
    [resumed] = [record for record in again.reports if record.get("reason") == "resumed"]
    assert resumed["message"] == f"resuming from the checkpoint at step {resumed['step']}{told}"
    assert json.loads((tmp_path / "models/here/report.json").read_bytes())["settings"]["threads"] == threads


def test_a_run_of_an_earlier_version_resumes(tmp_path: Path, dataset: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its config.json and its checkpoints have no hash of model.py; the line that it resumes says so."""
    noted = must_match.settings_to_match

    def noted_before(*arguments: Any) -> dict[str, Any]:
        return {name: value for name, value in noted(*arguments).items() if name != "model"}

    with monkeypatch.context() as earlier:
        for module in (train, trainer):
            earlier.setattr(module, "settings_to_match", noted_before)
        with pytest.raises(JobError):
            Alone(tmp_path, dataset, stop_at=4).train()
    again = Alone(tmp_path, dataset)
    assert again.train() == 0
    [resumed] = [record for record in again.reports if record.get("reason") == "resumed"]
    assert resumed["message"].endswith("; it has no hash of model.py, so the model is not compared")
    report = json.loads((tmp_path / "models/here/report.json").read_bytes())
    assert report["model_sha256"] == must_match.model_sha256()


def test_other_parameters_are_78(tmp_path: Path, dataset: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    """A module that model.py imports can change them although model.py is the same."""
    with pytest.raises(JobError):
        Alone(tmp_path, dataset, stop_at=4).train()
    monkeypatch.setattr(model, "init", lambda _: {"W": np.zeros([784, 12], np.float32)})
    with pytest.raises(JobError) as caught:
        Alone(tmp_path, dataset).train()
    assert (caught.value.code, caught.value.reason) == (Exit.SETTINGS, "other-model")
    assert caught.value.message == (
        "the model changed since the run began: its parameters were W [784, 10], b [10], and "
        f"{processes.ROOT}/job/model.py makes W [784, 12]"
    )


def test_images_on_disk_are_not_read_again_for_the_report(
    tmp_path: Path, prepared: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The report does not describe them, and only the images that the page shows are read."""
    read: list[int] = []
    images_of, publish = ImagesOnDisk.__getitem__, train.publish

    def count(images: ImagesOnDisk, indices: Indices) -> Images:
        read.append(len(indices))
        return images_of(images, indices)

    def begin(*given: Any) -> Any:
        read.clear()
        return publish(*given)

    monkeypatch.setattr(ImagesOnDisk, "__getitem__", count)
    monkeypatch.setattr(train, "publish", begin)
    alone = Alone(tmp_path, load_dataset(prepared, "mnist", memory_limit=0))
    assert alone.train(epochs=1) == 0
    assert sum(read) <= MISTAKES
    report = json.loads((tmp_path / "models/here/report.json").read_bytes())
    assert "data" not in report
    jsonschema.validate(report, SCHEMA, jsonschema.Draft202012Validator)


def test_a_failed_publication_is_repeated_without_training(
    tmp_path: Path, dataset: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The last step has a checkpoint, whatever --checkpoint-every is."""

    def fail(*_: object) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    first, second = Alone(tmp_path, dataset), Alone(tmp_path, dataset)
    with monkeypatch.context() as broken:
        broken.setattr(train, "write_report", fail)
        with pytest.raises(JobError):
            first.train(checkpoint_every=7)
    assert second.train(checkpoint_every=7) == 0
    [resumed] = [record for record in second.reports if record.get("reason") == "resumed"]
    assert resumed["step"] == 30
    assert [record for record in second.reports if record["phase"] == "training"] == []


@pytest.mark.parametrize(
    ("number", "ended"),
    [(errno.ENOSPC, (73, "output-not-writable", "cannot be written")), (errno.EIO, (75, "output-io", "failed"))],
)
def test_a_last_checkpoint_that_fails_is_reported(
    tmp_path: Path, dataset: Dataset, monkeypatch: pytest.MonkeyPatch, number: int, ended: tuple[int, str, str]
) -> None:
    """A worker that stops says that its steps are lost, since which, and why; its code is that of the failure."""
    code, reason, action = ended
    with pytest.raises(JobError, match="asked to stop"):
        Alone(tmp_path, dataset, stop_at=4).train(checkpoint_every=100)
    [saved] = (tmp_path / "runs/here/checkpoints").iterdir()
    left = break_checkpoints(monkeypatch, number)
    for output, since in ((tmp_path, f"no step after {saved.stem} is saved"), (tmp_path / "new", "no step is saved")):
        with pytest.raises(JobError) as caught:
            Alone(output, dataset, stop_at=14).train(checkpoint_every=100)
        assert (caught.value.code, caught.value.reason) == (code, reason)
        stop, told = caught.value.message.split(", but ")
        assert re.fullmatch("asked to stop at step [0-9]+", stop)
        assert told == f"the output folder {action} at {left}: {os.strerror(number)}; {since}"


def test_a_checkpoint_that_fails_before_another_error_is_a_record(
    tmp_path: Path, dataset: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The training ends with its own error, here that of an evaluation."""

    def fail(*_: object) -> None:
        raise ValueError("no such picture")

    left = break_checkpoints(monkeypatch, errno.ENOSPC)
    monkeypatch.setattr(train, "evaluate", fail)
    alone = Alone(tmp_path, dataset)
    with pytest.raises(ValueError, match="no such picture"):
        alone.train(checkpoint_every=100)
    assert alone.reports[-1] == {
        "phase": "training",
        "reason": "output-not-writable",
        "message": f"the output folder cannot be written at {left}: No space left on device; no step is saved",
    }


def test_a_checkpoint_that_fails_in_training_is_reported_once(
    tmp_path: Path, dataset: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next checkpoint raises the error, and the end of the training adds nothing to it."""
    left = break_checkpoints(monkeypatch, errno.ENOSPC)
    alone = Alone(tmp_path, dataset)
    with pytest.raises(JobError) as caught:
        alone.train(checkpoint_every=1, log_every=1)
    assert caught.value.code == Exit.OUTPUT
    assert caught.value.message == (
        f"the output folder cannot be written at {left}: No space left on device; no step is saved"
    )
    assert "message" not in alone.reports[-1]


def break_checkpoints(monkeypatch: pytest.MonkeyPatch, number: int) -> Path:
    """Let the writing of each checkpoint fail with this error from now on; gives the path in the error."""
    path = Path("/volume/checkpoints")

    def fail(*_: object) -> None:
        raise OSError(number, os.strerror(number), str(path))

    monkeypatch.setattr(checkpoint, "save_checkpoint", fail)
    return path


def test_run_stopped_within_a_block_has_the_same_curve(
    tmp_path: Path, dataset: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The loss of a block of which two processes have made a part is the same to the bit."""
    monkeypatch.setattr(step, "CALL_S", 1e-9)  # a call makes one step
    whole, stopped = (Alone(tmp_path / name, dataset) for name in ("whole", "stopped"))
    assert whole.train() == 0
    stopped.stop_at = 14
    with pytest.raises(JobError, match="asked to stop at step 15"):
        stopped.train()
    stopped.stop_at = None
    assert stopped.train() == 0
    [expected, found] = [json.loads((each.output.model / "report.json").read_bytes()) for each in (whole, stopped)]
    # Here no journal keeps the points from before the stop.
    assert found["curve"] == [point for point in expected["curve"] if point["step"] > 15]
    for key in ("parameters_sha256", "test"):
        assert found[key] == expected[key]


def test_progress_that_cannot_be_written_is_73(volume: Mount, prepared: Path) -> None:
    """A volume that fills up during training ends the run with one sentence."""
    root = volume("size=16k")
    run = started(root, prepared, "full", FLAGS | {"epochs": 40, "log_every": 1, "evaluate_every": 0})
    assert run.code == Exit.OUTPUT
    # The log on the volume may be full first.
    [sentence] = [line for line in run.error.splitlines() if "the run does not need this file" not in line]
    assert "No space left on device" in sentence
    assert not (root / "models").exists()
