"""What a cutover has to be told before it begins."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from replicator.errors import CutoverError, Reason, Side


@dataclass(frozen=True, slots=True)
class Obstacle:
    """Something that stands in the way, and what removes it."""

    message: str
    remedy: str
    side: Side = Side.SOURCE


_AGAIN: Final = "When nothing stands in the way any more, run `replicator cutover` again."


class ObstructedError(CutoverError):
    """Something stands in the way; ``outcome`` is what became of a cutover that had begun."""

    def __init__(self, obstacles: Sequence[Obstacle], outcome: str = "") -> None:
        what = "the cutover cannot begin: " + "; ".join(item.message for item in obstacles)
        super().__init__(
            f"{what}; {outcome}" if outcome else what,
            hint=" ".join(dict.fromkeys(f"{item.remedy}." for item in obstacles)),
            side=obstacles[0].side,
        )
        self.obstacles = tuple(obstacles)
        self._outcome = outcome

    @property
    def reasons(self) -> Sequence[Reason]:
        """One an obstacle, then the outcome."""
        found = [Reason(item.side, item.message, f"{item.remedy}.") for item in self.obstacles]
        if self._outcome:
            found.append(Reason(Side.SOURCE, f"nothing was switched: {self._outcome}", _AGAIN))
        return found
