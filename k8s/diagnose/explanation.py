"""What `why` says about a run or a schedule."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Explanation:
    """Why a run or a schedule is in its state.

    Attributes:
        reason: a short fixed word, for tools.
        sentence: the cause.
        remedy: what to do; empty if nothing is wrong.
        rank: the worker that it is about.
        code: that worker's exit code.
        meaning: what the exit code means.
        when: RFC 3339.
        pod: the name of the pod that it is about.
        lines: the last lines of that pod's log.
    """

    reason: str
    sentence: str
    remedy: str = ""
    rank: int | None = None
    code: int | None = None
    meaning: str = ""
    when: str = ""
    pod: str = ""
    lines: tuple[str, ...] = ()

    def __str__(self) -> str:
        parts = [self.sentence + (f" ({self.when})" if self.when else "")]
        parts += [f"exit code {self.code}: {self.meaning}"] if self.meaning else []
        parts += [f"remedy: {self.remedy}"] if self.remedy else []
        parts += [f"last lines of {self.pod}:", *(f"  {line}" for line in self.lines)] if self.lines else []
        return "\n".join(parts)
