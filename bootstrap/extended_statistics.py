"""Extended statistics that a deploy has made anew under their names.

Source: PostgreSQL documentation, "System Catalogs" (pg_statistic_ext), CREATE STATISTICS, which nothing can alter.
"""

from collections.abc import Sequence
from typing import Final, LiteralString

from psycopg import sql

from replicator.model import TableName
from replicator.postgres import Connection, qualified

_STATISTICS: Final[LiteralString] = """
SELECT n.nspname, s.stxname, pg_catalog.pg_get_statisticsobjdef(s.oid)
  FROM pg_catalog.pg_statistic_ext s JOIN pg_catalog.pg_namespace n ON n.oid = s.stxnamespace
 WHERE n.nspname = ANY (%s)
"""


async def replaced_statistics(source: Connection, target: Connection, schemas: Sequence[str]) -> dict[TableName, str]:
    """Those of both sides that are others on the source; each with what drops the target's."""
    theirs = await _read(target, schemas)
    drop = sql.SQL("DROP STATISTICS IF EXISTS {};\n")
    return {
        name: drop.format(qualified(name)).as_string()
        for name, definition in (await _read(source, schemas)).items()
        if theirs.get(name, definition) != definition
    }


async def _read(connection: Connection, schemas: Sequence[str]) -> dict[TableName, str]:
    """With names that say their schema, whatever the session's search_path is."""
    async with connection.transaction():
        await connection.execute("SET LOCAL search_path = ''")
        rows = await (await connection.execute(_STATISTICS, [list(schemas)])).fetchall()
    return {TableName(schema, name): definition for schema, name, definition in rows}
