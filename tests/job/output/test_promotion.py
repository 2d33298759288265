"""Tests of the rules by which `latest` moves."""

from __future__ import annotations

from typing import Any

import pytest

from job.errors import Exit
from job.output.promotion import Candidate, Promotion, Verdict, decide_verdict, plan_promotion
from job.output.significance import WorseClass


def report(name: str, accuracy: float, *, low: float = 0.0, started: int = 1, test: str = "digits") -> dict[str, Any]:
    """What promotion reads of a report.json; started is a day of the month."""
    return {
        "run": {"name": name, "started": f"2026-11-{started:02}T06:00:00.000000+00:00"},
        "dataset": {"test": {"sha256": test}},
        "settings": {"promote": "unless-worse", "min_accuracy": 0.0},
        "test": {
            "accuracy": accuracy,
            "accuracy_interval": [low, 1.0],
            "classes": [
                {"name": "no", "recall": 0.5, "support": 4},
                {"name": "yes", "recall": 0.75, "support": 4},
                {"name": "absent", "recall": 0, "support": 0},
            ],
        },
    }


BASE = report("base", 0.92, low=0.91, started=5)
BELOW = "accuracy 0.9000 is below the minimum 0.91"


@pytest.mark.parametrize(
    ("new", "latest", "policy", "minimum", "expected"),
    [
        # There is no other model.
        (report("new", 0.5), None, "unless-worse", 0, ("promoted", "there was no model before", None)),
        (report("new", 0.5), None, "always", 0, ("promoted", "there was no model before", None)),
        (report("new", 0.5), None, "never", 0, ("kept", "--promote is never", None)),
        # The minimum comes first, and is itself good enough.
        (report("new", 0.9), None, "unless-worse", 0.91, ("rejected", BELOW, None)),
        (report("new", 0.9, started=9), BASE, "always", 0.91, ("rejected", BELOW, "base")),
        (report("new", 0.9, started=9), BASE, "never", 0.91, ("rejected", BELOW, "base")),
        (report("new", 0.91), None, "unless-worse", 0.91, ("promoted", "there was no model before", None)),
        # What was asked for.
        (report("new", 0.99, started=9), BASE, "never", 0, ("kept", "--promote is never", "base")),
        (report("new", 0.1, started=1), BASE, "always", 0, ("promoted", "--promote is always", "base")),
        # Not an older run over a newer one, nor one tested on other data, whatever their accuracies.
        (
            report("new", 0.99, started=4),
            BASE,
            "unless-worse",
            0,
            ("kept", "the current latest, base, started later", "base"),
        ),
        (
            report("new", 0.1, started=9, test="clothes"),
            BASE,
            "unless-worse",
            0,
            ("kept", "the current latest, base, was tested on other data", "base"),
        ),
        # The current latest's interval is the bar, and its lower end is good enough.
        (
            report("new", 0.9099, started=9),
            BASE,
            "unless-worse",
            0,
            (
                "rejected",
                (
                    "accuracy 0.9099 is worse than that of the current latest, base: "
                    "0.9200 (95% interval 0.9100 to 1.0000)"
                ),
                "base",
            ),
        ),
        (
            report("new", 0.91, started=9),
            BASE,
            "unless-worse",
            0,
            ("promoted", "not worse than base, whose accuracy is 0.9200", "base"),
        ),
        (
            report("new", 0.92, started=5),  # begun in the same moment
            BASE,
            "unless-worse",
            0,
            ("promoted", "not worse than base, whose accuracy is 0.9200", "base"),
        ),
    ],
)
def test_first_rule_that_applies_decides(
    new: dict[str, Any],
    latest: dict[str, Any] | None,
    policy: str,
    minimum: float,
    expected: tuple[str, str, str | None],
) -> None:
    """The whole verdict, and the exit code with it: 69 for a rejected run and 0 for all others."""
    word, reason, compared_with = expected
    code = Exit.REJECTED if word == "rejected" else Exit.OK
    asked = new | {"settings": {"promote": policy, "min_accuracy": minimum}}
    found = decide_verdict(Candidate.of(asked), Candidate.of(latest) if latest else None)
    assert found == Verdict(word, code, reason, compared_with)


@pytest.mark.parametrize(
    ("minimum", "policy", "expected"),
    [
        (0.5, "unless-worse", ("promoted", "there was no model before")),
        (0.6, "unless-worse", ("rejected", "the recall of class no (0.5000) is below the minimum 0.6")),
        (0.8, "never", ("rejected", "the recall of class no (0.5000), yes (0.7500) is below the minimum 0.8")),
    ],
)
def test_model_with_a_class_below_the_minimum_is_rejected(
    minimum: float, policy: str, expected: tuple[str, str]
) -> None:
    """Whatever its accuracy and the policy are. A class without test examples has no recall."""
    new = report("new", 0.99) | {"settings": {"promote": policy, "min_accuracy": 0, "min_class_accuracy": minimum}}
    found = decide_verdict(Candidate.of(new), None)
    assert (found.verdict, found.reason) == expected
    assert found.code == (Exit.REJECTED if expected[0] == "rejected" else Exit.OK)


@pytest.mark.parametrize(
    ("accuracy", "word", "reason"),
    [
        (0.92, "promoted", "not worse than base, whose accuracy is 0.9200"),
        (
            0.5,
            "rejected",
            "accuracy 0.5000 is worse than that of the current latest, base: 0.9200 (95% interval 0.9100 to 1.0000)",
        ),
    ],
)
def test_verdict_names_the_classes_that_are_worse(accuracy: float, word: str, reason: str) -> None:
    """They change no verdict. The first five are named in the sentence, all of them in the list."""
    worse = [WorseClass(str(number), 0.8, 0.9, 0.0123) for number in range(6)]
    new = report("new", accuracy, started=9)
    one = "0 (recall 0.8000 after 0.9000, p = 0.012)"
    assert decide_verdict(Candidate.of(new), Candidate.of(BASE), worse[:1]) == Verdict(
        word,
        Exit.REJECTED if word == "rejected" else Exit.OK,
        f"{reason}; the new model is worse beyond chance for class {one}",
        "base",
        ["0"],
    )
    many = decide_verdict(Candidate.of(new), Candidate.of(BASE), worse)
    assert many.reason.endswith("4 (recall 0.8000 after 0.9000, p = 0.012) and 1 more")
    assert many.worse_classes == list("012345")


@pytest.mark.parametrize("section", ["run", "dataset", "settings", "test"])
@pytest.mark.parametrize("content", [None, {}, [], "text", {"accuracy": "high", "accuracy_interval": []}])
def test_incomplete_report_is_refused(section: str, content: object) -> None:
    """A missing value and one of the wrong type are the same error."""
    with pytest.raises(ValueError, match=r"report without|convert"):
        Candidate.of(BASE | {section: content})


@pytest.mark.parametrize(
    ("latest", "moves"),
    [
        (None, False),  # the latest that the verdict was compared with is gone
        (BASE, True),  # nothing has changed since
        (report("older", 0.9, started=8), True),
        (report("older", 0.99, low=0.98, started=8), False),  # the new model is worse than this one
        (report("newer", 0.5, started=10), False),
    ],
)
def test_recorded_verdict_moves_latest_only_over_an_older_model(latest: dict[str, Any] | None, moves: bool) -> None:
    """The verdict stays; whether `latest` moves depends on what it is now."""
    verdict = Verdict("promoted", 0, "recorded", "base")
    present = Candidate.of(latest) if latest else None
    planned = plan_promotion(Candidate.of(report("new", 0.92, started=9)), present, verdict)
    assert planned == Promotion(verdict, moves_latest=moves)
