"""Whether `latest` should move to a newly published model."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Self

from job.errors import Exit
from job.output.significance import shorten

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from job.output.significance import WorseClass


@dataclass(frozen=True)
class Candidate:
    """What promotion needs to know about a published model.

    started is the time at which the run began; test is the SHA-256 of the test set; low and high are the ends of the
    accuracy's 95% interval; classes are the names of the classes, and recalls gives the recall of each that has
    test examples; policy, min_accuracy and min_class_accuracy are --promote, --min-accuracy and --min-class-accuracy.
    """

    run: str
    started: str
    test: str
    accuracy: float
    low: float
    high: float
    classes: Sequence[str]
    recalls: Mapping[str, float]
    policy: str
    min_accuracy: float
    min_class_accuracy: float

    @classmethod
    def of(cls, report: Mapping[str, Any]) -> Self:
        """Read it from the content of a report.json.

        Raises:
            ValueError: a value is missing or of the wrong type.
        """
        try:
            return cls(
                str(report["run"]["name"]),
                str(report["run"]["started"]),
                str(report["dataset"]["test"]["sha256"]),
                float(report["test"]["accuracy"]),
                float(report["test"]["accuracy_interval"][0]),
                float(report["test"]["accuracy_interval"][1]),
                [str(each["name"]) for each in report["test"]["classes"]],
                {str(each["name"]): float(each["recall"]) for each in report["test"]["classes"] if each["support"]},
                str(report["settings"]["promote"]),
                float(report["settings"]["min_accuracy"]),
                float(report["settings"].get("min_class_accuracy", 0)),  # reports of earlier versions have none
            )
        except (KeyError, IndexError, TypeError) as error:
            raise ValueError(f"a report without {error}") from error


@dataclass(frozen=True)
class Verdict:
    """What promotion decided about a published run.

    verdict is promoted, kept or rejected; code the exit code of the run; reason one sentence; compared_with the run
    that was `latest` then, or None; worse_classes the names of the classes that were worse than those of that run
    beyond chance, if the two were compared.
    """

    verdict: str
    code: int
    reason: str
    compared_with: str | None
    worse_classes: Sequence[str] = field(default_factory=list)


@dataclass(frozen=True)
class Promotion:
    """What a promotion does: its verdict, and whether `latest` moves now."""

    verdict: Verdict
    moves_latest: bool


def plan_promotion(
    new: Candidate, latest: Candidate | None, recorded: Verdict | None, worse: Sequence[WorseClass] = ()
) -> Promotion:
    """What to do with a published model.

    Args:
        new: the model.
        latest: the current latest.
        recorded: the verdict that an earlier promotion of this run wrote before it was cut short. It is obeyed. But
            `latest` may have moved since: then it moves to this run only if it names an older run that the rules would
            replace. It moves neither back over a newer run nor away from one that somebody has gone back to.
        worse: the classes that are worse than those of the current latest beyond chance. They alone reject no model.
    """
    verdict = recorded or decide_verdict(new, latest, worse)
    if verdict.verdict != "promoted":
        return Promotion(verdict, moves_latest=False)
    unchanged = verdict.compared_with == (latest.run if latest else None)
    older = latest is not None and latest.started < new.started
    return Promotion(verdict, unchanged or (older and decide_verdict(new, latest).verdict == "promoted"))


def comparable(new: Candidate, latest: Candidate) -> bool:
    """Whether `unless-worse` compares the two: the new one is not the older one, and both have the same test set."""
    return new.policy == "unless-worse" and latest.started <= new.started and latest.test == new.test


def decide_verdict(new: Candidate, latest: Candidate | None, worse: Sequence[WorseClass] = ()) -> Verdict:
    """The verdict on a published model beside the current latest.

    Rejected: the accuracy is below --min-accuracy, the recall of a class is below --min-class-accuracy, or the accuracy
    is below the 95% interval of the current latest on the same test set. Kept: --promote is never, or the current
    latest started later or was tested on other data.
    """
    word, code, reason = _first_rule(new, latest, worse)
    return Verdict(word, int(code), reason, latest.run if latest else None, [each.name for each in worse])


def classes_below(recalls: Mapping[str, float], minimum: float) -> str:
    """The classes whose recall is below a minimum, as a sentence; empty if there is none."""
    below = [f"{name} ({recall:.4f})" for name, recall in recalls.items() if recall < minimum]
    return f"the recall of class {shorten(below)} is below the minimum {minimum:g}" if below else ""


def _first_rule(  # noqa: PLR0911 - a list of rules, the first that applies
    new: Candidate, latest: Candidate | None, worse: Sequence[WorseClass]
) -> tuple[str, Exit, str]:
    accuracy = f"accuracy {new.accuracy:.4f}"
    if new.accuracy < new.min_accuracy:
        return "rejected", Exit.REJECTED, f"{accuracy} is below the minimum {new.min_accuracy:g}"
    if below := classes_below(new.recalls, new.min_class_accuracy):
        return "rejected", Exit.REJECTED, below
    if new.policy == "never":
        return "kept", Exit.OK, "--promote is never"
    if latest is None:
        return "promoted", Exit.OK, "there was no model before"
    if new.policy == "always":
        return "promoted", Exit.OK, "--promote is always"
    if latest.started > new.started:
        return "kept", Exit.OK, f"the current latest, {latest.run}, started later"
    if latest.test != new.test:
        return "kept", Exit.OK, f"the current latest, {latest.run}, was tested on other data"
    classes = f"; the new model is worse beyond chance for class {shorten(worse)}" if worse else ""
    if new.accuracy < latest.low:
        interval = f"{latest.accuracy:.4f} (95% interval {latest.low:.4f} to {latest.high:.4f})"
        return (
            "rejected",
            Exit.REJECTED,
            f"{accuracy} is worse than that of the current latest, {latest.run}: {interval}{classes}",
        )
    return "promoted", Exit.OK, f"not worse than {latest.run}, whose accuracy is {latest.accuracy:.4f}{classes}"
