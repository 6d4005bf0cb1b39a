"""Statements of the schema that wait: keys and indexes for their table's rows, the others for the cutover."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import sqlalchemy as sa
from psycopg.rows import DictRow

from replicator.control.schema import DEFERRED, KEYS, NOW, run, run_many
from replicator.model import TableName
from replicator.postgres import Connection


@dataclass(frozen=True, slots=True)
class Deferred:
    """A statement that waits for the cutover, because what it makes would fire on applied rows."""

    position: int
    kind: str
    schema: str
    name: str
    statement: str
    done: bool = False


@dataclass(frozen=True, slots=True)
class KeyStatement:
    """A statement that waits for the data: a key, an index. ``table`` is None where it needs several tables' keys."""

    position: int
    kind: str
    schema: str
    name: str
    table: TableName | None
    statement: str


# --- for the cutover


async def add_deferred(connection: Connection, statements: Iterable[Deferred]) -> None:
    """Add statements that wait for the cutover; their positions must be new."""
    rows = [
        {"position": s.position, "kind": s.kind, "schema": s.schema, "name": s.name, "statement": s.statement}
        for s in statements
    ]
    await run_many(connection, DEFERRED.insert(), rows)


async def forget_deferred(connection: Connection) -> None:
    """Forget the statements that were not run."""
    await run(connection, DEFERRED.delete().where(DEFERRED.c.done_at.is_(None)))


async def read_deferred(connection: Connection) -> list[Deferred]:
    """The statements that wait for the cutover, in their order."""
    columns = [DEFERRED.c[name] for name in ("position", "kind", "schema", "name", "statement")]
    done = DEFERRED.c.done_at.is_not(None).label("done")
    cursor = await run(connection, sa.select(*columns, done).order_by(DEFERRED.c.position))
    return [Deferred(**row) for row in await cursor.fetchall()]


async def mark_deferred(connection: Connection, positions: Sequence[int]) -> None:
    """Record deferred statements as run, in the transaction that ran them."""
    await run(connection, DEFERRED.update().where(DEFERRED.c.position.in_(positions)).values(done_at=NOW))


# --- for the table's rows


async def add_keys(connection: Connection, statements: Iterable[KeyStatement]) -> None:
    """Add statements that wait for the data; their positions must be new."""
    rows = [
        {
            "position": item.position,
            "kind": item.kind,
            "schema": item.schema,
            "name": item.name,
            "table_schema": item.table and item.table.schema,
            "table_name": item.table and item.table.name,
            "statement": item.statement,
        }
        for item in statements
    ]
    await run_many(connection, KEYS.insert(), rows)


async def read_keys(connection: Connection) -> list[KeyStatement]:
    """The statements that are not run yet, in their order."""
    columns = [KEYS.c[n] for n in ("position", "kind", "schema", "name", "table_schema", "table_name", "statement")]
    cursor = await run(connection, sa.select(*columns).where(KEYS.c.done_at.is_(None)).order_by(KEYS.c.position))
    return [_key_statement(row) for row in await cursor.fetchall()]


def _key_statement(row: DictRow) -> KeyStatement:
    schema, name = row.pop("table_schema"), row.pop("table_name")
    return KeyStatement(table=None if schema is None else TableName(schema, name), **row)


async def was_made_by(connection: Connection, kind: str, schema: str, name: str, statement: str) -> bool:
    """Whether what was run last for that object ends with this statement."""
    this = [KEYS.c.kind == kind, KEYS.c.schema == schema, KEYS.c.name == name, KEYS.c.done_at.is_not(None)]
    last = sa.select(KEYS.c.statement).where(*this).order_by(KEYS.c.position.desc()).limit(1)
    row = await (await run(connection, last)).fetchone()
    return row is not None and str(row["statement"]).endswith(statement)


async def forget_keys(connection: Connection) -> None:
    """Forget the statements that were not run."""
    await run(connection, KEYS.delete().where(KEYS.c.done_at.is_(None)))


async def mark_keys(connection: Connection, positions: Sequence[int]) -> None:
    """Record statements as run, in the transaction that ran them."""
    await run(connection, KEYS.update().where(KEYS.c.position.in_(positions)).values(done_at=NOW))


async def next_position(connection: Connection) -> int:
    """A position behind all statements that wait, whether for the data or for the cutover."""
    last = [
        sa.select(sa.func.coalesce(sa.func.max(table.c.position), 0)).scalar_subquery() for table in (KEYS, DEFERRED)
    ]
    cursor = await run(connection, sa.select((sa.func.greatest(*last) + 1).label("position")))
    row = await cursor.fetchone()
    return int(row["position"]) if row else 1
