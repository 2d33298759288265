"""The supervisor's child: makes the TensorFlow worker, trains, and ends with an exit code that says how it went."""

from __future__ import annotations

import dataclasses
import datetime as dt
import os
import platform
import signal
import sys
import threading
import time
import traceback
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import contextmanager, suppress
from importlib import metadata
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any, NoReturn

from job import cpus, process, telemetry
from job.cluster import Cluster, identify
from job.config import Config, parse, settings_hash, settings_to_match
from job.dataset import Dataset, load
from job.errors import Exit, JobError
from job.publish import Output

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from job.promotion import Verdict

# How a collective ends when a peer goes away, by the names of TensorFlow's errors.
LOST_PEER = {"AbortedError", "CancelledError", "UnavailableError"}
A_MOMENT_S = 0.3
LIBRARIES = ("tensorflow", "tensorflow-cpu", "tensorflow-datasets", "numpy")


class Teller:
    """Sends this worker's progress records to the supervisor and, once there is a journal, to the run's folder."""

    def __init__(self, cluster: Cluster, pipe: int) -> None:
        self._cluster = cluster
        self._pipe = os.fdopen(pipe, "w", buffering=1, encoding="utf-8")
        self.journal: Callable[[telemetry.Record], None] | None = None

    def __call__(self, **fields: Any) -> None:
        """Send a record of the given fields."""
        cluster = self._cluster
        record = telemetry.Record(time.time(), cluster.run, cluster.rank, workers=cluster.workers, **fields)
        self._pipe.write(telemetry.to_json(record) + "\n")
        if self.journal:
            self.journal(record)


def main() -> NoReturn:
    """Run one worker, from the command line and the environment that the supervisor gives it."""
    config = parse(sys.argv[1:])
    cluster = identify(os.environ)
    if cluster is None or telemetry.PIPE not in os.environ:
        sys.exit("the trainer is started by a supervisor: run `python -m job train`")
    tell = Teller(cluster, int(os.environ[telemetry.PIPE]))
    try:
        code = run(config, cluster, tell)
    except Exception as error:  # noqa: BLE001 - whatever it is, it becomes an exit code and a sentence
        failure = explain(error, cluster.workers)
        if failure.code == Exit.BUG:
            traceback.print_exc()
        code = failure.code
        fields = {"reason": failure.reason, "message": failure.message, "hint": failure.hint or None}
        with suppress(JobError):  # the journal's, which may be what failed
            tell(phase="failed", code=int(code), **fields)
    # TensorFlow's threads have kept a finished process from exiting for up to 40 s.
    sys.stderr.flush()
    os._exit(code)


def run(config: Config, cluster: Cluster, tell: Teller) -> int:
    """Train as one worker; returns the exit code."""
    began = time.perf_counter() - process.age()
    output = Output(config.output, cluster.run, cluster.job_uid) if cluster.rank == 0 else None
    if output and (verdict := output.verdict()):
        return tell_published(tell, verdict)
    tell(phase="data")
    if output:
        output.probe()
    with ThreadPoolExecutor(1) as pool:
        # Reading and hashing leave the interpreter free, and importing TensorFlow takes longer than both; but what is
        # wrong with the data is found in a moment, and said before it.
        loading = pool.submit(load, config.data, config.dataset)
        if wait([loading], A_MOMENT_S).done:
            loading.result()
        with without("keras"):
            from job import journal, strategy, train  # noqa: PLC0415

        dataset = loading.result()
    tell(phase="joining")
    threads = config.threads or cpus.threads(-(-config.batch_size // cluster.workers))
    joined = strategy.join(cluster, config.device, threads)
    # Only now, for TensorFlow's server has put a handler of its own in the place of Python's.
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    worker = train.Worker(cluster, joined, tell, stop.is_set, began)
    if output is None:
        return train.train_and_evaluate(config, worker, dataset, None)
    with output.begin(description(config, cluster, dataset, threads)) as published:
        if published:
            return tell_published(tell, published)
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


def tell_published(tell: Teller, verdict: Verdict) -> int:
    """Say that the run was published before; returns its exit code."""
    tell(phase="published", code=verdict.code, reason=verdict.verdict, message=f"published before: {verdict.reason}")
    return verdict.code


def description(config: Config, cluster: Cluster, dataset: Dataset, threads: int) -> dict[str, Any]:
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


def explain(error: Exception, workers: int) -> JobError:
    """The exit code, reason and sentence of what ended the training of one of so many workers."""
    if isinstance(error, JobError):
        return error
    name, first_line = type(error).__name__, (str(error).splitlines() or [""])[0]
    if workers > 1 and type(error).__module__.startswith("tensorflow") and name in LOST_PEER:
        return JobError(Exit.TRY_AGAIN, "peer-lost", f"a peer was lost: {name}: {first_line}", "start the run again")
    # The last place in this project's own code: below it are TensorFlow's depths, and code that it generated.
    frames = traceback.extract_tb(error.__traceback__)
    place = [frame for frame in frames if Path(frame.filename).parent == Path(__file__).parent][-1]
    message = f"{name} at {place.filename}:{place.lineno}: {first_line}"
    return JobError(Exit.BUG, "bug", message, "please report it with the lines above")


def _version(library: str) -> str | None:
    try:
        return metadata.version(library)
    except metadata.PackageNotFoundError:
        return None


if __name__ == "__main__":
    main()
