"""Tests of following a run, on a cluster that plays a part."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

import pytest

from job import telemetry
from job.telemetry import Record
from k8s.api.errors import ApiError, LauncherError, Status
from k8s.state.names import CANCELLED
from k8s.state.run import Run
from k8s.view import follow as follow_module
from k8s.view.follow import Follower, follow

if TYPE_CHECKING:
    from collections.abc import Iterator

    from k8s.api.objects import Object

DEADLINE_S = 20.0


def job(**status: Any) -> Object:
    """A run's Job."""
    spec = {"completions": 2, "template": {"spec": {"containers": [{"name": "trainer"}], "volumes": []}}}
    return {"metadata": {"name": "demo", "uid": "j"}, "spec": spec, "status": status}


def pod(uid: str, rank: int = 0, phase: str = "Running", created: str = "2026-01-01T00:00:00Z") -> Object:
    """A worker's pod."""
    labels = {"batch.kubernetes.io/job-completion-index": str(rank)}
    metadata = {"name": f"demo-{rank}-{uid}", "uid": uid, "labels": labels, "creationTimestamp": created}
    return {"metadata": metadata, "spec": {}, "status": {"phase": phase}}


class Cluster:
    """Plays each kind's states in turn, and each pod's log, where an error breaks the connection."""

    patience_s = 30.0
    namespace, flags = "ns", "-n ns"

    def __init__(self, jobs: list[list[Object]], pods: list[list[Object]], logs: dict[str, list[list[Any]]]) -> None:
        self._states = {"Job": jobs, "Pod": pods}
        self._logs = logs
        self.read: list[str] = []
        self._was_read = threading.Event()

    def watch(self, kind: str, stop: threading.Event, **_: str) -> Iterator[dict[str, Object]]:
        """Give each state once, a pod's end after its log, then wait for the end."""
        for state in self._states[kind]:
            if any(one["status"].get("phase") == "Failed" for one in state):
                assert self._was_read.wait(DEADLINE_S)
            yield {one["metadata"]["uid"]: one for one in state}
        stop.wait(DEADLINE_S)

    def logs(self, name: str, _container: str, *, follow: bool) -> Iterator[str]:
        """Give the lines of the next connection."""
        assert follow
        self.read.append(name)
        for line in self._logs[name].pop(0):
            if isinstance(line, Exception):
                raise line
            yield line
        self._was_read.set()


def line(time: float, step: int) -> str:
    """A line of rank 0's log."""
    return telemetry.to_logfmt(Record(time, "demo", 0, "training", step=step, steps=9))


def heard(cluster: Cluster, count: int) -> list[int | None]:
    """The steps of the first records that a follower hears."""
    steps: list[int | None] = []
    with Follower(cluster, job()) as follower:  # type: ignore[arg-type]
        while len(steps) < count:
            if record := follower.next(DEADLINE_S):
                steps.append(record.step)
    return steps


def test_a_broken_log_is_taken_up_again() -> None:
    """Each record is heard once, though the connection breaks twice and the log is read from its beginning again."""
    log: list[list[Any]] = [
        [line(1, 1), line(2, 2), OSError("broken")],
        [OSError("refused")],
        [line(1, 1), line(2, 2), line(3, 3)],
    ]
    cluster = Cluster([[job()]], [[pod("a")]], {"demo-0-a": log})
    assert heard(cluster, 3) == [1, 2, 3]
    assert cluster.read == ["demo-0-a"] * 3


def test_a_replaced_pod_is_followed() -> None:
    """The log of rank 0's new pod is read once it has begun; other ranks' are not."""
    states = [
        [pod("a"), pod("b", 1)],
        [pod("a", phase="Failed"), pod("b", 1), pod("c", phase="Pending", created="2026-01-01T00:01:00Z")],
        [pod("a", phase="Failed"), pod("b", 1), pod("c", created="2026-01-01T00:01:00Z")],
    ]
    cluster = Cluster([[job()]], states, {"demo-0-a": [[line(1, 1)]], "demo-0-c": [[line(5, 1), line(6, 2)]]})
    assert heard(cluster, 3) == [1, 1, 2]
    assert cluster.read == ["demo-0-a", "demo-0-c"]


def test_a_deleted_job_ends_it() -> None:
    """A Job that is deleted meanwhile is no run any more."""
    with pytest.raises(LauncherError, match=r"^run demo was deleted; its model is on the volume if it was published$"):
        heard(Cluster([[job()], []], [[]], {}), 1)


def test_interrupted(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """After Ctrl-C the run goes on, and it is told how to come back to it."""
    cluster = Cluster([[job()]], [[pod("a")]], {"demo-0-a": [[line(1, 1)]]})

    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Follower, "next", interrupt)
    with pytest.raises(KeyboardInterrupt):
        follow(cluster, job())  # type: ignore[arg-type]
    assert capsys.readouterr().err == "demo goes on; come back by: mnist-job status demo -n ns --watch\n"


def test_who_may_not_watch_is_told() -> None:
    """A user who may not watch the Job hears the API server's sentence, and does not wait for ever."""
    cluster = Cluster([], [[]], {})
    refusal = ApiError(403, "Forbidden", "jobs is forbidden", "watch jobs")
    cluster.watch = refuse(refusal)  # type: ignore[method-assign]
    with pytest.raises(ApiError, match=r"^the API server refused to watch jobs: jobs is forbidden$"):
        heard(cluster, 1)


def refuse(error: Exception) -> Any:
    """A watch that is refused."""

    def watch(*_: object, **__: object) -> Iterator[dict[str, Object]]:
        raise error
        yield {}

    return watch


def test_a_log_that_ends_too_early_is_read_on() -> None:
    """A stream that ends in good order, though the container runs on, is asked for again."""
    log = [[line(1, 1)], [line(1, 1), line(2, 2)]]
    cluster = Cluster([[job()]], [[pod("a")]], {"demo-0-a": log})
    assert heard(cluster, 2) == [1, 2]


def test_a_cancelled_run_is_not_waited_for(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Following ends with 1 and the remedy once the run is cancelled."""
    cancelled = job()
    cancelled["metadata"]["annotations"] = {CANCELLED: "now"}
    cancelled["spec"]["suspend"] = True
    cluster = Cluster([[job()], [cancelled]], [[]], {})
    monkeypatch.setattr(follow_module, "gather_evidence", lambda *_: Run(cancelled))
    assert follow(cluster, job()) == Status.FAILED  # type: ignore[arg-type]
    assert "it was cancelled, its checkpoint kept\ndo: `mnist-job retry`" in capsys.readouterr().err
