"""Catching up with a backlog: replicator beside native logical replication and the floor.

python -m tests.benchmarks.catchup [--transactions 300000] [--rows 500000] [--runs 3] [--json]
"""

import argparse
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from replicator.demo.servers import Server
from tests.benchmarks.backlog import Backlog, inserts, updates
from tests.benchmarks.options import finish, parser, positive, tell
from tests.benchmarks.peers import CATCH_UP, Consumer, Floor, Native, Replicator, Stage, prepare
from tests.benchmarks.report import Comparison, Measure, Series, environment, print_report
from tests.benchmarks.servers import running, version

MAJOR: Final = 17

_CONSUMERS: Final[tuple[Consumer, ...]] = (Floor(), Native(), Replicator())
_NOTES: Final = (
    "each run begins on a copy of the same slot and of the same target, after a checkpoint, and is compared with the "
    "source after it (count and hash of all rows)",
    "total: from the start of the consumer until the last change is visible; start-up: until it has taken the slot",
    "floor: pg_recvlogical -f /dev/null; native: CREATE SUBSCRIPTION with the defaults; both sides PostgreSQL "
    f"{MAJOR}, fsync and autovacuum off, on one machine",
    "CPU: seconds of the consumer's own process over the whole run (native: its apply worker), the servers' work apart",
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print, and return the exit code."""
    options = _parser().parse_args(arguments)
    return finish(lambda: _measure_all(options))


def _parser() -> argparse.ArgumentParser:
    made = parser(__doc__)
    made.add_argument("--transactions", type=int, default=300_000, help="one-row updates; 0: leave them out")
    made.add_argument("--rows", type=int, default=500_000, help="inserts; 0: leave them out")
    made.add_argument("--base-rows", type=positive, default=100_000, help="rows before the backlog; updates hit them")
    made.add_argument("--rows-per-transaction", type=positive, default=100, help="of the inserts")
    return made


def _measure_all(options: argparse.Namespace) -> None:
    with (
        tempfile.TemporaryDirectory(prefix="replicator-benchmark-") as logs,
        running("source", MAJOR) as source,
        running("target", MAJOR) as target,
    ):
        comparisons = [
            _compare(_prepare(backlog, source, target, options.timeout, Path(logs)), options.runs)
            for backlog in _backlogs(options)
        ]
        facts = environment(source=version(source), target=version(target))
    print_report(comparisons, facts, _NOTES, as_json=options.json)


def _backlogs(options: argparse.Namespace) -> list[Backlog]:
    backlogs = []
    if options.transactions:
        backlogs.append(updates(options.transactions, options.base_rows))
    if options.rows:
        backlogs.append(inserts(options.rows, options.base_rows, options.rows_per_transaction))
    return backlogs


def _prepare(backlog: Backlog, source: Server, target: Server, timeout: float, logs: Path) -> Stage:
    tell(f"{backlog.name}: preparing")
    return prepare(backlog, source, target, timeout, logs)


def _compare(stage: Stage, runs: int) -> Comparison:
    measures: dict[str, list[Measure]] = {consumer.name: [] for consumer in _CONSUMERS}
    for run in range(runs):
        # the other way round every second time: nobody always comes first
        for consumer in _CONSUMERS[:: -1 if run % 2 else 1]:
            measure = consumer.catch_up(stage, run)
            measures[consumer.name].append(measure)
            tell(f"{stage.backlog.name}: run {run + 1}, {consumer.name} {measure.seconds:.2f} s")
    return Comparison(
        stage.backlog.name,
        {"MB of WAL": round(stage.wal_bytes / 1e6)},
        tuple(Series(name, tuple(found)) for name, found in measures.items()),
        baselines=(Floor.name, Native.name),
        compared=CATCH_UP,
    )


if __name__ == "__main__":
    sys.exit(main())
