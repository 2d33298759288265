"""A worker's identity and its peers, read from its environment."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from job.config import check_name, usage_error

if TYPE_CHECKING:
    from collections.abc import Mapping

    from job.errors import JobError

TENSORFLOW_PORT = 2222
SUPERVISOR_PORT = 9100
LOCAL_UID = "local"


@dataclass(frozen=True)
class Cluster:
    """One worker's view of the workers that train a run together.

    run and job_uid identify the run. rank is this worker's number, 0 to workers - 1; rank 0 is the chief. tensorflow
    and supervisors hold, by rank, host:port of TensorFlow's server and of the supervisor. If TensorFlow's port is 0, a
    free one is chosen in each round.
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
        return json.dumps(
            {"cluster": {"worker": list(self.tensorflow)}, "task": {"type": "worker", "index": self.rank}}
        )


def identify(environ: Mapping[str, str]) -> Cluster | None:
    """The identity in an environment: from PEERS, TF_CONFIG or an Indexed Job's variables, in this order.

    Returns:
        None if this process belongs to no cluster.

    Raises:
        JobError: 64, the message names the variable that is missing or wrong.
    """
    if "PEERS" in environ:
        return _from_peers(environ)
    if "TF_CONFIG" in environ:
        return _from_tf_config(environ)
    if "JOB_COMPLETION_INDEX" in environ:
        return _from_indexed_job(environ)
    return None


def _from_peers(environ: Mapping[str, str]) -> Cluster:
    run, rank, workers = _indexed(environ)
    try:
        pairs = [(str(tensorflow), str(supervisor)) for tensorflow, supervisor in json.loads(environ["PEERS"])]
    except (ValueError, TypeError):
        raise usage_error(f"PEERS must be JSON [[host:port, host:port], ...], not {environ['PEERS']!r}") from None
    if len(pairs) != workers:
        raise usage_error(f"PEERS must list {workers} workers as WORKERS says, not {len(pairs)}")
    supervisors = _addresses("PEERS", [supervisor for _, supervisor in pairs])
    tensorflow = _addresses("PEERS", [tensorflow for tensorflow, _ in pairs], least_port=0)
    return Cluster(run, _value(environ, "JOB_UID"), rank, tensorflow, supervisors)


def _from_tf_config(environ: Mapping[str, str]) -> Cluster:
    text = environ["TF_CONFIG"]
    try:
        config = json.loads(text)
        cluster, task = config["cluster"], config["task"]
        kind, index = task["type"], task["index"]
        chiefs, workers = list(cluster.get("chief", [])), list(cluster.get("worker", []))
    except ValueError:
        raise _tf_config_error(f"is not JSON: {text!r}" if text else "is empty") from None
    except (KeyError, TypeError, AttributeError):
        raise _tf_config_error(f"lacks `cluster`, or `task` with `type` and `index`: {text!r}") from None
    others = sorted(set(cluster) - {"chief", "worker"})
    if others or kind not in ("chief", "worker"):  # a tuple: looking up a list in a set raises TypeError
        raise _tf_config_error(f"has the role {(others or [kind])[0]!r}; only chief and worker can train")
    if type(index) is not int or not 0 <= index < len(chiefs if kind == "chief" else workers):
        raise _tf_config_error(f"has the task {kind} {index!r}, which its cluster does not list")
    if len(chiefs) > 1:
        raise _tf_config_error(f"lists {len(chiefs)} chiefs; only one is allowed")
    tensorflow = _addresses("TF_CONFIG", chiefs + workers)
    run = _value(environ, "RUN")
    check_name(run, len(tensorflow), "RUN")
    hosts = [address.rpartition(":")[0] for address in tensorflow]
    # The supervisors of one host's tasks have different ports, in the order of their ranks.
    supervisors = tuple(f"{host}:{SUPERVISOR_PORT + hosts[:rank].count(host)}" for rank, host in enumerate(hosts))
    rank = index + len(chiefs) if kind == "worker" else 0
    return Cluster(run, environ.get("JOB_UID") or run, rank, tensorflow, supervisors)


def _from_indexed_job(environ: Mapping[str, str]) -> Cluster:
    run, rank, workers = _indexed(environ)
    job, service = _value(environ, "JOB_NAME"), _value(environ, "SERVICE")
    hosts = [f"{job}-{i}.{service}" for i in range(workers)]
    return Cluster(
        run,
        _value(environ, "JOB_UID"),
        rank,
        tuple(f"{host}:{TENSORFLOW_PORT}" for host in hosts),
        tuple(f"{host}:{SUPERVISOR_PORT}" for host in hosts),
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
        raise usage_error(f"{name} is not set; a worker in a cluster needs it")
    return value


def _number(environ: Mapping[str, str], name: str, least: int) -> int:
    text = _value(environ, name)
    if not text.isdecimal() or int(text) < least:
        raise usage_error(f"{name} must be a whole number of at least {least}, not {text!r}")
    return int(text)


def _addresses(variable: str, addresses: list[Any], least_port: int = 1) -> tuple[str, ...]:
    """Check each rank's host:port. TensorFlow hangs if two are the same; port 0 means a free one, and may repeat."""
    for address in addresses:
        if not is_address(address, least_port):
            raise usage_error(f"{variable} has the address {address!r}, which is not host:port")
        if addresses.count(address) > 1 and not address.endswith(":0"):
            raise usage_error(f"{variable} lists {address} twice")
    return tuple(addresses)


def is_address(text: Any, least_port: int = 1) -> bool:
    """Whether a value is host:port with a valid port."""
    match = re.fullmatch(r".+:([0-9]{1,5})", text) if isinstance(text, str) else None
    return match is not None and least_port <= int(match[1]) < 2**16


def _tf_config_error(problem: str) -> JobError:
    return usage_error(
        f"TF_CONFIG {problem}",
        'unset it, or give {"cluster": {"worker": ["host:port"]}, "task": {"type": "worker", "index": 0}}',
    )
