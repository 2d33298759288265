"""A worker's identity and its peers, read from its environment."""

from __future__ import annotations

import ipaddress
import json
import os
import re
import signal
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from job.config import check_name, usage_error
from job.errors import Exit, JobError

if TYPE_CHECKING:
    from collections.abc import Mapping

TENSORFLOW_PORT = 2222
SUPERVISOR_PORT = 9100
LOCAL_UID = "local"
SIGTERM_CODE = 128 + signal.SIGTERM
# The variables that make a process a worker of a cluster, in their order of precedence.
MARKERS = ("PEERS", "TF_CONFIG", "JOB_COMPLETION_INDEX")
HOST_NAME = re.compile(
    r"(?=.{1,253}$)[A-Za-z0-9_]([-\w]*[A-Za-z0-9_])?(\.[A-Za-z0-9_]([-\w]*[A-Za-z0-9_])?)*\.?", re.ASCII
)
TF_CONFIG_FORM = '{"cluster": {"worker": ["host:port"]}, "task": {"type": "worker", "index": 0}}'


@dataclass(frozen=True)
class Cluster:
    """One worker's view of the workers that train a run together.

    run and job_uid identify the run. rank is this worker's number, 0 to workers - 1; rank 0 is the chief. tensorflow
    and supervisors hold, by rank, host:port of TensorFlow's server and of the supervisor. In tensorflow, the
    address of a worker that does not train now is empty. Each of the others has a place, 0 to size - 1, in the order of
    their ranks.
    """

    run: str
    job_uid: str
    rank: int
    tensorflow: tuple[str, ...]
    supervisors: tuple[str, ...]

    @property
    def workers(self) -> int:
        """The number of workers, at least 1."""
        return len(self.tensorflow)

    @property
    def size(self) -> int:
        """The number of workers that train now."""
        return len(self._training)

    @property
    def place(self) -> int:
        """This worker's place among those that train now."""
        return sum(map(bool, self.tensorflow[: self.rank]))

    @property
    def _training(self) -> list[str]:
        return [address for address in self.tensorflow if address]

    def environment(self) -> dict[str, str]:
        """The environment that identify() turns into this Cluster."""
        return {
            "RUN": self.run,
            "JOB_UID": self.job_uid,
            "JOB_COMPLETION_INDEX": str(self.rank),
            "WORKERS": str(self.workers),
            "PEERS": json.dumps(list(zip(self.tensorflow, self.supervisors, strict=True))),
        }

    def tf_config(self) -> str:
        """The same for TensorFlow's multi-worker strategies, as TF_CONFIG."""
        return json.dumps({"cluster": {"worker": self._training}, "task": {"type": "worker", "index": self.place}})


def identify(environ: Mapping[str, str]) -> Cluster | None:
    """The identity in an environment: from PEERS, TF_CONFIG or an Indexed Job's variables, in this order.

    Returns:
        None if this process belongs to no cluster.

    Raises:
        JobError: 64, the message names the variable that is missing or wrong.
    """
    readers = dict(zip(MARKERS, (_from_peers, _from_tf_config, _from_indexed_job), strict=True))
    marker = membership(environ)
    return readers[marker](environ) if marker else None


def membership(environ: Mapping[str, str]) -> str | None:
    """The variable that makes a process with this environment a worker of a cluster; None if it is none."""
    return next((name for name in MARKERS if name in environ), None)


def exit_code(code: int, environ: Mapping[str, str]) -> int:
    """The exit code that makes an operator replace a worker if another try can help, and only then.

    Kubeflow's operator replaces a pod that ended with 128 or more, as by a signal, and fails the run for any lower
    code (restartPolicy: ExitCode). Under an operator, SIGTERM's code therefore stands for "try again".
    """
    return SIGTERM_CODE if code == Exit.TRY_AGAIN and membership(environ) == "TF_CONFIG" else code


def pod_name(environ: Mapping[str, str]) -> str:
    """The name of this pod; without POD_NAME, that of this machine."""
    return environ.get("POD_NAME") or os.uname().nodename


def how_to_leave(marker: str) -> str:
    """The part of a hint that says how to run the command without a cluster."""
    return f"to run without a cluster, run `unset {marker}` first, or put `env -u {marker}` before the command"


def _from_peers(environ: Mapping[str, str]) -> Cluster:
    run, rank, workers = _indexed(environ)
    try:
        pairs = [(str(tensorflow), str(supervisor)) for tensorflow, supervisor in json.loads(environ["PEERS"])]
    except (ValueError, TypeError):
        raise usage_error(f"PEERS must be JSON [[host:port, host:port], ...], not {environ['PEERS']!r}") from None
    if len(pairs) != workers:
        raise usage_error(f"PEERS must list {workers} workers as WORKERS says, not {len(pairs)}")
    supervisors = _addresses([supervisor for _, supervisor in pairs], "PEERS")
    tensorflow = tuple(tensorflow for tensorflow, _ in pairs)
    _addresses([address for address in tensorflow if address], "PEERS")
    return Cluster(run, _value(environ, "JOB_UID"), rank, tensorflow, supervisors)


def _from_tf_config(environ: Mapping[str, str]) -> Cluster:
    text = environ["TF_CONFIG"]
    try:
        config = json.loads(text)
    except (ValueError, RecursionError):
        raise _tf_config_error(f"is not JSON: {text!r}" if text else "is empty") from None
    cluster, task = (_tf_config_part(config, key, dict, "an object in braces") for key in ("cluster", "task"))
    kind = _tf_config_part(task, "type", str, "a role in quotation marks")
    index = _tf_config_part(task, "index", int, "a whole number without quotation marks")
    others = sorted(set(cluster) - {"chief", "worker"})
    if others or kind not in {"chief", "worker"}:
        raise _tf_config_error(f"has the role {(others or [kind])[0]!r}; only chief and worker can train")
    chiefs, workers = (
        _tf_config_part({role: [], **cluster}, role, list, "a list of addresses") for role in ("chief", "worker")
    )
    if not 0 <= index < len(chiefs if kind == "chief" else workers):
        raise _tf_config_error(f"has the task {kind} {index}, which its cluster does not list")
    if len(chiefs) > 1:
        raise _tf_config_error(f"lists {len(chiefs)} chiefs; only one is allowed")
    tensorflow = _addresses(chiefs + workers, "TF_CONFIG")
    run = _value(environ, "RUN")
    check_name(run, len(tensorflow), "RUN")
    hosts = [_parse_address(address)[0] for address in tensorflow]
    # The supervisors of one host's tasks have different ports, in the order of their ranks.
    ports = [SUPERVISOR_PORT + hosts[:rank].count(host) for rank, host in enumerate(hosts)]
    supervisors = tuple(f"{address.rpartition(':')[0]}:{port}" for address, port in zip(tensorflow, ports, strict=True))
    if clash := next((address for address in tensorflow if address in supervisors), None):
        raise _tf_config_error(f"has the address {clash}, whose port this host's supervisors use")
    rank = index + len(chiefs) if kind == "worker" else 0
    return Cluster(run, environ.get("JOB_UID") or run, rank, tensorflow, supervisors)


def _tf_config_part(parent: Any, key: str, kind: type, form: str) -> Any:
    """The value of a key of TF_CONFIG, which must be of this kind; `form` describes the kind in words."""
    if not isinstance(parent, dict) or key not in parent:
        raise _tf_config_error(f"lacks `{key}`: it has {json.dumps(parent)}")
    if type(parent[key]) is not kind:  # isinstance() would take true for a number
        raise _tf_config_error(f"has {json.dumps(parent[key])} as `{key}`, which must be {form}")
    return parent[key]


def _from_indexed_job(environ: Mapping[str, str]) -> Cluster:
    run, rank, workers = _indexed(environ)
    job, service = _value(environ, "JOB_NAME"), _value(environ, "SERVICE")
    hosts = [f"{job}-{i}.{service}" for i in range(workers)]
    tensorflow = _addresses([f"{host}:{TENSORFLOW_PORT}" for host in hosts], "the host name from JOB_NAME and SERVICE")
    return Cluster(
        run, _value(environ, "JOB_UID"), rank, tensorflow, tuple(f"{host}:{SUPERVISOR_PORT}" for host in hosts)
    )


def _indexed(environ: Mapping[str, str]) -> tuple[str, int, int]:
    """RUN, JOB_COMPLETION_INDEX and WORKERS, checked."""
    run = _value(environ, "RUN")
    workers = _number(environ, "WORKERS", 1)
    check_name(run, workers, "RUN")
    rank = _number(environ, "JOB_COMPLETION_INDEX", 0)
    if rank >= workers:
        raise usage_error(f"JOB_COMPLETION_INDEX must be below WORKERS, {workers}, not {rank}")
    return run, rank, workers


def _value(environ: Mapping[str, str], name: str) -> str:
    value = environ.get(name, "")
    if not value:
        marker = membership(environ) or ""
        is_not_set = f"{name} is set, but empty" if name == marker else f"{name} is not set, but {marker} is"
        message = f"{is_not_set}, so this process is a worker of a cluster"
        raise usage_error(message, f"set {name}; {how_to_leave(marker)}")
    return value


def _number(environ: Mapping[str, str], name: str, least: int) -> int:
    text = _value(environ, name)
    if not text.isdecimal() or int(text) < least:
        raise usage_error(f"{name} must be a whole number of at least {least}, not {text!r}")
    return int(text)


def _addresses(addresses: list[Any], source: str) -> tuple[str, ...]:
    """Check each rank's host:port. TensorFlow hangs if two are the same."""
    error = _tf_config_error if source == "TF_CONFIG" else lambda problem: usage_error(f"{source} {problem}")
    first: dict[tuple[str, int], str] = {}
    for address in addresses:
        if not is_address(address):
            raise error(f"has the address {address!r}, which is not host:port")
        parsed = _parse_address(address)
        if parsed in first:
            also = f", the second time as {address}" if first[parsed] != address else ""
            raise error(f"lists {first[parsed]} twice{also}")
        first[parsed] = address
    return tuple(addresses)


def is_address(text: Any) -> bool:
    """Whether a value is host:port: a host name, an IPv4 address or an IPv6 address in brackets, and a valid port."""
    if not isinstance(text, str):
        return False
    with suppress(ValueError):
        return 1 <= _parse_address(text)[1] < 2**16
    return False


def _parse_address(text: str) -> tuple[str, int]:
    """The host, written in one way, and the port of host:port; ValueError if it is not in this form."""
    host, _, port = text.rpartition(":")
    if not re.fullmatch(r"[0-9]{1,5}", port):
        raise ValueError(text)
    if host.startswith("[") and host.endswith("]"):
        return str(ipaddress.IPv6Address(host[1:-1])), int(port)
    if re.fullmatch(r"[0-9.]+", host):
        return str(ipaddress.IPv4Address(host)), int(port)
    if not HOST_NAME.fullmatch(host):
        raise ValueError(text)
    return host.lower(), int(port)


def _tf_config_error(problem: str) -> JobError:
    hint = f"correct it in the form {TF_CONFIG_FORM}; {how_to_leave('TF_CONFIG')}"
    return usage_error(f"TF_CONFIG {problem}", hint)
