"""Every reason that `why` can give is in the catalogue, and docs/troubleshooting.md is printed from it."""

from __future__ import annotations

import ast
import re
from pathlib import Path

from job.error_table import TABLE
from k8s.diagnose.catalogue import PROBLEMS, remedy, troubleshooting_page
from k8s.state.exits import REASON_OF_CODE, SECONDARY

ROOT = Path(__file__).parents[3]
# Commands other than `train` print their errors themselves.
OTHER_FOLDERS = {"report", "predict", "local"}
OTHER_MODULES = {
    "prepare",
    "download",
    "idx",
    "idx_files",
    "tfds_folder",
    "inventory",
    "prune",
    "prune_dialogue",
    "retention",
}
BY_HAND = {"not-published"}  # only `promote RUN` raises it
ERRORS, REASON = {"JobError", "Outcome"}, 1
# The sources of error_table.py that only other commands have.
OTHER_SOURCES = {"published runs", "data folder", "raw files", "page", "standard output", "model", "picture"}


def reasons(module: Path) -> set[str]:
    """The reasons in a module's errors."""
    found = set()
    for node in ast.walk(ast.parse(module.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in ERRORS:
            given = node.args[REASON] if len(node.args) > REASON else None
            if isinstance(given, ast.Constant) and given.value:
                found.add(str(given.value))
    return found


def test_every_reason_of_a_worker_has_its_problem() -> None:
    """Every reason with which a worker ends or restarts is in the catalogue, and each that only a code gives."""
    modules = [
        path
        for path in (ROOT / "job").rglob("*.py")
        if path.parent.name not in OTHER_FOLDERS and path.stem not in OTHER_MODULES
    ]
    endings = [each for source, row in TABLE.items() if source not in OTHER_SOURCES for each in row.values() if each]
    found = set().union({each.reason for each in endings}, *map(reasons, modules))
    assert {"usage", "bug", "stalled", "peer-lost", "loss-not-finite", "output-not-writable"} <= found
    assert found - BY_HAND - PROBLEMS.keys() == set()
    assert (set(REASON_OF_CODE.values()) | SECONDARY) - PROBLEMS.keys() == set()


def test_the_page_is_the_catalogue() -> None:
    """`python -m k8s.diagnose.catalogue` prints docs/troubleshooting.md."""
    assert (ROOT / "docs" / "troubleshooting.md").read_text(encoding="utf-8") == troubleshooting_page()


def test_a_row_is_a_row() -> None:
    """No symptom, cause or remedy is empty or would break the table."""
    for reason, problem in PROBLEMS.items():
        for text in (problem.symptom, problem.cause, problem.remedy):
            assert text, reason
            assert not set("|\n") & set(text), reason


def test_remedies_name_what_is_known() -> None:
    """Names and flags are filled in; on the page, names are in capitals and flags left out."""
    command = remedy("cancelled", run="demo", flags="-n team --context kind")
    assert command.startswith("`mnist-job retry demo -n team --context kind` ")
    assert remedy("cancelled").startswith("`mnist-job retry RUN` ")
    assert remedy("no such reason") == ""
    assert not re.search(r"[{}]", troubleshooting_page())
