"""The parts of Kueue 0.17 that decide when a Job runs: its webhook for Jobs, its job reconciler and its scheduler.

From pkg/controller/jobframework/reconciler.go, validation.go and defaults.go of sigs.k8s.io/kueue.
"""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING

from k8s.api.errors import ApiError
from k8s.state.names import QUEUE_LABEL
from tests.k8s.fakes import FakeCluster

if TYPE_CHECKING:
    from k8s.api.objects import Object


class KueueCluster(FakeCluster):
    """A cluster with Kueue.

    Args:
        queues: the namespace's LocalQueues, which always have room. Jobs without a queue get the queue `default`.
        objects: what there is.
        admits: whether a Workload is admitted as soon as Kueue sees it.
    """

    def __init__(self, queues: set[str], *objects: Object, admits: bool = True) -> None:
        super().__init__(*objects)
        self.queues, self.admits = queues, admits

    def create(self, new: Object, *, dry_run: bool = False) -> Object:
        """Create an object, a Job as Kueue's webhook changes it."""
        new = copy.deepcopy(new)
        if new["kind"] == "Job":
            if "default" in self.queues:
                new["metadata"]["labels"].setdefault(QUEUE_LABEL, "default")
            if QUEUE_LABEL in new["metadata"]["labels"]:
                new["spec"]["suspend"] = True
        return super().create(new, dry_run=dry_run)

    def patch(self, kind: str, name: str, change: Object, subresource: str = "") -> Object:
        """Change an object, unless Kueue's webhook refuses it."""
        before = self.queue_of(self.objects[kind, name])
        was = copy.deepcopy(self.objects[kind, name])
        changed = super().patch(kind, name, change, subresource)
        after = self.queue_of(changed)
        if kind == "Job" and after != before:
            lost = not after and "default" in self.queues
            if lost or not changed["spec"]["suspend"]:
                self.objects[kind, name] = was
                raise ApiError(422, "Invalid", "queue-name cannot be changed", "patch it")
        return changed

    @staticmethod
    def queue_of(job: Object) -> str:
        """The queue that a Job names."""
        return str(job["metadata"].get("labels", {}).get(QUEUE_LABEL, ""))

    def reconcile(self, *, stale: Object | None = None) -> None:
        """Kueue reconciles each Job. With stale, it makes a Workload from an earlier state of a Job in its cache."""
        for (kind, name), job in list(self.objects.items()):
            if kind != "Job" or not self.queue_of(job):
                continue
            uid = job["metadata"]["uid"]
            workload = self.objects.get(("Workload", f"job-{name}"))
            if workload is None:
                labels = {"kueue.x-k8s.io/job-uid": uid}
                spec = {"queueName": self.queue_of(stale or job), "active": True}
                workload = {"kind": "Workload", "metadata": {"name": f"job-{name}", "labels": labels}, "spec": spec}
                self.objects["Workload", f"job-{name}"] = workload | {"admitted": False}
            elif not workload["spec"]["active"]:  # evicted
                job["spec"]["suspend"], workload["admitted"] = True, False
            elif workload["admitted"]:
                job["spec"]["suspend"] = False
            elif job["spec"]["suspend"]:
                workload["spec"]["queueName"] = self.queue_of(job)
            else:
                job["spec"]["suspend"] = True

    def schedule(self) -> None:
        """Kueue admits what is in a queue."""
        for (kind, _), workload in self.objects.items():
            if kind == "Workload" and workload["spec"]["active"] and workload["spec"]["queueName"] in self.queues:
                workload["admitted"] = self.admits

    def settle(self) -> None:
        """Let Kueue do everything that is due."""
        for _ in range(5):
            self.reconcile()
            self.schedule()
