"""Tests of the record: written and parsed with any strings in it, and after any damage to the line."""

from __future__ import annotations

import io
import json
import os
import time
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
    """Parsing returns the record that was written, with and without optional fields."""
    assert {field.name for field in fields(Record)} == set(FULL.values())
    assert telemetry.parse(telemetry.to_json(record)) == record
    assert telemetry.parse(telemetry.to_logfmt(record)) == record


def test_logfmt_is_easy_to_read() -> None:
    """Fields are in their order, missing ones are left out, and strings are quoted only if necessary."""
    assert telemetry.to_logfmt(FULL) == (
        "time=1795420731.333 run=run-1 rank=1 phase=training epoch=3 step=1200 steps=6000 loss=0.31 "
        "accuracy=0.9234 examples_per_s=85000.5 eta_s=12 checkpoint=1140 restarts=1 joined=2 "
        r'workers="{\"2\": {\"phase\": \"waiting\", \"restarts\": 1}}" code=75 reason=peer-lost '
        'message="a peer was lost" hint="start the run again"'
    )
    assert telemetry.to_logfmt(BARE) == "time=0 run=r rank=0 phase=data restarts=0"


@pytest.mark.parametrize("text", HOSTILE)
@pytest.mark.parametrize("write", [telemetry.to_json, telemetry.to_logfmt])
def test_a_hostile_string_is_read_back(write: Any, text: str) -> None:
    """A message stays on one line and does not change the fields around it, whatever it contains."""
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
    """Large numbers have no exponent, with which a time would lose its seconds."""
    assert telemetry.logfmt_value(value) == text


def test_a_loss_that_is_not_finite_is_read_back() -> None:
    """Both forms keep nan and infinities."""
    for text in ("nan", "inf", "-inf"):
        record = Record(time=1.0, run="r", rank=0, phase="training", loss=float(text))
        for line in (telemetry.to_json(record), telemetry.to_logfmt(record)):
            parsed = telemetry.parse(line)
            assert parsed
            assert str(parsed.loss) == text


def test_fields_of_a_later_version_are_ignored() -> None:
    """The rest of the record is kept."""
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
        "time=1 run=r rank=0 phase=training step=1" + "0" * 400,
        '{"time": 1, "run": "r", "rank": 0, "phase": ' + "[" * 10_000,
        "a" * 2_000_000,
    ],
)
def test_a_line_without_a_record_is_none(line: str) -> None:
    """Other text, torn lines and values of another type raise no error."""
    assert telemetry.parse(line) is None


def test_every_torn_line_is_skipped() -> None:
    """A stream that is cut at any character gives the records before the cut, and no others."""
    for write in (telemetry.to_json, telemetry.to_logfmt):
        text = write(BARE) + "\nother text\n" + write(FULL) + "\n"
        whole = write(BARE) + "\n"
        for cut in range(len(text)):
            expected = [BARE] if cut >= len(whole) else []
            assert list(telemetry.read_records(io.StringIO(text[:cut]))) == expected, cut
        assert list(telemetry.read_records(io.StringIO(text))) == [BARE, FULL]


def test_writing_to_a_closed_pipe_is_no_error(tmp_path: Path) -> None:
    """This line and later ones are discarded, also at the end of the process."""
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "w") as stream:
        telemetry.write_line("one", stream)
        telemetry.write_line("two", stream)
    with (tmp_path / "log").open("w") as stream:
        telemetry.write_line("one", stream)
        assert (tmp_path / "log").read_text() == "one\n"


def test_reporter_sends_records_and_sparse_heartbeats(monkeypatch: pytest.MonkeyPatch) -> None:
    """Records also go to the journal. A heartbeat follows a record after a second, or at once with a new phase."""
    now = 100.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    pipe = io.StringIO()
    report = telemetry.Reporter("demo", 1, pipe, restarts=2)
    report("data")
    journal: list[Record] = []
    report.attach(journal.append)
    report("training", step=1)
    report.heartbeat("training", step=2)  # too early
    report.heartbeat("evaluating", step=3)
    now += telemetry.HEARTBEAT_S
    report.heartbeat()
    records = list(telemetry.read_records(io.StringIO(pipe.getvalue())))
    assert {(record.run, record.rank, record.restarts) for record in records} == {("demo", 1, 2)}
    assert [(record.phase, record.step) for record in records] == [
        ("data", None),
        ("training", 1),
        ("evaluating", 3),
        ("evaluating", None),
    ]
    assert journal == [records[1]]
