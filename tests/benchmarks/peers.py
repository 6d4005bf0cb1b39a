"""The consumers of a backlog: the floor, native logical replication, and replicator.

Each begins at the same place, on a slot and a target database of its own that are copies. The clock runs from the
start of the consumer until the backlog's last change is visible on the target; start-up is the part of it until the
consumer has taken the slot.
"""

import contextlib
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Protocol

import psycopg
from psycopg import sql

from replicator.config import Settings
from replicator.demo.roles import render_like, supabase_like
from replicator.demo.servers import Server
from replicator.demo.worker import command, environment
from tests.benchmarks.backlog import Backlog
from tests.benchmarks.processes import BenchmarkError, Child, client_environment, cpu_seconds_of, wait_for
from tests.benchmarks.report import Measure
from tests.benchmarks.servers import Fingerprint, copied_database, copied_slot, fingerprint, program, settle
from tests.fixtures.databases import Database

START_UP: Final = "start-up"
CATCH_UP: Final = "catch-up"
_START_UP_CPU: Final = "start-up CPU"

_POLL: Final = 0.01


@dataclass(frozen=True, slots=True)
class Stage:
    """A backlog that waits in a slot, and the target as it was before: what every consumer's run is copied from.

    ``last`` is an LSN before which lies all of the backlog but its last change; ``timeout`` is seconds for one run.
    """

    backlog: Backlog
    source: Database
    base: Database
    slot: str
    publications: tuple[str, ...]
    last: str
    expected: Fingerprint
    wal_bytes: int
    timeout: float
    logs: Path

    @property
    def source_server(self) -> Server:
        """The source's server."""
        return _embedded(self.source)

    @property
    def target_server(self) -> Server:
        """The server that all targets of this stage are on."""
        return _embedded(self.base)

    def check(self, target: Database, consumer: str) -> None:
        """Compare the target with the source: a fast but wrong run is none. Raises BenchmarkError."""
        found = fingerprint(target, [self.backlog.table])
        if found != self.expected:
            raise BenchmarkError(f"{consumer}: the target has {found}, the source {self.expected}")


def _embedded(database: Database) -> Server:
    assert isinstance(database.server, Server)
    return database.server


# --- preparing --------------------------------------------------------------------------------------------------------


def prepare(backlog: Backlog, source_server: Server, target_server: Server, timeout: float, logs: Path) -> Stage:
    """Fill a source, bootstrap a target with replicator, stop, and then let the backlog grow."""
    name = f"bench_{backlog.table}"
    source = Database(source_server, name, supabase_like(source_server, name))
    base = Database(target_server, name, render_like(target_server, name))
    backlog.start(source)
    with Child([command(), "bootstrap"], environment(settings_of(source, base)), logs / "bootstrap.log") as child:
        child.succeed(timeout)
    ((slot, publications),) = base.fetch("SELECT slot, publications FROM replicator.migration")
    wal_bytes, last = backlog.grow(source)
    expected = fingerprint(source, [backlog.table])
    return Stage(backlog, source, base, slot, tuple(publications), last, expected, wal_bytes, timeout, logs)


def settings_of(source: Database, target: Database) -> Settings:
    """The defaults, without the HTTP port."""
    return Settings.model_validate(
        {"SOURCE_DATABASE_URL": source.dsn, "TARGET_DATABASE_URL": target.dsn, "http_port": 0}
    )


# --- consumers --------------------------------------------------------------------------------------------------------


class Consumer(Protocol):
    """Something that catches up with a backlog."""

    name: str

    def catch_up(self, stage: Stage, run: int) -> Measure:
        """Do it once. Raises BenchmarkError."""


class Streamer(Protocol):
    """Something that goes on streaming once it has caught up."""

    name: str

    def streaming(self, stage: Stage, run: str) -> contextlib.AbstractContextManager[Database]:
        """Stream into a target of its own while the block runs, caught up from its beginning."""


class Floor:
    """`pg_recvlogical -f /dev/null`: what the source's own decoding and sending take."""

    name = "floor"

    def catch_up(self, stage: Stage, run: int) -> Measure:
        """Receive all WAL that there is."""
        end = stage.source.value("SELECT pg_current_wal_flush_lsn()::text")
        with copied_slot(stage.source, stage.slot, f"floor_{run}") as slot:
            settle(stage.source_server, stage.target_server)
            arguments: list[str | Path] = [
                program(stage.source_server, "pg_recvlogical"),
                *self._arguments(stage, slot, end),
            ]
            with Child(arguments, client_environment(stage.source.dsn), stage.logs / "floor.log") as child:
                taken = _when_taken(stage, slot, child)
                ended = child.succeed(stage.timeout)
        return _measure(child.started_at, taken, child.started_at + ended.seconds, ended.cpu_seconds)

    def _arguments(self, stage: Stage, slot: str, end: str) -> list[str]:
        names = ",".join(f'"{name}"' for name in stage.publications)
        return [
            *("--start", "--no-loop", "--file=/dev/null", "--fsync-interval=0", f"--endpos={end}"),
            *(f"--dbname={stage.source.name}", f"--slot={slot}"),
            # as replicator asks for it
            *("--option=proto_version=2", f"--option=publication_names={names}", "--option=messages=true"),
        ]


class Native:
    """CREATE SUBSCRIPTION with the defaults of PostgreSQL 17 (streaming off) on the rows that were copied."""

    name = "native"

    @contextlib.contextmanager
    def streaming(self, stage: Stage, run: str) -> Iterator[Database]:
        """Enable a subscription."""
        with (
            copied_slot(stage.source, stage.slot, f"native_{run}") as slot,
            copied_database(stage.target_server, stage.base, f"native_{run}") as target,
            psycopg.connect(target.superuser_dsn, autocommit=True) as connection,
        ):
            connection.execute("DROP SCHEMA replicator CASCADE")
            with _subscription(connection, stage, slot):
                connection.execute("ALTER SUBSCRIPTION bench ENABLE")
                _when_arrived(stage, target, None)
                yield target

    def catch_up(self, stage: Stage, run: int) -> Measure:
        """Enable a subscription and wait until its apply worker is done."""
        with (
            copied_slot(stage.source, stage.slot, f"native_{run}") as slot,
            copied_database(stage.target_server, stage.base, f"native_{run}") as target,
            psycopg.connect(target.superuser_dsn, autocommit=True) as connection,
        ):
            connection.execute("DROP SCHEMA replicator CASCADE")
            with _subscription(connection, stage, slot):
                settle(stage.source_server, stage.target_server)
                started = time.monotonic()
                connection.execute("ALTER SUBSCRIPTION bench ENABLE")
                taken = _when_taken(stage, slot, None)
                arrived = _when_arrived(stage, target, None)
                cpu_seconds = _apply_worker_cpu(connection)
                stage.check(target, self.name)
        return _measure(started, taken, arrived, cpu_seconds)


@contextlib.contextmanager
def _subscription(connection: psycopg.Connection[Any], stage: Stage, slot: str) -> Iterator[None]:
    """A disabled subscription on a slot that exists, removed without touching that slot."""
    create = "CREATE SUBSCRIPTION bench CONNECTION {} PUBLICATION {} WITH ({}, slot_name = {})"
    connection.execute(
        sql.SQL(create).format(
            sql.Literal(stage.source.dsn),
            sql.SQL(", ").join(map(sql.Identifier, stage.publications)),
            sql.SQL("create_slot = false, copy_data = false, enabled = false"),
            sql.Literal(slot),
        )
    )
    try:
        yield
    finally:
        connection.execute("ALTER SUBSCRIPTION bench DISABLE")
        connection.execute("ALTER SUBSCRIPTION bench SET (slot_name = NONE)")
        connection.execute("DROP SUBSCRIPTION bench")


def _apply_worker_cpu(connection: psycopg.Connection[Any]) -> float | None:
    row = connection.execute("SELECT pid FROM pg_stat_subscription WHERE subname = 'bench'").fetchone()
    return None if row is None or row[0] is None else cpu_seconds_of(row[0])


class Replicator:
    """`replicator run`, the installed command, restarted on a migration that has been bootstrapped."""

    name = "replicator"

    @contextlib.contextmanager
    def streaming(self, stage: Stage, run: str) -> Iterator[Database]:
        """Run the worker."""
        with (
            copied_slot(stage.source, stage.slot, f"replicator_{run}") as slot,
            copied_database(stage.target_server, stage.base, f"replicator_{run}") as target,
        ):
            target.execute("UPDATE replicator.migration SET slot = %s", [slot])
            settings = environment(settings_of(stage.source, target))
            with Child([command(), "run"], settings, stage.logs / "replicator.log") as child:
                _when_arrived(stage, target, child)
                yield target
                child.stop()

    def catch_up(self, stage: Stage, run: int) -> Measure:
        """Run until progress has passed the end of the backlog, then stop the worker."""
        with (
            copied_slot(stage.source, stage.slot, f"replicator_{run}") as slot,
            copied_database(stage.target_server, stage.base, f"replicator_{run}") as target,
        ):
            target.execute("UPDATE replicator.migration SET slot = %s", [slot])
            settle(stage.source_server, stage.target_server)
            settings = environment(settings_of(stage.source, target))
            with Child([command(), "run"], settings, stage.logs / "replicator.log") as child:
                taken = _when_taken(stage, slot, child)
                start_up_cpu = cpu_seconds_of(child.pid)
                arrived = _when_arrived(stage, target, child)
                ended = child.stop()
            self._check_progress(stage, target)
            stage.check(target, self.name)
        measure = _measure(child.started_at, taken, arrived, ended.cpu_seconds)
        return measure if start_up_cpu is None else measure.with_part(_START_UP_CPU, start_up_cpu)

    def _check_progress(self, stage: Stage, target: Database) -> None:
        if not target.value("SELECT lsn > %s::pg_lsn FROM replicator.progress", [stage.last]):
            raise BenchmarkError("replicator: the rows have arrived, but progress is behind them")


# --- the clock --------------------------------------------------------------------------------------------------------


def _measure(started: float, taken: float, arrived: float, cpu_seconds: float | None) -> Measure:
    return Measure(arrived - started, {START_UP: taken - started, CATCH_UP: arrived - taken}, cpu_seconds)


def _when_taken(stage: Stage, slot: str, child: Child | None) -> float:
    """The moment at which the consumer had taken the slot, or had ended already."""
    query = "SELECT true FROM pg_replication_slots WHERE slot_name = %s AND active"
    with psycopg.connect(stage.source.dsn, autocommit=True) as connection:

        def taken() -> float | None:
            active = connection.execute(query, [slot]).fetchone()
            return time.monotonic() if active or (child and child.poll()) else None

        return wait_for(taken, stage.timeout, f"slot {slot} taken", _POLL)


def _when_arrived(stage: Stage, target: Database, child: Child | None) -> float:
    """The moment at which the backlog's last change was visible. Raises BenchmarkError if the consumer ended before."""
    with psycopg.connect(target.dsn, autocommit=True) as connection:

        def arrived() -> float | None:
            if connection.execute(stage.backlog.arrived.encode()).fetchone() == (True,):
                return time.monotonic()
            if child and child.poll():
                raise child.failure("the consumer ended before the backlog's end")
            return None

        return wait_for(arrived, stage.timeout, "the backlog's last change", _POLL)
