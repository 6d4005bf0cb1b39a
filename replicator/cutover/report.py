"""What a cutover tells: lines while it runs, and a report at its end."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

Report = Callable[[str], None]
"""Takes one line of progress, for a person."""


@dataclass(frozen=True, slots=True)
class StepTime:
    """How many seconds a step of this run took."""

    step: str
    seconds: float


@dataclass(frozen=True, slots=True)
class CutoverReport:
    """What a cutover, or its rehearsal, did.

    ``downtime_seconds`` runs from the fence until the target was open, by the target's clock; None in a rehearsal.
    ``drain_seconds`` is how far behind the worker was before the fence. ``left_out`` names what the target lacks,
    ``unfinished`` what failed after the target was opened: running `cutover` again tries that again.
    """

    rehearsed: bool
    tables: int
    sequences: int
    drain_seconds: float | None
    downtime_seconds: float | None
    steps: tuple[StepTime, ...]
    left_out: tuple[str, ...]
    unfinished: tuple[str, ...]

    def lines(self) -> list[str]:
        """The report for a person."""
        if self.rehearsed:
            said = [f"rehearsed: {self.tables} tables and {self.sequences} sequences could be cut over now"]
        else:
            carried = f"{self.tables} tables and {self.sequences} sequences"
            said = [f"done: {carried}, {self.downtime_seconds or 0:.2f} s of downtime"]
        said += [f"left out on the target: {what}" for what in self.left_out]
        return said + [f"failed, run cutover again: {what}" for what in self.unfinished]

    def to_json(self) -> dict[str, Any]:
        """The report as one JSON object."""
        return {
            "rehearsed": self.rehearsed,
            "tables": self.tables,
            "sequences": self.sequences,
            "drain_seconds": self.drain_seconds,
            "downtime_seconds": self.downtime_seconds,
            "steps": {item.step: item.seconds for item in self.steps},
            "left_out": list(self.left_out),
            "unfinished": list(self.unfinished),
        }
