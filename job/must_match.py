"""What must match when a run is resumed, and on all of its workers: data, model, and the settings of the training."""

from __future__ import annotations

import hashlib
import importlib.util
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import job
from job.config import flag, usage_error
from job.error_table import errors_from
from job.errors import Exit, JobError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from job.config import Config

SETTINGS = ("batch_size", "seed", "learning_rate", "schedule", "epochs", "sync_every")
SHORT = 12  # digits of a SHA-256 in a message


def settings_to_match(config: Config, fingerprint: Mapping[str, Any]) -> dict[str, Any]:
    """The data, the model's source, and the settings that determine the parameters.

    Args:
        config: the run's settings.
        fingerprint: the dataset's, with `train` and `test` SHA-256.

    Raises:
        JobError: 64 if model.py cannot be read.
    """
    return {
        "train": fingerprint["train"]["sha256"],
        "test": fingerprint["test"]["sha256"],
        "model": model_sha256(),
        **{name: getattr(config, name) for name in SETTINGS},
    }


def settings_hash(values: Mapping[str, Any]) -> str:
    """SHA-256 of settings_to_match() in canonical JSON."""
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


def model_file() -> Path:
    """The file from which `job.model` would be imported; it need not exist. Importing it would take seconds."""
    spec = importlib.util.find_spec("job.model")
    return Path(spec.origin) if spec and spec.origin else Path(job.__path__[0], "model.py")


def model_sha256() -> str:
    """SHA-256 of the bytes of model.py, without the modules that it imports.

    Raises:
        JobError: as model_source() raises it.
    """
    return hashlib.sha256(model_source()).hexdigest()


def model_source() -> bytes:
    """The bytes of model.py.

    Raises:
        JobError: 64 if it cannot be read, 75 if that may pass.
    """
    file = model_file()
    try:
        with errors_from("system", file):
            return file.read_bytes()
    except OSError as error:
        hint = "put the file with the model there; it may be a mount or a copy that failed"
        raise usage_error(f"the model {file} cannot be read: {error.strerror}", hint) from error


def check_match(what: str, before: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Refuse to resume with other settings_to_match().

    Runs of earlier versions have no hash of the model, and resume with any model that fits.

    Args:
        what: what `before` belongs to, for the message.
        before: those with which the run began.
        now: those of this start.

    Raises:
        JobError: 78, with what differs.
    """
    differing = [name for name in {**now, **before} if before.get(name) != now.get(name)]
    if "model" in before and "model" in differing:
        raise model_changed(before["model"], now["model"])
    if others := [name for name in differing if name != "model"]:
        changes = ", ".join(f"{_named(name)} was {before.get(name)} and is now {now.get(name)}" for name in others)
        hint = "use the original flags, or another --name"
        raise JobError(Exit.SETTINGS, "other-settings", f"{what} has other settings: {changes}", hint)


def _named(name: str) -> str:
    """One of settings_to_match() as users know it: its flag, or the data that its SHA-256 stands for."""
    return {"train": "the training set", "test": "the test set"}.get(name, flag(name))


def model_changed(before: str, now: str) -> JobError:
    """The error of a run whose model.py has another SHA-256 than at its start."""
    digests = f"it had SHA-256 {before[:SHORT]}, and {model_file()} has {now[:SHORT]}"
    return JobError(
        Exit.SETTINGS,
        "other-model",
        f"the model changed since the run began: {digests}",
        "give the original file with --model, restore model.py, or use another --name",
    )
