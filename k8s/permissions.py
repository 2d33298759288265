"""Whether this user may do what a command does."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from k8s.cluster import Cluster

AT_A_TIME = 10
Needed = tuple[str, str, str]  # verb, kind and subresource, or an empty one


def lacking(cluster: Cluster, needed: Sequence[Needed]) -> list[Needed]:
    """What this user may not do of what is needed."""
    with ThreadPoolExecutor(AT_A_TIME) as pool:
        allowed = pool.map(lambda each: cluster.may(*each), needed)
        return [each for each, may in zip(needed, allowed, strict=True) if not may]


def named(needed: Sequence[Needed]) -> str:
    """What is needed, in words, as `create Job, get Pod/log`."""
    return ", ".join(f"{verb} {kind}{'/' * bool(sub)}{sub}" for verb, kind, sub in needed)
