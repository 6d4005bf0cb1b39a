"""Reading a catalog: one query a question, no query a table, so that thousands of tables stay fast."""

from collections.abc import Sequence
from typing import LiteralString, TypeVar

from psycopg.rows import class_row

from replicator.postgres import Connection

RowT = TypeVar("RowT")


async def fetch(
    connection: Connection, row: type[RowT], query: LiteralString, parameter: Sequence[str] | Sequence[int]
) -> list[RowT]:
    """Run a query whose one parameter is an array; each row becomes a ``row`` by its columns' names."""
    cursor = await connection.cursor(row_factory=class_row(row)).execute(query, [list(parameter)])
    return await cursor.fetchall()
