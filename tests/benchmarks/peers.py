"""The consumers of a backlog: the floor, native logical replication, and replicator.

The clock runs from the start of the consumer until the backlog's last change is visible on the target; start-up is the
part of it until the consumer has taken the slot.
"""

import contextlib
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, Protocol

import psycopg
from psycopg import sql

from replicator.demo.worker import command
from tests.benchmarks.processes import BenchmarkError, Child, client_environment, wait_for
from tests.benchmarks.report import Measure
from tests.benchmarks.servers import copied_slot, program
from tests.benchmarks.stage import Stage
from tests.benchmarks.usage import CONSUMER, PEAK_MEMORY, Meter, cpu_seconds_of, peak_mebibytes
from tests.fixtures.databases import Database

START_UP: Final = "start-up"
CATCH_UP: Final = "catch-up"
START_UP_CPU: Final = "start-up CPU"

_POLL: Final = 0.01


class Consumer(Protocol):
    """Something that catches up with a backlog."""

    name: str

    def catch_up(self, stage: Stage, run: int) -> Measure:
        """Do it once. Raises BenchmarkError."""


class Streamer(Protocol):
    """Something that goes on streaming once it has caught up."""

    name: str

    def streaming(self, stage: Stage, run: str) -> contextlib.AbstractContextManager[Database]:
        """Stream into a target of its own while the block runs."""


class Floor:
    """`pg_recvlogical -f /dev/null`: what the source's own decoding and sending take."""

    name = "floor"

    def catch_up(self, stage: Stage, run: int) -> Measure:
        """Receive all WAL that there is."""
        end = stage.source.value("SELECT pg_current_wal_flush_lsn()::text")
        with copied_slot(stage.source, stage.slot, f"floor_{run}") as slot:
            stage.settle()
            arguments: list[str | Path] = [program(stage.lab.source, "pg_recvlogical"), *_options(stage, slot, end)]
            meter = Meter(stage.lab.source, stage.lab.target)
            with Child(arguments, client_environment(stage.source.dsn), stage.log(self.name)) as child:
                taken = _when_taken(stage, slot, child)
                ended = child.succeed(stage.lab.timeout)
            figures = {CONSUMER: ended.cpu_seconds, **meter.figures(None)}
        return _measure(child.started_at, taken, child.started_at + ended.seconds, figures)


def _options(stage: Stage, slot: str, end: str) -> list[str]:
    names = ",".join(f'"{name}"' for name in stage.publications)
    return [
        *("--start", "--no-loop", "--file=/dev/null", "--fsync-interval=0", f"--endpos={end}"),
        *(f"--dbname={stage.source.name}", f"--slot={slot}"),
        # as replicator asks for it
        *("--option=proto_version=2", f"--option=publication_names={names}", "--option=messages=true"),
        "--option=streaming=on",
    ]


class Native:
    """CREATE SUBSCRIPTION with the defaults of PostgreSQL 17 (streaming off) on the rows that were copied."""

    name = "native"

    @contextlib.contextmanager
    def streaming(self, stage: Stage, run: str) -> Iterator[Database]:
        """Enable a subscription."""
        with _subscribed(stage, f"native_{run}") as (connection, _, target):
            connection.execute("ALTER SUBSCRIPTION bench ENABLE")
            yield target

    def catch_up(self, stage: Stage, run: int) -> Measure:
        """Enable a subscription and wait until its apply worker is done."""
        with _subscribed(stage, f"native_{run}") as (connection, slot, target):
            stage.settle()
            meter = Meter(stage.lab.source, stage.lab.target)
            started = time.monotonic()
            connection.execute("ALTER SUBSCRIPTION bench ENABLE")
            taken = _when_taken(stage, slot, None)
            arrived = _when_arrived(stage, target, None)
            figures = meter.figures(None)
            stage.check(target, self.name)
        return _measure(started, taken, arrived, figures)


@contextlib.contextmanager
def _subscribed(stage: Stage, name: str) -> Iterator[tuple[psycopg.Connection[Any], str, Database]]:
    """A disabled subscription on a slot and a target that are copies; all gone after the block."""
    create = "CREATE SUBSCRIPTION bench CONNECTION {} PUBLICATION {} WITH ({}, slot_name = {})"
    with (
        stage.copied(name) as (slot, target),
        psycopg.connect(target.superuser_dsn, autocommit=True) as connection,
    ):
        connection.execute("DROP SCHEMA replicator CASCADE")
        connection.execute(
            sql.SQL(create).format(
                sql.Literal(stage.source.dsn),
                sql.SQL(", ").join(map(sql.Identifier, stage.publications)),
                sql.SQL("create_slot = false, copy_data = false, enabled = false"),
                sql.Literal(slot),
            )
        )
        try:
            yield connection, slot, target
        finally:
            # without touching the slot
            connection.execute("ALTER SUBSCRIPTION bench DISABLE")
            connection.execute("ALTER SUBSCRIPTION bench SET (slot_name = NONE)")
            connection.execute("DROP SUBSCRIPTION bench")


class Replicator:
    """`replicator run`, the installed command, restarted on a migration that has been bootstrapped."""

    name = "replicator"

    @contextlib.contextmanager
    def streaming(self, stage: Stage, run: str) -> Iterator[Database]:
        """Run the worker."""
        with _resumable(stage, f"replicator_{run}") as (_, target), _worker(stage, target) as child:
            yield target
            child.stop()

    def catch_up(self, stage: Stage, run: int) -> Measure:
        """Run until progress has passed the end of the backlog, then stop the worker."""
        with _resumable(stage, f"replicator_{run}") as (slot, target):
            stage.settle()
            meter = Meter(stage.lab.source, stage.lab.target)
            with _worker(stage, target) as child:
                taken = _when_taken(stage, slot, child)
                beginning = cpu_seconds_of(child.pid)
                arrived = _when_arrived(stage, target, child)
                figures = meter.figures(child.pid)
                peak = peak_mebibytes(child.pid)
                child.stop()
            _check_progress(stage, target)
            stage.check(target, self.name)
        more = {START_UP_CPU: beginning, PEAK_MEMORY: peak}
        return _measure(child.started_at, taken, arrived, figures, {n: v for n, v in more.items() if v is not None})


@contextlib.contextmanager
def _resumable(stage: Stage, name: str) -> Iterator[tuple[str, Database]]:
    with stage.copied(name) as (slot, target):
        target.execute("UPDATE replicator.migration SET slot = %s", [slot])
        yield slot, target


def _worker(stage: Stage, target: Database) -> Child:
    return Child([command(), "run"], stage.settings(target), stage.log(Replicator.name))


def _check_progress(stage: Stage, target: Database) -> None:
    if not target.value("SELECT lsn > %s::pg_lsn FROM replicator.progress", [stage.last]):
        raise BenchmarkError("replicator: the rows have arrived, but progress is behind them")


CONSUMERS: Final[tuple[Consumer, ...]] = (Floor(), Native(), Replicator())
STREAMERS: Final[tuple[Streamer, ...]] = (Native(), Replicator())


# --- the clock --------------------------------------------------------------------------------------------------------


def _measure(
    started: float, taken: float, arrived: float, used: dict[str, float], more: dict[str, float] | None = None
) -> Measure:
    """``used`` is the processor's seconds by side: all of them together are what the job costs."""
    parts = {START_UP: taken - started, CATCH_UP: arrived - taken}
    return Measure(arrived - started, parts, sum(used.values()) or None, {**used, **(more or {})})


def _when_taken(stage: Stage, slot: str, child: Child | None) -> float:
    """The moment at which the consumer had taken the slot, or had ended already."""
    query = "SELECT true FROM pg_replication_slots WHERE slot_name = %s AND active"
    with psycopg.connect(stage.source.dsn, autocommit=True) as connection:

        def taken() -> float | None:
            active = connection.execute(query, [slot]).fetchone()
            return time.monotonic() if active or (child and child.poll()) else None

        return wait_for(taken, stage.lab.timeout, f"slot {slot} taken", _POLL)


def _when_arrived(stage: Stage, target: Database, child: Child | None) -> float:
    """The moment at which the backlog's last change was visible. Raises BenchmarkError if the consumer ended before."""
    with psycopg.connect(target.dsn, autocommit=True) as connection:

        def arrived() -> float | None:
            if connection.execute(stage.backlog.arrived.encode()).fetchone() == (True,):
                return time.monotonic()
            if child and child.poll():
                raise child.failure("the consumer ended before the backlog's end")
            return None

        return wait_for(arrived, stage.lab.timeout, "the backlog's last change", _POLL)
