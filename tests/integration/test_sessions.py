"""Law 7: whatever a server, a database or a role sets, every session prints and reads values in the same way.

And law 9: what goes wrong in a session is told of its side.
"""

from collections.abc import Mapping
from typing import Final

import pytest
from psycopg import sql

from bootstrap.driver import connected as asyncpg_session
from replicator.errors import CutoverError, ReplicatorError, ServerUnavailableError, Side, SourceError, TargetError
from replicator.postgres import Connection, connect, connected, reporting
from tests.fixtures.databases import Database

# written out once more, since a name that is dropped from the code would be dropped from the test with it
RENDERING: Final = {
    "client_encoding": ("UTF8", "LATIN1"),
    "DateStyle": ("ISO, MDY", "SQL, DMY"),
    "IntervalStyle": ("postgres", "iso_8601"),
    "TimeZone": ("UTC", "Asia/Tokyo"),
    "extra_float_digits": ("3", "0"),
    "bytea_output": ("hex", "escape"),
    "lc_monetary": ("C", "C.UTF-8"),
    "xmloption": ("content", "document"),
    "array_nulls": ("on", "off"),
    "quote_all_identifiers": ("off", "on"),
    "standard_conforming_strings": ("on", "off"),
    "default_transaction_isolation": ("read committed", "serializable"),
    "row_security": ("off", "on"),
    "idle_session_timeout": ("0", "120000"),
    "transaction_timeout": ("0", "120000"),
    "statement_timeout": ("0", "120000"),
    "lock_timeout": ("0", "120000"),
}
"""Each setting as it must be, and as a database may have it."""

OF_THE_SOURCE: Final = {
    "search_path": ("pg_catalog", "public"),
    "idle_in_transaction_session_timeout": ("0", "120000"),
}
OF_THE_TARGET: Final = {
    "idle_in_transaction_session_timeout": ("1min", "120000"),
    "synchronous_commit": ("on", "off"),
}

_SHOW: Final = "SELECT current_setting($1)"


def expected(side: Side) -> Mapping[str, tuple[str, str]]:
    return RENDERING | (OF_THE_SOURCE if side is Side.SOURCE else OF_THE_TARGET)


def hostile(database: Database, side: Side) -> Database:
    """Let the database set every one of them otherwise."""
    for name, (_, otherwise) in expected(side).items():
        statement = sql.SQL("ALTER DATABASE {} SET {} = {}").format(
            sql.Identifier(database.name), sql.Identifier(name), sql.Literal(otherwise)
        )
        database.execute(statement.as_string(), superuser=True)
    return database


@pytest.fixture(params=[Side.SOURCE, Side.TARGET], ids=["source", "target"])
def side(request: pytest.FixtureRequest) -> Side:
    assert isinstance(request.param, Side)
    return request.param


async def shown(connection: Connection, side: Side) -> dict[str, str]:
    found = {}
    for name in expected(side):
        row = await (await connection.execute(sql.SQL("SHOW {}").format(sql.Identifier(name)))).fetchone()
        assert row is not None
        found[name] = row[0]
    return found


def pinned(side: Side) -> dict[str, str]:
    return {name: value for name, (value, _) in expected(side).items()}


async def test_law_7_a_session_and_a_copy_print_and_read_as_pinned(
    source: Database, target: Database, side: Side
) -> None:
    database = hostile(source if side is Side.SOURCE else target, side)

    async with connected(database.dsn, side, "test") as connection:
        assert await shown(connection, side) == pinned(side)
    async with asyncpg_session(database.dsn, side, {}) as copying:
        assert {name: await copying.fetchval(_SHOW, name) for name in expected(side)} == pinned(side)


async def test_law_7_the_stream_prints_as_pinned(source: Database) -> None:
    connection = await connect(hostile(source, Side.SOURCE).dsn, Side.SOURCE, "test", replication=True)
    try:
        assert await shown(connection, Side.SOURCE) == pinned(Side.SOURCE)
    finally:
        await connection.close()


async def test_law_7_the_search_path_of_the_application_stays_on_the_target(target: Database) -> None:
    """Functions in its checks and defaults may need it."""
    target.execute(f'ALTER DATABASE "{target.name}" SET search_path = app, public', superuser=True)

    async with connected(target.dsn, Side.TARGET, "test") as connection:
        row = await (await connection.execute("SHOW search_path")).fetchone()
    async with asyncpg_session(target.dsn, Side.TARGET, {}) as copying:
        copied = await copying.fetchval(_SHOW, "search_path")

    assert row == ("app, public",)
    assert copied == "app, public"


# --- law 9 ------------------------------------------------------------------------------------------------------------


async def test_law_9_an_error_is_of_the_server_that_raised_it(source: Database, target: Database) -> None:
    """Whatever the work is about that asks both servers in turn."""
    for database, of, about in (
        (target, Side.TARGET, SourceError),
        (source, Side.SOURCE, TargetError),
        (source, Side.SOURCE, CutoverError),
    ):
        other = Side.SOURCE if of is Side.TARGET else Side.TARGET
        async with connected(database.dsn, of, "test") as session:
            with pytest.raises(ReplicatorError) as refused, reporting(other, "comparing both sides", about):
                await session.execute("SELECT 1 / 0")
            assert type(refused.value) is {SourceError: TargetError, TargetError: SourceError}.get(about, about)
            assert refused.value.side is of

            pid = session.info.backend_pid
            database.execute(f"SELECT pg_terminate_backend({pid})", superuser=True)
            with pytest.raises(ServerUnavailableError) as lost, reporting(other, "comparing both sides", about):
                await session.execute("SELECT 1")
            assert lost.value.side is of
