"""What is said of workers that have not joined."""

from __future__ import annotations

from job.rendezvous.messages import Reply
from job.supervisor.peers import Attendance


def test_the_missing_workers_are_named() -> None:
    """By rank, with a count of those that rank 0 does not list, and with rank 0 if it stops to answer after that."""
    attendance = Attendance(100)
    assert attendance.missing == "worker 0 has not answered"
    attendance = attendance.after("worker 0 does not answer at a:1")
    assert (attendance.joined, attendance.missing) == (0, "worker 0 does not answer at a:1")
    attendance = attendance.after(Reply("id", 97, (2, 7), ()))
    assert (attendance.joined, attendance.missing) == (97, "workers 2, 7 and 1 more have not joined")
    attendance = attendance.after(Reply("id", 99, (2,), ()))
    assert (attendance.joined, attendance.missing) == (99, "worker 2 has not joined")
    attendance = attendance.after("worker 0 does not answer at a:1")
    assert attendance.missing == "worker 2 has not joined, and then worker 0 does not answer at a:1"
    assert attendance.joined == 99
