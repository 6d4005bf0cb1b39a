"""The worker's peak memory: huge rows, a huge transaction, thousands of tables, a target that stands still.

The bound is 256 MiB plus four times the largest row, as the text that travels: a bytea's is twice its size.

python -m tests.benchmarks.memory [--case rows transaction tables standstill] [--row 100] [--json FILE]
"""

import argparse
import contextlib
import itertools
import json
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import psycopg
from rich.console import Console
from rich.table import Table

from replicator.config import MIB
from replicator.demo.roles import SUPABASE_ROLE, render_like, supabase_like
from replicator.demo.worker import command, environment
from tests.benchmarks import frame
from tests.benchmarks.options import DONE, FAILED, choice, finish, parser, positive, tell
from tests.benchmarks.processes import BenchmarkError, Child, wait_for
from tests.benchmarks.servers import dropped_at_end, fingerprint
from tests.benchmarks.stage import Lab, settings_of
from tests.benchmarks.usage import peak_mebibytes
from tests.fixtures.databases import Database

BASE_MIB: Final = 256
ROWS: Final = 4
"""The bound: so much, and so many times the largest row."""

_NUMBERS: Final = itertools.count(1)
_ROW_BY_ROW: Final = 1_000_000


@dataclass(frozen=True, slots=True)
class Peak:
    """The most memory that the worker had resident (VmHWM) during one case."""

    case: str
    row_mib: float
    peak_mib: float

    @property
    def bound_mib(self) -> float:
        """What was promised."""
        return BASE_MIB + ROWS * self.row_mib


class Observed:
    """A worker that runs, from its start to the end of the block."""

    def __init__(self, lab: Lab, source: Database, target: Database, child: Child) -> None:
        self.source, self.target, self.lab = source, target, lab
        self._child = child

    def peak(self) -> float:
        """MiB, since the beginning or the last call; the next call tells of what comes after this one."""
        found = peak_mebibytes(self._child.pid)
        if found is None:
            raise self._child.failure("the worker has ended")
        Path(f"/proc/{self._child.pid}/clear_refs").write_text("5")
        return found

    def wait_streaming(self) -> None:
        """Until everything is copied."""
        self._wait("SELECT phase = 'streaming' FROM replicator.migration", "streaming")

    def wait_applied(self) -> None:
        """Until the target has everything."""
        lsn = self.source.value("SELECT pg_current_wal_lsn()::text")
        self._wait(f"SELECT lsn >= '{lsn}' FROM replicator.progress", "caught up")

    def _wait(self, query: str, what: str) -> None:
        def done() -> bool | None:
            if self._child.poll() is not None:
                raise self._child.failure("the worker has ended")
            with contextlib.suppress(psycopg.errors.UndefinedTable, psycopg.errors.InvalidSchemaName, ValueError):
                return bool(self.target.value(query)) or None
            return None

        wait_for(done, self.lab.timeout, what, interval=0.1)

    def assert_equal(self, *tables: str) -> None:
        """A run that moved something else is none. Raises BenchmarkError."""
        if fingerprint(self.source, tables) != fingerprint(self.target, tables):
            raise BenchmarkError("the target differs from the source")


@contextlib.contextmanager
def _observed(lab: Lab, *statements: str, **settings: Any) -> Iterator[Observed]:
    name = f"memory_{next(_NUMBERS)}"
    with contextlib.ExitStack() as stack:
        source = Database(lab.source, name, supabase_like(lab.source, name))
        target = Database(lab.target, name, render_like(lab.target, name))
        for database in (source, target):
            stack.enter_context(dropped_at_end(database))
        source.execute(f"ALTER ROLE {SUPABASE_ROLE} IN DATABASE {name} SET statement_timeout = 0", superuser=True)
        for statement in statements:
            source.execute(statement)
        variables = environment(settings_of(source, target, {"keyless": "full", **settings}))
        child = stack.enter_context(Child([command(), "run"], variables, lab.folder / f"{name}.log"))
        yield Observed(lab, source, target, child)
        child.stop()
        with Child([command(), "cleanup"], variables, lab.folder / f"{name}_cleanup.log") as cleanup:
            cleanup.succeed(lab.timeout)


# --- cases ------------------------------------------------------------------------------------------------------------


def _rows(lab: Lab, row_mib: int) -> Iterator[Peak]:
    """Rows whose bytea is so large, one transaction each."""
    text = row_mib * 2.0
    value = f"convert_to(repeat('x', {row_mib * MIB}), 'UTF8')"
    tables = [
        "CREATE TABLE keyed (id int PRIMARY KEY, note text, body bytea)",
        "CREATE TABLE whole (id int, note text, body bytea)",
        "ALTER TABLE keyed ALTER body SET STORAGE EXTERNAL; ALTER TABLE whole ALTER body SET STORAGE EXTERNAL",
        f"INSERT INTO keyed VALUES (1, 'a', {value}), (2, 'a', {value})",
        f"INSERT INTO whole VALUES (1, 'a', {value}), (2, 'a', {value})",
    ]
    with _observed(lab, *tables) as worker:
        worker.wait_streaming()
        worker.wait_applied()
        yield Peak("copy of 4 rows", text, worker.peak())
        steps = {
            "insert": f"INSERT INTO keyed VALUES (3, 'a', {value})",
            "3 inserts in one transaction": f"INSERT INTO keyed SELECT n, 'a', {value} FROM generate_series(4, 6) n",
            "3 inserts, a transaction each": "DO $$BEGIN FOR i IN 7..9 LOOP"
            f" INSERT INTO keyed VALUES (i, 'a', {value}); COMMIT; END LOOP; END$$",
            "update that leaves the value alone": "UPDATE keyed SET note = 'b' WHERE id = 3",
            "insert, then such an update": f"BEGIN; INSERT INTO keyed VALUES (10, 'a', {value});"
            " UPDATE keyed SET note = 'b' WHERE id = 10; COMMIT",
            "delete by key": "DELETE FROM keyed WHERE id = 3",
            "update under FULL": "UPDATE whole SET note = 'b' WHERE id = 1",
            "update of the value itself": "UPDATE keyed SET body = body || '1' WHERE id = 4",
            "update of the value itself under FULL": "UPDATE whole SET body = body || '1' WHERE id = 2",
            "delete under FULL": "DELETE FROM whole WHERE id = 1",
        }
        for name, statement in steps.items():
            worker.source.execute(statement)
            worker.wait_applied()
            yield Peak(name, text, worker.peak())
        worker.assert_equal("keyed", "whole")


def _transaction(lab: Lab, _: int) -> Iterator[Peak]:
    """One of 1 GB, sent before it commits, and one that its savepoints' rollback makes small."""
    fill = "INSERT INTO t SELECT n, repeat(md5(n::text), 30) FROM generate_series({}, {}) n"
    with _observed(lab, "CREATE TABLE t (id int PRIMARY KEY, body text)") as worker:
        worker.wait_streaming()
        worker.peak()
        worker.source.execute(fill.format(1, _ROW_BY_ROW))
        worker.wait_applied()
        yield Peak("transaction of 1 GB", 0.001, worker.peak())
        worker.assert_equal("t")


def _tables(lab: Lab, _: int) -> Iterator[Peak]:
    """10,000, copied, then changed."""
    make = (
        "DO $$BEGIN FOR i IN {0}..{0} + 999 LOOP EXECUTE format('CREATE TABLE t_%s (id int PRIMARY KEY, a text)', i);"
    )
    change = (
        "DO $$BEGIN FOR i IN 1..10000 LOOP EXECUTE format('INSERT INTO t_%s VALUES (1)', i); COMMIT; END LOOP; END$$"
    )
    with _observed(lab, *((make + " END LOOP; END$$").format(first) for first in range(1, 10_001, 1000))) as worker:
        worker.wait_streaming()
        worker.wait_applied()
        yield Peak("copy of 10,000 tables", 0.001, worker.peak())
        worker.source.execute(change)
        worker.wait_applied()
        yield Peak("a change in each of them", 0.001, worker.peak())


def _standstill(lab: Lab, _: int) -> Iterator[Peak]:
    """A target that waits for a lock while 1.5 GB of WAL arrive, in small transactions."""
    write = (
        "DO $$BEGIN FOR i IN 1..{} LOOP INSERT INTO t SELECT i * 100 + n, repeat(md5(n::text), 30)"
        " FROM generate_series(1, 100) n; COMMIT; END LOOP; END$$"
    )
    with _observed(lab, "CREATE TABLE t (id int PRIMARY KEY, body text)") as worker:
        worker.wait_streaming()
        worker.peak()
        with psycopg.connect(worker.target.superuser_dsn) as holder:
            holder.execute("LOCK TABLE t IN ACCESS EXCLUSIVE MODE")
            worker.source.execute(write.format(14_000))
            time.sleep(10)
        yield Peak("a target that stands still while 1.5 GB arrive", 0.001, worker.peak())
        worker.wait_applied()
        yield Peak("catching up with them", 0.001, worker.peak())
        worker.assert_equal("t")


CASES: Final[dict[str, Callable[[Lab, int], Iterator[Peak]]]] = {
    "rows": _rows,
    "transaction": _transaction,
    "tables": _tables,
    "standstill": _standstill,
}


# --- the report -------------------------------------------------------------------------------------------------------


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print, and return the exit code: 1 too if a peak is beyond the bound."""
    made = parser(__doc__)
    choice(made, "--case", CASES)
    made.add_argument("--row", type=positive, default=100, help="MiB of the largest value")
    options = made.parse_args(arguments)
    peaks: list[Peak] = []
    return finish(lambda: peaks.extend(_measure(options))) or _verdict(peaks)


def _measure(options: argparse.Namespace) -> list[Peak]:
    peaks = []
    with frame.laboratory(options.timeout) as lab:
        for case in options.case:
            for peak in CASES[case](lab, options.row):
                tell(f"{peak.case}: {peak.peak_mib:.0f} MiB of {peak.bound_mib:.0f}")
                peaks.append(peak)
        facts = frame.facts_of(lab)
    _print(peaks, facts)
    if options.json:
        found = [{**asdict(peak), "bound_mib": peak.bound_mib} for peak in peaks]
        options.json.write_text(json.dumps({"environment": dict(facts), "peaks": found}, indent=2) + "\n")
    return peaks


def _print(peaks: Sequence[Peak], facts: dict[str, Any]) -> None:
    console = Console(width=None if sys.stdout.isatty() else 120)
    console.print(", ".join(f"{name} {value}" for name, value in facts.items()), soft_wrap=True, highlight=False)
    table = Table(title="peak memory of the worker (VmHWM)", title_justify="left")
    for heading in ("MiB", "largest row", "peak", "bound", "peak / bound"):
        table.add_column(heading, justify="left" if heading == "MiB" else "right")
    for peak in peaks:
        figures = (f"{peak.row_mib:.0f}", f"{peak.peak_mib:.0f}", f"{peak.bound_mib:.0f}")
        table.add_row(peak.case, *figures, f"{peak.peak_mib / peak.bound_mib:.2f}")
    console.print(table)


def _verdict(peaks: Sequence[Peak]) -> int:
    return FAILED if any(peak.peak_mib > peak.bound_mib for peak in peaks) else DONE


if __name__ == "__main__":
    sys.exit(main())
