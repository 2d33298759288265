"""The record, written and parsed, whatever strings it holds and whatever the lines have gone through."""

from __future__ import annotations

import io
import json
import os
from dataclasses import fields
from typing import TYPE_CHECKING, Any

import pytest

from job import telemetry
from job.telemetry import Record

if TYPE_CHECKING:
    from pathlib import Path

FULL = Record(
    time=1795420731.333,
    run="run-1",
    rank=1,
    phase="training",
    epoch=3,
    step=1200,
    steps=6000,
    loss=0.31,
    accuracy=0.9234,
    examples_per_s=85000.5,
    eta_s=12.0,
    checkpoint=1140,
    restarts=1,
    joined=2,
    workers={"2": {"phase": "waiting", "restarts": 1}},
    code=75,
    reason="peer-lost",
    message="a peer was lost",
    hint="start the run again",
)
BARE = Record(time=0.0, run="r", rank=0, phase="data")
HOSTILE = [
    "",
    " ",
    '"',
    "\\",
    '\\"',
    "a=b",
    "=",
    'code=0 message="x"',
    "two\nlines\r\n",
    "tab\there",
    "{",
    '{"time": 1}',
    "nul\0",
    "\x1b[31mred",
    "sep\u2028arator\x85",
    "é 漢 🙂",
    "\udcff",  # a file's name that is not UTF-8
    "x" * 10_000,
    "null",
    "1e999",
    "ends with a backslash\\",
]


@pytest.mark.parametrize("record", [FULL, BARE])
def test_a_record_is_read_back_from_both_forms(record: Record) -> None:
    """What JSON and logfmt write is what is read, known fields and unknown ones alike."""
    assert {field.name for field in fields(Record)} == set(FULL.values())
    assert telemetry.parse(telemetry.to_json(record)) == record
    assert telemetry.parse(telemetry.to_logfmt(record)) == record


def test_logfmt_is_what_a_person_reads() -> None:
    """Fields in their order, unknown ones left out, strings quoted only where they must be."""
    assert telemetry.to_logfmt(FULL) == (
        "time=1795420731.333 run=run-1 rank=1 phase=training epoch=3 step=1200 steps=6000 loss=0.31 "
        "accuracy=0.9234 examples_per_s=85000.5 eta_s=12 checkpoint=1140 restarts=1 joined=2 "
        r'workers="{\"2\": {\"phase\": \"waiting\", \"restarts\": 1}}" code=75 reason=peer-lost '
        'message="a peer was lost" hint="start the run again"'
    )
    assert telemetry.to_logfmt(BARE) == "time=0 run=r rank=0 phase=data restarts=0"


@pytest.mark.parametrize("text", HOSTILE)
@pytest.mark.parametrize("write", [telemetry.to_json, telemetry.to_logfmt])
def test_a_hostile_string_comes_through(write: Any, text: str) -> None:
    """Whatever a message holds, it stays on one line, ends where it ended, and leaves the fields around it alone."""
    record = Record(time=1.0, run="r", rank=0, phase="failed", reason=text, message=text, hint="after it")
    line = write(record)
    assert len(line.splitlines()) == 1
    assert telemetry.parse(line) == record
    assert list(telemetry.read_records(io.StringIO(line + "\n"))) == [record]


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (1.0, "1"),
        (123456.0, "123456"),
        (0.1234567, "0.123457"),
        (1.5e-9, "1.5e-09"),
        (1795420731.3334, "1795420731.333"),
        (2e6, "2000000"),
        (-0.5, "-0.5"),
    ],
)
def test_numbers_keep_six_digits_and_times_their_milliseconds(value: float, text: str) -> None:
    """Large numbers are never written with an exponent, in which a time would lose its seconds."""
    assert telemetry.logfmt_value(value) == text


def test_a_number_that_is_none_is_still_read() -> None:
    """A loss that is not finite comes through both forms."""
    for text in ("nan", "inf", "-inf"):
        record = Record(time=1.0, run="r", rank=0, phase="training", loss=float(text))
        for line in (telemetry.to_json(record), telemetry.to_logfmt(record)):
            found = telemetry.parse(line)
            assert found
            assert str(found.loss) == text


def test_fields_of_a_later_version_are_passed_over() -> None:
    """An unknown field of any type is dropped and the record kept."""
    values = BARE.values() | {"new": {"deep": [1]}, "other": None}
    assert telemetry.parse(json.dumps(values)) == BARE
    assert telemetry.parse(telemetry.to_logfmt(BARE) + ' new="a b" other= third') == BARE


@pytest.mark.parametrize(
    "line",
    [
        "",
        "\n",
        "Traceback (most recent call last):",
        "WARNING: x=1 y=2",
        "time=1 run=r rank=0",
        "time=now run=r rank=0 phase=data",
        "time=1 run=r rank=0.5 phase=data",
        'time=1 run=r rank=0 phase=data message="torn',
        'time=1 run=r rank=0 phase=data message="bad \\q escape"',
        "{}",
        "{",
        "[]",
        '{"time": 1, "run": "r", "rank": 0, "phase": "da',
        '{"time": 1, "run": "r", "rank": "zero", "phase": "data"}',
        '{"time": [1], "run": "r", "rank": 0, "phase": "data"}',
        '{"time": 1, "run": "r", "rank": Infinity, "phase": "data"}',
        '{"time": 1' + "0" * 400 + ', "run": "r", "rank": 0, "phase": "data"}',
    ],
)
def test_a_line_without_a_record_is_none(line: str) -> None:
    """Other text, torn lines and values of another type are passed over, never raised."""
    assert telemetry.parse(line) is None


def test_every_torn_line_is_skipped() -> None:
    """A stream cut at any character gives the records before the cut, and no record that was never written."""
    for write in (telemetry.to_json, telemetry.to_logfmt):
        text = write(BARE) + "\nother text\n" + write(FULL) + "\n"
        whole = write(BARE) + "\n"
        for cut in range(len(text)):
            expected = [BARE] if cut >= len(whole) else []
            assert list(telemetry.read_records(io.StringIO(text[:cut]))) == expected, cut
        assert list(telemetry.read_records(io.StringIO(text))) == [BARE, FULL]


def test_saying_goes_on_when_nobody_listens(tmp_path: Path) -> None:
    """A line into a pipe that nobody reads any more goes nowhere, and so do the later ones and those at the end."""
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "w") as stream:
        telemetry.write_line("one", stream)
        telemetry.write_line("two", stream)
    with (tmp_path / "log").open("w") as stream:
        telemetry.write_line("one", stream)
        assert (tmp_path / "log").read_text() == "one\n"
