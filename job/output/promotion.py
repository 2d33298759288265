"""Whether `latest` should move to a newly published model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

from job.errors import Exit

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(frozen=True)
class Candidate:
    """What promotion minds of a published model.

    run is its name and started the time at which it began; test is the SHA-256 of the test set, and low and high where
    the 95% interval of its accuracy begins and ends; policy and min_accuracy are --promote and --min-accuracy.
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
        """The model of which a report.json tells.

        Raises:
            ValueError: when it does not tell all of this.
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
    """What promotion decided of a published run.

    verdict is promoted, kept or rejected; code the exit code of the run; reason one sentence; compared_with the run
    that `latest` named before, or None.
    """

    verdict: str
    code: int
    reason: str
    compared_with: str | None


def decide(new: Candidate, latest: Candidate | None) -> Verdict:
    """What becomes of a published model beside the present latest.

    Rejected: below its minimum, or below the present latest's 95% interval on the same test set. Kept: `never`, or the
    present latest began later, or was tested on other data.
    """
    word, code, reason = _decide(new, latest)
    return Verdict(word, int(code), reason, latest.run if latest else None)


def _decide(  # noqa: PLR0911 - a list of rules, the first that applies
    new: Candidate, latest: Candidate | None
) -> tuple[str, Exit, str]:
    accuracy = f"accuracy {new.accuracy:.4f}"
    if new.accuracy < new.min_accuracy:
        return "rejected", Exit.REJECTED, f"{accuracy} is below the minimum {new.min_accuracy:g}"
    if new.policy == "never":
        return "kept", Exit.OK, "promotion was not asked for"
    if latest is None:
        return "promoted", Exit.OK, "there was no model before"
    if new.policy == "always":
        return "promoted", Exit.OK, "promotion was asked for"
    if latest.started > new.started:
        return "kept", Exit.OK, f"the present latest, {latest.run}, began later"
    if latest.test != new.test:
        return "kept", Exit.OK, f"the present latest, {latest.run}, was tested on other data"
    if new.accuracy < latest.low:
        interval = f"{latest.accuracy:.4f} (95% interval {latest.low:.4f} to {latest.high:.4f})"
        return (
            "rejected",
            Exit.REJECTED,
            f"{accuracy} is worse than that of the present latest, {latest.run}: {interval}",
        )
    return "promoted", Exit.OK, f"not worse than {latest.run}, whose accuracy is {latest.accuracy:.4f}"
