"""Why Kueue has not started a run, quoted from the conditions and admission checks of the run's Workload. Pure.

The API's versions v1beta1 and v1beta2 have the same ones.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from k8s.api.objects import Object

NOT_INSTALLED = "Kueue is not installed in this cluster, so nothing starts it"
FORBIDDEN = "this user may not read Kueue's Workloads, which give the reason"
NO_WORKLOAD = "Kueue has no Workload for it yet; if none appears, check that Kueue runs and manages this namespace"


def kueue_says(workloads: Sequence[Object]) -> str:
    """What the newest Workload of a run says about why it is not admitted."""
    if not workloads:
        return NO_WORKLOAD
    workload = max(workloads, key=lambda each: str(each["metadata"].get("creationTimestamp", "")))
    status = workload.get("status", {})
    conditions = {each["type"]: each for each in status.get("conditions", [])}
    if finished := is_true(conditions, "Finished"):
        return f"Kueue will not start it: {words(finished)}"
    said = [is_true(conditions, "Evicted"), is_true(conditions, "Preempted")]
    if not is_true(conditions, "QuotaReserved"):
        said.append(conditions.get("QuotaReserved"))
    elif is_true(conditions, "Admitted"):
        return "Kueue has admitted it, and is about to start it"
    texts = [words(each) for each in said if each]
    checks = [each for each in status.get("admissionChecks", []) if each.get("state") != "Ready"]
    texts += [
        f"admission check {each['name']} is {each['state']}: {each.get('message', '')}".rstrip(": ") for each in checks
    ]
    if not workload["spec"].get("active", True):
        texts.insert(0, "its Workload is deactivated, so Kueue does not admit it")
    return "; ".join(dict.fromkeys(texts)) or "Kueue has not looked at it yet"


def is_true(conditions: dict[str, Object], kind: str) -> Object | None:
    """A condition that is true."""
    condition = conditions.get(kind)
    return condition if condition and condition["status"] == "True" else None


def words(condition: Object) -> str:
    """A condition's reason and message."""
    return f"{condition.get('reason', '')}: {condition.get('message', '')}".strip(": ")
