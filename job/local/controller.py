"""Decides which local workers are started again and how the run ends, as the Job controller does in a cluster."""

from __future__ import annotations

from typing import TYPE_CHECKING

from job.errors import PUBLISHED, Exit
from job.supervisor.restart_policy import LASTING, RestartPolicy

if TYPE_CHECKING:
    from job.telemetry import Record


class Controller:
    """What is known of a run's workers.

    Args:
        workers: how many there are.
        least: the fewest of them that can train without the others; 0 for all.
    """

    def __init__(self, workers: int, least: int = 0) -> None:
        self._restarts = [RestartPolicy() for _ in range(workers)]
        self._may_fail = workers - (least or workers)
        self._failures: dict[int, Record] = {}
        self._codes: dict[int, int] = {}  # of the workers that have exited for good
        self._decisive: tuple[int, int] | None = None  # the worker whose exit decided the run, and its code

    @property
    def all_exited(self) -> bool:
        """Whether all workers have exited for good."""
        return len(self._codes) == len(self._restarts)

    @property
    def is_ending(self) -> bool:
        """Whether the run's result is known: rank 0 has exited for good, or too many other workers have failed.

        A single one is too many if it could not succeed when started again.
        """
        failed = [code for code in self._codes.values() if code]
        return 0 in self._codes or len(failed) > self._may_fail or not all(map(_may_succeed, failed))

    def take_record(self, rank: int, record: Record) -> None:
        """Take note of a worker's record."""
        if record.phase == "failed":
            self._failures[rank] = record
        else:
            self._restarts[rank].record_step(record.step or 0)

    def restart_delay(self, rank: int, code: int) -> float | None:
        """Record a worker's exit; returns the seconds until the worker is started again, None if it is not."""
        failure = self._failures.get(rank)
        may_succeed = _may_succeed(code) and not (failure and failure.reason in LASTING)
        delay_s = self._restarts[rank].next_delay() if may_succeed and not self.is_ending else None
        if delay_s is None:
            self._codes[rank] = code
            if self.is_ending:
                self._decisive = self._decisive or (rank, code)
        return delay_s

    def pop_failure(self, rank: int) -> Record | None:
        """Forget and return the record in which a worker reported its failure, if it sent one."""
        return self._failures.pop(rank, None)

    def result(self) -> tuple[int, int]:
        """The worker that determines how the run ended, and its exit code; only for a run that is ending."""
        if self._codes.get(0) in PUBLISHED:
            return 0, self._codes[0]
        assert self._decisive  # noqa: S101 - is_ending
        return self._decisive  # the others may only have followed it


def _may_succeed(code: int) -> bool:
    """Whether a worker that exited with this code may succeed if it is started again."""
    return code > 128 or code == Exit.TRY_AGAIN
