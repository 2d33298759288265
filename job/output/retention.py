"""Which runs may be pruned, and why the others stay: a pure decision from the facts in inventory.py.

These are kept: the newest models, the runs whose models are in use (by `latest` or in serving/), runs that are being
trained, and runs that may continue.
"""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from job.output.inventory import Inventory, StoredRun

# A run without a verdict can be idle for this long, with its lock free, while its workers wait for each other.
IDLE_S = 1200.0


@dataclass(frozen=True)
class Retention:
    """Which runs are pruned and which are kept.

    Attributes:
        prune: the runs to prune, the oldest first.
        before: the time, UTC in ISO 8601, since which every run stays; None if there are too few models to prune any.
        kept: all other runs, each with the reason why it stays; empty for its age, or if other runs were named.
        without_model: the runs in `kept` that stay because --keep alone prunes no run without a model.
        unknown: names that were given and are not those of runs.
    """

    prune: Sequence[StoredRun]
    before: str | None
    kept: Mapping[str, str]
    without_model: Sequence[str]
    unknown: Sequence[str]


def decide_retention(inventory: Inventory, keep: int, older_than_s: int, names: Sequence[str], now: float) -> Retention:
    """Decide what goes.

    The newest models stay, and every run that began since the oldest of them, published or not. A run without a model
    may be suspended, or waiting for its workers. It is pruned only if it is named or an age is given.

    Args:
        inventory: what is on the volume.
        keep: how many models stay, at least 1; those in use stay in any case.
        older_than_s: runs that began within this time stay too, and unfinished ones that were written to within it.
        names: the only runs that may be pruned; all if empty.
        now: in seconds since 1970.
    """
    models = [run.started for run in inventory.runs if run.has_model]
    oldest = models[-keep] if len(models) >= keep else None
    young = dt.datetime.fromtimestamp(now - older_than_s, dt.UTC).isoformat(timespec="microseconds")
    before = min(oldest, young) if oldest else None
    kept, prune, without_model = dict(inventory.not_runs), [], []
    for run in inventory.runs:
        if names and run.name not in names:
            kept[run.name] = ""
        elif before is None or run.started >= before:
            kept[run.name] = _reason_too_young(run, oldest, keep) if names else ""
        elif reason := inventory.in_use.get(run.name):
            kept[run.name] = reason
        elif not (names or older_than_s or run.has_model or run.has_verdict):
            kept[run.name] = "it has no model, and --keep alone does not prune it"
            without_model.append(run.name)
        elif reason := reason_in_use(run, now, older_than_s):
            kept[run.name] = reason
        else:
            prune.append(run)
    stored = {run.name for run in inventory.runs}
    unknown = [name for name in names if name not in stored and name not in inventory.not_runs]
    return Retention(prune, before, kept, without_model, unknown)


def reason_in_use(run: StoredRun, now: float, older_than_s: float = 0) -> str:
    """Why a run may still be trained or promoted, or was written to too recently; empty if none applies."""
    if run.lock:
        return run.lock
    if not run.has_folder or (run.has_model and run.has_verdict):
        return ""
    idle_s = now - run.written
    if idle_s < IDLE_S:
        return f"it was written to within the last {IDLE_S / 60:.0f} min, and may continue"
    return "it was written to within --older-than" if idle_s < older_than_s else ""


def _reason_too_young(run: StoredRun, oldest: str | None, keep: int) -> str:
    """Why a run is too young to be pruned; `oldest` is the start of the oldest model that is kept."""
    if oldest is None:
        return f"there are fewer than {keep} models"
    if run.started < oldest:
        return "it started within --older-than"
    return f"it is among the newest {keep} models, or started since"
