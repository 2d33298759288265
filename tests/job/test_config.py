"""Settings: their bounds, the command line, and the hash of those that must match."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from job import config as configs
from job.config import Config
from job.errors import Exit, JobError

BEYOND = [
    ("epochs", 0, "--epochs must be at least 1, not 0"),
    ("epochs", 1_000_001, "--epochs must be at most 1000000, not 1000001"),
    ("batch_size", 0, "--batch-size must be at least 1, not 0"),
    ("batch_size", 1_000_001, "--batch-size must be at most 1000000, not 1000001"),
    ("learning_rate", 0.0, "--learning-rate must be above 0, not 0.0"),
    ("learning_rate", -0.5, "--learning-rate must be above 0, not -0.5"),
    ("learning_rate", float("nan"), "--learning-rate must be a finite number, not nan"),
    ("learning_rate", float("inf"), "--learning-rate must be a finite number, not inf"),
    ("schedule", "linear", "--schedule must be one of cosine, constant, not 'linear'"),
    ("seed", -1, "--seed must be at least 0, not -1"),
    ("seed", 2**32, "--seed must be at most 4294967295, not 4294967296"),
    ("dataset", "", "--dataset must be lower-case letters, digits and underscores, not ''"),
    ("dataset", "../mnist", "--dataset must be lower-case letters, digits and underscores, not '../mnist'"),
    ("dataset", "Mnist", "--dataset must be lower-case letters, digits and underscores, not 'Mnist'"),
    ("workers", 0, "--workers must be at least 1, not 0"),
    ("workers", 1001, "--workers must be at most 1000, not 1001"),
    ("min_workers", -1, "--min-workers must be at least 0, not -1"),
    ("min_workers", 1001, "--min-workers must be at most 1000, not 1001"),
    ("sync_every", 0, "--sync-every must be at least 1, not 0"),
    ("evaluate_every", -1, "--evaluate-every must be at least 0, not -1"),
    ("log_every", 0, "--log-every must be at least 1, not 0"),
    ("checkpoint_every", -1, "--checkpoint-every must be at least 0, not -1"),
    ("join_timeout", 0, "--join-timeout must be at least 1, not 0"),
    ("stall_timeout", 86_401, "--stall-timeout must be at most 86400, not 86401"),
    ("min_accuracy", -0.1, "--min-accuracy must be at least 0, not -0.1"),
    ("min_accuracy", 1.1, "--min-accuracy must be at most 1, not 1.1"),
    ("min_class_accuracy", 1.1, "--min-class-accuracy must be at most 1, not 1.1"),
    ("min_accuracy", float("nan"), "--min-accuracy must be a finite number, not nan"),
    ("promote", "yes", "--promote must be one of unless-worse, always, never, not 'yes'"),
    ("device", "tpu", "--device must be one of cpu, gpu, not 'tpu'"),
    ("threads", -1, "--threads must be at least 0, not -1"),
    ("threads", 1025, "--threads must be at most 1024, not 1025"),
]
WITHIN: list[tuple[str, Any]] = [
    ("epochs", 1),
    ("epochs", 1_000_000),
    ("batch_size", 1),
    ("batch_size", 1_000_000),
    ("learning_rate", 5e-324),
    ("schedule", "constant"),
    ("seed", 0),
    ("seed", 2**32 - 1),
    ("dataset", "fashion_mnist"),
    ("data", Path("-odd name")),
    ("output", Path("/a b/c=d")),
    ("model", Path("-odd/b c=d.py")),
    ("name", "run-1"),
    ("workers", 1),
    ("workers", 1000),
    ("min_workers", 0),
    ("min_workers", 1000),
    ("sync_every", 1),
    ("evaluate_every", 0),
    ("log_every", 1),
    ("checkpoint_every", 0),
    ("continue_", True),
    ("join_timeout", 1),
    ("join_timeout", 86_400),
    ("stall_timeout", 5),
    ("stall_timeout", 86_400),
    ("min_accuracy", 0.0),
    ("min_accuracy", 1.0),
    ("min_class_accuracy", 0.0),
    ("min_class_accuracy", 1.0),
    ("promote", "unless-worse"),
    ("promote", "always"),
    ("promote", "never"),
    ("device", "gpu"),
    ("threads", 0),
    ("threads", 1024),
]


def refusal(*arguments: str) -> tuple[Exit, str, str]:
    """Code, reason and message of a command line's error."""
    with pytest.raises(JobError) as caught:
        configs.parse(arguments)
    return caught.value.code, caught.value.reason, str(caught.value)


@pytest.mark.parametrize(("field", "value", "sentence"), BEYOND)
def test_a_value_out_of_its_bounds_is_refused(field: str, value: Any, sentence: str) -> None:
    """The message names the flag, the bound and the value, on the command line and in Python."""
    with pytest.raises(JobError) as caught:
        Config(**{field: value})
    assert (caught.value.code, caught.value.reason, str(caught.value)) == (Exit.USAGE, "usage", sentence)
    assert refusal(f"{configs.flag(field)}={value}") == (Exit.USAGE, "usage", sentence)


@pytest.mark.parametrize(("field", "value"), WITHIN)
def test_a_value_at_its_bounds_is_accepted(field: str, value: Any) -> None:
    """The first and the last value within the bounds become the setting, and no other setting changes."""
    parsed = configs.parse([configs.flag(field) if value is True else f"{configs.flag(field)}={value}"])
    assert dataclasses.asdict(parsed) == dataclasses.asdict(Config()) | {field: value}


def test_every_setting_has_its_bounds_tested() -> None:
    """The list above names every setting."""
    assert {field for field, _ in WITHIN} == {field.name for field in dataclasses.fields(Config)}


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["--epoch=3"], "unrecognized arguments: --epoch=3"),
        (["--unknown"], "unrecognized arguments: --unknown"),
        (["3"], "unrecognized arguments: 3"),
        (["--epochs"], "argument --epochs: expected one argument"),
        (["--epochs=three"], "argument --epochs: invalid int value: 'three'"),
        (["--epochs=1.5"], "argument --epochs: invalid int value: '1.5'"),
        (["--learning-rate="], "argument --learning-rate: invalid float value: ''"),
    ],
)
def test_a_wrong_command_line_is_refused(arguments: list[str], problem: str) -> None:
    """An error of argparse, such as an abbreviated flag, looks like all others."""
    assert refusal(*arguments) == (Exit.USAGE, "usage", f"{problem}; see `python -m job train --help`")


@pytest.mark.parametrize(
    "name",
    ["a/b", "/a", "..", ".", "a.b", "A", "run_1", "-a", "a-", "a b", "a\n", "é"],
)
def test_a_name_that_no_job_can_have_is_refused(name: str) -> None:
    """A slash, a dot, upper case, and other characters that a Job or a folder cannot have."""
    form = "lower-case letters, digits and hyphens, with a letter or digit at both ends"
    assert refusal(f"--name={name}") == (Exit.USAGE, "usage", f"--name must be {form}, not {name!r}")


@pytest.mark.parametrize(("workers", "limit"), [(1, 61), (10, 61), (11, 60), (100, 60), (101, 59), (1000, 59)])
def test_a_name_leaves_room_for_the_index_of_each_worker(workers: int, limit: int) -> None:
    """The longest name is 62 characters less the digits of the last index; one more is refused."""
    assert Config(name="a" * limit, workers=workers).name == "a" * limit
    name = "a" * (limit + 1)
    sentence = f"--name must be at most {limit} characters with {workers} worker(s), not {limit + 1}: {name!r}"
    assert refusal(f"--name={name}", f"--workers={workers}") == (Exit.USAGE, "usage", sentence)


def test_fewer_workers_are_refused_with_local_sgd() -> None:
    """Another number of workers would give another model."""
    sentence = "--min-workers cannot be used with --sync-every above 1, here 5; leave out one of them: "
    sentence += "with local SGD, another number of workers gives another model"
    assert refusal("--min-workers=1", "--sync-every=5") == (Exit.USAGE, "usage", sentence)


def test_a_run_cannot_need_more_workers_than_it_has() -> None:
    """The number is that of the run, which the flags do not say in a cluster."""
    configs.check_min_workers(3, 3)
    with pytest.raises(JobError, match="--min-workers must be at most the number of workers, 2, not 3"):
        configs.check_min_workers(3, 2)


def test_argv_is_the_inverse_of_parse() -> None:
    """argv() of the defaults is empty; of any settings it parses to equal settings."""
    assert configs.argv(Config()) == []
    odd = Config(
        epochs=3,
        batch_size=7,
        learning_rate=0.1 + 0.2,
        schedule="constant",
        seed=2**32 - 1,
        dataset="kmnist",
        data=Path("-data folder"),
        output=Path("--output=x"),
        name="0-a",
        model=Path("--model=x.py"),
        workers=12,
        sync_every=2,
        evaluate_every=0,
        log_every=9,
        checkpoint_every=50,
        continue_=True,
        join_timeout=1,
        stall_timeout=5,
        min_accuracy=1e-9,
        min_class_accuracy=1e-9,
        promote="never",
        device="gpu",
        threads=2,
    )
    fewer = dataclasses.replace(odd, sync_every=1, min_workers=4)  # which no Config has both
    assert len({*configs.argv(odd), *configs.argv(fewer)}) == len(dataclasses.fields(Config))
    for each in (odd, fewer):
        assert configs.parse(configs.argv(each)) == each


@pytest.mark.parametrize(
    ("text", "value"), [("90", 90), ("90s", 90), ("30m", 1800), ("6h", 21_600), ("36500d", 3_153_600_000)]
)
def test_durations(text: str, value: int) -> None:
    """A duration is a number with a unit; without one it is in seconds."""
    assert configs.parse_duration("--since", text) == value


@pytest.mark.parametrize("text", ["", "0h", "1.5h", "-1h", "1w", "h", "36501d", "9" * 5000])
def test_wrong_durations(text: str) -> None:
    """The message shows the accepted forms."""
    with pytest.raises(JobError) as caught:
        configs.parse_duration("--since", text)
    assert (
        str(caught.value)
        == f"--since must be seconds or a duration such as 30m, 6h or 7d, at most 36500d, not {text!r}"
    )
