"""Latency: from a commit on the source until it is visible on the target, at a steady rate.

Beside native logical replication. python -m tests.benchmarks.latency [--rate 100 1000] [--seconds 10] [--json FILE]
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

from tests.benchmarks import frame
from tests.benchmarks.backlog import Backlog, statements
from tests.benchmarks.options import parser, positive
from tests.benchmarks.peers import STREAMERS, Native, Streamer
from tests.benchmarks.pgbench import pgbench
from tests.benchmarks.processes import BenchmarkError, wait_for
from tests.benchmarks.report import Comparison, Measure
from tests.benchmarks.stage import Lab, Stage, prepared
from tests.fixtures.databases import Database

_P50, _P99, _P999 = "p50", "p99", "p99.9"
_POLL: Final = 0.001
"""Seconds between two looks at the target: as much is added to every latency, half of it on average."""

_WARM_UP: Final = 2
"""Seconds at the beginning of each run that do not count: sessions open, plans are made."""

_BEATS: Final = Backlog(
    "beats",
    "one-row insert transactions",
    statements(sql.SQL("CREATE TABLE beats (n bigserial PRIMARY KEY, body text NOT NULL)")),
    statements(sql.SQL("INSERT INTO beats (body) VALUES ('first')")),
)
_NEWEST: Final = "SELECT n FROM beats ORDER BY n DESC LIMIT 1"

_NOTES: Final = (
    f"looked at every {_POLL * 1000:g} ms on the target; the clock begins when the commit has returned to the app; "
    f"the first {_WARM_UP} seconds do not count, nor does catching up with earlier runs",
    "the app is pgbench with one client, its transactions at random moments (--rate); app and observer run on the same "
    "machine and take their share of it",
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print, and return the exit code."""
    made = parser(__doc__)
    made.add_argument("--rate", type=positive, nargs="+", default=[100, 1000], help="transactions a second")
    made.add_argument("--seconds", type=positive, default=10, help="of each run that count")
    options = made.parse_args(arguments)
    return frame.run(options, lambda lab: _measure_all(lab, options), _NOTES)


def _measure_all(lab: Lab, options: argparse.Namespace) -> Iterator[Comparison]:
    with prepared(lab, _BEATS) as stage:
        for rate in options.rate:
            yield _compare(stage, rate, options)


def _compare(stage: Stage, rate: int, options: argparse.Namespace) -> Comparison:
    def once(streamer: Streamer, run: int) -> Measure:
        stage.settle()
        with streamer.streaming(stage, f"{streamer.name}_{rate}_{run}") as target:
            found = quantiles(_latencies(stage, target, rate, options.seconds), n=1000, method="inclusive")
        p50, p99, p999 = (1000 * found[permille - 1] for permille in (500, 990, 999))
        return Measure(p50, {_P99: p99, _P999: p999})

    return Comparison(
        f"{rate:,} {_BEATS.title} a second",
        {"seconds": options.seconds},
        frame.in_turn(f"{rate} a second", STREAMERS, options.runs, once),
        baselines=(Native.name,),
        compared=_P99,
        unit="ms",
        whole=_P50,
    )


def _latencies(stage: Stage, target: Database, rate: int, seconds: int) -> list[float]:
    """The seconds that each commit took to be seen. Raises BenchmarkError if the app was not that fast."""
    newest = int(stage.source.value(_NEWEST))
    # a target begins before all the beats of earlier runs
    wait_for(lambda: _reached(target, newest), 120, "the beats of earlier runs")
    first, count = newest + 1, rate * (seconds + _WARM_UP)
    with _observed(target, first + count - 1) as seen:
        committed = _committed(stage, rate, count)
    if committed[-1] - committed[0] > 1.2 * (seconds + _WARM_UP):
        raise BenchmarkError(f"the app did not reach {rate} transactions a second on this machine")
    numbers = [number for number, _ in seen]
    latencies = [
        max(0.0, seen[bisect.bisect_left(numbers, first + position)][1] - moment)
        for position, moment in enumerate(committed)
    ]
    return latencies[rate * _WARM_UP :]


def _reached(target: Database, number: int) -> bool | None:
    return target.value("SELECT coalesce(max(n), -1) FROM beats") >= number or None


def _committed(stage: Stage, rate: int, count: int) -> list[float]:
    """Commit so many rows at that rate, at random intervals; the moments at which each commit returned (Unix)."""
    with tempfile.TemporaryDirectory(dir=stage.lab.folder) as folder:
        script = Path(folder, "script")
        script.write_text("INSERT INTO beats (body) VALUES ('beat');")
        pgbench(
            stage.source,
            *("--no-vacuum", "--protocol=prepared", "--client=1", f"--rate={rate}", f"--transactions={count}"),
            *("--random-seed=7", f"--file={script}", "--log", f"--log-prefix={folder}/log"),
        )
        (log,) = Path(folder).glob("log.*")
        # the log's fields 5 and 6 are the end of the transaction: seconds and microseconds (pgbench's documentation)
        lines = [line.split() for line in log.read_text().splitlines()]
    return [int(fields[4]) + int(fields[5]) / 1e6 for fields in lines]


@contextlib.contextmanager
def _observed(target: Database, last: int) -> Iterator[list[tuple[int, float]]]:
    """Watch the target beside the block, and after it until ``last`` is there: the newest row, and when it was seen."""
    seen: list[tuple[int, float]] = []

    def watch() -> None:
        newest, deadline = 0, time.monotonic() + 120
        with psycopg.connect(target.dsn, autocommit=True) as connection:
            # a plan that was made for the empty table would read all of it for ever
            connection.execute("SET enable_seqscan = off")
            while newest < last and time.monotonic() < deadline:
                row = connection.execute(_NEWEST, prepare=True).fetchone()
                now = time.time()
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
