"""Unlogged tables that the app has made since the schema was copied: no publication sends their rows, so none come."""

from typing import Final, LiteralString

from bootstrap.columns import read_target_columns
from bootstrap.schema import app_schemas, copy_tables_schema
from bootstrap.work import Work
from replicator.model import TableName
from replicator.postgres import Connection

_UNLOGGED: Final[LiteralString] = """
SELECT n.nspname, c.relname
  FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
 WHERE c.relkind = 'r' AND c.relpersistence = 'u' AND NOT c.relispartition AND n.nspname = ANY (%s)
   AND NOT EXISTS (SELECT FROM pg_catalog.pg_depend d WHERE d.classid = 'pg_catalog.pg_class'::pg_catalog.regclass
                                                        AND d.objid = c.oid AND d.deptype = 'e')
"""


async def new_unlogged_tables(work: Work, source: Connection) -> dict[TableName, TableName | None]:
    """Those that the target lacks, as a session of the source sees them: as `copy_tables_schema` takes them."""
    rows = await (await source.execute(_UNLOGGED, [await app_schemas(source, work.settings)])).fetchall()
    there = await read_target_columns(work.target, [TableName(*row) for row in rows])
    return {name: None for row in rows if (name := TableName(*row)) not in there}


async def make_unlogged(work: Work) -> None:
    """Make those that no round has made together with the tables that they need, or that need them."""
    if new := await new_unlogged_tables(work, work.source):
        await copy_tables_schema(work.settings, work.source, None, work.target, work.epoch, tables=new)
