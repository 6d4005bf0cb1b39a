"""Keys and CHECKs that only the target has: the app dropped or replaced them, and its rows may contradict them now.

They are kept until the cutover if that is possible, because rows are found by keys.
Source: PostgreSQL documentation, "System Catalogs" (pg_index, pg_constraint).
"""

from typing import Final, LiteralString, NamedTuple

from psycopg import sql
from psycopg.rows import class_row

from bootstrap.indexes import renamed_indexes
from replicator import control
from replicator.model import TableName
from replicator.postgres import Connection, qualified

_KEYS: Final[LiteralString] = """
SELECT n.nspname AS schema, c.relname AS relation, i.relname AS name, k.oid IS NOT NULL AS is_constraint
  FROM pg_catalog.pg_index x
  JOIN pg_catalog.pg_class c ON c.oid = x.indrelid JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
  JOIN pg_catalog.pg_class i ON i.oid = x.indexrelid
  LEFT JOIN pg_catalog.pg_constraint k
         ON k.conindid = x.indexrelid AND k.conrelid = c.oid AND k.contype IN ('p', 'u', 'x')
 WHERE (x.indisunique OR x.indisexclusion) AND NOT i.relispartition
   AND NOT starts_with(n.nspname, 'pg_') AND n.nspname <> %(control)s
UNION ALL
SELECT n.nspname, c.relname, k.conname, true
  FROM pg_catalog.pg_constraint k
  JOIN pg_catalog.pg_class c ON c.oid = k.conrelid JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
 WHERE k.contype = 'c' AND k.coninhcount = 0
   AND NOT starts_with(n.nspname, 'pg_') AND n.nspname <> %(control)s
 ORDER BY 1, 2, 3
"""
_DEFINITIONS: Final[LiteralString] = """
SELECT n.nspname, c.relname, k.conname, pg_catalog.pg_get_constraintdef(k.oid)
  FROM pg_catalog.pg_constraint k
  JOIN pg_catalog.pg_class c ON c.oid = k.conrelid AND c.relkind IN ('r', 'p') AND NOT c.relispartition
  JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
 WHERE k.contype IN ('p', 'u', 'x', 'c') AND NOT starts_with(n.nspname, 'pg_')
"""
_TABLES: Final[LiteralString] = """
SELECT n.nspname, c.relname
  FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace WHERE c.relkind IN ('r', 'p')
"""


_ABOVE: Final[LiteralString] = """
SELECT n.nspname, c.relname, an.nspname, a.relname
  FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
 CROSS JOIN LATERAL pg_catalog.pg_partition_ancestors(c.oid) p
  JOIN pg_catalog.pg_class a ON a.oid = p.relid AND a.oid <> c.oid
  JOIN pg_catalog.pg_namespace an ON an.oid = a.relnamespace
 WHERE c.relispartition AND c.relkind IN ('r', 'p')
"""


class _Key(NamedTuple):
    schema: str
    relation: str
    name: str
    is_constraint: bool

    @property
    def table(self) -> TableName:
        return TableName(self.schema, self.relation)

    def drop(self) -> str:
        name = sql.Identifier(self.name)
        if self.is_constraint:
            return sql.SQL("ALTER TABLE {} DROP CONSTRAINT {}").format(qualified(self.table), name).as_string()
        return sql.SQL("DROP INDEX {}").format(sql.Identifier(self.schema, self.name)).as_string()


async def lost_keys(source: Connection, target: Connection, *, replaced: bool = True) -> dict[TableName, list[str]]:
    """By table of both sides, the statements that drop from the target what the source has no more.

    Unique keys, exclusions and CHECKs; with ``replaced``, those as well that are others now under the same name. What
    has only another name is not lost.
    """
    ours = {(key.table, key.name) for key in await _read(source)}
    if replaced:
        ours -= (await replaced_keys(source, target)).keys()
    tables = {TableName(*row) for row in await (await source.execute(_TABLES)).fetchall()}
    renamed = await renamed_indexes(source, target, sorted({table.schema for table in tables}))
    found: dict[TableName, list[str]] = {}
    for key in await _read(target):
        if TableName(key.schema, key.name) in renamed:
            continue
        if key.table in tables and (key.table, key.name) not in ours:
            found.setdefault(key.table, []).append(key.drop())
    return found


async def lost_keys_above(source: Connection, target: Connection) -> dict[TableName, list[str]]:
    """The same for partitions as well, whose keys are those of the tables above them."""
    own = await lost_keys(source, target)
    found = {table: list(drops) for table, drops in own.items()}
    for schema, name, *above in await (await target.execute(_ABOVE)).fetchall():
        found.setdefault(TableName(schema, name), []).extend(own.get(TableName(*above), ()))
    return found


async def replaced_keys(source: Connection, target: Connection) -> dict[tuple[TableName, str], str]:
    """The keys and CHECKs that are others on the target, by table and name; each with what drops it."""
    ours, theirs = await _definitions(source), await _definitions(target)
    drop = sql.SQL("ALTER TABLE {} DROP CONSTRAINT IF EXISTS {};\n")
    return {
        (table, name): drop.format(qualified(table), sql.Identifier(name)).as_string()
        for (table, name), definition in ours.items()
        if theirs.get((table, name), definition) != definition
    }


async def _definitions(connection: Connection) -> dict[tuple[TableName, str], str]:
    rows = await (await connection.execute(_DEFINITIONS)).fetchall()
    return {(TableName(schema, table), name): definition for schema, table, name, definition in rows}


async def _read(connection: Connection) -> list[_Key]:
    cursor = await connection.cursor(row_factory=class_row(_Key)).execute(_KEYS, {"control": control.SCHEMA})
    return await cursor.fetchall()
