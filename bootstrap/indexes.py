"""Indexes and keys that have other names on the source: they were renamed, or came with a partition that was made.

Source: PostgreSQL documentation, "System Catalogs" (pg_index, pg_constraint), ALTER INDEX: a constraint has the name
of its index.
"""

from collections import Counter, defaultdict
from collections.abc import Container, Sequence
from typing import Final, LiteralString, NamedTuple
from uuid import UUID, uuid4

import psycopg
import structlog
from psycopg import sql
from psycopg.rows import class_row

from bootstrap.types import LEFT
from replicator import control
from replicator.errors import SchemaMismatchError, Side
from replicator.model import TableName
from replicator.postgres import Connection, qualified, reporting, translate

log = structlog.get_logger(__name__)

_NAMES: Final[LiteralString] = """
SELECT n.nspname, i.relname, c.relname
  FROM pg_catalog.pg_index x
  JOIN pg_catalog.pg_class i ON i.oid = x.indexrelid
  JOIN pg_catalog.pg_class c ON c.oid = x.indrelid
  JOIN pg_catalog.pg_namespace n ON n.oid = i.relnamespace
 WHERE n.nspname = ANY (%s)
"""
_INDEXES: Final[LiteralString] = """
SELECT n.nspname AS schema, i.relname AS name, c.relname AS relation,
       k.oid IS NULL AND NOT i.relispartition AS is_plain,
       pg_catalog.concat_ws(' ', x.indisunique, x.indisprimary, k.contype, k.condeferrable, k.condeferred,
         pg_catalog.substring(pg_catalog.pg_get_indexdef(i.oid), ' USING .*')) AS definition
  FROM pg_catalog.pg_index x
  JOIN pg_catalog.pg_class i ON i.oid = x.indexrelid
  JOIN pg_catalog.pg_class c ON c.oid = x.indrelid
  JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
  LEFT JOIN pg_catalog.pg_constraint k ON k.conindid = i.oid AND k.conrelid = c.oid AND k.contype IN ('p', 'u', 'x')
 WHERE x.indisvalid AND n.nspname = ANY (%s) AND c.relname = ANY (%s)
 ORDER BY n.nspname, i.relname
"""
"""``pg_get_indexdef`` waits for a lock on the table, so only tables that may need it are asked for."""

_SHAPES: Final[LiteralString] = """
SELECT n.nspname AS schema, c.relname AS relation, i.relname AS name, x.indexrelid AS oid,
       pg_catalog.concat_ws(' ', m.amname, x.indisunique, x.indisexclusion, x.indimmediate, x.indnkeyatts,
         x.indpred IS NOT NULL,
         (SELECT pg_catalog.string_agg(coalesce(a.attname, '()'), ',' ORDER BY k.place)
            FROM pg_catalog.unnest(x.indkey::int2[]) WITH ORDINALITY k (attnum, place)
            LEFT JOIN pg_catalog.pg_attribute a
              ON a.attrelid = x.indrelid AND a.attnum = k.attnum AND k.attnum > 0)) AS shape
  FROM pg_catalog.pg_index x
  JOIN pg_catalog.pg_class i ON i.oid = x.indexrelid
  JOIN pg_catalog.pg_am m ON m.oid = i.relam
  JOIN pg_catalog.pg_class c ON c.oid = x.indrelid
  JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
  JOIN ROWS FROM (pg_catalog.unnest(%s::text[]), pg_catalog.unnest(%s::text[])) u (schema, name)
    ON u.schema = n.nspname AND u.name = c.relname
 WHERE x.indisvalid
 ORDER BY n.nspname, c.relname, i.relname
"""
"""Without ``pg_get_indexdef``, which waits for locks: what an expression or a predicate says is not compared."""

_MAKING: Final[LiteralString] = """
SELECT CASE WHEN k.oid IS NULL
            THEN pg_catalog.regexp_replace(pg_catalog.pg_get_indexdef(x.indexrelid), ' ON ONLY ', ' ON ')
            ELSE pg_catalog.format('ALTER TABLE %%s ADD CONSTRAINT %%I %%s', k.conrelid::pg_catalog.regclass, k.conname,
                                   pg_catalog.pg_get_constraintdef(k.oid)) END
  FROM pg_catalog.pg_index x
  LEFT JOIN pg_catalog.pg_constraint k
         ON k.conindid = x.indexrelid AND k.conrelid = x.indrelid AND k.contype IN ('p', 'u', 'x')
 WHERE x.indexrelid = %s
"""
_DROPPING: Final[LiteralString] = """
SELECT CASE WHEN k.oid IS NULL THEN pg_catalog.format('DROP INDEX %%I.%%I; ', n.nspname, i.relname)
            ELSE pg_catalog.format('ALTER TABLE %%I.%%I DROP CONSTRAINT %%I; ', tn.nspname, t.relname, k.conname) END
  FROM pg_catalog.pg_index x
  JOIN pg_catalog.pg_class i ON i.oid = x.indexrelid JOIN pg_catalog.pg_namespace n ON n.oid = i.relnamespace
  JOIN pg_catalog.pg_class t ON t.oid = x.indrelid JOIN pg_catalog.pg_namespace tn ON tn.oid = t.relnamespace
  LEFT JOIN pg_catalog.pg_constraint k
         ON k.conindid = x.indexrelid AND k.conrelid = x.indrelid AND k.contype IN ('p', 'u', 'x')
 WHERE n.nspname = %s AND i.relname = %s
"""
_ANCESTORS: Final[LiteralString] = """
SELECT DISTINCT pn.nspname, p.relname
  FROM ROWS FROM (pg_catalog.unnest(%s::text[]), pg_catalog.unnest(%s::text[])) u (schema, name)
  JOIN pg_catalog.pg_namespace n ON n.nspname = u.schema
  JOIN pg_catalog.pg_class c ON c.relnamespace = n.oid AND c.relname = u.name
 CROSS JOIN LATERAL pg_catalog.pg_partition_ancestors(c.oid) a
  JOIN pg_catalog.pg_class p ON p.oid = a.relid JOIN pg_catalog.pg_namespace pn ON pn.oid = p.relnamespace
"""
_BELOW: Final[LiteralString] = """
WITH RECURSIVE below (oid) AS (
  SELECT i.inhrelid
    FROM ROWS FROM (pg_catalog.unnest(%s::text[]), pg_catalog.unnest(%s::text[])) u (schema, name)
    JOIN pg_catalog.pg_namespace n ON n.nspname = u.schema
    JOIN pg_catalog.pg_class c ON c.relnamespace = n.oid AND c.relname = u.name AND c.relkind = 'I'
    JOIN pg_catalog.pg_inherits i ON i.inhparent = c.oid
   UNION ALL
  SELECT i.inhrelid FROM below b JOIN pg_catalog.pg_inherits i ON i.inhparent = b.oid)
SELECT n.nspname, c.relname
  FROM below b JOIN pg_catalog.pg_class c ON c.oid = b.oid JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
"""


class _Shape(NamedTuple):
    schema: str
    relation: str
    name: str
    oid: int
    shape: str

    @property
    def place(self) -> tuple[str, str, str]:
        return self.schema, self.relation, self.shape


class _Index(NamedTuple):
    schema: str
    name: str
    relation: str
    is_plain: bool
    definition: str


async def renamed_indexes(source: Connection, target: Connection, schemas: Sequence[str]) -> dict[TableName, str]:
    """The indexes of the target that have other names on the source now, with those.

    Such a one is the only index of its table with its definition whose name the other side does not know.
    """
    here, there = await _names(source, schemas), await _names(target, schemas)
    tables = {(place[0], place[2]) for place in here - there} & {(place[0], place[2]) for place in there - here}
    if not tables:
        return {}
    relations = sorted({relation for _, relation in tables})
    ours, theirs = await _read(source, schemas, relations), await _read(target, schemas, relations)
    names = [{(index.schema, index.name) for index in side} for side in (ours, theirs)]
    new, old = _by_definition(ours, names[1]), _by_definition(theirs, names[0])
    return {
        TableName(index.schema, index.name): new[place][0].name
        for place, (index, *others) in old.items()
        if not others and len(new.get(place, ())) == 1
    }


async def lacking_indexes(
    source: Connection, target: Connection, tables: Sequence[TableName]
) -> dict[TableName, tuple[TableName, str]]:
    """The source's indexes and keys of these tables, and of those that they are partitions of, that the target has
    nothing like, or nothing valid.

    Each with its table and the statements that make it. Names do not matter: `renamed_indexes` looks at them.
    """
    above = await (await source.execute(_ANCESTORS, _columns(tables))).fetchall()
    names = _columns(sorted({*tables, *(TableName(*row) for row in above)}))
    ours, theirs = [
        await (await side.cursor(row_factory=class_row(_Shape)).execute(_SHAPES, names)).fetchall()
        for side in (source, target)
    ]
    there = Counter(index.place for index in theirs)
    found: dict[TableName, tuple[TableName, str]] = {}
    for index in ours:
        there[index.place] -= 1
        if there[index.place] < 0:
            drop = await _text(target, _DROPPING, index.schema, index.name)
            statement = drop + await _text(source, _MAKING, index.oid)
            found[TableName(index.schema, index.name)] = TableName(index.schema, index.relation), statement
    return found


def _columns(tables: Sequence[TableName]) -> list[list[str]]:
    return [[table.schema for table in tables], [table.name for table in tables]]


async def _text(connection: Connection, query: LiteralString, *parameters: object) -> str:
    row = await (await connection.execute(query, parameters)).fetchone()
    return str(row[0]) if row else ""


async def replaced_indexes(source: Connection, target: Connection, schemas: Sequence[str]) -> dict[TableName, str]:
    """The target's indexes, no constraints among them, that are others on the source, perhaps of other tables.

    Each with what drops it.
    """
    tables = sorted({relation for side in (source, target) for _, _, relation in await _names(side, schemas)})
    theirs = {(index.schema, index.name): index for index in await _read(target, schemas, tables)}
    drop = sql.SQL("DROP INDEX IF EXISTS {};\n")
    return {
        TableName(ours.schema, ours.name): drop.format(sql.Identifier(ours.schema, ours.name)).as_string()
        for ours in await _read(source, schemas, tables)
        if (their := theirs.get((ours.schema, ours.name))) is not None
        and ours.is_plain
        and their.is_plain
        and (ours.relation, ours.definition) != (their.relation, their.definition)
    }


async def indexes_below(target: Connection, indexes: Sequence[TableName]) -> set[TableName]:
    """The partitions' indexes that are dropped with these, which are perhaps of partitioned tables."""
    return {TableName(*row) for row in await (await target.execute(_BELOW, _columns(indexes))).fetchall()}


async def rename_indexes(source: Connection, target: Connection, epoch: UUID, schemas: Sequence[str]) -> None:
    """Give the target's indexes the names that they have on the source.

    Where another relation has such a name they keep theirs: no row depends on it, and the cutover tells.
    """
    renamed = await renamed_indexes(source, target, schemas)
    if not renamed:
        return
    try:
        async with control.under_epoch(target, epoch):
            for index, name in renamed.items():
                await target.execute(
                    sql.SQL("ALTER INDEX {} RENAME TO {}").format(qualified(index), sql.Identifier(name))
                )
    except psycopg.Error as error:
        refused = translate(error, Side.TARGET, "renaming indexes", otherwise=SchemaMismatchError)
        if refused.retryable:
            raise refused from None
        log.warning("indexes keep their names", reason=refused.message)
        return
    log.info("renamed indexes", names={str(old): new for old, new in renamed.items()})


async def leave_names(
    source: Connection, target: Connection, epoch: UUID, schemas: Sequence[str], tables: Container[TableName]
) -> None:
    """Take the names that indexes of these tables have on the source from the target's indexes of other tables.

    Those were dropped, with their tables or alone, or renamed: so they get another name, and stay.
    """
    wanted = {(schema, name): table for schema, name, table in await _names(source, schemas)}
    taken = [
        TableName(schema, name)
        for schema, name, table in await _names(target, schemas)
        if (owner := wanted.get((schema, name), table)) != table and TableName(schema, owner) in tables
    ]
    for index in taken:
        unused = sql.Identifier(f"{LEFT}{uuid4().hex}")
        with reporting(Side.TARGET, "renaming indexes", SchemaMismatchError):
            async with control.under_epoch(target, epoch):
                await target.execute(sql.SQL("ALTER INDEX {} RENAME TO {}").format(qualified(index), unused))
        log.info("an index has left its name to the source's", index=str(index))


async def _names(connection: Connection, schemas: Sequence[str]) -> set[tuple[str, str, str]]:
    """Schema, name and table of each index."""
    return set(await (await connection.execute(_NAMES, [list(schemas)])).fetchall())


async def _read(connection: Connection, schemas: Sequence[str], tables: Sequence[str]) -> list[_Index]:
    """With names that say their schema, whatever the session's search_path is."""
    async with connection.transaction():
        await connection.execute("SET LOCAL search_path = ''")
        cursor = connection.cursor(row_factory=class_row(_Index))
        return await (await cursor.execute(_INDEXES, [list(schemas), list(tables)])).fetchall()


def _by_definition(indexes: Sequence[_Index], known: set[tuple[str, str]]) -> dict[tuple[str, str, str], list[_Index]]:
    """Those whose names are not ``known``."""
    found: dict[tuple[str, str, str], list[_Index]] = defaultdict(list)
    for index in indexes:
        if (index.schema, index.name) not in known:
            found[index.schema, index.relation, index.definition].append(index)
    return found
