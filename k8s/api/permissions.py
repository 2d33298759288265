"""Whether this user may do what a command does."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from k8s.api.errors import LauncherError, Status

if TYPE_CHECKING:
    from collections.abc import Sequence

    from k8s.api.cluster import Cluster

AT_A_TIME = 10
Needed = tuple[str, str, str]  # verb, kind and subresource, or an empty one


def lacking(cluster: Cluster, needed: Sequence[Needed]) -> list[Needed]:
    """What this user may not do of what is needed."""
    with ThreadPoolExecutor(AT_A_TIME) as pool:
        allowed = pool.map(lambda each: cluster.may(*each), needed)
        return [each for each, may in zip(needed, allowed, strict=True) if not may]


def require(cluster: Cluster, needed: Sequence[Needed], role: str, purpose: str = "") -> None:
    """Refuse a command of which this user may not do all that is needed.

    Args:
        cluster: where.
        needed: what the command does.
        role: which of k8s/manifests/rbac allows it: runner or fetcher.
        purpose: ends the sentence.

    Raises:
        LauncherError: 2, naming what is lacking.
    """
    if found := lacking(cluster, needed):
        remedy = f"bind the role mnist-job-{role} of k8s/manifests/rbac"
        raise LauncherError(Status.REFUSED, denied(cluster, found) + purpose, remedy)


def denied(cluster: Cluster, needed: Sequence[Needed]) -> str:
    """That this user may not do what is needed, as create Job or get Pod/log."""
    named = ", ".join(f"{verb} {kind}{'/' * bool(sub)}{sub}" for verb, kind, sub in needed)
    return f"this user may not {named} in namespace {cluster.namespace}"
