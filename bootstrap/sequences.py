"""Sequences that a column owns and that the app has renamed: a new one of that name would not be the column's."""

from collections import defaultdict
from collections.abc import Sequence
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
   AND d.deptype IN ('a', 'i') AND n.nspname = ANY (%s)
"""


async def rename_sequences(source: Connection, target: Connection, epoch: UUID, schemas: Sequence[str]) -> None:
    """Give the sequences of columns that both sides have in the app's schemas the names that they have on the source.

    Raises SchemaMismatchError where another relation of the target has such a name.
    """
    ours, theirs = await _owned(source, schemas), await _owned(target, schemas)
    renamed = {
        theirs[column][0]: names[0]
        for column, names in ours.items()
        if len(names) == 1 and len(theirs.get(column, ())) == 1 and theirs[column] != names
    }
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


async def _owned(connection: Connection, schemas: Sequence[str]) -> dict[tuple[str, str, str], list[TableName]]:
    """By schema, table and column, which may own several: of these, none is told to be another one's new name."""
    found: dict[tuple[str, str, str], list[TableName]] = defaultdict(list)
    for schema, table, column, name in await (await connection.execute(_OWNED, [list(schemas)])).fetchall():
        found[schema, table, column].append(TableName(schema, name))
    return found


async def _rename(target: Connection, old: TableName, new: str) -> None:
    await target.execute(sql.SQL("ALTER SEQUENCE {} RENAME TO {}").format(qualified(old), sql.Identifier(new)))
