"""Copying a database: `replicator bootstrap` beside pg_dump, pg_restore and pgcopydb with as many connections.

python -m tests.benchmarks.snapshot [--dataset narrow mixed] [--megabytes 1000 5000] [--jobs 2] [--runs 5] [--json FILE]
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, NamedTuple, Protocol

from replicator.demo.roles import render_like, supabase_like
from replicator.demo.worker import command, environment
from tests.benchmarks import frame, goals
from tests.benchmarks.options import choice, parser, positive, tell
from tests.benchmarks.processes import BenchmarkError, Child, Exit, client_environment
from tests.benchmarks.report import Comparison, Measure, Series
from tests.benchmarks.sample import DATASETS, fill, sizes, table_names
from tests.benchmarks.servers import Fingerprint, dropped_at_end, fingerprint, program, settle
from tests.benchmarks.stage import Lab, settings_of
from tests.benchmarks.usage import CONSUMER, Meter
from tests.fixtures.databases import Database

_EMPTY: Final = "empty database"
_EMPTY_CPU: Final = "CPU empty database"
_DUMP: Final = "dump"
_RESTORE: Final = "restore"
_ANALYZE: Final = "analyze (not in total)"

_NOTES: Final = (
    "all copy over as many connections a side (REPLICATOR_COPY_JOBS, --jobs, --table-jobs); replicator builds indexes "
    "beside that over as many more to the target (REPLICATOR_INDEX_JOBS), the others when the rows are in",
    "pg_dump --format=directory, then pg_restore: the sum of both. pg_dump compresses by default, which costs more "
    "than it saves between fast disks: so it is measured with --compress=none (plain), too",
    "total of replicator: schema, rows, indexes and ANALYZE, start-up included; ANALYZE is not in the total of "
    "pg_dump and pg_restore; pgcopydb runs VACUUM ANALYZE, which is in its total",
    "CPU: all processes together, the servers' included; CPU consumer: replicator with the pg_dump that it starts, or "
    "its peer's programs; per GB (10^9 bytes of tables with TOAST, without indexes) without what a bootstrap of a "
    "database without tables takes: imports, connections, slot, schema dumps",
    "no foreign keys; every run ends with a comparison of all tables (count and hash of all rows)",
)


@dataclass(frozen=True, slots=True)
class Task:
    """A filled source, an empty one, what the first one's tables hold, and over how many connections it is copied."""

    lab: Lab
    source: Database
    empty: Database
    expected: Fingerprint
    jobs: int

    def run(self, arguments: Sequence[str | Path], variables: Mapping[str, str]) -> Exit:
        """Run a program to its end. Raises BenchmarkError."""
        with Child(arguments, variables, self.lab.folder / "log") as child:
            return child.succeed(self.lab.timeout)

    @contextmanager
    def fresh_target(self, name: str) -> Iterator[Database]:
        """An empty target, behind a checkpoint; what was copied into it is compared at the end of the block."""
        target = Database(self.lab.target, name, render_like(self.lab.target, name))
        with dropped_at_end(target):
            settle(self.lab.source, self.lab.target)
            yield target
            found = fingerprint(target, [table for table, *_ in self.expected])
            if found != self.expected:
                wrong = [ours[0] for ours, theirs in zip(self.expected, found, strict=True) if ours != theirs]
                raise BenchmarkError(f"{name}: the target differs from the source in {', '.join(wrong)}")


def _measure(ends: Sequence[Exit], parts: Mapping[str, float], servers: Mapping[str, float]) -> Measure:
    """The programs of one run together, and what the servers used meanwhile."""
    figures = {CONSUMER: sum(end.cpu_seconds for end in ends), **servers}
    return Measure(sum(end.seconds for end in ends), parts, sum(figures.values()), figures)


# --- the ways ---------------------------------------------------------------------------------------------------------


class Way(Protocol):
    """A way to copy a database; only what its total counts is measured."""

    @property
    def name(self) -> str: ...

    def copy(self, task: Task, run: int) -> Measure:
        """Copy into a database of its own."""


class Replicator:
    """`replicator bootstrap`: schema, rows, keys, indexes and statistics."""

    name: Final = goals.COPY

    def copy(self, task: Task, run: int) -> Measure:
        """Copy, and remove what the migration has left."""
        with task.fresh_target(f"replicator_{run}") as target:
            measure = self._bootstrap(task, task.source, target)
        nothing = Database(task.lab.target, f"empty_{run}", render_like(task.lab.target, f"empty_{run}"))
        with dropped_at_end(nothing):
            alone = self._bootstrap(task, task.empty, nothing)
        figures = {**measure.figures, _EMPTY_CPU: alone.figures[CONSUMER]}
        return replace(measure, parts={_EMPTY: alone.seconds}, figures=figures)

    @staticmethod
    def _bootstrap(task: Task, source: Database, target: Database) -> Measure:
        settings = {
            "copy_jobs": task.jobs,
            "index_jobs": task.jobs,
            "pg_bin": str(task.lab.source.installation.programs),
        }
        variables = environment(settings_of(source, target, settings))
        meter = Meter(task.lab.source, task.lab.target)
        ended = task.run([command(), "bootstrap"], variables)
        servers = meter.figures(None)
        task.run([command(), "cleanup"], variables)
        return _measure([ended], {}, servers)


class DumpAndRestore(NamedTuple):
    """pg_dump into a folder, then pg_restore out of it, then the statistics that pg_restore does not make."""

    name: str
    options: Sequence[str]

    def copy(self, task: Task, run: int) -> Measure:
        """Dump and restore."""
        with (
            task.fresh_target(f"restored_{run}") as target,
            tempfile.TemporaryDirectory(dir=task.lab.folder) as folder,
        ):
            pg_dump, pg_restore, vacuumdb = (
                program(task.lab.source, name) for name in ("pg_dump", "pg_restore", "vacuumdb")
            )
            source, destination = client_environment(task.source.dsn), client_environment(target.dsn)
            dump, into = f"{folder}/dump", f"--dbname={target.name}"
            common = (f"--jobs={task.jobs}", "--no-owner", "--no-privileges")
            meter = Meter(task.lab.source, task.lab.target)
            ends = {
                _DUMP: task.run([pg_dump, "--format=directory", *self.options, *common, f"--file={dump}"], source),
                _RESTORE: task.run([pg_restore, *common, "--exit-on-error", into, dump], destination),
            }
            servers = meter.figures(None)
            analyzed = task.run([vacuumdb, "--analyze-only", f"--jobs={task.jobs}", into], destination)
        parts = {part: end.seconds for part, end in ends.items()}
        return _measure(list(ends.values()), {**parts, _ANALYZE: analyzed.seconds}, servers)


class PgCopyDb:
    """`pgcopydb clone`, with the pg_dump of the servers' version.

    Under Supabase's extra_float_digits = 0, pgcopydb 0.10 rounds floats, and the comparison after the run fails. So it
    is told to print them whole.
    """

    name: Final = "pgcopydb"

    @classmethod
    def version(cls) -> str | None:
        """Which one is installed, if any."""
        if not shutil.which(cls.name):
            return None
        answer = subprocess.run([cls.name, "--version"], check=True, capture_output=True, text=True)
        return answer.stdout.split()[2]

    def copy(self, task: Task, run: int) -> Measure:
        """Clone: schema, rows, indexes and statistics."""
        with (
            task.fresh_target(f"pgcopydb_{run}") as target,
            tempfile.TemporaryDirectory(dir=task.lab.folder) as folder,
        ):
            variables = client_environment(target.dsn) | {
                "PGCOPYDB_SOURCE_PGURI": task.source.dsn,
                "PGCOPYDB_TARGET_PGURI": target.dsn,
                "PGOPTIONS": "-c extra_float_digits=3",
                "PATH": f"{program(task.lab.source, 'pg_dump').parent}{os.pathsep}{os.environ['PATH']}",
            }
            jobs = (f"--table-jobs={task.jobs}", f"--index-jobs={task.jobs}")
            meter = Meter(task.lab.source, task.lab.target)
            ended = task.run(
                [self.name, "clone", *jobs, "--no-owner", "--no-acl", f"--dir={folder}/work"],
                variables,
            )
            return _measure([ended], {}, meter.figures(None))


def _ways() -> list[Way]:
    peers: list[Way] = [
        DumpAndRestore("pg_dump + pg_restore", ()),
        DumpAndRestore("pg_dump (plain) + pg_restore", ("--compress=none",)),
    ]
    if PgCopyDb.version():
        peers.append(PgCopyDb())
    return [*peers, Replicator()]


# --- the comparison ---------------------------------------------------------------------------------------------------


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print, and return the exit code."""
    made = parser(__doc__)
    choice(made, "--dataset", DATASETS)
    made.add_argument("--megabytes", nargs="+", type=positive, default=[1000], help="sizes, indexes counted")
    made.add_argument("--jobs", type=positive, default=2, help="connections of each way to each side")
    options = made.parse_args(arguments)
    return frame.run(options, lambda lab: _measure_all(lab, options), _NOTES)


def _measure_all(lab: Lab, options: argparse.Namespace) -> Iterator[Comparison]:
    for megabytes in options.megabytes:
        for dataset in options.dataset:
            yield _compare(lab, dataset, megabytes, options)


def _compare(lab: Lab, dataset: str, megabytes: int, options: argparse.Namespace) -> Comparison:
    title = f"copy, {dataset}, {megabytes:,} MB"
    tell(f"{title}: filling")
    name = f"copy_{dataset}_{megabytes}"
    source = Database(lab.source, name, supabase_like(lab.source, name))
    empty = Database(lab.source, f"{name}_empty", supabase_like(lab.source, f"{name}_empty"))
    ways = _ways()
    with dropped_at_end(source), dropped_at_end(empty):
        fill(source, dataset, megabytes)
        task = Task(lab, source, empty, fingerprint(source, table_names(source)), options.jobs)
        series = frame.in_turn(title, ways, options.runs, lambda way, run: way.copy(task, run))
        facts = _facts(task, series)
    if version := PgCopyDb.version():
        facts[PgCopyDb.name] = version
    return Comparison(title, facts, series, baselines=tuple(way.name for way in ways[:-1]))


def _facts(task: Task, series: Sequence[Series]) -> dict[str, Any]:
    table_bytes, index_bytes = sizes(task.source)
    ours = next(item for item in series if item.name == Replicator.name)
    cpu = (ours.median(CONSUMER) or 0) - (ours.median(_EMPTY_CPU) or 0)
    return {
        "tables": len(task.expected),
        "rows": sum(rows for _, rows, _ in task.expected),
        "MB of tables": round(table_bytes / 1e6),
        "MB of indexes": round(index_bytes / 1e6),
        "connections": task.jobs,
        "replicator's CPU seconds per GB of tables": round(cpu / (table_bytes / 1e9), 2),
    }


if __name__ == "__main__":
    sys.exit(main())
