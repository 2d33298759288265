"""The supervisor's child: makes the TensorFlow worker, trains, and ends with an exit code that says how it went."""

from __future__ import annotations

import dataclasses
import datetime as dt
import platform
import signal
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import contextmanager
from importlib import metadata
from pathlib import PurePath
from typing import TYPE_CHECKING, Any

from job.config import settings_hash, settings_to_match
from job.dataset.rows import Dataset, load_dataset
from job.output.run_folder import RunFolder
from job.supervisor import task
from job.supervisor.precheck import tell_published
from job.system import cpus, process

if TYPE_CHECKING:
    from collections.abc import Iterator

    from job import telemetry
    from job.cluster import Cluster
    from job.config import Config
    from job.supervisor.task import Teller

A_MOMENT_S = 0.3
LIBRARIES = ("tensorflow", "tensorflow-cpu", "tensorflow-datasets", "numpy")


def run(config: Config, cluster: Cluster, tell: Teller) -> int:
    """Train as one worker; returns the exit code."""
    began = time.perf_counter() - process.age()
    tell("data")
    with ThreadPoolExecutor(1) as pool:
        # Reading and hashing leave the interpreter free, and importing TensorFlow takes longer than both; but what is
        # wrong with the data is found in a moment, and said before it.
        loading = pool.submit(load_dataset, config.data, config.dataset)
        if wait([loading], A_MOMENT_S).done:
            loading.result()
        with without("keras"):
            from job import train  # noqa: PLC0415
            from job.training import journal, strategy  # noqa: PLC0415
            from job.training.worker import Worker  # noqa: PLC0415

        dataset = loading.result()
    tell("joining")
    threads = config.threads or cpus.threads(-(-config.batch_size // cluster.workers))
    joined = strategy.join(cluster, config.device, threads, config.join_timeout)
    tell.pulse()
    # Only now, for TensorFlow's server has put a handler of its own in the place of Python's.
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    worker = Worker(cluster, joined, tell, stop.is_set, began)
    if cluster.rank > 0:
        return train.train_and_evaluate(config, worker, dataset, None)
    output = RunFolder(config.output, cluster.run, cluster.job_uid, take_over=config.continue_)
    with output.begin(manifest(config, cluster, dataset, threads)) as published:
        if published:
            return tell_published(tell, output, published)
        with output.errors():
            events = journal.Journal(output.folder)

        def write(record: telemetry.Record) -> None:
            with output.errors():
                events.write(record)

        tell.journal = write
        return train.train_and_evaluate(config, worker, dataset, output)


@contextmanager
def without(module: str) -> Iterator[None]:
    """Have imports of a module fail inside, if they can do without it, as TensorFlow's import of Keras can.

    Keras, and matplotlib with it, are a quarter of TensorFlow's import, 0.6 s of 2.3, and nothing here uses them.
    """
    blocked: dict[str, Any] = sys.modules
    blocked[module] = None  # Python's own way to say that there is none
    try:
        yield
    finally:
        del blocked[module]


def manifest(config: Config, cluster: Cluster, dataset: Dataset, threads: int) -> dict[str, Any]:
    """The content of config.json: with what, on what and as whose a run was begun."""
    must_match = settings_to_match(config, dataset.fingerprint)
    values = {name: str(v) if isinstance(v, PurePath) else v for name, v in dataclasses.asdict(config).items()}
    values |= {"name": cluster.run, "workers": cluster.workers, "threads": threads}
    installed = {library: version for library in LIBRARIES if (version := _version(library))}
    return {
        "run": cluster.run,
        "job_uid": cluster.job_uid,
        "started": dt.datetime.now(dt.UTC).isoformat(timespec="microseconds"),
        "settings": values,
        "settings_hash": settings_hash(must_match),
        "must_match": must_match,
        "versions": {"python": platform.python_version(), **installed},
        "cpus": cpus.limit(),
        "fingerprint": dataset.fingerprint,
    }


def _version(library: str) -> str | None:
    try:
        return metadata.version(library)
    except metadata.PackageNotFoundError:
        return None


if __name__ == "__main__":
    task.main(run)
