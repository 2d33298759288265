"""Whether `latest` should move to a newly published model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

from job.errors import Exit

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(frozen=True)
class Candidate:
    """What promotion needs to know about a published model.

    started is the time at which the run began; test is the SHA-256 of the test set; low and high are the ends of the
    accuracy's 95% interval; policy and min_accuracy are --promote and --min-accuracy.
    """

    run: str
    started: str
    test: str
    accuracy: float
    low: float
    high: float
    policy: str
    min_accuracy: float

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
                str(report["settings"]["promote"]),
                float(report["settings"]["min_accuracy"]),
            )
        except (KeyError, IndexError, TypeError) as error:
            raise ValueError(f"a report without {error}") from error


@dataclass(frozen=True)
class Verdict:
    """What promotion decided about a published run.

    verdict is promoted, kept or rejected; code the exit code of the run; reason one sentence; compared_with the run
    that was `latest` then, or None.
    """

    verdict: str
    code: int
    reason: str
    compared_with: str | None


@dataclass(frozen=True)
class Promotion:
    """What a promotion does: its verdict, and whether `latest` moves now."""

    verdict: Verdict
    moves_latest: bool


def plan_promotion(new: Candidate, latest: Candidate | None, recorded: Verdict | None) -> Promotion:
    """What to do with a published model.

    Args:
        new: the model.
        latest: the current latest.
        recorded: the verdict that an earlier promotion of this run wrote before it was cut short. It is obeyed. But
            `latest` may have moved since: then it moves to this run only if it names an older run that the rules would
            replace. It moves neither back over a newer run nor away from one that somebody has gone back to.
    """
    verdict = recorded or decide_verdict(new, latest)
    if verdict.verdict != "promoted":
        return Promotion(verdict, moves_latest=False)
    unchanged = verdict.compared_with == (latest.run if latest else None)
    older = latest is not None and latest.started < new.started
    return Promotion(verdict, unchanged or (older and decide_verdict(new, latest).verdict == "promoted"))


def decide_verdict(new: Candidate, latest: Candidate | None) -> Verdict:
    """The verdict on a published model beside the current latest.

    Rejected: below its minimum, or below the current latest's 95% interval on the same test set. Kept: `never`, or
    the current latest started later, or was tested on other data.
    """
    word, code, reason = _first_rule(new, latest)
    return Verdict(word, int(code), reason, latest.run if latest else None)


def _first_rule(  # noqa: PLR0911 - a list of rules, the first that applies
    new: Candidate, latest: Candidate | None
) -> tuple[str, Exit, str]:
    accuracy = f"accuracy {new.accuracy:.4f}"
    if new.accuracy < new.min_accuracy:
        return "rejected", Exit.REJECTED, f"{accuracy} is below the minimum {new.min_accuracy:g}"
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
    if new.accuracy < latest.low:
        interval = f"{latest.accuracy:.4f} (95% interval {latest.low:.4f} to {latest.high:.4f})"
        return (
            "rejected",
            Exit.REJECTED,
            f"{accuracy} is worse than that of the current latest, {latest.run}: {interval}",
        )
    return "promoted", Exit.OK, f"not worse than {latest.run}, whose accuracy is {latest.accuracy:.4f}"
