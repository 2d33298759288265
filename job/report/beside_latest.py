"""A model beside the present latest one, for its report: classes that became worse, and how the data differ."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

from job.dataset.fingerprint import SPLITS
from job.output.latest import linked_run
from job.output.significance import UNREADABLE, read_predictions, worse_classes
from job.report.data_changes import changes
from job.system.files import read_json

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from job.output.significance import Predictions


def beside_latest(
    output: Path, fingerprint: Mapping[str, Any], data: Mapping[str, Any] | None, predictions: Predictions
) -> dict[str, Any] | None:
    """What report.json says under `beside_latest`; None if there is no latest model, or its files cannot be read.

    Nothing here stops a publication: what cannot be read is left out.

    Args:
        output: the output folder.
        fingerprint: of the model's data.
        data: what description.describe() says of them; None if it is not known.
        predictions: the model's.
    """
    run = linked_run(output)
    report = read_report(output, run) if run else None
    if run is None or report is None:
        return None
    same = {split: report["dataset"][split]["sha256"] == fingerprint[split]["sha256"] for split in SPLITS}
    beside: dict[str, Any] = {"run": run, "worse_classes": None, "data_changes": None, "data": None}
    if same["test"]:
        try:
            before = read_predictions(output / "models" / run)
        except UNREADABLE:
            return None
        found = worse_classes(fingerprint["classes"], predictions, before)
        beside["worse_classes"] = [dataclasses.asdict(each) for each in found]
    if data and report.get("data") and not all(same.values()):
        beside |= {"data": report["data"], "data_changes": changes(data, report["data"], run)}
    return beside


def read_report(output: Path, run: str) -> dict[str, Any] | None:
    """The content of a published run's report.json; None if it cannot be read."""
    try:
        return read_json(output / "models" / run / "report.json")
    except (OSError, ValueError):
        return None
