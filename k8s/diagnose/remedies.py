"""The catalogue's remedies with the names of one run filled in. Pure."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from k8s.diagnose import catalogue
from k8s.state.names import claim_of, trainer_of

if TYPE_CHECKING:
    from k8s.state.run import Run


def remedy_for(run: Run, reason: str, **names: str) -> str:
    """What to do about a run's problem; empty for a reason that is not in the catalogue.

    Args:
        run: the run.
        reason: its key in PROBLEMS.
        names: the pod, node, rank and service account that the remedy may name.
    """
    spec = run.job["spec"]
    template = spec["template"]
    limits = trainer_of(template).get("resources", {}).get("limits", {})
    return catalogue.remedy(
        reason,
        flags=run.flags,
        run=run.name,
        claim=claim_of(template) or "",
        memory=doubled(limits.get("memory", "2Gi")),
        deadline=f"{2 * int(spec.get('activeDeadlineSeconds', 0))}s",
        **names,
    )


def doubled(quantity: str) -> str:
    """Twice a quantity of Kubernetes, such as 4Gi for 2Gi; the quantity itself where it has another form."""
    return re.sub(r"^\d+(?=[A-Za-z]*$)", lambda found: str(2 * int(found[0])), quantity)
