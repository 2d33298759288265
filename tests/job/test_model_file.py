"""Tests of a model in a file of the user's: what is refused, and what takes the place of job/model.py."""

from __future__ import annotations

import errno
import importlib
import os
import sys
from typing import TYPE_CHECKING

import pytest

import job
from job import model_file, must_match
from job.errors import Exit, JobError
from job.model_file import FROM_KERAS, FUNCTIONS, LIMIT, read_model, use_model
from job.training.keras import Functions
from tests.job.processes import ROOT

if TYPE_CHECKING:
    from pathlib import Path

EXAMPLES = sorted(ROOT.glob("examples/*/model.py"))
SOFTMAX = (ROOT / "job" / "model.py").read_text(encoding="utf-8")
KERAS = "init, loss_and_gradient, predict, layers, jit_compile"
FOUR = "init, loss_and_gradient, predict, layers"
LIKE_KERAS = f"write `{KERAS} = model(build)`, as examples/keras_cnn/model.py does"
BY_HAND = "define what job/model.py defines"


def refusal(file: Path) -> str:
    """What is said about a file that is refused, after its name."""
    with pytest.raises(JobError) as caught:
        read_model(file)
    assert caught.value.code == Exit.USAGE
    return str(caught.value).removeprefix(f"the model {file} ")


@pytest.mark.parametrize("file", [ROOT / "job" / "model.py", *EXAMPLES], ids=lambda file: file.parent.name)
def test_a_model_is_read_whole(file: Path) -> None:
    """The job's own, the one with its own gradient, and the one of Keras."""
    assert read_model(file).encode() == file.read_bytes()


def test_the_functions_are_those_of_the_job() -> None:
    """The names that are looked for are those that the job uses, and those that Keras' adapter gives."""
    assert Functions._fields == FROM_KERAS
    assert len(EXAMPLES) == 2
    module = importlib.import_module("job.model")
    arguments = {name: getattr(module, name).__code__ for name in FUNCTIONS}
    assert {name: code.co_varnames[: code.co_argcount] for name, code in arguments.items()} == FUNCTIONS


@pytest.mark.parametrize(
    "source",
    [
        "from elsewhere import init, loss_and_gradient, predict, layers",
        "from elsewhere import *",
        f"import job.training.keras as k\nmade = k.model(1)\n{FOUR} = made[:4]",
        f"from job.training import keras as adapter\n{KERAS} = adapter.model(lambda: 1)",
        f"if 1:\n    {FOUR} = range(4)\n",
        SOFTMAX.replace("def init(seed: int)", "@decorated\ndef init(*, a)"),
        SOFTMAX.replace("def init(seed: int)", "def init(*seeds, scale=1)"),
        SOFTMAX + r'PATTERN = "\d"',
    ],
)
def test_other_ways_to_define_a_model(tmp_path: Path, source: str) -> None:
    """Names count wherever they come from, and functions whose arguments are not known are not refused."""
    file = tmp_path / "mine.py"
    file.write_text(source)
    assert read_model(file) == source


@pytest.mark.parametrize(
    ("source", "sentence"),
    [
        ("def init(seed:\n    pass", "is not Python: line 1: '(' was never closed"),
        (SOFTMAX + "return 1\n", f"is not Python: line {SOFTMAX.count(chr(10)) + 1}: 'return' outside function"),
        ("a = 1\0", "is not Python: source code string cannot contain null bytes"),
        ("", f"does not define {FOUR}; {BY_HAND}"),
        (
            "def init(seed): ...\ndef predict(): predict = layers = 1",
            f"does not define loss_and_gradient, layers; {BY_HAND}",
        ),
        ("from job.training.keras import model as adapt\ndef build(): ...", f"does not define {FOUR}; {LIKE_KERAS}"),
        (
            f"from job.training.keras import model\n{FOUR} = model(1)",
            f"unpacks {FOUR} from job.training.keras.model, which gives {KERAS}; {LIKE_KERAS}",
        ),
        (
            SOFTMAX.replace("def init(seed: int)", "def init()"),
            "has a function init in line 27 that cannot be called as init(seed); give it these arguments",
        ),
        (
            SOFTMAX.replace("def init(seed: int)", "def init(seed, *, scale)"),
            "has a function init in line 27 that cannot be called as init(seed); give it these arguments",
        ),
    ],
)
def test_a_file_that_defines_no_model(tmp_path: Path, source: str, sentence: str) -> None:
    """The sentence names what is wrong and the line, or what is missing, and for Keras the line to write."""
    file = tmp_path / "mine.py"
    file.write_text(source)
    assert refusal(file) == sentence


def test_a_file_that_cannot_be_sent(tmp_path: Path) -> None:
    """The file is refused if it is missing, a folder, not below 1 MiB, or not UTF-8."""
    file = tmp_path / "mine.py"
    assert refusal(file) == "cannot be read: No such file or directory"
    assert refusal(tmp_path) == "cannot be read: Is a directory"
    too_large = "must be below 1048576 bytes, which is the limit of a ConfigMap; keep data out of it"
    file.write_text(SOFTMAX + "#" * (LIMIT - len(SOFTMAX.encode()) - 1))
    assert len(read_model(file)) <= LIMIT
    file.write_text(SOFTMAX + "#" * (LIMIT - len(SOFTMAX.encode())))
    assert refusal(file) == too_large
    file.write_bytes(b"# \xff")
    assert refusal(file) == "is not in UTF-8 (invalid start byte at byte 2); save it as UTF-8"


def test_a_byte_order_mark(tmp_path: Path) -> None:
    """Some editors begin a file with it, and Python accepts it; the source keeps it, and so does its hash."""
    file = tmp_path / "mine.py"
    file.write_text(SOFTMAX, encoding="utf-8-sig")
    assert read_model(file).encode() == file.read_bytes()


def test_a_failure_that_may_pass(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A network file system that fails is no mistake in the flags."""

    def fail(*_: object) -> None:
        raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))

    monkeypatch.setattr(type(tmp_path), "open", fail)
    with pytest.raises(JobError) as caught:
        read_model(tmp_path / "mine.py")
    assert caught.value.code == Exit.TRY_AGAIN


def test_the_check_does_not_run_the_file(tmp_path: Path) -> None:
    """Neither its statements nor its imports, on the machine on which it is checked."""
    file, trace = tmp_path / "mine.py", tmp_path / "trace"
    file.write_text(f"{SOFTMAX}\nimport nothing_of_this_name\nopen({str(trace)!r}, 'w')\n")
    read_model(file)
    assert not trace.exists()


def test_the_file_takes_the_place_of_the_jobs_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is imported, hashed and named, from its source each time, and leaves no bytecode beside it."""
    monkeypatch.setattr(sys, "meta_path", [*sys.meta_path])
    monkeypatch.setattr(job, "model", None, raising=False)
    monkeypatch.setattr(sys, "dont_write_bytecode", False)
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "mine.py"
    use_model(None)
    assert must_match.model_file() == ROOT / "job" / "model.py"
    for name in ("one", "two"):  # of one size and one time
        file.write_text(f"NAME = {name!r}\n{FOUR} = range(4)\n")
        os.utime(file, (1, 1))
        monkeypatch.delitem(sys.modules, "job.model", raising=False)
        use_model(file.relative_to(tmp_path))
        assert must_match.model_file() == file
        assert must_match.model_source() == file.read_bytes()
        module = importlib.import_module("job.model")
        assert (module.NAME, module.__file__) == (name, str(file))
    assert list(tmp_path.iterdir()) == [file]
    assert model_file.MODULE == "job.model"
