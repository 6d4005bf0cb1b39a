"""Partitioned tables that are published as one: their rows travel under the root's name, whatever lies below it.

So a partition that is new is made at once, though the stream may be behind. What rows are in the way of, or a partition
that has left its place, makes the root come again: its round empties the tree, and gives it the source's places.
Source: PostgreSQL documentation, CREATE TABLE (PARTITION OF), ALTER TABLE (ATTACH PARTITION).
"""

from collections.abc import Container, Iterable, Mapping, Sequence, Set
from typing import Final, LiteralString, NamedTuple
from uuid import UUID

import psycopg
import structlog
from psycopg import sql

from bootstrap.leaving import left_tables
from bootstrap.making import refused
from bootstrap.trees import Place, detach, read_places, read_tables, rename
from replicator import control
from replicator.catalog import PublishedTable
from replicator.model import TableName
from replicator.postgres import Connection, qualified

log = structlog.get_logger(__name__)

_MEMBERS: Final[LiteralString] = """
WITH RECURSIVE tree (root, oid, level) AS (
  SELECT u.oid, u.oid, 0 FROM unnest(%s::oid[]) u (oid)
  UNION ALL
  SELECT t.root, i.inhrelid, t.level + 1
    FROM tree t JOIN pg_catalog.pg_class p ON p.oid = t.oid AND p.relkind = 'p'
    JOIN pg_catalog.pg_inherits i ON i.inhparent = t.oid AND NOT i.inhdetachpending)
SELECT t.root::bigint, n.nspname, c.relname, pn.nspname, p.relname, c.relpersistence = 'u',
       pg_catalog.pg_get_expr(c.relpartbound, c.oid), pg_catalog.pg_get_partkeydef(c.oid)
  FROM tree t
  JOIN pg_catalog.pg_class c ON c.oid = t.oid AND c.relispartition AND c.relkind IN ('r', 'p')
  JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
  JOIN pg_catalog.pg_inherits i ON i.inhrelid = c.oid
  JOIN pg_catalog.pg_class p ON p.oid = i.inhparent JOIN pg_catalog.pg_namespace pn ON pn.oid = p.relnamespace
 WHERE t.level > 0
 ORDER BY t.level, n.nspname, c.relname
"""
_IN_THE_WAY: Final = frozenset({"23514", "42P17"})
"""A default partition holds rows of the new one; another partition's bounds overlap."""


class _Member(NamedTuple):
    root: TableName
    table: TableName
    place: Place
    is_unlogged: bool
    key: str | None

    def creation(self) -> sql.Composed:
        by = sql.SQL(f" PARTITION BY {self.key}" if self.key else "")
        return sql.SQL("CREATE {}TABLE {} PARTITION OF {} {}{}").format(
            sql.SQL("UNLOGGED " if self.is_unlogged else ""), *self._names(), sql.SQL(self.place.bounds), by
        )

    def attachment(self) -> sql.Composed:
        table, parent = self._names()
        return sql.SQL("ALTER TABLE {} ATTACH PARTITION {} {}").format(parent, table, sql.SQL(self.place.bounds))

    def _names(self) -> tuple[sql.Composable, sql.Composable]:
        return qualified(self.table), qualified(self.place.parent)


async def make_partitions(
    source: Connection, target: Connection, epoch: UUID, published: Iterable[PublishedTable]
) -> set[TableName]:
    """Make the new partitions below the roots that the target has; the roots that have to come again for them.

    Raises SchemaMismatchError with the statement that the target refused for another reason.
    """
    if not (roots := _roots(published)):
        return set()
    members, ours = await _members(source, roots), await read_places(source)
    await _rename_partitions(target, epoch, members)
    there, theirs = await read_tables(target), await read_places(target)
    again = _unlike({root for root in roots.values() if root in there}, ours, theirs, there)
    for member in members:
        if member.table in there or member.root in again or member.root not in there:
            continue
        try:
            async with control.under_epoch(target, epoch):
                await target.execute(member.creation())
        except psycopg.Error as error:
            if error.sqlstate not in _IN_THE_WAY:
                raise refused(error, f"making {member.table}", member.creation().as_string()) from None
            log.info("rows are in the way of a partition", table=str(member.table), root=str(member.root))
            again.add(member.root)
        else:
            log.info("made a partition", table=str(member.table), root=str(member.root))
    return again


async def _rename_partitions(target: Connection, epoch: UUID, members: Sequence[_Member]) -> None:
    """A partition with the place of another one, which the target lacks, is that one under its former name."""
    known, there, names = {member.table for member in members}, await read_tables(target), await _names(target)
    for member in members:
        old = None if member.table in there else names.get(member.place)
        if old is not None and old not in known:
            await rename(target, epoch, old, member.table)
            names = await _names(target)  # what lies below it has another place now


async def _names(target: Connection) -> dict[Place, TableName]:
    return {place: table for table, place in (await read_places(target)).items()}


async def fit_trees(source: Connection, target: Connection, epoch: UUID, published: Iterable[PublishedTable]) -> None:
    """Give the empty trees of these roots the partitions and places of the source; others become tables of their own.

    A table that is a partition now, whose rows come under the root's name, is emptied if we have filled it. Raises
    SchemaMismatchError with the statement that the target refused.
    """
    roots = _roots(published)
    members, ours, theirs = await _members(source, roots), await read_places(source), await read_places(target)
    for table in _below(set(roots.values()), theirs):
        if ours.get(table) != theirs[table]:
            await detach(target, epoch, table, theirs[table].parent)
    places, there, left = await read_places(target), await read_tables(target), await left_tables(target)
    for member in members:
        if member.table in places:
            continue
        statement = member.attachment() if member.table in there else member.creation()
        try:
            async with control.under_epoch(target, epoch):
                if member.table in left:
                    await target.execute(sql.SQL("TRUNCATE {}").format(qualified(member.table)))
                await target.execute(statement)
        except psycopg.Error as error:
            raise refused(error, f"making {member.table}", statement.as_string()) from None
        log.info("a partition has its place", table=str(member.table), root=str(member.root))


def _roots(published: Iterable[PublishedTable]) -> dict[int, TableName]:
    """Those that are published as one, by object id."""
    return {t.oid: t.table for t in published if any(part.oid != t.oid for part in t.parts)}


async def _members(source: Connection, roots: Mapping[int, TableName]) -> list[_Member]:
    """The partitions below these roots of the source, parents before their partitions."""
    rows = await (await source.execute(_MEMBERS, [list(roots)])).fetchall()
    return [
        _Member(roots[root], TableName(*names[:2]), Place(TableName(*names[2:]), bounds), is_unlogged, key)
        for root, *names, is_unlogged, bounds, key in rows
    ]


def _unlike(
    roots: Set[TableName],
    ours: Mapping[TableName, Place],
    theirs: Mapping[TableName, Place],
    there: Container[TableName],
) -> set[TableName]:
    """The roots with a partition that has another place on the target, or none though its table is there."""
    misplaced = {root for table, root in _below(roots, theirs).items() if ours.get(table) != theirs[table]}
    return misplaced | {root for table, root in _below(roots, ours).items() if table in there and table not in theirs}


def _below(roots: Set[TableName], places: Mapping[TableName, Place]) -> dict[TableName, TableName]:
    """The partitions below these, in any depth, each with its root."""
    found: dict[TableName, TableName] = {}
    for table, place in places.items():
        top = place.parent
        while top not in roots and top in places:
            top = places[top].parent
        if top in roots:
            found[table] = top
    return found
