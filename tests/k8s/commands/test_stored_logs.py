"""logs, why and fetch --run: what the volume has of workers whose pods or Jobs are gone."""

from __future__ import annotations

import argparse
import json
from typing import TYPE_CHECKING, Any

import pytest

from job import telemetry
from job.telemetry import Record
from k8s.api.errors import ApiError, LauncherError
from k8s.commands import fetch, logs, why
from k8s.state.names import JOB_UID_LABEL, RUN_LABEL
from k8s.view import loglines, run_logs
from k8s.volume import pod as volume_pod
from tests.k8s.fakes import Log, VolumeCluster, pod, volume_job

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from k8s.api.objects import Object

DELETED = "digits-1-zzzzz"  # a pod of rank 1 that is gone
FATAL = "Container trainer for pod team/digits-1-zzzzz failed with exit code 70 matching FailJob rule at index 1"


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Attempts follow each other at once."""
    monkeypatch.setattr(loglines, "RETRY_S", 0.0)
    monkeypatch.setattr(volume_pod, "RETRY_S", 0.0)


def stamped(source: str, *lines: tuple[str, str]) -> list[str]:
    """Lines of a log on the volume, from seconds of 2026-11-01T06:01 and text."""
    return [f"2026-11-01T06:01:{second}Z {source} {text}" for second, text in lines]


def store(cluster: VolumeCluster, rank: int, lines: Sequence[str], torn: str = "") -> None:
    """Write a rank's log of the run `digits` to the volume."""
    folder = cluster.root / "runs/digits/logs"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"rank-{rank}.log").write_text("".join(f"{line}\n" for line in lines) + torn, encoding="utf-8")


def kept(cluster: VolumeCluster, name: str, *lines: tuple[str, str]) -> None:
    """Let the cluster have a pod's log."""
    cluster.texts[name] = Log([line.replace(f" {name} ", " ") for line in stamped(name, *lines)])
    cluster.texts[name].written = len(lines)


def half_gone(root: Path, seed: int | None = None, **fields: Any) -> VolumeCluster:
    """A run that has ended. One pod of rank 0 is there, an earlier one and those of rank 1 are gone."""
    there = pod("digits-0-aaaaa", 0, "terminated", failures=1)
    cluster = VolumeCluster(root, volume_job("digits", "Complete", **fields), there, seed=seed)
    kept(cluster, "digits-0-aaaaa", ("20.5", "zero again"), ("22.5", "zero ends"))
    zero = stamped("digits-0-yyyyy", ("10.5", "zero"), ("12.5", "zero"), ("13.5", "zero stops"))
    store(cluster, 0, zero + stamped("digits-0-aaaaa", ("20.4", "zero again"), ("22.4", "zero ends")))
    one = stamped(DELETED, ("11.5", "one"), ("12.5", "one")) + stamped("digits-1-xxxxx", ("21.5", "one again"))
    store(cluster, 1, one, torn="2026-11-01T06:01:23.5Z digits-1-xxxxx to")
    return cluster


def show(cluster: VolumeCluster, **flags: Any) -> int:
    """Run `logs digits`."""
    given: dict[str, Any] = {"name": "digits", "output": "text", "rank": [], "since": None, "tail": None, "grep": None}
    given |= {"no_follow": False, "image": None, "claim": None}
    return logs.run(argparse.Namespace(**given | flags), cluster.given)


def volume_pods(cluster: VolumeCluster) -> list[Object]:
    """The volume pods that were created."""
    assert [name for kind, name in cluster.objects if kind == "Pod" and "volume" in name] == []
    return [one for verb, kind, one in cluster.asked if (verb, kind) == ("create", "Pod")]


@pytest.mark.parametrize("seed", [None, *range(10)])
def test_each_line_once_and_in_order(tmp_path: Path, seed: int | None, capsys: pytest.CaptureFixture[str]) -> None:
    """Of pods that are there and of those that are gone, over connections that break; a torn line is left out."""
    cluster = half_gone(tmp_path, seed)
    assert show(cluster) == 0
    expected = [
        "rank 0 | zero",
        "rank 1 | one",
        "rank 0 | zero",
        "rank 1 | one",
        "rank 0 | zero stops",
        "rank 0 | zero again",
        "rank 1 | one again",
        "rank 0 | zero ends",
    ]
    assert capsys.readouterr() == ("\n".join(expected) + "\n", "")
    assert len(volume_pods(cluster)) == 1
    assert seed is None or cluster.cuts > 0


def test_lines_are_chosen_alike(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """--rank, --grep, --tail and --since choose lines of the volume as they choose those of pods."""
    cluster = half_gone(tmp_path)
    show(cluster, rank=[1], tail=1)
    assert capsys.readouterr().out == "rank 1 | one\nrank 1 | one again\n"
    assert not any("rank-0" in command for command in cluster.commands)
    show(cluster, grep="again$", rank=[1], output="json")
    assert json.loads(capsys.readouterr().out) == {
        "rank": 1,
        "pod": "digits-1-xxxxx",
        "time": "2026-11-01T06:01:21.5Z",
        "line": "one again",
    }
    show(cluster, rank=[1], since="1s")
    assert capsys.readouterr() == ("", "")


def test_logs_that_the_volume_lacks(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """They are named, and the others are printed."""
    cluster = half_gone(tmp_path)
    (tmp_path / "runs/digits/logs/rank-1.log").unlink()
    show(cluster)
    out, err = capsys.readouterr()
    assert len(out.splitlines()) == 5
    assert err == "logs deleted with their pods when the run ended: rank 1\n"


def test_a_user_who_may_not_create_pods(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What the cluster has is printed, and what is missing is said, with the reason."""
    cluster = half_gone(tmp_path)
    cluster.forbidden = {("create", "Pod", "")}
    assert show(cluster) == 0
    out, err = capsys.readouterr()
    assert out == "rank 0 | zero again\nrank 0 | zero ends\n"
    problem, *missing = err.splitlines()
    assert problem.startswith("the logs on the volume were not read: ")
    assert missing == [
        "logs deleted with their pods when the run ended: rank 1",
        "logs deleted with earlier pods of rank 0: 1",
    ]


@pytest.mark.parametrize(
    ("changes", "reads"),
    [
        ({}, 0),
        ({"resumed": True}, 1),
        ({"resumed": True, "queue": "q"}, 0),
        ({"resumed": True, "queue": "q", "workload": "QuotaReserved"}, 0),
        ({"resumed": True, "queue": "q", "workload": "Evicted"}, 1),
        ({"retried": True}, 1),
    ],
    ids=["first", "resumed", "no Kueue", "admitted by Kueue", "preempted by Kueue", "retried"],
)
def test_runs_that_had_other_pods(tmp_path: Path, changes: dict[str, Any], reads: int) -> None:
    """The volume is read only where pods can be gone although each rank has one."""
    job = volume_job("digits", queue=changes.get("queue", ""))
    job["metadata"]["labels"] |= {RUN_LABEL: "numbers"} if "retried" in changes else {}
    if "resumed" in changes:
        job["status"]["conditions"] = [{"type": "Suspended", "status": "False", "reason": "JobResumed"}]
    metadata = {"name": "job-digits", "labels": {JOB_UID_LABEL: "digits-uid"}}
    conditions = [{"type": changes.get("workload"), "status": "False"}]  # Kueue has started the run again
    workload = {"kind": "Workload", "metadata": metadata, "status": {"conditions": conditions}}
    cluster = VolumeCluster(tmp_path, job, pod("a", 0), pod("b", 1), workload)
    for name in "ab":
        kept(cluster, name, ("01.5", "runs"))
    show(cluster, no_follow=True)
    assert len(volume_pods(cluster)) == reads
    show(cluster, no_follow=True, since="1m")
    assert len(volume_pods(cluster)) == reads  # these pods have written all lines of the last minute


@pytest.mark.parametrize("there", [True, False], ids=["pods that came", "pods that went"])
def test_pods_that_change_while_the_volume_pod_starts(
    tmp_path: Path, there: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each line once: from a pod that exists after the copy, and from the copy where the pod has gone meanwhile."""
    cluster = half_gone(tmp_path)
    change = cluster.objects.pop(("Pod", "digits-0-aaaaa")) if there else None
    ended, create = cluster.objects["Job", "digits"], cluster.create
    resumed = {"conditions": [{"type": "Suspended", "status": "False"}]}
    cluster.objects["Job", "digits"] = {**ended, "status": resumed}

    def create_slowly(new: Object, *, dry_run: bool = False) -> Object:
        cluster.objects.pop(("Pod", "digits-0-aaaaa"), None)
        if change:
            cluster.objects["Pod", "digits-0-aaaaa"] = change
        cluster.objects["Job", "digits"] = ended
        return create(new, dry_run=dry_run)

    monkeypatch.setattr(cluster, "create", create_slowly)
    assert show(cluster, rank=[0]) == 0
    lines = ["zero", "zero", "zero stops", "zero again", "zero ends"]
    assert capsys.readouterr() == ("".join(f"rank 0 | {line}\n" for line in lines), "digits is published\n")


class Full:
    """A temporary folder for which there is no room."""

    def __init__(self) -> None:
        raise OSError(28, "No space left on device")


def test_no_room_for_a_copy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The logs of pods are printed without it, and it is made only where the volume is read."""
    monkeypatch.setattr(run_logs, "TemporaryDirectory", Full)
    cluster = half_gone(tmp_path)
    show(cluster)
    out, err = capsys.readouterr()
    assert out == "rank 0 | zero again\nrank 0 | zero ends\n"
    assert err.splitlines() == [
        "the logs on the volume were not read: [Errno 28] No space left on device",
        "logs deleted with their pods when the run ended: rank 1",
        "logs deleted with earlier pods of rank 0: 1",
    ]
    there = [pod("digits-0-aaaaa", 0, "terminated"), pod(DELETED, 1, "terminated")]
    cluster.objects |= {("Pod", one["metadata"]["name"]): one for one in there}
    kept(cluster, DELETED, ("21.5", "one"))
    show(cluster)
    assert capsys.readouterr() == ("rank 0 | zero again\nrank 1 | one\nrank 0 | zero ends\n", "")


def deleted(root: Path) -> VolumeCluster:
    """A run whose Job is gone, beside another one."""
    half_gone(root)
    return VolumeCluster(root, volume_job("other", "Complete"))


def test_logs_of_a_deleted_job(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """All are read from the volume."""
    cluster = deleted(tmp_path)
    assert show(cluster) == 0
    out, err = capsys.readouterr()
    assert len(out.splitlines()) == 8
    assert err == "the Job of digits was deleted\n"
    assert len(volume_pods(cluster)) == 1
    assert cluster.said == ["there is no Job of digits; looking for its logs on the volume"]


def test_no_room_for_logs_of_a_deleted_job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The reason is said."""
    cluster = deleted(tmp_path)
    monkeypatch.setattr(logs, "TemporaryDirectory", Full)
    with pytest.raises(LauncherError, match=r"cannot be copied to this machine: .* No space left on device"):
        show(cluster)
    volume_pods(cluster)


def test_a_retried_run_is_not_taken_for_a_deleted_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A request that the API server refuses is reported as it is, also where no Job has the run's name."""
    retried = volume_job("digits-2")
    retried["metadata"]["labels"][RUN_LABEL] = "digits"
    cluster = VolumeCluster(tmp_path, retried)
    store(cluster, 1, stamped(DELETED, ("13.5", end(**BUG))))
    select = cluster.select

    def refuse(kind: str, *words: Any, **flags: Any) -> list[Object]:
        if kind == "Job":
            raise ApiError(503, "", "the server is overloaded", "list jobs")
        return select(kind, *words, **flags)

    monkeypatch.setattr(cluster, "select", refuse)
    for command in (show, explain):
        with pytest.raises(ApiError, match="the server is overloaded"):
            command(cluster)
    assert (cluster.said, volume_pods(cluster)) == ([], [])


@pytest.mark.parametrize("name", ["digits", "no-name"])
def test_a_run_that_never_was(tmp_path: Path, name: str) -> None:
    """`logs` and `why` refuse it as before, whether or not the volume can be read."""
    cluster = deleted(tmp_path)
    if name == "digits":
        cluster.forbidden = {("create", "Pod", "")}
    with pytest.raises(LauncherError, match=f"there is no run {name} in namespace here") as error:
        show(cluster, name=name)
    assert error.value.status == 2
    with pytest.raises(LauncherError, match=f"there is no run {name} in namespace here"):
        explain(cluster, name)


def explain(cluster: VolumeCluster, name: str = "digits") -> None:
    """Run `why`."""
    why.run(argparse.Namespace(name=name, output="json", image=None, claim=None), cluster.given)


def end(phase: str = "failed", rank: int = 1, **fields: Any) -> str:
    """A record of 2026-11-01T06:01:13 in which a worker says how it ended."""
    return telemetry.to_logfmt(Record(1_793_512_873.0, "digits", rank, phase, **fields))


BUG: dict[str, Any] = {
    "code": 70,
    "reason": "bug",
    "message": "KeyError at model.py:7: 'W'",
    "hint": "please report it",
}


def failed(root: Path, reason: str = "PodFailurePolicy", **status: Any) -> VolumeCluster:
    """A run that failed because of a pod that is gone."""
    job = volume_job("digits", "Failed")
    job["status"]["conditions"][0] |= {"reason": reason, "message": FATAL, "lastTransitionTime": "2026-11-01T06:02:00Z"}
    job["status"] |= status
    cluster = VolumeCluster(root, job)
    store(cluster, 0, stamped("digits-0-aaaaa", ("14.5", end(rank=0, code=75, reason="stopped", message="SIGTERM"))))
    earlier = stamped("digits-1-other", ("02.5", "not these"))
    store(cluster, 1, earlier + stamped(DELETED, ("12.5", "Traceback"), ("13.5", end(**BUG))))
    return cluster


@pytest.mark.parametrize(
    ("reason", "status"),
    [("PodFailurePolicy", {}), ("FailedIndexes", {"failedIndexes": "1"}), ("DeadlineExceeded", {})],
)
def test_why_a_run_failed_whose_pods_are_gone(
    tmp_path: Path, reason: str, status: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    """The first cause and the last lines come from the log on the volume."""
    cluster = failed(tmp_path, reason, **status)
    explain(cluster)
    said = json.loads(capsys.readouterr().out)
    assert "worker 1 exited with 70 (bug): KeyError at model.py:7: 'W'" in said["sentence"]
    assert (said["rank"], said["pod"], said["code"]) == (1, DELETED, 70)
    assert said["lines"] == ["Traceback", end(**BUG)]
    assert len(volume_pods(cluster)) == 1


@pytest.mark.parametrize(
    ("problem", "reads"),
    [
        (ApiError(400, "BadRequest", "container trainer is waiting to start", "read it"), 0),
        (ApiError(500, "", "no route to host", "read it"), 0),
        (ConnectionResetError("reset"), 0),
        (ApiError(404, "NotFound", "pods not found", "read it"), 1),
    ],
    ids=["not started", "unreachable node", "broken connection", "deleted meanwhile"],
)
def test_why_reads_the_volume_only_for_a_log_that_is_gone(
    tmp_path: Path, problem: Exception, reads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A log that cannot be read now is no reason to start a volume pod, which the same cause would stop."""

    def refuse(*_: Any, **__: Any) -> None:
        raise problem

    stuck = pod("digits-0-aaaaa", 0, "waiting")
    stuck["spec"] = {"nodeName": "n1"}
    waiting = {"reason": "ImagePullBackOff", "message": "no such image"}
    stuck["status"]["containerStatuses"][0]["state"] = {"waiting": waiting}
    cluster = VolumeCluster(tmp_path, volume_job("digits"), stuck)
    store(cluster, 0, [])
    monkeypatch.setattr(cluster, "logs", refuse)
    explain(cluster)
    assert len(volume_pods(cluster)) == reads


def test_why_of_a_job_with_a_long_name(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The names of its pods begin with a part of its name."""
    name = "d" * 61
    gone = f"{name[:55]}-1-zzzzz"
    job = volume_job(name, "Failed")
    job["status"]["conditions"][0] |= {"reason": "PodFailurePolicy", "message": FATAL.replace(DELETED, gone)}
    cluster = VolumeCluster(tmp_path, job)
    store(cluster, 1, stamped(gone, ("13.5", end(**BUG))))
    (tmp_path / "runs/digits").rename(tmp_path / "runs" / name)
    explain(cluster, name)
    said = json.loads(capsys.readouterr().out)
    assert said["sentence"].startswith("worker 1 exited with 70 (bug): KeyError at model.py:7: 'W'")
    assert (said["pod"], said["lines"]) == (gone, [end(**BUG)])


def test_why_without_the_right_to_read_the_volume(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The code is explained as before, and the reason is said."""
    cluster = failed(tmp_path)
    cluster.forbidden = {("create", "Pod", "")}
    explain(cluster)
    out, err = capsys.readouterr()
    assert "its pod was deleted, and its message with it" in json.loads(out)["sentence"]
    assert err.startswith("the logs on the volume were not read: ")


def test_why_ignores_earlier_jobs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A Job of the same name that began before may have failed for another cause."""
    cluster = failed(tmp_path)
    cluster.objects["Job", "digits"]["metadata"]["creationTimestamp"] = "2026-11-02T06:00:00Z"
    explain(cluster)
    assert "its pod was deleted, and its message with it" in json.loads(capsys.readouterr().out)["sentence"]


@pytest.mark.parametrize(
    ("record", "state", "reason", "words"),
    [
        (
            end(**BUG),
            "failed",
            "bug",
            "worker 1 exited with 70 (bug): KeyError at model.py:7: 'W'; its Job was deleted",
        ),
        (
            end("published", 0, code=0, reason="promoted", accuracy=0.92),
            "published",
            "promoted",
            "nothing is wrong: the model is published with a test accuracy of 0.9200; its Job was deleted",
        ),
        (
            end("published", 0, code=69, reason="rejected", message="worse"),
            "rejected",
            "rejected",
            "published, but rejected: worse; its Job was deleted",
        ),
        ("starts", "deleted", "deleted", "the run had not ended when its Job was deleted"),
    ],
)
def test_why_of_a_deleted_job(
    tmp_path: Path, record: str, state: str, reason: str, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """How the run ended stands in its logs."""
    cluster = VolumeCluster(tmp_path, volume_job("other"))
    store(cluster, 0 if "published" in record else 1, stamped("digits-1-zzzzz", ("13.5", record)))
    explain(cluster)
    said = json.loads(capsys.readouterr().out)
    assert (said["state"], said["reason"], said["sentence"]) == (state, reason, words)
    assert said["lines"] == ([record] if state == "failed" else [])


def get(cluster: VolumeCluster, folder: Path, output: str = "text") -> int:
    """Run `fetch digits DIR --run`."""
    given = {"name": "digits", "directory": folder, "report": False, "run": True, "image": None, "claim": None}
    return fetch.run(argparse.Namespace(**given, output=output), cluster.given)


@pytest.mark.parametrize("seed", [None, *range(5)])
def test_fetch_run(tmp_path: Path, seed: int | None, capsys: pytest.CaptureFixture[str]) -> None:
    """Logs, events and scalars come, also of a run without a model, and replace those of an earlier fetch."""
    root = tmp_path / "volume"
    cluster = VolumeCluster(root, volume_job("digits", "Failed"), seed=seed)
    store(cluster, 0, ["one"])
    wanted = {"logs/rank-0.log": b"one\n", "events.jsonl": b"{}\n", "tensorboard/events.out.tfevents.1": b"\0\1"}
    for path, content in {**wanted, "checkpoints/5.safetensors": b"large", "lock": b""}.items():
        file = root / "runs/digits" / path
        file.parent.mkdir(exist_ok=True)
        file.write_bytes(content)
    (root / "runs/digits/tensorboard/link").symlink_to("/etc/passwd")
    here = tmp_path / "here/digits/run"
    (here / "logs").mkdir(parents=True)
    (here / "logs/rank-9.log").write_bytes(b"old\n")
    assert get(cluster, tmp_path / "here") == 0
    assert {str(path.relative_to(here)): path.read_bytes() for path in here.rglob("*") if path.is_file()} == wanted
    assert [path.name for path in here.parent.iterdir()] == ["run"]
    assert capsys.readouterr() == (f"  run     {here}: 3 files\n", "digits has not published a model yet\n")
    assert get(cluster, tmp_path / "here", "json") == 0
    assert json.loads(capsys.readouterr().out) == {
        "name": "digits",
        "folder": str(here.parent),
        "files": 0,
        "bytes": 0,
        "fetched": 0,
        "report": None,
        "run": str(here),
    }


def test_fetch_run_does_not_follow_links(tmp_path: Path) -> None:
    """A link in the place of the folder is refused, and nothing is written through it."""
    cluster = VolumeCluster(tmp_path / "volume", volume_job("digits", "Failed"))
    store(cluster, 0, ["one"])
    (tmp_path / "digits").mkdir()
    (tmp_path / "other").mkdir()
    (tmp_path / "digits/run").symlink_to(tmp_path / "other")
    with pytest.raises(LauncherError, match="is a symbolic link or a file"):
        get(cluster, tmp_path)
    assert list((tmp_path / "other").iterdir()) == []
