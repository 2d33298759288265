"""What `why` says about a run or a schedule, and the remedies with a run's names filled in. Pure."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from k8s.diagnose import catalogue
from k8s.state.names import claim_of, trainer_of

if TYPE_CHECKING:
    from k8s.state.run import Run


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


def remedy_for(run: Run, reason: str, **names: str) -> str:
    """What to do about a run's problem; empty for a reason that is not in the catalogue.

    Args:
        run: the run.
        reason: its key in PROBLEMS.
        names: the pod, node and rank that the remedy may name, and the service account if it is not the Job's.
    """
    spec = run.job["spec"]
    template = spec["template"]
    limit = trainer_of(template).get("resources", {}).get("limits", {}).get("memory", "2Gi")
    # Twice the limit, such as 4Gi for 2Gi; the limit itself where it has another form.
    memory = re.sub(r"^\d+(?=[A-Za-z]*$)", lambda match: str(2 * int(match[0])), limit)
    return catalogue.remedy(
        reason,
        flags=run.flags,
        run=run.name,
        claim=claim_of(template) or "",
        memory=memory,
        deadline=f"{2 * int(spec.get('activeDeadlineSeconds', 0))}s",
        **{"account": template["spec"].get("serviceAccountName", "default")} | names,
    )
