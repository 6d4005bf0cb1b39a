"""Latency: from a commit on the source until it is visible on the target, at a steady rate.

Beside native logical replication, one after the other. `python -m tests.benchmarks.latency --rate 1000`
"""

import argparse
import bisect
import contextlib
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import quantiles
from typing import Final

import psycopg
from psycopg import sql

from tests.benchmarks.backlog import Backlog
from tests.benchmarks.catchup import MAJOR
from tests.benchmarks.options import finish, parser, positive, tell
from tests.benchmarks.peers import Native, Replicator, Stage, Streamer, prepare
from tests.benchmarks.processes import BenchmarkError
from tests.benchmarks.report import Comparison, Measure, Series, environment, print_report
from tests.benchmarks.servers import running, version
from tests.fixtures.databases import Database

_CONSUMERS: Final[tuple[Streamer, ...]] = (Native(), Replicator())
_P50, _P99 = "p50", "p99"
_POLL: Final = 0.001
"""Seconds between two looks at the target: as much is added to every latency, half of it on average."""

_BEATS: Final = Backlog(
    "one-row insert transactions",
    "beats",
    "CREATE TABLE beats (n bigint PRIMARY KEY, body text NOT NULL)",
    sql.SQL("INSERT INTO beats VALUES (0, 'first')").format(),
    sql.SQL("SELECT 1").format(),
    "INSERT INTO beats VALUES (1, 'second')",
    "SELECT true FROM beats WHERE n = 1",
)
_NOTES: Final = (
    f"looked at every {_POLL * 1000:g} ms on the target; the clock begins when the commit has returned to the app",
    "both sides PostgreSQL 17, fsync and autovacuum off, on one machine, app and observer included",
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print, and return the exit code."""
    options = _parser().parse_args(arguments)
    return finish(lambda: _measure_all(options))


def _parser() -> argparse.ArgumentParser:
    made = parser(__doc__)
    made.add_argument("--rate", type=positive, nargs="+", default=[100, 1000], help="transactions a second")
    made.add_argument("--seconds", type=positive, default=10, help="of each run")
    return made


def _measure_all(options: argparse.Namespace) -> None:
    with (
        tempfile.TemporaryDirectory(prefix="replicator-benchmark-") as logs,
        running("source", MAJOR) as source,
        running("target", MAJOR) as target,
    ):
        stage = prepare(_BEATS, source, target, options.timeout, Path(logs))
        comparisons = [_compare(stage, rate, options) for rate in options.rate]
        facts = environment(source=version(source), target=version(target))
    print_report(comparisons, facts, _NOTES, as_json=options.json)


def _compare(stage: Stage, rate: int, options: argparse.Namespace) -> Comparison:
    measures: dict[str, list[Measure]] = {consumer.name: [] for consumer in _CONSUMERS}
    for run in range(options.runs):
        for consumer in _CONSUMERS[:: -1 if run % 2 else 1]:
            with consumer.streaming(stage, f"{rate}_{run}") as target:
                latencies = _latencies(stage.source, target, rate, options.seconds)
            p50, p99 = (1000 * quantiles(latencies, n=100)[n - 1] for n in (50, 99))
            measures[consumer.name].append(Measure(p50, {_P99: p99}))
            tell(f"{rate} a second: run {run + 1}, {consumer.name} p50 {p50:.1f} ms, p99 {p99:.1f} ms")
    return Comparison(
        f"{rate} {_BEATS.name} a second",
        {"seconds": options.seconds},
        tuple(Series(name, tuple(found)) for name, found in measures.items()),
        baselines=(Native.name,),
        compared=_P99,
        unit="ms",
        whole=_P50,
    )


def _latencies(source: Database, target: Database, rate: int, seconds: int) -> list[float]:
    """The seconds that each commit took to be seen. Raises BenchmarkError if the app was not that fast."""
    first = int(source.value("SELECT max(n) + 1 FROM beats"))
    count = rate * seconds
    with _observed(target, first + count - 1) as seen:
        committed = _write(source, first, count, rate)
    if committed[-1] - committed[0] > 1.2 * seconds:
        raise BenchmarkError(f"the app did not reach {rate} transactions a second on this machine")
    numbers = [number for number, _ in seen]
    return [
        max(0.0, seen[bisect.bisect_left(numbers, first + position)][1] - moment)
        for position, moment in enumerate(committed)
    ]


def _write(source: Database, first: int, count: int, rate: int) -> list[float]:
    """Commit so many rows at that rate; the moments at which each commit returned."""
    moments = []
    with psycopg.connect(source.dsn, autocommit=True) as connection:
        began = time.monotonic()
        for position in range(count):
            time.sleep(max(0.0, began + position / rate - time.monotonic()))
            connection.execute("INSERT INTO beats VALUES (%s, 'beat')", [first + position], prepare=True)
            moments.append(time.monotonic())
    return moments


@contextlib.contextmanager
def _observed(target: Database, last: int) -> Iterator[list[tuple[int, float]]]:
    """Watch the target beside the block, and after it until ``last`` is there: the newest row, and when it was seen."""
    seen: list[tuple[int, float]] = []

    def watch() -> None:
        newest, deadline = 0, time.monotonic() + 120
        with psycopg.connect(target.dsn, autocommit=True) as connection:
            while newest < last and time.monotonic() < deadline:
                row = connection.execute("SELECT max(n) FROM beats", prepare=True).fetchone()
                now = time.monotonic()
                if row and row[0] > newest:
                    newest = row[0]
                    seen.append((newest, now))
                time.sleep(_POLL)

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield seen
    finally:
        thread.join()
    if not seen or seen[-1][0] < last:
        raise BenchmarkError("the last row did not arrive")


if __name__ == "__main__":
    sys.exit(main())
