"""A worker's identity from each kind of environment, and the errors of a wrong one."""

from __future__ import annotations

import json
from typing import Any

import pytest

from job.cluster import Cluster, identify
from job.errors import Exit, JobError

INDEXED = {"RUN": "r", "JOB_NAME": "j", "JOB_UID": "u", "JOB_COMPLETION_INDEX": "1", "WORKERS": "2", "SERVICE": "s"}
BY_INDEX = Cluster("r", "u", 1, ("j-0.s:2222", "j-1.s:2222"), ("j-0.s:9100", "j-1.s:9100"))
BY_PEERS = Cluster("r", "u", 1, ("a:1", "b:2"), ("a:3", "b:4"))
PEERS = {"PEERS": '[["a:1", "a:3"], ["b:2", "b:4"]]'}
REMEDY = '; unset it, or give {"cluster": {"worker": ["host:port"]}, "task": {"type": "worker", "index": 0}}'


def tf_config(kind: Any = "worker", index: Any = 0, **cluster: Any) -> dict[str, str]:
    """An environment with this TF_CONFIG."""
    return {"RUN": "r", "TF_CONFIG": json.dumps({"cluster": cluster, "task": {"type": kind, "index": index}})}


def refusal(environ: dict[str, str]) -> str:
    """The message with which an environment is refused. The code is always 64."""
    with pytest.raises(JobError) as caught:
        identify(environ)
    assert (caught.value.code, caught.value.reason) == (Exit.USAGE, "usage")
    return str(caught.value)


def test_an_environment_without_a_cluster() -> None:
    """Without PEERS, TF_CONFIG and JOB_COMPLETION_INDEX the process belongs to none, whatever else is set."""
    assert identify({}) is None
    assert identify({"RUN": "r", "JOB_UID": "u", "WORKERS": "2", "SERVICE": "s"}) is None


def test_peers_take_precedence_over_tf_config_over_the_indexed_job() -> None:
    """The first variable that is set decides."""
    by_tf_config = tf_config(worker=["c:5"])
    assert identify(INDEXED) == BY_INDEX
    assert identify(INDEXED | by_tf_config) == Cluster("r", "u", 0, ("c:5",), ("c:9100",))
    assert identify(INDEXED | by_tf_config | PEERS) == BY_PEERS


@pytest.mark.parametrize(
    ("kind", "index", "rank"),
    [("chief", 0, 0), ("worker", 0, 1), ("worker", 1, 2)],
)
def test_the_chief_is_rank_0_and_the_workers_follow(kind: str, index: int, rank: int) -> None:
    """JOB_UID defaults to the run's name."""
    identity = identify(tf_config(kind, index, chief=["c:1"], worker=["w:2", "x:3"]))
    assert identity == Cluster("r", "r", rank, ("c:1", "w:2", "x:3"), ("c:9100", "w:9100", "x:9100"))


def test_tasks_on_one_host_have_supervisors_on_different_ports() -> None:
    """Counted from 9100 in the order of their ranks, so that every worker computes the same."""
    identity = identify(tf_config("worker", 2, chief=["h:1"], worker=["h:2", "i:1", "h:3", "i:2"]))
    assert identity == Cluster(
        "r", "r", 3, ("h:1", "h:2", "i:1", "h:3", "i:2"), ("h:9100", "h:9101", "i:9100", "h:9102", "i:9101")
    )


def test_an_ipv6_address_keeps_its_brackets() -> None:
    """The port follows the last colon."""
    assert identify(tf_config(worker=["[::1]:5"])) == Cluster("r", "r", 0, ("[::1]:5",), ("[::1]:9100",))


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "is empty"),
        (" ", "is not JSON: ' '"),
        ("{", "is not JSON: '{'"),
        ("{'cluster': {}}", "is not JSON: \"{'cluster': {}}\""),
        ("null", None),
        ("[]", None),
        ("1", None),
        ("{}", None),
        ('{"cluster": {"worker": ["a:1"]}}', None),
        ('{"task": {"type": "worker", "index": 0}}', None),
        ('{"cluster": {"worker": ["a:1"]}, "task": {"type": "worker"}}', None),
        ('{"cluster": {"worker": ["a:1"]}, "task": {"index": 0}}', None),
        ('{"cluster": {"worker": ["a:1"]}, "task": null}', None),
        ('{"cluster": ["a:1"], "task": {"type": "worker", "index": 0}}', None),
        ('{"cluster": {"worker": null}, "task": {"type": "worker", "index": 0}}', None),
        ('{"cluster": {"worker": 1}, "task": {"type": "worker", "index": 0}}', None),
    ],
)
def test_an_incomplete_tf_config_is_refused(text: str, problem: str | None) -> None:
    """It is an error that shows the form, never a run of one worker."""
    problem = problem or f"lacks `cluster`, or `task` with `type` and `index`: {text!r}"
    assert refusal({"RUN": "r", "TF_CONFIG": text}) == f"TF_CONFIG {problem}{REMEDY}"


@pytest.mark.parametrize("index", [2, -1, 0.0, 1.5, "0", None, True, False, [0], {}])
def test_a_task_that_the_cluster_does_not_list_is_refused(index: Any) -> None:
    """An index is a whole number from 0 to the last worker's; a boolean is not one."""
    sentence = f"TF_CONFIG has the task worker {index!r}, which its cluster does not list{REMEDY}"
    assert refusal(tf_config("worker", index, worker=["a:1", "b:2"])) == sentence


def test_a_role_without_hosts_has_no_tasks() -> None:
    """A chief and a worker must be listed in the cluster."""
    for kind, other in (("chief", "worker"), ("worker", "chief")):
        sentence = f"TF_CONFIG has the task {kind} 0, which its cluster does not list{REMEDY}"
        assert refusal(tf_config(kind, 0, **{other: ["a:1"]})) == sentence


@pytest.mark.parametrize(
    ("kind", "more", "role"),
    [
        ("worker", {"ps": ["p:1"]}, "ps"),
        ("worker", {"evaluator": []}, "evaluator"),
        ("evaluator", {}, "evaluator"),
        ("ps", {"ps": ["p:1"]}, "ps"),
        (None, {}, None),
        (["worker"], {}, ["worker"]),
    ],
)
def test_another_role_is_refused(kind: Any, more: dict[str, Any], role: Any) -> None:
    """Parameter servers and evaluators, as the task or as a part of the cluster."""
    sentence = f"TF_CONFIG has the role {role!r}; only chief and worker can train{REMEDY}"
    assert refusal(tf_config(kind, 0, worker=["a:1"], **more)) == sentence


def test_two_chiefs_are_refused() -> None:
    """There is only one rank 0."""
    sentence = f"TF_CONFIG lists 2 chiefs; only one is allowed{REMEDY}"
    assert refusal(tf_config(chief=["a:1", "b:2"], worker=["c:3"])) == sentence


@pytest.mark.parametrize("cluster", [{"worker": ["a:1", "b:2", "a:1"]}, {"chief": ["a:1"], "worker": ["a:1"]}])
def test_an_address_that_is_listed_twice_is_refused(cluster: dict[str, Any]) -> None:
    """TensorFlow would wait forever for the second one."""
    assert refusal(tf_config(**cluster)) == "TF_CONFIG lists a:1 twice"


@pytest.mark.parametrize(
    "address",
    ["", "a", ":1", "a:", "a:x", "a:0", "a:65536", "a:-1", "a:" + "1" * 5000, "a:\u0661", None, 1, ["a:1"], {}],
)
def test_an_address_that_is_not_host_and_port_is_refused(address: Any) -> None:
    """The message shows the value from the list."""
    assert refusal(tf_config(worker=[address])) == f"TF_CONFIG has the address {address!r}, which is not host:port"


def test_a_tf_config_needs_the_name_of_the_run() -> None:
    """RUN is required, and must be a valid name."""
    environ = tf_config(worker=["a:1"])
    assert refusal(environ | {"RUN": ""}) == "RUN is not set; a worker in a cluster needs it"
    del environ["RUN"]
    assert refusal(environ) == "RUN is not set; a worker in a cluster needs it"
    form = "lower-case letters, digits and hyphens, with a letter or digit at both ends"
    assert refusal(environ | {"RUN": "../r"}) == f"RUN must be {form}, not '../r'"


@pytest.mark.parametrize("variable", sorted(INDEXED))
def test_an_indexed_job_needs_every_variable(variable: str) -> None:
    """An empty variable counts as not set."""
    if variable != "JOB_COMPLETION_INDEX":
        assert refusal({k: v for k, v in INDEXED.items() if k != variable}).startswith(f"{variable} is not set")
    assert refusal(INDEXED | {variable: ""}) == f"{variable} is not set; a worker in a cluster needs it"


@pytest.mark.parametrize(
    ("variable", "value", "sentence"),
    [
        ("JOB_COMPLETION_INDEX", "2", "JOB_COMPLETION_INDEX must be below WORKERS, 2, not 2"),
        ("JOB_COMPLETION_INDEX", "-1", "JOB_COMPLETION_INDEX must be a whole number of at least 0, not '-1'"),
        ("JOB_COMPLETION_INDEX", "one", "JOB_COMPLETION_INDEX must be a whole number of at least 0, not 'one'"),
        ("WORKERS", "0", "WORKERS must be a whole number of at least 1, not '0'"),
        ("WORKERS", "1.5", "WORKERS must be a whole number of at least 1, not '1.5'"),
    ],
)
def test_an_indexed_jobs_numbers_are_checked(variable: str, value: str, sentence: str) -> None:
    """The message names the variable, the bound and the value."""
    assert refusal(INDEXED | {variable: value}) == sentence


@pytest.mark.parametrize(
    ("peers", "sentence"),
    [
        ("", "PEERS must be JSON [[host:port, host:port], ...], not ''"),
        ("{", "PEERS must be JSON [[host:port, host:port], ...], not '{'"),
        ("1", "PEERS must be JSON [[host:port, host:port], ...], not '1'"),
        ('["a:1", "b:2"]', 'PEERS must be JSON [[host:port, host:port], ...], not \'["a:1", "b:2"]\''),
        ("[]", "PEERS must list 2 workers as WORKERS says, not 0"),
        ('[["a:1", "a:3"]]', "PEERS must list 2 workers as WORKERS says, not 1"),
        ('[["a:1", "a:3"], ["a:1", "b:4"]]', "PEERS lists a:1 twice"),
        ('[["a:0", "a:3"], ["a:0", "a:3"]]', "PEERS lists a:3 twice"),
        ('[["a:1", "a:3"], ["b:2", "b"]]', "PEERS has the address 'b', which is not host:port"),
        ('[["a:1", "a:3"], ["b:2", "b:0"]]', "PEERS has the address 'b:0', which is not host:port"),
        ('[["a:1", "a:3"], ["b", "b:4"]]', "PEERS has the address 'b', which is not host:port"),
    ],
)
def test_wrong_peers_are_refused(peers: str, sentence: str) -> None:
    """Their form, their number and both addresses of each peer are checked."""
    assert refusal(INDEXED | {"PEERS": peers}) == sentence


@pytest.mark.parametrize(
    "cluster",
    [
        BY_INDEX,
        BY_PEERS,
        Cluster("one", "local", 0, ("[::1]:1",), ("[::1]:2",)),
        Cluster("free-ports", "local", 1, ("a:0", "a:0"), ("a:3", "a:4")),
    ],
)
def test_environment_is_the_inverse_of_identify(cluster: Cluster) -> None:
    """A child process of local mode or of the supervisor has the same identity."""
    assert identify(cluster.environment()) == cluster


def test_tensorflow_gets_the_same_identity() -> None:
    """TF_CONFIG lists all ranks as workers in their order, so that TensorFlow's chief is rank 0."""
    assert json.loads(BY_PEERS.tf_config()) == {
        "cluster": {"worker": ["a:1", "b:2"]},
        "task": {"type": "worker", "index": 1},
    }
    again = identify({"RUN": "r", "JOB_UID": "u", "TF_CONFIG": BY_PEERS.tf_config()})
    assert again == Cluster("r", "u", 1, ("a:1", "b:2"), ("a:9100", "b:9100"))
