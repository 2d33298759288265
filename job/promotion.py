"""Whether `latest` should move to a newly published model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from job.errors import Exit

if TYPE_CHECKING:
    from collections.abc import Mapping


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


def decide(  # noqa: PLR0911 - a list of rules, the first that applies
    report: Mapping[str, Any], latest: Mapping[str, Any] | None, policy: str, min_accuracy: float
) -> Verdict:
    """What becomes of a published model, from its report and that of the present latest.

    Rejected: below the minimum, or below the present latest's 95% interval on the same test set. Kept: `never`, or the
    present latest began later, or was tested on other data.
    """
    accuracy = report["test"]["accuracy"]
    other = latest["run"]["name"] if latest else None

    def verdict(word: str, code: Exit, reason: str) -> Verdict:
        return Verdict(word, int(code), reason, other)

    if accuracy < min_accuracy:
        return verdict("rejected", Exit.REJECTED, f"accuracy {accuracy:.4f} is below the minimum {min_accuracy:g}")
    if policy == "never":
        return verdict("kept", Exit.OK, "promotion was not asked for")
    if latest is None or policy == "always":
        return verdict(
            "promoted", Exit.OK, "there was no model before" if latest is None else "promotion was asked for"
        )
    if latest["run"]["started"] > report["run"]["started"]:
        return verdict("kept", Exit.OK, f"the present latest, {other}, began later")
    if latest["dataset"]["test"]["sha256"] != report["dataset"]["test"]["sha256"]:
        return verdict("kept", Exit.OK, f"the present latest, {other}, was tested on other data")
    low = latest["test"]["accuracy_interval"][0]
    if accuracy < low:
        return verdict(
            "rejected",
            Exit.REJECTED,
            f"accuracy {accuracy:.4f} is below {other}'s 95% interval, which begins at {low:.4f}",
        )
    return verdict("promoted", Exit.OK, f"not worse than {other}, whose accuracy is {latest['test']['accuracy']:.4f}")
