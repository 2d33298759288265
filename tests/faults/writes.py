"""Writes to the output volume what the job writes, without TensorFlow, in a process that tests can kill at any call.

python -m tests.faults.writes checkpoint FOLDER STEP
python -m tests.faults.writes run ROOT NAME ACCURACY DAY [--wait]
python -m tests.faults.writes promote ROOT NAME

With --wait, the run starts after the seconds that standard input names.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from job.errors import JobError
from job.output.latest import move_latest
from job.output.run_folder import RunFolder

if TYPE_CHECKING:
    from job.output.checkpoint import Checkpoint
    from job.output.promotion import Verdict

SETTINGS = {"train": "a" * 64, "test": "b" * 64, "seed": 0}


def checkpoint(step: int) -> Checkpoint:
    """The checkpoint of a step, of a model of 784 x 10. Its parameters differ for each step."""
    import numpy as np  # noqa: PLC0415 - slow, and a run without checkpoints does not need it

    from job.output.checkpoint import Checkpoint  # noqa: PLC0415

    weights = np.random.default_rng(step).normal(size=(784, 10)).astype(np.float32)
    return Checkpoint(step, 2, 1, SETTINGS, step / 3, {"W": weights, "b": np.zeros(10, np.float32)})


def save(folder: Path, step: int) -> None:
    """Write a checkpoint."""
    from job.output.checkpoint import save_checkpoint  # noqa: PLC0415

    save_checkpoint(folder, checkpoint(step))


def run(root: Path, name: str, accuracy: float, day: int) -> Verdict:
    """Do to the output folder what a run does: probe it, begin, publish, promote. A published run is only promoted."""
    output = RunFolder(root, name, "local")
    if verdict := output.promote_if_published():
        return verdict
    output.probe()
    manifest = {"job_uid": "local", "started": f"2026-11-{day:02}", "settings_hash": "", "must_match": SETTINGS}
    with output.begin(manifest) as verdict:
        if verdict:
            return verdict
        report = {
            "run": {"name": name, "started": output.manifest["started"]},
            "dataset": {"test": {"sha256": SETTINGS["test"]}},
            "settings": {"promote": "unless-worse", "min_accuracy": 0.0},
            "test": {"accuracy": accuracy, "accuracy_interval": [accuracy - 0.01, accuracy + 0.01], "classes": []},
        }

        def fill(folder: Path) -> None:
            variables = folder / "saved_model" / "1" / "variables"
            variables.mkdir(parents=True)
            (variables.parent / "saved_model.pb").write_bytes(bytes(5000))
            (variables / "variables.data").write_bytes(name.encode().ljust(31400))  # no two models are the same
            (folder / "report.json").write_text(json.dumps(report))

        output.publish(fill)
        return output.promote()


def main() -> int:
    """Run one of the commands above; returns the exit code."""
    command, folder, *rest = sys.argv[1:]
    try:
        if command == "checkpoint":
            with RunFolder(Path(folder), "new", "local").errors():
                save(Path(folder), int(rest[0]))
            return 0
        if command == "promote":
            move_latest(Path(folder), *rest)
            return 0
        name, accuracy, day, *wait = rest
        if wait:
            time.sleep(float(sys.stdin.readline()))
        return run(Path(folder), name, float(accuracy), int(day)).code
    except JobError as error:
        print(error, file=sys.stderr)  # noqa: T201 - the test shows it
        return error.code


if __name__ == "__main__":
    sys.exit(main())
