"""Cost as the work grows: one, four and sixteen times the rows, tables, transaction, columns and backlog.

python -m tests.benchmarks.growth [--dimension rows tables] [--scale 1] [--runs 5] [--json FILE]
"""

import argparse
import contextlib
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Final

from psycopg import sql

from replicator.demo.roles import render_like, supabase_like
from replicator.demo.worker import command, environment
from tests.benchmarks import frame
from tests.benchmarks.backlog import Backlog, Work, statements
from tests.benchmarks.options import choice, parser, tell
from tests.benchmarks.peers import Replicator
from tests.benchmarks.processes import BenchmarkError, Child, Exit, wait_for
from tests.benchmarks.report import Comparison, Measure
from tests.benchmarks.sample import table_names
from tests.benchmarks.servers import Fingerprint, dropped_at_end, fingerprint, settle
from tests.benchmarks.stage import Lab, prepared, settings_of
from tests.benchmarks.usage import CONSUMER, PEAK_MEMORY, Meter, peak_mebibytes
from tests.benchmarks.workloads import fill_accounts, fill_tables, large, transactions_of, updates
from tests.fixtures.databases import Database

FACTORS: Final = (1, 4, 16)
_NOTES: Final = (
    "rows, tables: `replicator bootstrap`, from its start to its end; transaction, columns, backlog: `replicator run` "
    "from its start until the last change of a backlog is visible",
    "ratios: to the smallest size; the start of the command is in all of them",
    "CPU consumer: replicator's process and, in a bootstrap, the programs that it starts; peak: the memory of "
    "replicator's own process (VmHWM)",
)

Job = Callable[[int], Measure]
"""What is measured of one size, given the number of the run."""


@dataclass(frozen=True, slots=True)
class Size:
    """One factor of one dimension, ready to be measured."""

    name: str
    job: Job


@dataclass(frozen=True, slots=True)
class Dimension:
    """What grows; ``base`` is how much of it there is at factor 1 and scale 1."""

    title: str
    base: int
    ready: Callable[[Lab, int], AbstractContextManager[Job]]


# --- copying ----------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def _copying(lab: Lab, name: str, fill: Work) -> Iterator[Job]:
    source = Database(lab.source, name, supabase_like(lab.source, name))
    with dropped_at_end(source):
        fill(source)
        source.execute("VACUUM ANALYZE", superuser=True)
        expected = fingerprint(source, table_names(source))
        yield lambda run: _bootstrap(lab, source, expected, run)


def _bootstrap(lab: Lab, source: Database, expected: Fingerprint, run: int) -> Measure:
    name = f"{source.name}_{run}"
    target = Database(lab.target, name, render_like(lab.target, name))
    variables = environment(settings_of(source, target, {}))
    log = lab.folder / "bootstrap.log"
    with dropped_at_end(target):
        settle(lab.source, lab.target)
        meter = Meter(lab.source, lab.target)
        with Child([command(), "bootstrap"], variables, log) as child:
            ended, peak = _ended(child, lab.timeout)
        used = {CONSUMER: ended.cpu_seconds, **meter.figures(None)}
        if fingerprint(target, [table for table, *_ in expected]) != expected:
            raise BenchmarkError(f"{name}: the target differs from the source")
        with Child([command(), "cleanup"], variables, log) as child:
            child.succeed(lab.timeout)
    return Measure(ended.seconds, {}, sum(used.values()), {**used, PEAK_MEMORY: peak})


def _ended(child: Child, timeout: float) -> tuple[Exit, float]:
    """Its end, and the memory that it last told of: it cannot be asked any more when it has ended."""
    peaks = [0.0]

    def ended() -> Exit | None:
        peaks.append(peak_mebibytes(child.pid) or peaks[-1])
        return child.poll()

    wait_for(ended, timeout, "replicator bootstrap")
    return child.succeed(timeout), peaks[-1]


def _rows(lab: Lab, rows: int) -> AbstractContextManager[Job]:
    return _copying(lab, f"growth_rows_{rows}", fill_accounts(rows))


def _tables(lab: Lab, tables: int) -> AbstractContextManager[Job]:
    return _copying(lab, f"growth_tables_{tables}", fill_tables(tables))


# --- streaming --------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def _streaming(lab: Lab, backlog: Backlog) -> Iterator[Job]:
    with prepared(lab, backlog) as stage:
        yield lambda run: Replicator().catch_up(stage, run)


def _transaction(lab: Lab, rows: int) -> AbstractContextManager[Job]:
    return _streaming(lab, large(rows))


def _backlog(lab: Lab, transactions: int) -> AbstractContextManager[Job]:
    return _streaming(lab, updates(transactions))


_WIDE_ROWS: Final = 200
"""A transaction."""

_WIDE_TRANSACTIONS: Final = 50


def _columns(lab: Lab, columns: int) -> AbstractContextManager[Job]:
    names = [f"c{number}" for number in range(columns)]
    table = sql.SQL("CREATE TABLE wide (id bigint PRIMARY KEY, {})").format(
        sql.SQL(", ").join(sql.SQL("{} bigint").format(sql.Identifier(name)) for name in names)
    )
    insert = sql.SQL("INSERT INTO wide SELECT i, {values} FROM generate_series((n - 1) * {size} + 1, n * {size}) i")
    body = insert.format(values=sql.SQL(", ").join([sql.SQL("i * 1001")] * columns), size=sql.Literal(_WIDE_ROWS))
    title = f"rows of {columns} columns"
    return _streaming(lab, Backlog("columns", title, statements(table), transactions_of(_WIDE_TRANSACTIONS, body)))


DIMENSIONS: Final[dict[str, Dimension]] = {
    "rows": Dimension("rows in a table, copied", 200_000, _rows),
    "tables": Dimension("tables, copied", 50, _tables),
    "transaction": Dimension("rows inserted by one transaction", 40_000, _transaction),
    "columns": Dimension(f"bigint columns of {_WIDE_TRANSACTIONS * _WIDE_ROWS:,} rows inserted", 20, _columns),
    "backlog": Dimension("single-row updates waiting", 15_000, _backlog),
}


# --- measuring --------------------------------------------------------------------------------------------------------


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print, and return the exit code."""
    made = parser(__doc__)
    choice(made, "--dimension", DIMENSIONS)
    made.add_argument("--scale", type=float, default=1.0, help="of the smallest size, and so of all")
    options = made.parse_args(arguments)
    return frame.run(options, lambda lab: (_compare(lab, name, options) for name in options.dimension), _NOTES)


def _compare(lab: Lab, name: str, options: argparse.Namespace) -> Comparison:
    dimension = DIMENSIONS[name]
    counts = [max(1, round(dimension.base * options.scale)) * factor for factor in FACTORS]
    tell(f"{dimension.title}: preparing {', '.join(map(str, counts))}")
    with contextlib.ExitStack() as stack:
        sizes = [Size(f"{count:,}", stack.enter_context(dimension.ready(lab, count))) for count in counts]
        series = frame.in_turn(name, sizes, options.runs, lambda size, run: size.job(run))
    return Comparison(dimension.title, {}, series, baselines=(sizes[0].name,))


if __name__ == "__main__":
    sys.exit(main())
