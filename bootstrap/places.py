"""The published tables' places on the target: whether they are there, whole, and empty."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Final, LiteralString, NamedTuple

import psycopg
from psycopg import sql
from psycopg.rows import class_row
from psycopg.types.json import Jsonb

from replicator.catalog import PublishedTable
from replicator.errors import SchemaMismatchError, TargetError
from replicator.model import TableName
from replicator.postgres import Connection, qualified

_PLACES: Final[LiteralString] = """
SELECT w.schema, w.name, c.relkind = 'p' AS partitioned,
       ARRAY(SELECT x FROM jsonb_array_elements_text(w.columns) x
              WHERE NOT EXISTS (SELECT FROM pg_catalog.pg_attribute a
                                 WHERE a.attrelid = c.oid AND a.attname = x AND a.attnum > 0
                                   AND NOT a.attisdropped AND a.attgenerated = '')) AS missing,
       c.relpersistence = 'u'
         OR EXISTS (SELECT FROM pg_catalog.pg_partition_tree(c.oid) t
                      JOIN pg_catalog.pg_class l ON l.oid = t.relid AND l.relpersistence = 'u') AS unlogged
  FROM jsonb_to_recordset(%s) w(schema text, name text, columns jsonb)
  JOIN pg_catalog.pg_namespace n ON n.nspname = w.schema
  JOIN pg_catalog.pg_class c ON c.relnamespace = n.oid AND c.relname = w.name AND c.relkind IN ('r', 'p')
"""

_AT_ONCE: Final = 200
"""Tables asked about in one statement."""


class Place(NamedTuple):
    """A table of the target; ``missing`` are published columns that it lacks, or that it generates itself.

    ``unlogged``: a crash of the target would empty it, or one of its partitions.
    """

    schema: str
    name: str
    partitioned: bool
    missing: list[str]
    unlogged: bool = False

    @property
    def table(self) -> TableName:
        """Its name."""
        return TableName(self.schema, self.name)


async def find_places(target: Connection, tables: Iterable[PublishedTable]) -> Mapping[TableName, Place]:
    """The places of those tables that have one."""
    wanted = [{"schema": t.table.schema, "name": t.table.name, "columns": list(t.columns)} for t in tables]
    cursor = await target.cursor(row_factory=class_row(Place)).execute(_PLACES, [Jsonb(wanted)])
    return {place.table: place for place in await cursor.fetchall()}


def require_places(tables: Iterable[PublishedTable], places: Mapping[TableName, Place]) -> None:
    """Raise SchemaMismatchError unless every published column has its place."""
    for table in tables:
        place = places.get(table.table)
        if place is None:
            raise SchemaMismatchError(f"table {table.table} is not on the target")
        if place.missing:
            raise SchemaMismatchError(
                f"table {table.table} lacks columns on the target, or generates them: {', '.join(place.missing)}"
            )


# --- safe from a crash ------------------------------------------------------------------------------------------------

_UNLOGGED: Final[LiteralString] = """
SELECT n.nspname, c.relname
  FROM unnest(%s::text[], %s::text[]) w(schema, name)
  JOIN pg_catalog.pg_namespace n ON n.nspname = w.schema
  JOIN pg_catalog.pg_class c ON c.relnamespace = n.oid AND c.relname = w.name
 WHERE c.relkind = 'r' AND c.relpersistence = 'u'
"""


def require_logged(places: Iterable[Place]) -> None:
    """Raise SchemaMismatchError for a table that a crash of the target would empty: its rows would not come again."""
    for place in places:
        if place.unlogged:
            raise SchemaMismatchError(
                f"table {place.table}, or a partition of it, is unlogged on the target: a crash would empty it",
                hint=f"ALTER TABLE {place.table} SET LOGGED on the target, and its partitions.",
            )


async def set_logged(target: Connection, tables: Iterable[PublishedTable]) -> list[TableName]:
    """Make what the app has made logged since the schema was copied logged here too, while it is empty."""
    parts = [part.table for table in tables for part in table.parts]
    columns = [[name.schema for name in parts], [name.name for name in parts]]
    unlogged = [TableName(*row) for row in await (await target.execute(_UNLOGGED, columns)).fetchall()]
    for name in unlogged:
        await target.execute(sql.SQL("ALTER TABLE {} SET LOGGED").format(qualified(name)))
    return unlogged


# --- empty or not -----------------------------------------------------------------------------------------------------


async def require_empty(target: Connection, places: Sequence[Place]) -> None:
    """Raise TargetError if a table that is about to be copied holds rows: they would be mixed with the source's."""
    for start in range(0, len(places), _AT_ONCE):
        query = sql.SQL(" UNION ALL ").join(
            sql.SQL("SELECT {} WHERE EXISTS (SELECT FROM {}{})").format(
                sql.Literal(str(place.table)), _only(place), qualified(place.table)
            )
            for place in places[start : start + _AT_ONCE]
        )
        row = await (await target.execute(query + sql.SQL(" LIMIT 1"))).fetchone()
        if row is not None:
            raise TargetError(
                f"table {row[0]} is not empty on the target",
                hint="Empty it, or exclude it from the migration; replicator does not mix rows or remove yours.",
            )


async def empty(target: Connection, places: Sequence[Place], *, replica: bool) -> None:
    """Remove what an interrupted copy has left, within the caller's transaction."""
    if replica:
        await target.execute("SET LOCAL session_replication_role = replica")
    for start in range(0, len(places), _AT_ONCE):
        batch = places[start : start + _AT_ONCE]
        names = sql.SQL(", ").join(_only(place) + qualified(place.table) for place in batch)
        try:
            async with target.transaction():
                await target.execute(sql.SQL("TRUNCATE {}").format(names))
        except psycopg.errors.FeatureNotSupported:  # a foreign key of a table that is not among them
            for place in batch:
                await target.execute(sql.SQL("DELETE FROM {}{}").format(_only(place), qualified(place.table)))


def _only(place: Place) -> sql.SQL:
    """A partitioned table holds its rows in others; an inheritance parent's children have places of their own."""
    return sql.SQL("" if place.partitioned else "ONLY ")
