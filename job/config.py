"""Every setting of a run, one line each: checked on construction, and turned into command-line flags."""

from __future__ import annotations

import argparse
import dataclasses
import functools
import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from job.errors import Exit, JobError

if TYPE_CHECKING:
    from collections.abc import Sequence

# A Job's name becomes a pod's host name, <name>-<index>, of at most 63 characters (RFC 1123).
NAME_LIMIT = 62
NAME = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?")
DATASET = re.compile(r"[a-z][a-z0-9_]*")
SECONDS = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86_400}
MOST_WORKERS = 1000
MAX_DAYS = 36_500  # Kubernetes counts a Job's deadline in nanoseconds, in 64 bits, which hold 292 years


def setting(
    default: Any,
    text: str,
    *,
    at_least: float | None = None,
    at_most: float | None = None,
    above: float | None = None,
    choices: tuple[str, ...] = (),
) -> Any:
    """A field of Config, with its line of help and its bounds."""
    bounds = {"text": text, "at_least": at_least, "at_most": at_most, "above": above, "choices": choices}
    return dataclasses.field(default=default, metadata=bounds)


@dataclass(frozen=True)
class Config:
    """The settings of one training run, the same on every worker.

    Raises:
        JobError: 64, a value is out of its bounds; the message names the flag, the bound and the value.
    """

    epochs: int = setting(10, "passes over the training set", at_least=1, at_most=1_000_000)
    batch_size: int = setting(100, "examples in a global batch, over all workers", at_least=1, at_most=1_000_000)
    learning_rate: float = setting(1.25, "step length at the start of the schedule", above=0)
    schedule: str = setting("cosine", "how the learning rate changes over the run", choices=("cosine", "constant"))
    seed: int = setting(0, "seed of the initial parameters and of the order of examples", at_least=0, at_most=2**32 - 1)
    dataset: str = setting("mnist", "name of the dataset in TensorFlow Datasets")
    data: Path = setting(Path("data"), "folder of prepared datasets")
    output: Path = setting(Path("output"), "folder for runs, models and `latest`")
    name: str = setting("", "name of the run (default: <dataset>-<UTC time>)")
    model: Path | None = setting(None, "file with the model, in place of job/model.py")
    workers: int = setting(
        1, "workers to start on this machine; refused inside a cluster", at_least=1, at_most=MOST_WORKERS
    )
    min_workers: int = setting(
        0, "minimum number of workers that train while others are missing; 0: all", at_least=0, at_most=MOST_WORKERS
    )
    sync_every: int = setting(
        1, "steps between synchronisations; above 1, parameters are averaged (local SGD)", at_least=1
    )
    evaluate_every: int = setting(1, "epochs between evaluations for display; 0: only at the end", at_least=0)
    log_every: int = setting(200, "steps between progress records", at_least=1)
    checkpoint_every: int = setting(
        0, "steps between checkpoints; 0: one at the end of each epoch; the last step always has one", at_least=0
    )
    continue_: bool = setting(False, "continue a run of this name that another Job started")
    join_timeout: int = setting(900, "seconds to wait for the other workers", at_least=1, at_most=86_400)
    stall_timeout: int = setting(
        120, "seconds without a step after which a trainer is replaced", at_least=5, at_most=86_400
    )
    min_accuracy: float = setting(0.0, "test accuracy below which the model is rejected", at_least=0, at_most=1)
    min_class_accuracy: float = setting(
        0.0,
        "test recall of any class below which the model is rejected",
        at_least=0,
        at_most=1,
    )
    promote: str = setting(
        "unless-worse", "when `latest` moves to the new model", choices=("unless-worse", "always", "never")
    )
    device: str = setting("cpu", "device of each worker: its CPUs or one GPU", choices=("cpu", "gpu"))
    threads: int = setting(
        0,
        "CPU threads of a training step; 0: chosen from the batch size and the CPU limit",
        at_least=0,
        at_most=1024,
    )

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            _check(field, getattr(self, field.name))
        if not DATASET.fullmatch(self.dataset):
            raise usage_error(f"--dataset must be lower-case letters, digits and underscores, not {self.dataset!r}")
        if self.name:
            check_name(self.name, self.workers)
        check_sync_every(self.sync_every, self.min_workers)


FIELDS = tuple(field.name for field in dataclasses.fields(Config))


def flag(field_name: str) -> str:
    """The command-line flag of a field, such as --batch-size."""
    return f"--{flag_word(field_name)}"


def flag_word(field_name: str) -> str:
    """A field's name as users know it from its flag, such as batch-size.

    A field whose name would be a Python keyword ends with an underscore.
    """
    return field_name.rstrip("_").replace("_", "-")


def usage_error(message: str, hint: str = "") -> JobError:
    """The error of a wrong flag or environment value."""
    return JobError(Exit.USAGE, "usage", message, hint)


def check_name(name: str, workers: int, what: str = "--name", suffix: str = "") -> None:
    """Check that a name, with a suffix, can name a Job of that many pods, and a folder.

    Raises:
        JobError: 64.
    """
    limit = NAME_LIMIT - len(suffix) - len(str(workers - 1))
    if not NAME.fullmatch(name):
        form = "lower-case letters, digits and hyphens, with a letter or digit at both ends"
        raise usage_error(f"{what} must be {form}, not {name!r}")
    if name == "latest":
        raise usage_error(
            f"{what} cannot be 'latest', the name of the link to the newest good model", "use another name"
        )
    if len(name) > limit:
        raise usage_error(
            f"{what} must be at most {limit} characters with {workers} worker(s), not {len(name)}: {name!r}"
        )


def check_sync_every(steps: int, least: int) -> None:
    """Check that a run with this --sync-every can have this --min-workers.

    Raises:
        JobError: 64.
    """
    if least and steps > 1:
        message = f"--min-workers cannot be used with --sync-every above 1, here {steps}"
        hint = "leave out one of them: with local SGD, another number of workers gives another model"
        raise usage_error(message, hint)


def check_min_workers(least: int, workers: int) -> None:
    """Check that a run of so many workers can have this --min-workers.

    Raises:
        JobError: 64.
    """
    if least > workers:
        raise usage_error(f"--min-workers must be at most the number of workers, {workers}, not {least}")


def parse_duration(flag_name: str, text: str) -> int:
    """The seconds in a flag's value such as 90, 90s, 30m, 6h or 7d.

    Raises:
        JobError: 64.
    """
    match = re.fullmatch(r"([0-9]{1,10})([smhd]?)", text)
    value = int(match[1]) * SECONDS[match[2]] if match else 0
    if not 0 < value <= MAX_DAYS * SECONDS["d"]:
        raise usage_error(
            f"{flag_name} must be seconds or a duration such as 30m, 6h or 7d, at most {MAX_DAYS}d, not {text!r}"
        )
    return value


def _check(field: dataclasses.Field[Any], value: Any) -> None:
    name, bounds = flag(field.name), field.metadata
    if bounds["choices"] and value not in bounds["choices"]:
        raise usage_error(f"{name} must be one of {', '.join(bounds['choices'])}, not {value!r}")
    if isinstance(value, float) and not math.isfinite(value):
        raise usage_error(f"{name} must be a finite number, not {value}")
    if bounds["at_least"] is not None and value < bounds["at_least"]:
        raise usage_error(f"{name} must be at least {bounds['at_least']}, not {value}")
    if bounds["at_most"] is not None and value > bounds["at_most"]:
        raise usage_error(f"{name} must be at most {bounds['at_most']}, not {value}")
    if bounds["above"] is not None and value <= bounds["above"]:
        raise usage_error(f"{name} must be above {bounds['above']}, not {value}")


class Parser(argparse.ArgumentParser):
    """An argument parser that raises its errors as JobError, so that they look like all others."""

    def __init__(self, **options: Any) -> None:
        # Abbreviations become ambiguous when a flag with the same prefix is added.
        super().__init__(allow_abbrev=False, **options)

    def error(self, message: str) -> NoReturn:
        """Raise the error."""
        raise usage_error(message[0].lower() + message[1:], f"see `{self.prog} --help`")


def add_flags(parser: argparse.ArgumentParser, *names: str) -> None:
    """Add a flag for each of these fields of Config; a flag that is not given leaves no attribute."""
    types = {"int": int, "float": float, "str": str, "Path": Path, "Path | None": Path}
    for field in dataclasses.fields(Config):
        if field.name not in names:
            continue
        text, choices = field.metadata["text"], field.metadata["choices"]
        add = functools.partial(parser.add_argument, flag(field.name), dest=field.name, default=argparse.SUPPRESS)
        if field.type == "bool":
            add(action="store_true", help=text)
            continue
        kind = types[str(field.type)]
        metavar = "{" + ",".join(choices) + "}" if choices else kind.__name__.upper()
        default = "" if field.default in ("", None) else f" (default: {field.default})"
        add(type=kind, metavar=metavar, help=text + default)


def add_prune_flags(parser: argparse.ArgumentParser) -> None:
    """Add the flags of `prune` that the launcher has as well."""
    add = parser.add_argument
    add("--keep", type=int, required=True, metavar="N", help="keep the newest N models, and all runs started since")
    add("--older-than", metavar="TIME", help="keep runs started within this time, such as 12h or 30d")
    add("--dry-run", action="store_true", help="print what would be removed, and remove nothing")
    add("--yes", action="store_true", help="do not ask for confirmation")


def parse(arguments: Sequence[str]) -> Config:
    """The Config of a command line that consists of flags.

    Raises:
        JobError: 64, the message names the error.
    """
    parser = Parser(prog="python -m job train")
    add_flags(parser, *FIELDS)
    return Config(**vars(parser.parse_args(arguments)))


def argv(config: Config) -> list[str]:
    """The flags that parse() turns into this Config: those that differ from the defaults."""
    values = {field: getattr(config, field.name) for field in dataclasses.fields(config)}
    return [
        flag(field.name) if value is True else f"{flag(field.name)}={value}"
        for field, value in values.items()
        if value != field.default
    ]
