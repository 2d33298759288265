"""`python -m job data --check`: what a prepared dataset is like, and what is unusual in it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from job.dataset.description import describe
from job.dataset.fingerprint import SPLITS
from job.dataset.rows import load_dataset
from job.error_table import errors_from
from job.output.latest import linked_run
from job.report.beside_latest import DAMAGED
from job.report.data_changes import changes, findings
from job.report.rendering import percent
from job.system.files import read_json

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from job.config import Config


def check(config: Config, show: Callable[[str], None]) -> None:
    """Print what a prepared dataset is like, and how it differs from the data of the present latest model.

    Args:
        config: `data` and `dataset` name the dataset, `output` the folder with `latest`, which need not exist.
        show: called with each line.

    Raises:
        JobError: as load_dataset(); 73 or 75 if the output folder cannot be read.
    """
    dataset = load_dataset(config.data, config.dataset)
    data = describe(dataset)
    show(f"{config.dataset} in {config.data / config.dataset}")
    show(f"{'':<18}{'training':>12}{'test':>12}")
    for word, split_value in _rows(data):
        show(f"{word:<18}" + "".join(f"{split_value(data[split]):>12}" for split in SPLITS))
    show(f"test images that are in the training set too: {data['shared']:,}")
    for sentence in findings(data):
        show(f"unusual: {sentence}")
    with errors_from("output", config.output):
        run = linked_run(config.output)
    if run:
        try:
            lines = _beside(config, data, dataset.fingerprint, run)
        except DAMAGED:
            lines = [f"the report of the current latest, {run}, cannot be read"]
        for line in lines:
            show(line)


def _rows(data: Mapping[str, Any]) -> list[tuple[str, Callable[[Mapping[str, Any]], str]]]:
    """The rows of the table: a heading, and what gives a split's cell."""

    def share(label: int) -> Callable[[Mapping[str, Any]], str]:
        return lambda split: percent(split["classes"][label] / split["count"], 1)

    return [
        ("examples", lambda split: f"{split['count']:,}"),
        ("mean of pixels", lambda split: f"{split['mean']:.1f}"),
        ("spread of pixels", lambda split: f"{split['spread']:.1f}"),
        *((f"class {name}", share(label)) for label, name in enumerate(data["classes"])),
    ]


def _beside(config: Config, data: Mapping[str, Any], fingerprint: Mapping[str, Any], run: str) -> list[str]:
    """Lines that compare the data with those of the latest run; raises one of DAMAGED if its report is not readable."""
    report = read_json(config.output / "models" / run / "report.json") or {}
    if all(report["dataset"][split]["sha256"] == fingerprint[split]["sha256"] for split in SPLITS):
        return [f"the current latest, {run}, was trained and tested on the same data"]
    if "data" not in report:
        return [f"the report of the current latest, {run}, does not describe its data"]
    found = changes(data, report["data"], run)
    return [f"compared with the current latest: {sentence}" for sentence in found] or [
        f"nothing is unusual compared with the data of the current latest, {run}"
    ]
