"""Sequences that a column owns and that the app has renamed: a new one of that name would not be the column's."""

from typing import Final, LiteralString
from uuid import UUID

import psycopg
import structlog
from psycopg import sql

from replicator import control
from replicator.errors import SchemaMismatchError, Side
from replicator.model import TableName
from replicator.postgres import Connection, qualified, translate

log = structlog.get_logger(__name__)

_OWNED: Final[LiteralString] = """
SELECT n.nspname, t.relname, a.attname, s.relname
  FROM pg_catalog.pg_depend d
  JOIN pg_catalog.pg_class s ON s.oid = d.objid AND s.relkind = 'S'
  JOIN pg_catalog.pg_class t ON t.oid = d.refobjid AND t.relkind IN ('r', 'p')
  JOIN pg_catalog.pg_namespace n ON n.oid = t.relnamespace AND n.oid = s.relnamespace
  JOIN pg_catalog.pg_attribute a ON a.attrelid = t.oid AND a.attnum = d.refobjsubid
 WHERE d.classid = 'pg_catalog.pg_class'::regclass AND d.refclassid = 'pg_catalog.pg_class'::regclass
   AND d.deptype IN ('a', 'i') AND NOT starts_with(n.nspname, 'pg_')
"""


async def rename_sequences(source: Connection, target: Connection, epoch: UUID) -> None:
    """Give the sequences of columns that both sides have the names that they have on the source now.

    Raises SchemaMismatchError where another relation of the target has such a name.
    """
    ours, theirs = await _owned(source), await _owned(target)
    renamed = {theirs[column]: name for column, name in ours.items() if column in theirs and theirs[column] != name}
    if not renamed:
        return
    try:
        async with control.under_epoch(target, epoch):
            # by way of names that nothing has: two may have swapped theirs
            for number, old in enumerate(renamed):
                await _rename(target, old, f"replicator_renamed_{number}")
            for number, (old, new) in enumerate(renamed.items()):
                await _rename(target, TableName(old.schema, f"replicator_renamed_{number}"), new.name)
    except psycopg.Error as error:
        raise translate(error, Side.TARGET, "renaming sequences", otherwise=SchemaMismatchError) from None
    log.info("renamed sequences", names=[str(name) for name in renamed.values()])


async def _owned(connection: Connection) -> dict[tuple[str, str, str], TableName]:
    """By schema, table and column."""
    rows = await (await connection.execute(_OWNED)).fetchall()
    return {(schema, table, column): TableName(schema, name) for schema, table, column, name in rows}


async def _rename(target: Connection, old: TableName, new: str) -> None:
    await target.execute(sql.SQL("ALTER SEQUENCE {} RENAME TO {}").format(qualified(old), sql.Identifier(new)))
