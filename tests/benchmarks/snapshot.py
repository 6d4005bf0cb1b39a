"""Copying a database: `replicator bootstrap` beside pg_dump and pg_restore with as many connections.

python -m tests.benchmarks.snapshot [--megabytes 800] [--target 18] [--jobs 2] [--runs 3] [--json]
"""

import argparse
import itertools
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from replicator.config import Settings
from replicator.demo.roles import render_like, supabase_like
from replicator.demo.servers import Server
from replicator.demo.worker import command, environment
from tests.benchmarks import report
from tests.benchmarks.options import finish, parser, positive, tell
from tests.benchmarks.processes import BenchmarkError, Child, Exit, client_environment
from tests.benchmarks.report import Comparison, Measure, Series, print_report
from tests.benchmarks.sample import fill, sizes, table_names
from tests.benchmarks.servers import Fingerprint, dropped_at_end, fingerprint, program, running, settle, version
from tests.fixtures.databases import Database

SOURCE_MAJOR: Final = 17

_START_UP: Final = "start-up (--version)"
_DUMP: Final = "dump"
_RESTORE: Final = "restore"
_ANALYZE: Final = "analyze (not in total)"


@dataclass(frozen=True, slots=True)
class Job:
    """A filled source, and how it is to be copied; ``timeout`` is seconds for one program."""

    source: Database
    target_server: Server
    expected: Fingerprint
    options: argparse.Namespace
    folder: Path

    @property
    def source_server(self) -> Server:
        """The source's server."""
        assert isinstance(self.source.server, Server)
        return self.source.server

    def run(self, arguments: Sequence[str | Path], variables: dict[str, str]) -> Exit:
        """Run a program to its end. Raises BenchmarkError."""
        with Child(arguments, variables, self.folder / "log") as child:
            return child.succeed(self.options.timeout)

    @contextmanager
    def fresh_target(self, name: str) -> Iterator[Database]:
        """An empty target, behind a checkpoint; what was copied into it is compared at the end of the block."""
        target = Database(self.target_server, name, render_like(self.target_server, name))
        with dropped_at_end(target):
            settle(self.source_server, self.target_server)
            yield target
            found = fingerprint(target, [table for table, *_ in self.expected])
            if found != self.expected:
                wrong = [ours[0] for ours, theirs in zip(self.expected, found, strict=True) if ours != theirs]
                raise BenchmarkError(f"{name}: the target differs from the source in {', '.join(wrong)}")


# --- the two ways -----------------------------------------------------------------------------------------------------


def _replicator(job: Job, run: int) -> Measure:
    """`replicator bootstrap`: schema, rows, keys, indexes and statistics."""
    with job.fresh_target(f"replicator_{run}") as target:
        variables = environment(_settings(job, target))
        ended = job.run([command(), "bootstrap"], variables)
        job.run([command(), "cleanup"], variables)
    alone = job.run([command(), "--version"], variables)
    return Measure(ended.seconds, {_START_UP: alone.seconds}, ended.cpu_seconds)


def _settings(job: Job, target: Database) -> Settings:
    return Settings.model_validate({
        "SOURCE_DATABASE_URL": job.source.dsn,
        "TARGET_DATABASE_URL": target.dsn,
        "copy_jobs": job.options.jobs,
        "index_jobs": job.options.index_jobs,
        "pg_bin": str(job.source_server.installation.programs),
        "http_port": 0,
    })  # fmt: skip


def _dump_and_restore(job: Job, run: int) -> Measure:
    """pg_dump into a folder, then pg_restore out of it, then the statistics that pg_restore does not make."""
    with job.fresh_target(f"restored_{run}") as target, tempfile.TemporaryDirectory(dir=job.folder) as folder:
        ended = {part: job.run(arguments, variables) for part, arguments, variables in _steps(job, target, folder)}
    counted = [ended[_DUMP], ended[_RESTORE]]
    return Measure(
        sum(item.seconds for item in counted),
        {part: item.seconds for part, item in ended.items()},
        sum(item.cpu_seconds for item in counted),
    )


def _steps(job: Job, target: Database, folder: str) -> Iterator[tuple[str, list[str | Path], dict[str, str]]]:
    """What to run: the part's name, the arguments, the environment."""
    source, destination = client_environment(job.source.dsn), client_environment(target.dsn)
    pg_dump, pg_restore, vacuumdb = (program(job.source_server, n) for n in ("pg_dump", "pg_restore", "vacuumdb"))
    jobs, plain, into = f"--jobs={job.options.jobs}", ("--no-owner", "--no-privileges"), f"--dbname={target.name}"
    dump = f"{folder}/dump"
    compress = f"--compress={job.options.compress}"
    yield _DUMP, [pg_dump, "--format=directory", jobs, compress, *plain, f"--file={dump}"], source
    yield _RESTORE, [pg_restore, jobs, *plain, "--exit-on-error", into, dump], destination
    yield _ANALYZE, [vacuumdb, "--analyze-only", jobs, into], destination


_PEER: Final = "pg_dump + pg_restore"
_OURS: Final = "replicator bootstrap"
_WAYS: Final[dict[str, Callable[[Job, int], Measure]]] = {_PEER: _dump_and_restore, _OURS: _replicator}


# --- the comparison ---------------------------------------------------------------------------------------------------


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print, and return the exit code."""
    options = _parser().parse_args(arguments)
    return finish(lambda: _measure_all(options))


def _parser() -> argparse.ArgumentParser:
    made = parser(__doc__)
    made.add_argument("--megabytes", type=positive, default=800, help="size of the source, indexes counted")
    made.add_argument("--small-tables", type=positive, default=200, help="tables of 50 rows besides")
    made.add_argument("--target", type=int, choices=(17, 18), default=18, help="major version of the target")
    made.add_argument("--jobs", type=positive, default=2, help="connections of each way to each side")
    made.add_argument("--index-jobs", type=positive, default=2, help="REPLICATOR_INDEX_JOBS")
    made.add_argument("--compress", default="none", help="pg_dump's; its own default (gzip) is slower")
    return made


def _measure_all(options: argparse.Namespace) -> None:
    with (
        tempfile.TemporaryDirectory(prefix="replicator-benchmark-") as folder,
        running("source", SOURCE_MAJOR) as source_server,
        running("target", options.target) as target_server,
    ):
        tell(f"filling {options.megabytes} MB")
        source = Database(source_server, "bench", supabase_like(source_server, "bench"))
        fill(source, options.megabytes, options.small_tables)
        expected = fingerprint(source, table_names(source))
        comparison = _compare(Job(source, target_server, expected, options, Path(folder)))
        facts = report.environment(source=version(source_server), target=version(target_server))
    print_report([comparison], facts, _notes(options), as_json=options.json)


def _compare(job: Job) -> Comparison:
    measures: dict[str, list[Measure]] = {name: [] for name in _WAYS}
    for run, name in _turns(job.options.runs):
        measure = _WAYS[name](job, run)
        measures[name].append(measure)
        tell(f"run {run + 1}, {name} {measure.seconds:.2f} s")
    series = tuple(Series(name, tuple(found)) for name, found in measures.items())
    return Comparison("copy of a database", _facts(job, series), series, baselines=(_PEER,))


def _turns(runs: int) -> Iterator[tuple[int, str]]:
    """Each way once a run, the other way round every second time: nobody always comes first."""
    return itertools.chain.from_iterable(
        ((run, name) for name in list(_WAYS)[:: -1 if run % 2 else 1]) for run in range(runs)
    )


def _facts(job: Job, series: Sequence[Series]) -> dict[str, float]:
    table_bytes, index_bytes = sizes(job.source)
    facts: dict[str, float] = {
        "MB of tables": round(table_bytes / 1e6),
        "MB of indexes": round(index_bytes / 1e6),
        "tables": len(job.expected),
        "rows": sum(rows for _, rows, _ in job.expected),
    }
    cpu = next(item for item in series if item.name == _OURS).median_cpu()
    if cpu is not None:
        facts["replicator's CPU seconds per GB of tables"] = round(cpu / (table_bytes / 1e9), 2)
    return facts


def _notes(options: argparse.Namespace) -> list[str]:
    return [
        f"both copy over {options.jobs} connections a side (REPLICATOR_COPY_JOBS, --jobs); replicator "
        f"builds indexes beside that over {options.index_jobs} more to the target "
        "(REPLICATOR_INDEX_JOBS), pg_restore over its own when the rows are in",
        f"pg_dump --format=directory --compress={options.compress}, then pg_restore: the sum of both; "
        "replicator's time has ANALYZE in it, theirs has not",
        "no foreign keys; every run ends with a comparison of all tables (count and hash of all rows)",
        "fsync and autovacuum off, a checkpoint before each run, everything on one machine",
        "CPU: seconds of the programs over the whole run, their children's too, the servers' work apart",
    ]


if __name__ == "__main__":
    sys.exit(main())
