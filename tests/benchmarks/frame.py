"""What all benchmarks with two servers share: options, servers, turns, and the report."""

import argparse
import compileall
import contextlib
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final, Protocol, TypeVar

import bootstrap
import monitoring
import replicator
from tests.benchmarks.options import finish, tell
from tests.benchmarks.report import Comparison, Measure, Series, environment, print_report
from tests.benchmarks.servers import running, version
from tests.benchmarks.stage import Lab
from tests.benchmarks.usage import BUSY_BEFORE, busy_cores

MAJOR: Final = 17
_LOOK: Final = 2.0
"""Seconds for which the machine is looked at before the benchmark begins."""

COMMON_NOTES: Final = (
    f"both sides PostgreSQL {MAJOR} on one machine, fsync, full-page writes and autovacuum off, no checkpoint inside "
    "of a run: what is measured is the programs, not the disk",
    "replicator starts from bytecode, as a package does that pip installed",
)


class Named(Protocol):
    """Something that takes its turn."""

    @property
    def name(self) -> str: ...


T = TypeVar("T", bound=Named)


def run(options: argparse.Namespace, measure: Callable[[Lab], Iterable[Comparison]], notes: Sequence[str]) -> int:
    """Start the servers, measure, print and write the report. Returns the exit code."""
    return finish(lambda: _run(options, measure, notes))


def _run(options: argparse.Namespace, measure: Callable[[Lab], Iterable[Comparison]], notes: Sequence[str]) -> None:
    busy = busy_cores(_LOOK)
    with laboratory(options.timeout) as lab:
        facts = facts_of(lab)
        facts |= {} if busy is None else {BUSY_BEFORE: round(busy, 2)}
        comparisons: list[Comparison] = []
        try:
            comparisons.extend(measure(lab))
        finally:
            # what was measured before one failed is kept
            if comparisons:
                print_report(comparisons, facts, [*notes, *COMMON_NOTES], as_json=options.json)


@contextlib.contextmanager
def laboratory(timeout: float) -> Iterator[Lab]:
    """Both servers, which stop at the end; ``timeout``: seconds for one run."""
    for package in (replicator, bootstrap, monitoring):
        compileall.compile_dir(package.__path__[0], quiet=1)
    with (
        tempfile.TemporaryDirectory(prefix="replicator-benchmark-") as folder,
        running("source", MAJOR) as source,
        running("target", MAJOR) as target,
    ):
        yield Lab(source, target, Path(folder), timeout)


def facts_of(lab: Lab) -> dict[str, Any]:
    """The machine and the versions."""
    return environment(source=version(lab.source), target=version(lab.target))


def in_turn(title: str, participants: Sequence[T], runs: int, once: Callable[[T, int], Measure]) -> tuple[Series, ...]:
    """Each of them once a run, the other way round every second time: nobody always comes first."""
    measures: dict[str, list[Measure]] = {participant.name: [] for participant in participants}
    for number in range(runs):
        for participant in participants[:: -1 if number % 2 else 1]:
            measure = once(participant, number)
            measures[participant.name].append(measure)
            parts = "".join(f", {part} {value:.2f}" for part, value in measure.parts.items())
            tell(f"{title}: run {number + 1}, {participant.name} {measure.seconds:.2f}{parts}")
    return tuple(Series(name, tuple(found)) for name, found in measures.items())
