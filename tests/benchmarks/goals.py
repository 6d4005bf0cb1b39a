"""The goals, each beside what was measured."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from tests.benchmarks.peers import Floor, Native, Replicator
from tests.benchmarks.report import CPU, Comparison, Report, number

OF_FLOOR: Final = 1.15
"""The most seconds that catching up may take, as a multiple of the floor's."""

AS_FAST_AS_NATIVE: Final = 1.0
CLEARLY_FASTER: Final = 1 / 1.3
"""The most seconds as a multiple of native's: with TPC-B and with inserts, replicator is to be 1.3 times as fast."""

CLEARLY_FASTER_ON: Final = frozenset({"tpcb", "wide-inserts", "thousands", "large", "toast-inserts"})

P50_MS: Final = 5.0
P99_MS: Final = 25.0
LATENCY_OF_NATIVE: Final = 3.0

COPY_OF_PEERS: Final = 0.65
COPY_CPU_PER_GB: Final = 1.5
COPY: Final = "replicator bootstrap"
_CPU_PER_GB: Final = "CPU seconds per GB"

BOUND: Final = "bound"
"""The figure of a peak of memory that it must not exceed."""

WORKLOAD: Final = "workload"
"""The fact that names the workload of a comparison."""


@dataclass(frozen=True, slots=True)
class Goal:
    """``limit`` is the most that ``value`` may be; ``unit`` is what stands behind the figure."""

    subject: str
    value: float
    unit: str
    limit: float

    @property
    def met(self) -> bool:
        """Whether it is not above the limit."""
        return self.value <= self.limit

    def __str__(self) -> str:
        return f"{self.subject}: {number(self.value)} {self.unit} (goal: at most {number(self.limit)})"


def goals(reports: Mapping[str, Report]) -> list[Goal]:
    """Every goal that something was measured for; ``reports`` by the name of the benchmark."""
    readers = {"catchup": _catch_up, "latency": _latency, "snapshot": _copy, "memory": _memory}
    return [
        goal
        for name, read in readers.items()
        if name in reports
        for comparison in reports[name].comparisons
        for goal in read(comparison)
    ]


def most_of_native(workload: str) -> float:
    """The most seconds that a workload may take, as a multiple of native's."""
    return CLEARLY_FASTER if workload in CLEARLY_FASTER_ON else AS_FAST_AS_NATIVE


def _catch_up(comparison: Comparison) -> Iterator[Goal]:
    workload = str(comparison.facts[WORKLOAD])
    subject = f"catch-up, {workload}"
    for baseline, limit in ((Floor.name, OF_FLOOR), (Native.name, most_of_native(workload))):
        yield from _goal(subject, comparison.ratio(Replicator.name, baseline), f"times {baseline}'s seconds", limit)
    cost = comparison.ratio(Replicator.name, Native.name, CPU)
    yield from _goal(subject, cost, f"times {Native.name}'s processor seconds", AS_FAST_AS_NATIVE)


def _latency(comparison: Comparison) -> Iterator[Goal]:
    for name, limit in ((None, P50_MS), ("p99", P99_MS)):
        subject = f"{comparison.title}, {name or comparison.whole}"
        ratio = comparison.ratio(Replicator.name, Native.name, name)
        yield from _goal(subject, comparison.median(Replicator.name, name), comparison.unit, limit)
        yield from _goal(subject, ratio, f"times {Native.name}'s", LATENCY_OF_NATIVE)


def _copy(comparison: Comparison) -> Iterator[Goal]:
    for baseline in comparison.baselines:
        ratio = comparison.ratio(COPY, baseline)
        yield from _goal(comparison.title, ratio, f"times the seconds of {baseline}", COPY_OF_PEERS)
    for fact, value in comparison.facts.items():
        if _CPU_PER_GB in fact:
            yield from _goal(comparison.title, float(value), fact, COPY_CPU_PER_GB)


def _memory(comparison: Comparison) -> Iterator[Goal]:
    for series in comparison.series:
        peak, bound = series.median(), series.median(BOUND)
        if bound is not None:
            yield from _goal(f"{comparison.title}, {series.name}", peak, comparison.unit, bound)


def _goal(subject: str, value: float | None, unit: str, limit: float) -> Iterator[Goal]:
    if value is not None:
        yield Goal(subject, value, unit, limit)
