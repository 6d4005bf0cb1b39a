"""The benchmarks' servers and databases: embedded, on the loopback address, nothing flushed to disk."""

import contextlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Final

import psycopg
from psycopg import sql

from replicator.demo.installation import wheel
from replicator.demo.roles import RENDER_ROLE
from replicator.demo.servers import Server
from tests.benchmarks.processes import BenchmarkError, wait_for
from tests.fixtures.databases import Database

_SETTINGS: Final = {
    "shared_buffers": "512MB",
    "max_wal_size": "32GB",
    "checkpoint_timeout": "1h",  # none comes inside of a run: each begins behind one
    "autovacuum": "off",  # whom it hits would be chance
    "max_replication_slots": "40",
}
_SUPERUSERS: Final = {"source": "supabase_admin", "target": "render_admin"}

Fingerprint = tuple[tuple[str, int, str], ...]
"""Of each table its name, its rows, and a hash of them that does not know their order."""


@contextlib.contextmanager
def running(side: str, major: int) -> Iterator[Server]:
    """A server of that major version for the source or the target. Raises BenchmarkError if there is none here."""
    installation = wheel(major)
    if installation is None:
        raise BenchmarkError(f"the embedded PostgreSQL {major} does not run here")
    with Server(installation, superuser=_SUPERUSERS[side], durable=False, settings=_SETTINGS) as server:
        yield server


def program(server: Server, name: str) -> Path:
    """A client program of the server's own version."""
    return server.installation.programs / name


def version(server: Server) -> str:
    """What the server says of its version, such as ``17.6``."""
    with server.administer() as connection:
        return str(_value(connection, sql.SQL("SHOW server_version"))).split()[0]


def settle(*servers: Server) -> None:
    """Checkpoint, so that no run pays for what was written before it."""
    for server in servers:
        with server.administer() as connection:
            connection.execute("CHECKPOINT")


# --- databases --------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def copied_database(server: Server, base: Database, name: str) -> Iterator[Database]:
    """A copy of ``base`` with the same owner, for as long as the block runs."""
    make = sql.SQL("CREATE DATABASE {} TEMPLATE {} OWNER {}").format(
        *map(sql.Identifier, (name, base.name, RENDER_ROLE))
    )
    with server.administer() as connection:
        connection.execute(make)
    with dropped_at_end(Database(server, name, server.dsn(RENDER_ROLE, name))) as database:
        yield database


@contextlib.contextmanager
def dropped_at_end(database: Database) -> Iterator[Database]:
    """A database of our own for as long as the block runs, whoever is connected at its end."""
    try:
        yield database
    finally:
        with database.server.administer() as connection:
            connection.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(database.name)))


def fingerprint(database: Database, tables: Iterable[str]) -> Fingerprint:
    """Count and hash tables of the schema public. Every row is printed in the same way on every server."""
    query = sql.SQL("SELECT count(*), coalesce(sum(hashtextextended(t::text, 0)), 0)::text FROM {} t")
    with psycopg.connect(database.superuser_dsn, autocommit=True) as connection:
        connection.execute("SET extra_float_digits = 3; SET TimeZone = 'UTC'; SET DateStyle = 'ISO'")
        return tuple((table, *_row(connection, query.format(sql.Identifier("public", table)))) for table in tables)


def _row(connection: psycopg.Connection[Any], query: sql.SQL | sql.Composed) -> tuple[Any, ...]:
    row = connection.execute(query).fetchone()
    assert row is not None
    return tuple(row)


def _value(connection: psycopg.Connection[Any], query: sql.SQL | sql.Composed) -> Any:
    return _row(connection, query)[0]


# --- slots ------------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def copied_slot(source: Database, slot: str, name: str) -> Iterator[str]:
    """A copy of a slot, which begins where that one stands, for as long as the block runs."""
    source.execute("SELECT pg_copy_logical_replication_slot(%s, %s)", [slot, name], superuser=True)
    try:
        yield name
    finally:
        wait_for(lambda: _drop_slot(source, name), 30, f"slot {name} dropped", interval=0.1)


def _drop_slot(source: Database, name: str) -> bool | None:
    active = source.fetch("SELECT active_pid FROM pg_replication_slots WHERE slot_name = %s", [name], superuser=True)
    if active and active[0][0] is not None:
        source.execute("SELECT pg_terminate_backend(%s)", [active[0][0]], superuser=True)
        return None
    source.execute(
        "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE slot_name = %s",
        [name],
        superuser=True,
    )
    return True
