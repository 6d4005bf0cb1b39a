"""The sample app: its schema, and its first rows."""

from importlib.resources import files
from typing import Final, LiteralString

import psycopg
from psycopg.rows import TupleRow

WRITERS: Final = 8
"""Concurrent writers, each with a connection and a row of its own in table writers."""

AppConnection = psycopg.AsyncConnection[TupleRow]

_COUNT_ROWS: Final[LiteralString] = """
SELECT (SELECT count(*) FROM sessions) + (SELECT count(*) FROM histories) + (SELECT count(*) FROM proposals)
     + (SELECT count(*) FROM accounts) + (SELECT count(*) FROM documents) + (SELECT count(*) FROM events)
     + (SELECT count(*) FROM visits) + (SELECT count(*) FROM writers)
"""


async def connect_app(dsn: str) -> AppConnection:
    """A session as any app has it: none of replicator's settings."""
    return await psycopg.AsyncConnection.connect(dsn, autocommit=True, application_name="sample app")


async def create_app(dsn: str, rows: int) -> None:
    """Create the schema and fill it with about ``rows`` rows."""
    folder = files("replicator.demo")
    async with await connect_app(dsn) as connection:
        await connection.execute(folder.joinpath("app.sql").read_bytes())
        for name, value in (("demo.rows", rows), ("demo.writers", WRITERS)):
            await connection.execute("SELECT set_config(%s, %s::text, false)", [name, value])
        # one by one, each its own transaction: a plpgsql trigger cannot be disabled while its events are pending
        for statement in folder.joinpath("fill.sql").read_text().split(";\n"):
            await connection.execute(statement.encode())


async def count_rows(dsn: str) -> int:
    """The rows of all of the app's tables."""
    return await _number(dsn, _COUNT_ROWS)


async def counted_transactions(dsn: str) -> int:
    """How many transactions of the writers this database holds."""
    return await _number(dsn, "SELECT coalesce(sum(committed), 0)::bigint FROM writers")


async def _number(dsn: str, query: LiteralString) -> int:
    async with await connect_app(dsn) as connection:
        ((number,),) = await (await connection.execute(query)).fetchall()
        return int(number)
