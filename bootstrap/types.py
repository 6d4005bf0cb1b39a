"""Types of the app that were renamed on the source: their object ids tell them from new ones.

Values travel as text, so the stream does not tell of it; the app names types in its statements.
Source: PostgreSQL documentation, "System Catalogs" (pg_type), ALTER TYPE.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Final, LiteralString
from uuid import UUID, uuid4

import psycopg
import structlog
from psycopg import sql

from bootstrap.making import make_schema
from replicator import control
from replicator.errors import SchemaMismatchError, Side
from replicator.model import TableName
from replicator.postgres import Connection, qualified, translate

log = structlog.get_logger(__name__)

STEP: Final = "types"
"""The step that records what the types of the source were called when the target's got their names."""

_TYPES: Final[LiteralString] = """
SELECT t.oid::bigint, n.nspname, t.typname
  FROM pg_catalog.pg_type t JOIN pg_catalog.pg_namespace n ON n.oid = t.typnamespace
  LEFT JOIN pg_catalog.pg_class c ON c.oid = t.typrelid
 WHERE (t.typtype IN ('e', 'd', 'r') OR c.relkind = 'c') AND n.nspname = ANY (%s)
"""
_THERE: Final[LiteralString] = """
SELECT n.nspname, t.typname
  FROM pg_catalog.pg_type t JOIN pg_catalog.pg_namespace n ON n.oid = t.typnamespace
"""


async def note_types(source: Connection, target: Connection, schemas: Sequence[str]) -> None:
    """Record the names of the types in these schemas, before the target gets them."""
    await _record(target, await _read(source, schemas))


async def renamed_types(source: Connection, target: Connection, schemas: Sequence[str]) -> dict[TableName, TableName]:
    """The types of the target that have other names on the source by now, by their old ones."""
    now = await _read(source, schemas)
    there = await _there(target)
    return {
        old: now[oid] for oid, old in (await _recorded(target)).items() if old in there and now.get(oid, old) != old
    }


async def rename_types(source: Connection, target: Connection, epoch: UUID, schemas: Sequence[str]) -> None:
    """Give the target's types the names that they have on the source.

    A type that has such a name on the target is one that the source has dropped: it gets another one, and stays.
    Raises SchemaMismatchError where that is a table's.
    """
    before, now = await _recorded(target), await _read(source, schemas)
    if before == now:
        return
    renamed = await renamed_types(source, target, schemas)
    there = await _there(target)
    left = [new for new in renamed.values() if new in there and new not in renamed]
    try:
        async with control.under_epoch(target, epoch):
            for schema in sorted({new.schema for old, new in renamed.items() if old.schema != new.schema}):
                await make_schema(target, schema)
            for name in left:
                unused = sql.Identifier(f"replicator_left_{uuid4().hex}")
                await target.execute(sql.SQL("ALTER TYPE {} RENAME TO {}").format(qualified(name), unused))
            for statement in _statements(renamed):
                await target.execute(statement)
            await _record(target, now)
    except psycopg.Error as error:
        raise translate(error, Side.TARGET, "renaming types", otherwise=SchemaMismatchError) from None
    for old, new in renamed.items():
        log.info("renamed a type", type=str(old), now=str(new))


def _statements(renamed: Mapping[TableName, TableName]) -> Iterator[sql.Composed]:
    """By way of names that nothing has: two may have swapped theirs."""
    between = {old: TableName(old.schema, f"replicator_renamed_{number}") for number, old in enumerate(renamed)}
    for old, temporary in between.items():
        yield sql.SQL("ALTER TYPE {} RENAME TO {}").format(qualified(old), sql.Identifier(temporary.name))
    for old, new in renamed.items():
        if old.schema != new.schema:
            yield sql.SQL("ALTER TYPE {} SET SCHEMA {}").format(qualified(between[old]), sql.Identifier(new.schema))
        moved = TableName(new.schema, between[old].name)
        yield sql.SQL("ALTER TYPE {} RENAME TO {}").format(qualified(moved), sql.Identifier(new.name))


async def _there(target: Connection) -> set[TableName]:
    return {TableName(*row) for row in await (await target.execute(_THERE)).fetchall()}


async def _read(source: Connection, schemas: Sequence[str]) -> dict[int, TableName]:
    rows = await (await source.execute(_TYPES, [list(schemas)])).fetchall()
    return {oid: TableName(schema, name) for oid, schema, name in rows}


async def _recorded(target: Connection) -> dict[int, TableName]:
    recorded = (await control.read_steps(target)).get(STEP, {})
    return {int(oid): TableName(*name) for oid, name in recorded.items()}


async def _record(target: Connection, types: Mapping[int, TableName]) -> None:
    await control.record_step(target, STEP, {str(oid): list(name) for oid, name in types.items()})
