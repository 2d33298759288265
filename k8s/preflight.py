"""preflight: say whether the cluster can run the job, a line for each check, with its remedy.

What may not be asked is `not checked`, never `failed`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from k8s.contract import claim_of

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable

    from k8s.cluster import Cluster
    from k8s.contract import Object


@dataclass(frozen=True)
class Check:
    """What one check found. state is ok, warning, failed or not checked; remedy is empty where none is needed."""

    name: str
    state: str
    message: str
    remedy: str = ""

    @property
    def failed(self) -> bool:
        """Whether the run cannot be."""
        return self.state == "failed"

    def __str__(self) -> str:
        return f"{self.state:<11} {self.name}: {self.message}" + (f"; {self.remedy}" if self.remedy else "")


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Add what `preflight` takes: submit's flags."""


def run(arguments: argparse.Namespace, reach: Callable[[], Cluster]) -> int:
    """Make all checks; returns the exit status."""
    raise NotImplementedError


def checks(_cluster: Cluster, _job: Object, _claim: Object | None) -> list[Check]:
    """All checks of a rendered Job."""
    return []


def claim_name(job: Object) -> str:
    """The claim that a rendered Job mounts."""
    return claim_of(job["spec"]["template"]) or ""


def needs_one_node(claim: Object | None) -> bool:
    """Whether all pods that use a claim must be on one node; one that is not there yet will be made so."""
    return claim is None or not {"ReadWriteMany"} & set(claim["spec"]["accessModes"])
