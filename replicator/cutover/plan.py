"""What a cutover does next, from any recorded state, an interrupted one too. Pure (law 8).

    fence → drain → sequences → confirm → point of no return → seal → schema → open → validate → refresh → analyze

Before the point of no return a recorded step proves nothing to another process: its fence may have lifted itself since.
So everything up to there is done again, while what lies behind that point is never undone and never repeated.
"""

from collections.abc import Collection, Iterator
from enum import Enum
from typing import Final


class Step(Enum):
    """The steps in their order. The app cannot write from FENCE until OPEN: that is the downtime."""

    FENCE = "fence"
    DRAIN = "drain"
    SEQUENCES = "sequences"
    CONFIRM = "confirm"
    POINT_OF_NO_RETURN = "point-of-no-return"
    SEAL = "seal"
    SCHEMA = "schema"
    OPEN = "open"
    VALIDATE = "validate"
    REFRESH = "refresh"
    ANALYZE = "analyze"

    @property
    def recorded_name(self) -> str:
        """Its name in the control table of steps."""
        return f"cutover:{self.value}"


_ORDER: Final = tuple(Step)
UNDOABLE: Final = _ORDER[: _ORDER.index(Step.POINT_OF_NO_RETURN)]
"""What a failure takes back, as long as the point of no return is not recorded."""


def recorded(names: Collection[str]) -> frozenset[Step]:
    """The steps of a cutover among the names of all recorded steps."""
    return frozenset(step for step in Step if step.recorded_name in names)


def may_undo(done: Collection[Step]) -> bool:
    """Whether the fence may still be lifted and the migration go on streaming."""
    return Step.POINT_OF_NO_RETURN not in done


def remaining(done: Collection[Step]) -> Iterator[Step]:
    """Yield what a process that starts now, or starts again, has to do, in order."""
    for step in _ORDER:
        if step not in done or (may_undo(done) and step in UNDOABLE):
            yield step
