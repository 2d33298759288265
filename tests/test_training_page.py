"""The tables of docs/training.md are equal to the code."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

from job.config import Config, flag
from job.errors import MEANINGS

PAGE = (Path(__file__).parents[1] / "docs/training.md").read_text(encoding="utf-8")


def table(header: str) -> list[str]:
    """The rows of the table with this header, as they stand."""
    found = re.search(re.escape(header) + r"\n\|[-|]+\|\n((?:\|.*\n)+)", PAGE)
    assert found, f"no table {header}"
    return found[1].splitlines()


def test_flags_are_all_there_with_their_defaults() -> None:
    """The table of flags is Config's: each flag, its default, its line."""
    rows = []
    for field in dataclasses.fields(Config):
        default = "" if field.default in ("", None) or field.default is False else f"`{field.default}`"
        text, choices = field.metadata["text"], field.metadata["choices"]
        rows.append(
            f"| `{flag(field.name)}` | {default} | {text}{': ' + ', '.join(choices) if choices else ''} |".replace(
                "<", "&lt;"
            )
        )
    assert table("| flag | default | |") == rows


def test_exit_codes_are_all_there_with_their_meanings() -> None:
    """The table of exit codes is job/errors.py's."""
    assert table("| code | meaning |") == [f"| {int(code)} | {meaning} |" for code, meaning in MEANINGS.items()]
