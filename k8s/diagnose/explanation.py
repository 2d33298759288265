"""What `why` says about a run or a schedule."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Explanation:
    """Why a run is as it is.

    reason is a short fixed word, for tools; code a worker's exit code, and meaning what that means. when is RFC 3339.
    pod is the name of the one that it is about; lines are the last of its log, or nothing.
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
        shown = [self.sentence + (f" ({self.when})" if self.when else "")]
        shown += [f"exit code {self.code}: {self.meaning}"] if self.meaning else []
        shown += [f"do: {self.remedy}"] if self.remedy else []
        shown += [f"the last lines of {self.pod}:", *(f"  {line}" for line in self.lines)] if self.lines else []
        return "\n".join(shown)
