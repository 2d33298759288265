"""Commands in the volume pod: over connections that break, and what is said when they fail."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import pytest

from k8s.api.errors import ApiError, LauncherError
from k8s.volume import pod as volume_pod
from k8s.volume.pod import VolumePod
from tests.k8s.fakes import FakeCluster

if TYPE_CHECKING:
    from collections.abc import Callable


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Attempts follow each other at once."""
    monkeypatch.setattr(volume_pod, "RETRY_S", 0.0)


def test_output_over_a_broken_connection() -> None:
    """A command is run again if the connection breaks, and the output of the broken attempt is dropped."""
    attempts = iter([ConnectionError("cut"), ConnectionError("cut"), None])

    def command(_: Any, write: Callable[[bytes], Any]) -> tuple[int, str]:
        write(b"half")
        if error := next(attempts):
            raise error
        write(b"whole")
        return 3, " reason\n"

    cluster = FakeCluster({"kind": "Pod", "metadata": {"name": "h"}})
    cluster.command = command
    assert VolumePod(cluster.given(), "h", "output").output(["cat"]) == (3, b"halfwhole", "reason")


def test_only_a_command_with_input_asks_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """A policy may forbid to send input into containers, and a command would wait for the end of an empty one."""
    given: list[object] = []

    def run_in(*words: object) -> tuple[int, str]:
        given.append(words[-1])
        return 0, ""

    cluster = FakeCluster().given()
    monkeypatch.setattr(cluster, "run_in", run_in)
    pod = VolumePod(cluster, "h", "output")
    pod.output(["cat"])
    assert not given[0]
    pod.output(["cat"], lambda: (b"data",))
    assert given[1]


@pytest.mark.parametrize(("long", "code"), [(True, 0), (False, None)])
def test_patience_counts_from_the_last_data(monkeypatch: pytest.MonkeyPatch, *, long: bool, code: int | None) -> None:
    """A transfer that takes longer than the patience is repeated if its connection breaks; a silent one is not."""
    now, attempts = 0.0, iter([ConnectionError("cut"), None])
    monkeypatch.setattr(time, "monotonic", lambda: now)

    def command(_: Any, write: Callable[[bytes], Any]) -> tuple[int, str]:
        nonlocal now
        now += 1000
        if long:
            write(b"data")
        if error := next(attempts):
            raise error
        return 0, ""

    cluster = FakeCluster({"kind": "Pod", "metadata": {"name": "h"}})
    cluster.command = command
    pod = VolumePod(cluster.given(), "h", "output")
    if code is None:
        with pytest.raises(LauncherError, match="the connection to pod h keeps breaking: cut"):
            pod.output(["cat"])
    else:
        assert pod.output(["cat"]) == (code, b"data", "")


@pytest.mark.parametrize(
    ("code", "errors", "status", "said"),
    [
        (
            64,
            "error: run 'x' is not published in /output; no run is",
            64,
            "run 'x' is not published in /output; no run is",
        ),
        (65, "error: the run x is damaged: a; b", 1, "the run x is damaged: a; b"),
        (
            66,
            "error: /output has no published run; `python -m job train` publishes one",
            1,
            "/output has no published run; submit a run first, or choose another claim with --claim",
        ),
        (
            73,
            (
                "error: the output folder cannot be written at /output/latest: No space left on device; "
                "free space, or choose a writable folder with --output"
            ),
            1,
            (
                "the output folder cannot be written at /output/latest: No space left on device; "
                "free space on the claim output, or make it writable"
            ),
        ),
        (73, "error: /output/runs is a symbolic link; remove it", 1, "/output/runs is a symbolic link; remove it"),
        (
            75,
            "error: the output folder failed at x: Stale; start the run again",
            1,
            "the output folder failed at x: Stale; try again",
        ),
        (75, "error: it failed", 1, "it failed; try again"),
        (137, "", 1, "`job promote` ended with code 137 and printed no error"),
    ],
)
def test_failure_of_the_job(code: int, errors: str, status: int, said: str) -> None:
    """The error is the job's sentence, with a remedy that someone who uses the launcher has."""
    cluster = FakeCluster({"kind": "Pod", "metadata": {"name": "h"}})
    cluster.command = lambda *_: (code, errors)
    with pytest.raises(LauncherError) as failed:
        VolumePod(cluster.given(), "h", "output").run_job("promote", "x")
    assert (failed.value.status, str(failed.value)) == (status, said)


def test_a_bug_is_shown_whole() -> None:
    """The lines to report stand above the sentence that asks for them."""
    cluster = FakeCluster({"kind": "Pod", "metadata": {"name": "h"}})
    errors = "Traceback\n  at x\nerror: KeyError: 1; please report it with the lines above"
    cluster.command = lambda *_: (70, f"{errors}\n")
    with pytest.raises(LauncherError) as failed:
        VolumePod(cluster.given(), "h", "output").run_job("prune")
    assert str(failed.value) == f"the job failed in the volume pod\n{errors.replace('error: ', '')}"


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (
            ConnectionError("cut"),
            "the connection to pod h keeps breaking: cut; run the same command again",
        ),
        (
            ApiError(404, "NotFound", "no pod", "run it"),
            "the pod h was deleted by someone else; run the same command again",
        ),
        (ApiError(403, "Forbidden", "no", "run it"), "the API server refused to run it: no"),
    ],
)
def test_nothing_can_be_run(error: Exception, said: str) -> None:
    """If nothing can be run in the pod, one sentence says why."""

    def command(*_: Any) -> tuple[int, str]:
        raise error

    cluster = FakeCluster({"kind": "Pod", "metadata": {"name": "h"}})
    cluster.command, cluster.patience_s = command, 0.0
    with pytest.raises(LauncherError) as told:
        VolumePod(cluster.given(), "h", "output").output(["cat"])
    assert str(told.value) == said
