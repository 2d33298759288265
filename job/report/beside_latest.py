"""A model beside the present latest one, for its report: classes that became worse, and how the data differ."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

from job.dataset.fingerprint import SPLITS
from job.output.latest import linked_run
from job.output.significance import UNREADABLE, read_predictions, worse_classes
from job.report.data_changes import changes, findings
from job.system.files import read_json

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from job.output.significance import Predictions

# The exceptions raised when files of a published model are missing, damaged or incomplete.
DAMAGED = (*UNREADABLE, LookupError, TypeError, ArithmeticError)


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
    try:
        run = linked_run(output)
        return _beside(output / "models" / run, fingerprint, data, predictions) if run else None
    except DAMAGED:
        return None


def _beside(
    model: Path, fingerprint: Mapping[str, Any], data: Mapping[str, Any] | None, predictions: Predictions
) -> dict[str, Any]:
    """The same for a published model; raises one of DAMAGED if its files cannot be read."""
    report = read_json(model / "report.json") or {}
    same = {split: report["dataset"][split]["sha256"] == fingerprint[split]["sha256"] for split in SPLITS}
    beside: dict[str, Any] = {"run": model.name, "worse_classes": None, "data_changes": None, "data": None}
    if same["test"]:
        found = worse_classes(fingerprint["classes"], predictions, read_predictions(model))
        beside["worse_classes"] = [dataclasses.asdict(each) for each in found]
    if data and report.get("data") and not all(same.values()):
        findings(report["data"])  # the page shows all that this reads
        beside |= {"data": report["data"], "data_changes": changes(data, report["data"], model.name)}
    return beside
