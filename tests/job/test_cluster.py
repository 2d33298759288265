"""A worker's identity from each kind of environment, and the errors of a wrong one."""

from __future__ import annotations

import json
from typing import Any

import pytest

from job.cluster import Cluster, exit_code, identify
from job.errors import Exit, JobError

INDEXED = {"RUN": "r", "JOB_NAME": "j", "JOB_UID": "u", "JOB_COMPLETION_INDEX": "1", "WORKERS": "2", "SERVICE": "s"}
BY_INDEX = Cluster("r", "u", 1, ("j-0.s:2222", "j-1.s:2222"), ("j-0.s:9100", "j-1.s:9100"))
BY_PEERS = Cluster("r", "u", 1, ("a:1", "b:2"), ("a:3", "b:4"))
PEERS = {"PEERS": '[["a:1", "a:3"], ["b:2", "b:4"]]'}
LEAVE = "to run without a cluster, run `unset {0}` first, or put `env -u {0}` before the command"
FORM = '{"cluster": {"worker": ["host:port"]}, "task": {"type": "worker", "index": 0}}'
REMEDY = f"; correct it in the form {FORM}; {LEAVE.format('TF_CONFIG')}"


def not_set(variable: str, marker: str) -> str:
    """The sentence of a variable that is missing in an environment which the marker makes a cluster's."""
    cause = f"{variable} is not set, but {marker} is, so this process is a worker of a cluster"
    return f"{cause}; set {variable}; {LEAVE.format(marker)}"


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
        ("[" * 20_000, f"is not JSON: '{'[' * 20_000}'"),
        ("{'cluster': {}}", "is not JSON: \"{'cluster': {}}\""),
        ("null", "lacks `cluster`: it has null"),
        ("[]", "lacks `cluster`: it has []"),
        ("1", "lacks `cluster`: it has 1"),
        ("{}", "lacks `cluster`: it has {}"),
        ('{"cluster": {"worker": ["a:1"]}}', 'lacks `task`: it has {"cluster": {"worker": ["a:1"]}}'),
        ('{"task": {}}', 'lacks `cluster`: it has {"task": {}}'),
        ('{"cluster": {}, "task": {"type": "worker"}}', 'lacks `index`: it has {"type": "worker"}'),
        ('{"cluster": {}, "task": {"index": 0}}', 'lacks `type`: it has {"index": 0}'),
        ('{"cluster": {}, "task": null}', "has null as `task`, which must be an object in braces"),
        ('{"cluster": {}, "task": "worker"}', 'has "worker" as `task`, which must be an object in braces'),
        ('{"cluster": ["a:1"], "task": {}}', 'has ["a:1"] as `cluster`, which must be an object in braces'),
        ('{"cluster": null, "task": {}}', "has null as `cluster`, which must be an object in braces"),
    ],
)
def test_an_incomplete_tf_config_is_refused(text: str, problem: str) -> None:
    """It is an error that shows the form, never a run of one worker."""
    assert refusal({"RUN": "r", "TF_CONFIG": text}) == f"TF_CONFIG {problem}{REMEDY}"


@pytest.mark.parametrize("addresses", [None, 1, "a:1", {"0": "a:1"}, True])
@pytest.mark.parametrize("role", ["chief", "worker"])
def test_addresses_that_are_not_a_list_are_refused(role: str, addresses: Any) -> None:
    """A text would otherwise be read as a list of its characters."""
    problem = f"has {json.dumps(addresses)} as `{role}`, which must be a list of addresses"
    assert refusal(tf_config(**{"worker": ["w:1"], role: addresses})) == f"TF_CONFIG {problem}{REMEDY}"


@pytest.mark.parametrize("index", [2, -1, 10**30])
def test_a_task_that_the_cluster_does_not_list_is_refused(index: int) -> None:
    """The index is from 0 to the last worker's."""
    sentence = f"TF_CONFIG has the task worker {index}, which its cluster does not list{REMEDY}"
    assert refusal(tf_config("worker", index, worker=["a:1", "b:2"])) == sentence


@pytest.mark.parametrize("index", ["0", "1", "one", "", 0.0, 1.5, None, True, False, [0], {}])
def test_an_index_that_is_no_number_is_refused(index: Any) -> None:
    """Not even true or 0.0, which Python takes for a number."""
    problem = f"has {json.dumps(index)} as `index`, which must be a whole number without quotation marks"
    assert refusal(tf_config("worker", index, worker=["a:1", "b:2"])) == f"TF_CONFIG {problem}{REMEDY}"


@pytest.mark.parametrize("kind", [None, 0, True, ["worker"], {"worker": 0}])
def test_a_type_that_is_no_text_is_refused(kind: Any) -> None:
    """The role stands in quotation marks."""
    problem = f"has {json.dumps(kind)} as `type`, which must be a role in quotation marks"
    assert refusal(tf_config(kind, 0, worker=["a:1"])) == f"TF_CONFIG {problem}{REMEDY}"


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
        ("master", {"master": ["m:1"]}, "master"),
        ("Worker", {}, "Worker"),
        ("", {}, ""),
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


@pytest.mark.parametrize(
    ("first", "second", "also"),
    [
        ("a:1", "a:1", ""),
        ("a:1", "A:1", ", the second time as A:1"),
        ("a:1", "a:01", ", the second time as a:01"),
        ("[::1]:1", "[0:0::1]:1", ", the second time as [0:0::1]:1"),
    ],
)
def test_an_address_that_is_listed_twice_is_refused(first: str, second: str, also: str) -> None:
    """TensorFlow would wait forever for the second one."""
    for cluster in ({"worker": [first, "b:2", second]}, {"chief": [first], "worker": [second]}):
        assert refusal(tf_config(**cluster)) == f"TF_CONFIG lists {first} twice{also}{REMEDY}"


def test_a_port_of_a_supervisor_is_refused() -> None:
    """The supervisor of the same host listens there."""
    sentence = f"TF_CONFIG has the address a:9100, whose port this host's supervisors use{REMEDY}"
    assert refusal(tf_config(worker=["a:9100"])) == sentence


@pytest.mark.parametrize(
    "address",
    [
        *(
            "",
            "a",
            ":1",
            "a:",
            "a:x",
            "a:0",
            "a:65536",
            "a:-1",
            "a:+1",
            "a:" + "1" * 5000,
            "a:\u0661",
            "a:1.0",
            "a:0x1",
        ),
        *(None, 1, ["a:1"], {}, True),
        *(f"{scheme}://a:1" for scheme in ("grpc", "grpcs", "http", "https", "tcp", "dns")),
        *("dns:a:1", "ipv4:10.0.0.1:1", "unix:///socket", "dns:///a:1", "//a:1", "a/b:1", "user@a:1"),
        *(" a:1", "a:1 ", "a :1", "a: 1", "a b:1", "\ta:1", "a:1\n", "\na:1", "a\u00a0:1", "\ufeffa:1", " :1", "a,b:1"),
        *("::1:5", "[::1:5", "::1]:5", "[::1]", "[a]:1", "[]:1", "[::1 ]:5", "[10.0.0.1]:5"),
        *("10.0.0:1", "10.0.0.256:1", "10.0.0.1.:1", "1:1", "a..b:1", ".a:1", "-a:1", "a-:1", "*:1", "h\u00f6st:1"),
        "a" * 254 + ":1",
    ],
)
def test_an_address_that_is_not_host_and_port_is_refused(address: Any) -> None:
    """The message shows the value from the list. The workers would wait for such an address until --join-timeout."""
    sentence = f"TF_CONFIG has the address {address!r}, which is not host:port{REMEDY}"
    assert refusal(tf_config(worker=["b:2", address])) == sentence


@pytest.mark.parametrize(
    "address",
    ["a:1", "A.b-c.svc.cluster.local.:65535", "a_b:1", "1a:1", "10.0.0.1:1", "[fe80::1%eth0]:1", "[2001:db8::1]:1"],
)
def test_every_form_of_a_host_is_taken(address: str) -> None:
    """Names with and without a final dot, names of container networks, IPv4, and IPv6 in brackets."""
    cluster = identify(tf_config(worker=[address]))
    assert cluster is not None
    assert cluster.tensorflow == (address,)


def test_one_host_in_two_writings_has_supervisors_on_different_ports() -> None:
    """Host names do not depend on capital letters."""
    cluster = identify(tf_config(worker=["a:1", "A:2"]))
    assert cluster is not None
    assert cluster.supervisors == ("a:9100", "A:9101")


def test_a_tf_config_needs_the_name_of_the_run() -> None:
    """RUN is required, and must be a valid name. A TF_CONFIG that something else has left is named as the cause."""
    environ = tf_config(worker=["a:1"])
    assert refusal(environ | {"RUN": ""}) == not_set("RUN", "TF_CONFIG")
    del environ["RUN"]
    assert refusal(environ) == not_set("RUN", "TF_CONFIG")
    form = "lower-case letters, digits and hyphens, with a letter or digit at both ends"
    assert refusal(environ | {"RUN": "../r"}) == f"RUN must be {form}, not '../r'"


@pytest.mark.parametrize("variable", sorted(INDEXED.keys() - {"JOB_COMPLETION_INDEX"}))
def test_an_indexed_job_needs_every_variable(variable: str) -> None:
    """An empty variable counts as not set."""
    sentence = not_set(variable, "JOB_COMPLETION_INDEX")
    assert refusal({k: v for k, v in INDEXED.items() if k != variable}) == sentence
    assert refusal(INDEXED | {variable: ""}) == sentence


def test_an_empty_index_is_refused() -> None:
    """It makes the process a worker, but does not say which."""
    cause = "JOB_COMPLETION_INDEX is set, but empty, so this process is a worker of a cluster"
    remedy = f"set JOB_COMPLETION_INDEX; {LEAVE.format('JOB_COMPLETION_INDEX')}"
    assert refusal(INDEXED | {"JOB_COMPLETION_INDEX": ""}) == f"{cause}; {remedy}"


@pytest.mark.parametrize("service", [" s", "s ", "http://s", "s:80"])
def test_a_service_that_makes_no_host_name_is_refused(service: str) -> None:
    """The workers would wait for such a name until --join-timeout."""
    address = f"j-0.{service}:2222"
    sentence = f"the host name from JOB_NAME and SERVICE has the address {address!r}, which is not host:port"
    assert refusal(INDEXED | {"SERVICE": service}) == sentence


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
        ('[["a:1", "a:3"], ["a:2", "a:3"]]', "PEERS lists a:3 twice"),
        ('[["a:0", "a:3"], ["a:2", "a:4"]]', "PEERS has the address 'a:0', which is not host:port"),
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


def test_a_worker_that_does_not_train_has_no_place() -> None:
    """The others have places in the order of their ranks, which TensorFlow gets; the ranks stay as they are."""
    cluster = Cluster("r", "u", 3, ("a:1", "", "c:1", "d:1"), ("a:2", "b:2", "c:2", "d:2"))
    assert (cluster.workers, cluster.size, cluster.place) == (4, 3, 2)
    assert json.loads(cluster.tf_config()) == {
        "cluster": {"worker": ["a:1", "c:1", "d:1"]},
        "task": {"type": "worker", "index": 2},
    }
    assert identify(cluster.environment()) == cluster


@pytest.mark.parametrize(
    ("environ", "again"),
    [({}, 75), (INDEXED, 75), (tf_config(worker=["a:1"]), 143), ({**PEERS, **tf_config(worker=["a:1"])}, 75)],
)
def test_an_operator_sees_the_code_of_a_signal_in_place_of_75(environ: dict[str, str], again: int) -> None:
    """It replaces pods that end with 128 or more; every other code stays."""
    assert {code: exit_code(code, environ) for code in Exit} == {code: code for code in Exit} | {Exit.TRY_AGAIN: again}
