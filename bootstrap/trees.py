"""Trees of partitions that the app changes while the stream runs: names, new partitions, and those that left them.

A detached table takes every row that it took as a partition, so this may be done at once, though the stream may be
behind. An attached one does not: that waits with the indexes of later deploys until the stream has passed (refresh).
What is new takes no rows from another one.
Source: PostgreSQL documentation, CREATE TABLE (PARTITION OF), ALTER TABLE (DETACH PARTITION), "System Catalogs"
(pg_inherits).
"""

from collections import defaultdict
from collections.abc import Iterable
from typing import Final, LiteralString, NamedTuple
from uuid import UUID

import psycopg
import structlog
from psycopg import sql

from replicator import control
from replicator.catalog import PublishedTable
from replicator.errors import SchemaMismatchError, Side
from replicator.model import TableName
from replicator.postgres import Connection, qualified, translate

log = structlog.get_logger(__name__)

_PARTITIONS: Final[LiteralString] = """
SELECT n.nspname, c.relname, pn.nspname, p.relname, pg_catalog.pg_get_expr(c.relpartbound, c.oid)
  FROM pg_catalog.pg_inherits i
  JOIN pg_catalog.pg_class c ON c.oid = i.inhrelid AND c.relispartition AND c.relkind IN ('r', 'p', 'f')
  JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
  JOIN pg_catalog.pg_class p ON p.oid = i.inhparent JOIN pg_catalog.pg_namespace pn ON pn.oid = p.relnamespace
"""


_MEMBERS: Final[LiteralString] = """
WITH RECURSIVE tree(oid, level) AS (
  SELECT u.oid, 0 FROM unnest(%s::oid[]) u(oid)
  UNION ALL
  SELECT i.inhrelid, t.level + 1
    FROM tree t JOIN pg_catalog.pg_class p ON p.oid = t.oid AND p.relkind = 'p'
    JOIN pg_catalog.pg_inherits i ON i.inhparent = t.oid AND NOT i.inhdetachpending)
SELECT n.nspname, c.relname, pn.nspname, p.relname, c.relpersistence = 'u',
       pg_catalog.pg_get_expr(c.relpartbound, c.oid), pg_catalog.pg_get_partkeydef(c.oid)
  FROM tree t
  JOIN pg_catalog.pg_class c ON c.oid = t.oid AND c.relispartition AND c.relkind IN ('r', 'p')
  JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
  JOIN pg_catalog.pg_inherits i ON i.inhrelid = c.oid
  JOIN pg_catalog.pg_class p ON p.oid = i.inhparent JOIN pg_catalog.pg_namespace pn ON pn.oid = p.relnamespace
 WHERE t.level > 0
 ORDER BY t.level, n.nspname, c.relname
"""

_TABLES: Final[LiteralString] = """
SELECT n.nspname, c.relname
  FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace WHERE c.relkind IN ('r', 'p')
"""


async def rename_parents(source: Connection, target: Connection, epoch: UUID) -> None:
    """Give partitioned tables of the target the names that they have on the source by now.

    Changes travel leaf by leaf, so no change is about them, and it may be done at once. One was renamed if its name is
    gone, and all its partitions that are there have one parent of another name, which the target lacks.
    """
    while renamed := await _renamed_parents(source, target):
        for old, new in renamed.items():
            await _rename(target, epoch, old, new)


async def _renamed_parents(source: Connection, target: Connection) -> dict[TableName, TableName]:
    ours, theirs = await _parents(source), await _parents(target)
    here, there = await _tables(source), await _tables(target)
    now: dict[TableName, set[TableName]] = defaultdict(set)
    for partition, parent in theirs.items():
        if partition in ours and parent not in here:
            now[parent].add(ours[partition])
    return {old: next(iter(names)) for old, names in now.items() if len(names) == 1 and names.isdisjoint(there)}


async def _tables(connection: Connection) -> set[TableName]:
    return {TableName(*row) for row in await (await connection.execute(_TABLES)).fetchall()}


async def _rename(target: Connection, epoch: UUID, old: TableName, new: TableName) -> None:
    try:
        async with control.under_epoch(target, epoch):
            if old.name != new.name:
                rename = sql.SQL("ALTER TABLE {} RENAME TO {}")
                await target.execute(rename.format(qualified(old), sql.Identifier(new.name)))
            if old.schema != new.schema:
                move = sql.SQL("ALTER TABLE {} SET SCHEMA {}")
                moved = qualified(TableName(old.schema, new.name))
                await target.execute(move.format(moved, sql.Identifier(new.schema)))
    except psycopg.Error as error:
        raise translate(error, Side.TARGET, f"renaming {old} to {new}", otherwise=SchemaMismatchError) from None
    log.info("renamed a partitioned table", table=str(old), now=str(new))


async def detach_partitions(source: Connection, target: Connection, epoch: UUID) -> None:
    """Detach what is attached on the target alone, or with other bounds, of what was copied.

    Dropped partitions stay as tables of their own; new bounds come as those of a partition that was attached do.
    Raises SchemaMismatchError with the statement that the target refused.
    """
    ours, theirs = await _places(source), await _places(target)
    known = set(await control.read_tables(target))
    for name in list(known):
        while (place := theirs.get(name)) is not None:
            known.add(place.parent)
            name = place.parent  # noqa: PLW2901  # up to the root
    for table, place in theirs.items():
        if table in known and ours.get(table) != place:
            await _detach(target, epoch, table, place.parent)


class _Place(NamedTuple):
    """What a partition is one of, and its bounds as PostgreSQL prints them."""

    parent: TableName
    bounds: str


async def _places(connection: Connection) -> dict[TableName, _Place]:
    rows = await (await connection.execute(_PARTITIONS)).fetchall()
    return {TableName(*row[:2]): _Place(TableName(*row[2:4]), row[4]) for row in rows}


async def _parents(connection: Connection) -> dict[TableName, TableName]:
    return {table: place.parent for table, place in (await _places(connection)).items()}


async def _detach(target: Connection, epoch: UUID, table: TableName, parent: TableName) -> None:
    statement = sql.SQL("ALTER TABLE {} DETACH PARTITION {}").format(qualified(parent), qualified(table))
    try:
        async with control.under_epoch(target, epoch):
            await target.execute(statement)
    except psycopg.Error as error:
        failure = translate(error, Side.TARGET, f"detaching {table}", otherwise=SchemaMismatchError)
        if isinstance(failure, SchemaMismatchError):
            failure.hint = f"Run on the target: {statement.as_string()}; the worker goes on by itself then."
        raise failure from None
    log.info("detached a partition", table=str(table), root=str(parent))


async def make_partitions(
    source: Connection, target: Connection, epoch: UUID, published: Iterable[PublishedTable]
) -> None:
    """Make the new partitions below the roots that the target has, for rows that travel under a root's name.

    Raises SchemaMismatchError with the statement that the target refused.
    """
    there = await _tables(target)
    roots = [t.oid for t in published if t.table in there and any(part.oid != t.oid for part in t.parts)]
    rows = await (await source.execute(_MEMBERS, [roots])).fetchall()
    for schema, name, parent_schema, parent, is_unlogged, bound, key in rows:
        table = TableName(schema, name)
        if table in there:
            continue
        unlogged = "UNLOGGED " if is_unlogged else ""
        by = f" PARTITION BY {key}" if key else ""
        place = qualified(table).as_string(), qualified(TableName(parent_schema, parent)).as_string()
        statement = f"CREATE {unlogged}TABLE {place[0]} PARTITION OF {place[1]} {bound}{by}"
        try:
            async with control.under_epoch(target, epoch):
                await target.execute(statement.encode())
        except psycopg.Error as error:
            failure = translate(error, Side.TARGET, f"making {table}", otherwise=SchemaMismatchError)
            if isinstance(failure, SchemaMismatchError):
                failure.hint = f"Run on the target: {statement}; the worker goes on by itself then."
            raise failure from None
        log.info("made a partition", table=str(table), root=f"{parent_schema}.{parent}")


async def with_relatives(
    source: Connection, target: Connection, tables: Iterable[TableName]
) -> dict[TableName, TableName | None]:
    """These tables, and what the target lacks of the trees that they are in, each with what it is a partition of."""
    parents, ours, there = await _parents(source), await _tables(source), await _tables(target)
    found = set(tables)
    while more := {
        relative
        for partition, parent in parents.items()
        for relative, other in ((parent, partition), (partition, parent))
        if other in found and relative in ours and relative not in found and relative not in there
    }:
        found |= more
    return {table: parents.get(table) for table in sorted(found)}
