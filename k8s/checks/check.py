"""The result of one check before a submission."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Check:
    """A check's result. state is ok, warning, failed or not checked; remedy is empty where none is needed."""

    name: str
    state: str
    message: str
    remedy: str = ""

    @property
    def failed(self) -> bool:
        """Whether the run cannot start."""
        return self.state == "failed"

    def __str__(self) -> str:
        return f"{self.state:<11} {self.name}: {self.message}" + (f"; {self.remedy}" if self.remedy else "")
