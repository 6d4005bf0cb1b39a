"""Which process is busiest while replicator works: the one that has no more to give saturates first."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from tests.benchmarks.peers import CATCH_UP, START_UP_CPU
from tests.benchmarks.report import Series
from tests.benchmarks.usage import CONSUMER, SOURCE, TARGET

_FULL: Final = 0.85
"""Of a core, or of all cores: nobody is busy to the last moment."""

MACHINE: Final = "the machine's cores"
WAITING: Final = "none: they wait for each other"

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
    MACHINE: (
        "Here the worker and both servers share the cores, and together they used them up before any of them was full. "
        "In a migration each has its own: look which of the three is the busiest."
    ),
    WAITING: (
        "Nobody was full. Most of such a time is spent on answers that have to come first: run the worker in the "
        "target's region, so that each of them takes little."
    ),
}
"""What a user does then."""


@dataclass(frozen=True, slots=True)
class Load:
    """Cores that each side kept busy while a backlog was caught up with, start-up apart."""

    shares: dict[str, float]
    cores: int

    @property
    def together(self) -> float:
        """Of all of them."""
        return sum(self.shares.values())

    @property
    def first(self) -> str:
        """Who has the least left."""
        name = max(self.shares, key=lambda side: self.shares[side])
        if self.shares[name] >= _FULL:
            return name
        return MACHINE if self.together >= _FULL * self.cores else WAITING


def load(series: Series, cores: int) -> Load | None:
    """Of replicator's runs on a machine with so many cores; None where nobody could tell."""
    seconds = series.median(CATCH_UP) or series.median()
    used = {side: series.median(side) for side in NAMES}
    start_up = series.median(START_UP_CPU) or 0.0
    if not seconds or None in used.values():
        return None
    own = {side: (value or 0.0) - (start_up if side == CONSUMER else 0.0) for side, value in used.items()}
    return Load({NAMES[side]: value / seconds for side, value in own.items()}, cores)


def most_often(loads: Iterable[Load]) -> list[tuple[str, int]]:
    """Who saturates first, and how often, the most frequent before the others."""
    return Counter(found.first for found in loads).most_common()
