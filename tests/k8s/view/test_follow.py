"""Tests of following a run, on a cluster that plays a part."""

from __future__ import annotations

import json
import threading
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import pytest

from job import telemetry
from job.telemetry import Record
from k8s.api.errors import ApiError, LauncherError, Status
from k8s.state.names import CANCELLED
from k8s.state.run import Run
from k8s.view import follow as follow_module
from k8s.view.follow import Follower, follow_run

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
    """Plays the states of each kind in turn, and each pod's log; an error in a log breaks the connection."""

    patience_s = 30.0
    namespace, flags = "ns", "-n ns"

    def __init__(self, jobs: list[list[Object]], pods: list[list[Object]], logs: dict[str, list[list[Any]]]) -> None:
        self._states = {"Job": jobs, "Pod": pods}
        self._logs = logs
        self.read: list[str] = []
        self._was_read = threading.Event()

    def watch(self, kind: str, stop: threading.Event, **_: str) -> Iterator[dict[str, Object]]:
        """Yield each state once, a pod's or a Job's end after the log, then wait for the end."""
        for state in self._states[kind]:
            if any(one["status"].get("phase") == "Failed" or one["status"].get("conditions") for one in state):
                assert self._was_read.wait(DEADLINE_S)
            yield {one["metadata"]["uid"]: one for one in state}
        stop.wait(DEADLINE_S)

    def logs(self, name: str, _container: str, *, timestamps: bool, **_: Any) -> Iterator[str]:
        """Yield the lines of the next connection."""
        assert timestamps
        self.read.append(name)
        for line in self._logs[name].pop(0):
            if isinstance(line, Exception):
                raise line
            yield line
        self._was_read.set()


def line(time: float, step: int) -> str:
    """A line of rank 0's log."""
    text = telemetry.to_logfmt(Record(time, "demo", 0, "training", step=step, steps=9))
    return f"{datetime.fromtimestamp(time, UTC).isoformat()} {text}"


def received_steps(cluster: Cluster, count: int) -> list[int | None]:
    """The steps of the first records that a follower receives."""
    steps: list[int | None] = []
    with Follower(cluster, job()) as follower:  # type: ignore[arg-type]
        while len(steps) < count:
            if record := follower.next_record(DEADLINE_S):
                steps.append(record.step)
    return steps


def test_a_broken_log_is_read_again() -> None:
    """Each record is received once, although the connection breaks twice and the log is read again from its start."""
    log: list[list[Any]] = [
        [line(1, 1), line(2, 2), OSError("broken")],
        [OSError("refused")],
        [line(1, 1), line(2, 2), line(3, 3)],
    ]
    cluster = Cluster([[job()]], [[pod("a")]], {"demo-0-a": log})
    assert received_steps(cluster, 3) == [1, 2, 3]
    assert cluster.read == ["demo-0-a"] * 3


def test_a_replaced_pod_is_followed() -> None:
    """The log of rank 0's new pod is read once it has started; those of other ranks are not."""
    states = [
        [pod("a"), pod("b", 1)],
        [pod("a", phase="Failed"), pod("b", 1), pod("c", phase="Pending", created="2026-01-01T00:01:00Z")],
        [pod("a", phase="Failed"), pod("b", 1), pod("c", created="2026-01-01T00:01:00Z")],
    ]
    cluster = Cluster([[job()]], states, {"demo-0-a": [[line(1, 1)]], "demo-0-c": [[line(5, 1), line(6, 2)]]})
    assert received_steps(cluster, 3) == [1, 1, 2]
    assert list(dict.fromkeys(cluster.read)) == ["demo-0-a", "demo-0-c"]  # the end of a log may be read again


def test_a_deleted_job_ends_it() -> None:
    """A Job that is deleted meanwhile ends the command with 2."""
    with pytest.raises(LauncherError, match=r"^run demo was deleted; its model is on the volume if it was published$"):
        received_steps(Cluster([[job()], []], [[]], {}), 1)


def test_interrupted(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """After Ctrl-C the run keeps running, and the command that follows it again is shown."""
    cluster = Cluster([[job()]], [[pod("a")]], {"demo-0-a": [[line(1, 1)]]})

    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Follower, "next_record", interrupt)
    with pytest.raises(KeyboardInterrupt):
        follow_run(cluster, job())  # type: ignore[arg-type]
    assert capsys.readouterr().err == "demo keeps running; to follow it again: mnist-job status demo --watch -n ns\n"


def test_a_user_who_may_not_watch() -> None:
    """The API server's message is shown; the command does not wait."""
    cluster = Cluster([], [[]], {})
    refusal = ApiError(403, "Forbidden", "jobs is forbidden", "watch jobs")
    cluster.watch = refuse(refusal)  # type: ignore[method-assign]
    with pytest.raises(ApiError, match=r"^the API server refused to watch jobs: jobs is forbidden$"):
        received_steps(cluster, 1)


def refuse(error: Exception) -> Any:
    """A watch that is refused."""

    def watch(*_: object, **__: object) -> Iterator[dict[str, Object]]:
        raise error
        yield {}

    return watch


def test_a_fault_in_a_thread_does_not_wait_forever(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever ends the watch reaches the reader."""

    def fail(*_: object, **__: object) -> None:
        raise KeyError("type")

    cluster = Cluster([], [], {})
    monkeypatch.setattr(cluster, "watch", fail)
    with Follower(cluster, job()) as follower, pytest.raises(KeyError):  # type: ignore[arg-type]
        follower.next_record(DEADLINE_S)


def test_a_log_that_ends_too_early_is_read_again() -> None:
    """A stream that ends normally while the container is running is requested again."""
    log = [[line(1, 1)], [line(1, 1), line(2, 2)]]
    cluster = Cluster([[job()]], [[pod("a")]], {"demo-0-a": log})
    assert received_steps(cluster, 2) == [1, 2]


@pytest.fixture
def published(monkeypatch: pytest.MonkeyPatch) -> Cluster:
    """A run that makes one step and is published."""
    done = job(conditions=[{"type": "Complete", "status": "True"}])
    monkeypatch.setattr(follow_module, "gather_evidence", lambda *_: Run(done))
    pods = [[pod("a")], [pod("a", phase="Succeeded")]]
    return Cluster([[job()], [done]], pods, {"demo-0-a": [[line(1, 1)], [line(1, 1)]]})


def test_json(published: Cluster, capsys: pytest.CaptureFixture[str]) -> None:
    """Each record and the result are one line of JSON."""
    assert follow_run(published, job(), "json") == 0  # type: ignore[arg-type]
    *records, result = [json.loads(text) for text in capsys.readouterr().out.splitlines()]
    assert [record["step"] for record in records if record["phase"] == "training"] == [1]
    assert result.pop("seconds") >= 0
    assert result == {
        "name": "demo",
        "state": "published",
        "code": 0,
        "reason": "published",
        "accuracy": None,
        "model": "models/demo",
        "claim": None,
        "message": None,
    }


def test_text(published: Cluster, capsys: pytest.CaptureFixture[str]) -> None:
    """The result ends with the command that copies the model."""
    assert follow_run(published, job()) == 0  # type: ignore[arg-type]
    *_, result, command = capsys.readouterr().out.splitlines()
    assert result.startswith("demo is published: accuracy None, seconds ")
    assert command == "  mnist-job fetch demo -n ns    copies the model and its report here"


def test_a_cancelled_run_is_not_waited_for(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Following ends with 1 and the remedy once the run is cancelled."""
    cancelled = job()
    cancelled["metadata"]["annotations"] = {CANCELLED: "now"}
    cancelled["spec"]["suspend"] = True
    cluster = Cluster([[job()], [cancelled]], [[]], {})
    monkeypatch.setattr(follow_module, "gather_evidence", lambda *_: Run(cancelled))
    assert follow_run(cluster, job()) == Status.FAILED  # type: ignore[arg-type]
    assert "the run was cancelled; its checkpoint is kept\nremedy: " in capsys.readouterr().err
