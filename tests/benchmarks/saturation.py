"""Which process is busiest while replicator works: the one that has no more to give saturates first."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from tests.benchmarks.peers import CATCH_UP, START_UP_CPU
from tests.benchmarks.report import Series
from tests.benchmarks.usage import CONSUMER, SOURCE, TARGET

_BUSY: Final = 0.7
"""Of one core. Below, no process is full: they wait for each other, or for a core."""

WAITING: Final = "none is full"

NAMES: Final = {CONSUMER: "the worker", SOURCE: "the source", TARGET: "the target"}

REMEDIES: Final = {
    NAMES[CONSUMER]: (
        "The worker is one process and reads the stream on one core: give it a core that it need not share (a plan "
        "with a whole CPU, in the target's region), and do not run it beside one of the servers. No setting makes it "
        "use a second core."
    ),
    NAMES[SOURCE]: (
        "The source's walsender decodes on one core, whoever reads: nothing after it can be faster. Give the source a "
        "larger plan for the move, raise `logical_decoding_work_mem` if large transactions spill to its disk, and move "
        "bulk jobs out of the days of the migration."
    ),
    NAMES[TARGET]: (
        "The target applies in one session: what its indexes and its disk cost is what is left to save. Give it a "
        "larger plan for the move, and make indexes that only reports need after the cutover."
    ),
    WAITING: (
        "No process had a core full: they took turns, or shared too few cores. Two cores more, or the worker on a "
        "machine of its own, help first."
    ),
}
"""What a user does then."""


@dataclass(frozen=True, slots=True)
class Load:
    """Cores that each side kept busy while a backlog was caught up with, start-up apart."""

    shares: dict[str, float]

    @property
    def first(self) -> str:
        """Who has the least left."""
        name = max(self.shares, key=lambda side: self.shares[side])
        return name if self.shares[name] >= _BUSY else WAITING


def load(series: Series) -> Load | None:
    """Of replicator's runs; None where nobody could tell."""
    seconds = series.median(CATCH_UP) or series.median()
    used = {side: series.median(side) for side in NAMES}
    start_up = series.median(START_UP_CPU) or 0.0
    if not seconds or None in used.values():
        return None
    own = {side: (value or 0.0) - (start_up if side == CONSUMER else 0.0) for side, value in used.items()}
    return Load({NAMES[side]: value / seconds for side, value in own.items()})


def most_often(loads: Iterable[Load]) -> list[tuple[str, int]]:
    """Who saturates first, and how often, the most frequent before the others."""
    return Counter(found.first for found in loads).most_common()
