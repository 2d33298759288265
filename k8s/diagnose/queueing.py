"""Why Kueue has not started a run, quoted from the conditions and admission checks of the run's Workload. Pure.

The API's versions v1beta1 and v1beta2 have the same ones.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from k8s.state.exits import kebab_case

if TYPE_CHECKING:
    from collections.abc import Sequence

    from k8s.api.objects import Object

NOT_INSTALLED = "Kueue is not installed in this cluster, so nothing starts it"
FORBIDDEN = "this user may not read Kueue's Workloads, which give the reason"
NO_WORKLOAD = "Kueue has no Workload for it yet; if none appears, check that Kueue runs and manages this namespace"
# Since 0.18, Kueue does not look at a Workload while one with the same requests waits (SchedulingEquivalenceHashing).
NO_REASON = (
    "Kueue has given no reason yet: it has not looked at the run, or a run with the same requests waits before it"
)


def kueue_says(workloads: Sequence[Object]) -> str:
    """What the newest Workload of a run says about why it is not admitted."""
    if not workloads:
        return NO_WORKLOAD
    workload = newest(workloads)
    status, conditions = workload.get("status", {}), conditions_of(workload)
    if finished := is_true(conditions, "Finished"):
        return f"Kueue will not start it: {words(finished)}"
    texts, evicted = [], is_true(conditions, "Evicted")
    if evicted:
        texts.append(f"Kueue stopped it ({evicted['reason']}): {evicted['message']}")
    if is_true(conditions, "QuotaReserved"):
        if is_true(conditions, "Admitted"):
            return "Kueue has admitted it, and is about to start it"
    elif (pending := conditions.get("QuotaReserved")) and not (evicted and pending["message"] == evicted["message"]):
        texts.append(words(pending))
    checks = [each for each in status.get("admissionChecks", []) if each.get("state") != "Ready"]
    texts += [
        f"admission check {each['name']} is {each['state']}: {each.get('message', '')}".rstrip(": ") for each in checks
    ]
    if not workload["spec"].get("active", True):
        texts.insert(0, "its Workload is deactivated, so Kueue does not admit it")
    return "; ".join(texts) or NO_REASON


def stopped(workloads: Sequence[Object]) -> str:
    """Why Kueue stopped a run, in a word such as `preempted`; empty if it did not, or has started the run again."""
    evicted = is_true(conditions_of(newest(workloads)), "Evicted") if workloads else None
    return kebab_case(evicted["reason"]) if evicted else ""


def was_evicted(workloads: Sequence[Object]) -> bool:
    """Whether Kueue has ever stopped a run. When it starts the run again, it sets the condition to False."""
    return any("Evicted" in conditions_of(workload) for workload in workloads)


def newest(workloads: Sequence[Object]) -> Object:
    """The newest Workload of a run."""
    return max(workloads, key=lambda each: str(each["metadata"].get("creationTimestamp", "")))


def conditions_of(workload: Object) -> dict[str, Object]:
    """The conditions of a Workload by type."""
    return {each["type"]: each for each in workload.get("status", {}).get("conditions", [])}


def is_true(conditions: dict[str, Object], kind: str) -> Object | None:
    """A condition that is true."""
    condition = conditions.get(kind)
    return condition if condition and condition["status"] == "True" else None


def words(condition: Object) -> str:
    """A condition's reason and message."""
    return f"{condition.get('reason', '')}: {condition.get('message', '')}".strip(": ")
