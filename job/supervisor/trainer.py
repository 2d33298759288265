"""The trainer process of a worker: prepares TensorFlow and the output folder, then trains."""

from __future__ import annotations

import dataclasses
import datetime as dt
import platform
import signal
import time
from concurrent.futures import ThreadPoolExecutor, wait
from importlib import metadata
from pathlib import PurePath
from typing import TYPE_CHECKING, Any

from job.dataset.rows import Dataset, load_dataset
from job.must_match import settings_hash, settings_to_match
from job.output.journal import Journal, read_time_spent
from job.output.run_folder import RunFolder
from job.supervisor.child import run_child
from job.supervisor.precheck import report_published
from job.system import cgroup, process
from job.training.internals import light_import

if TYPE_CHECKING:
    from job.cluster import Cluster
    from job.config import Config
    from job.telemetry import Record, Reporter

# Most faults of a dataset are found within this time, and then reported without waiting for TensorFlow's import.
DATA_FAULT_S = 0.3
LIBRARIES = ("tensorflow", "tensorflow-cpu", "tensorflow-datasets", "numpy")


def run_trainer(config: Config, cluster: Cluster, report: Reporter) -> int:
    """Train as one worker of the run; returns the exit code."""
    started = time.perf_counter() - process.age()
    report("data")
    with ThreadPoolExecutor(1) as pool:
        # The thread seldom holds the interpreter's lock, and TensorFlow's import takes longer than the load.
        loading = pool.submit(load_dataset, config.data, config.dataset)
        if wait([loading], DATA_FAULT_S).done:
            loading.result()
        with light_import():
            from job.training import strategy  # noqa: PLC0415 - TensorFlow's import takes seconds
        from job import train  # noqa: PLC0415 - it imports model.py, which may use Keras
        from job.training.scalars import Scalars  # noqa: PLC0415
        from job.training.worker import Worker  # noqa: PLC0415

        dataset = loading.result()
    report("joining")
    threads = config.threads or cgroup.step_threads(-(-config.batch_size // cluster.size))
    joined = strategy.join(cluster, config.device, threads, config.join_timeout)
    report.start_pulse()
    # TensorFlow's server has replaced Python's handler by its own, so this must come after join().
    stops: list[int] = []  # not an Event: a second signal, while its set() runs, would wait for ever
    signal.signal(signal.SIGTERM, lambda number, _: stops.append(number))
    worker = Worker(cluster, joined, report, lambda: bool(stops), threads, started)
    if cluster.rank > 0:
        return train.train_and_evaluate(config, worker, dataset, None)
    output = RunFolder(config.output, cluster.run, cluster.job_uid, take_over=config.continue_)
    with output.begin(manifest(config, cluster, dataset, threads)) as published:
        if published:
            return report_published(report, output, published)
        with output.errors():
            start = time.time() - sum(report.spent.at(time.monotonic()).values())
            if earlier := read_time_spent(output.folder, start):
                report.spent.add_earlier(earlier, start)
            journal, scalars = Journal(output.folder), Scalars(output.folder)

        def write(record: Record) -> None:
            with output.errors():
                journal.write(record)
                scalars.write(record)

        report.attach(write)
        return train.train_and_evaluate(config, worker, dataset, output)


def manifest(config: Config, cluster: Cluster, dataset: Dataset, threads: int) -> dict[str, Any]:
    """The content of config.json: a run's owner, settings, dataset and software."""
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
        "cpus": cgroup.cpu_limit(),
        "fingerprint": dataset.fingerprint,
    }


def _version(library: str) -> str | None:
    try:
        return metadata.version(library)
    except metadata.PackageNotFoundError:
        return None


if __name__ == "__main__":
    run_child(run_trainer)
