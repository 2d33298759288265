"""Whether this user may do what a command does."""

from __future__ import annotations

from typing import TYPE_CHECKING

from k8s.api.errors import refused
from k8s.api.threads import ask_all

if TYPE_CHECKING:
    from collections.abc import Sequence

    from k8s.api.cluster import Cluster

Needed = tuple[str, str, str]  # verb, kind, and subresource or an empty string


def denied(cluster: Cluster, needed: Sequence[Needed]) -> list[Needed]:
    """The needed permissions that this user does not have."""
    allowed = ask_all(lambda each: cluster.may(*each), needed)
    return [each for each, may in zip(needed, allowed, strict=True) if not may]


def require(cluster: Cluster, needed: Sequence[Needed], role: str, purpose: str = "") -> None:
    """Refuse a command unless this user has all the permissions that it needs.

    Args:
        cluster: gives the namespace.
        needed: what the command does.
        role: the role in k8s/manifests/rbac that allows it: runner or fetcher.
        purpose: ends the sentence.

    Raises:
        LauncherError: 2, naming the permissions that are missing.
    """
    if missing := denied(cluster, needed):
        raise refused(sentence(cluster, missing) + purpose, bind(role))


def sentence(cluster: Cluster, missing: Sequence[Needed]) -> str:
    """Says that this user may not do something, such as create Job or get Pod/log."""
    named = ", ".join(f"{verb} {kind}{'/' * bool(sub)}{sub}" for verb, kind, sub in missing)
    return f"this user may not {named} in namespace {cluster.namespace}"


def bind(role: str) -> str:
    """The remedy: the role to ask for."""
    return f"bind the role mnist-job-{role} of k8s/manifests/rbac"
