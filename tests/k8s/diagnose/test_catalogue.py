"""Every reason that `why` can give has its trouble, and the page of catalogue is printed from them."""

from __future__ import annotations

import ast
from pathlib import Path

from k8s.diagnose.catalogue import PROBLEMS, page
from k8s.state.exits import REASON_OF_CODE, SECONDARY

ROOT = Path(__file__).parents[3]
# Commands other than `train` print their sentence themselves.
OTHER_COMMANDS = ("report", "predict", "local")
PREPARES = ("prepare", "download", "idx", "tfds_folder", "prune", "retention")
# `promote` says it of a run that it is asked to move to.
BY_HAND = {"not-published"}
ERRORS, REASON = {"JobError", "Outcome"}, 1


def reasons(module: Path) -> set[str]:
    """The reasons in a module's errors."""
    found = set()
    for node in ast.walk(ast.parse(module.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in ERRORS:
            given = node.args[REASON] if len(node.args) > REASON else None
            if isinstance(given, ast.Constant) and given.value:
                found.add(str(given.value))
    return found


def test_every_reason_of_a_worker_has_its_trouble() -> None:
    """What a worker ends with, or starts again for, is in the table, and what a fatal code alone tells."""
    modules = [
        path
        for path in (ROOT / "job").rglob("*.py")
        if path.parent.name not in OTHER_COMMANDS and path.stem not in PREPARES
    ]
    found = set().union(*map(reasons, modules))
    assert {"usage", "bug", "stalled", "peer-lost", "loss-not-finite", "output-not-writable"} <= found
    assert found - BY_HAND - PROBLEMS.keys() == set()
    assert (set(REASON_OF_CODE.values()) | SECONDARY) - PROBLEMS.keys() == set()


def test_the_page_is_the_table() -> None:
    """docs/troubleshooting.md says what `why` says; `python -m k8s.diagnose.catalogue` prints it."""
    assert (ROOT / "docs" / "troubleshooting.md").read_text(encoding="utf-8") == page()


def test_a_row_is_a_row() -> None:
    """No symptom, cause or remedy is empty or would break the table."""
    for reason, trouble in PROBLEMS.items():
        for text in (trouble.symptom, trouble.cause, trouble.remedy):
            assert text, reason
            assert not set("|\n") & set(text), reason
