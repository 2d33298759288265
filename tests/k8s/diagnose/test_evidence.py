"""What `why` and `status` request of a run in a large cluster."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from k8s.diagnose.evidence import FEW, gather_evidence
from tests.k8s.fakes import FakeCluster
from tests.k8s.objects import condition, cut_off, event, job, running, waiting

if TYPE_CHECKING:
    from collections.abc import Iterator

    from k8s.api.objects import Object


class Listening(FakeCluster):
    """Keeps each request for nodes and events; logs are empty."""

    def __init__(self, *objects: Object) -> None:
        super().__init__(*({"kind": kind_of(one), **one} for one in objects))
        self.requests: list[tuple[str, str]] = []

    def get(self, kind: str, name: str) -> Object | None:
        """An object."""
        self.requests += [(kind, name)] if kind == "Node" else []
        return super().get(kind, name)

    def select(self, kind: str, selector: str = "", fields: str = "", **flags: bool) -> list[Object]:
        """Objects."""
        self.requests += [(kind, fields)] if kind in ("Event", "Node") else []
        return super().select(kind, selector, fields, **flags)

    def logs(self, *_: Any, **__: Any) -> Iterator[str]:
        """No lines."""
        return iter(())

    def last_lines(self, *_: Any) -> list[str]:
        """No lines."""
        return []


def kind_of(one: Object) -> str:
    """The kind of an object, by its fields."""
    if "involvedObject" in one:
        return "Event"
    return "Job" if "completions" in one.get("spec", {}) else "Pod" if "spec" in one else "Node"


def named_event(kind: str, name: str, number: int = 0) -> Object:
    """An event with a name."""
    return event(kind, name, "Started", "Container started") | {"metadata": {"name": f"{name}.{number}"}}


def node(name: str, ready: str) -> Object:
    """A node."""
    return {"metadata": {"name": name}, "status": {"conditions": [condition("Ready", ready)]}}


def on(node_name: str, one: Object) -> Object:
    """The pod, on a node."""
    one["spec"]["nodeName"] = node_name
    return one


def test_a_run_that_trains() -> None:
    """The events of its Job, of its claim and of its pods are requested, and no node."""
    others = [named_event("Pod", f"other-{number}-aaaa0") for number in range(50)]
    own = [
        named_event("Job", "demo"),
        named_event("Pod", "demo-1-aaaa0"),
        named_event("PersistentVolumeClaim", "output"),
    ]
    cluster = Listening(job(2), running(0), running(1), *others, *own, node("node-1", "True"))
    found = gather_evidence(cluster.given(), "demo")
    assert sorted(each["metadata"]["name"] for each in found.events) == ["demo-1-aaaa0.0", "demo.0", "output.0"]
    assert sorted(cluster.requests) == [
        ("Event", "involvedObject.kind=PersistentVolumeClaim,involvedObject.name=output"),
        ("Event", "involvedObject.kind=Pod,involvedObject.name=demo-0-aaaa0"),
        ("Event", "involvedObject.kind=Pod,involvedObject.name=demo-1-aaaa0"),
        ("Event", "involvedObject.uid=job"),
    ]


def test_a_run_of_many_workers() -> None:
    """One list of the events of all pods, of which only the run's own are kept."""
    count = FEW + 1
    pods = [running(rank) for rank in range(count)]
    own = [named_event("Pod", f"demo-{rank}-aaaa0") for rank in range(count)]
    cluster = Listening(job(count), *pods, *own, *(named_event("Pod", f"other-{n}") for n in range(9)))
    assert len(gather_evidence(cluster.given(), "demo").events) == count
    assert [fields for kind, fields in cluster.requests if "Pod" in fields] == ["involvedObject.kind=Pod"]


def test_only_the_nodes_of_pods_that_are_not_ready() -> None:
    """A pod that cannot be reached, and one that has not started; each node once."""
    pods = [
        on("node-1", running(0)),
        on("node-2", cut_off(1)),
        on("node-2", waiting(2)),
        on("node-3", waiting(3)),
        waiting(4),
    ]
    del pods[4]["spec"]["nodeName"]
    nodes = [node("node-1", "True"), node("node-2", "Unknown"), node("node-3", "True"), node("node-4", "False")]
    cluster = Listening(job(5), *pods, *nodes)
    assert gather_evidence(cluster.given(), "demo").down == ("node-2",)
    assert sorted(name for kind, name in cluster.requests if kind == "Node") == ["node-2", "node-3"]


def test_a_thousand_pods_that_start() -> None:
    """A few nodes are requested, those of pods that cannot be reached first; of the others, the pods tell."""
    pods = [on(f"node-{rank}", waiting(rank)) for rank in range(2 * FEW)]
    pods += [on(f"node-{rank}", cut_off(rank)) for rank in range(2 * FEW, 4 * FEW)]
    cluster = Listening(job(4 * FEW), *pods, *(node(f"node-{rank}", "False") for rank in range(4 * FEW)))
    down = tuple(f"node-{rank}" for rank in range(2 * FEW, 4 * FEW))
    assert gather_evidence(cluster.given(), "demo").down == down
    assert len([name for kind, name in cluster.requests if kind == "Node"]) == FEW
