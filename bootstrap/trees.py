"""Trees of partitions that the app changes while the stream runs: names, new partitions, and those that left them.

A detached table takes every row that it took as a partition, so this may be done at once, though the stream may be
behind. An attached one does not: that waits with the indexes of later deploys until the stream has passed (refresh).
What travels under a root's name has a module of its own (roots).
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

from bootstrap.making import refused
from replicator import control
from replicator.errors import SchemaMismatchError, Side
from replicator.model import TableName
from replicator.postgres import Connection, qualified, translate

log = structlog.get_logger(__name__)

_PARTITIONS: Final[LiteralString] = """
SELECT n.nspname, c.relname, pn.nspname, p.relname, pg_catalog.pg_get_expr(c.relpartbound, c.oid)
  FROM pg_catalog.pg_inherits i
  JOIN pg_catalog.pg_class c ON c.oid = i.inhrelid AND c.relispartition AND c.relkind IN ('r', 'p', 'f')
                            AND NOT i.inhdetachpending
  JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
  JOIN pg_catalog.pg_class p ON p.oid = i.inhparent JOIN pg_catalog.pg_namespace pn ON pn.oid = p.relnamespace
"""

_TABLES: Final[LiteralString] = """
SELECT n.nspname, c.relname
  FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace WHERE c.relkind IN ('r', 'p')
"""


async def rename_parents(source: Connection, target: Connection, epoch: UUID) -> None:
    """Give partitioned tables of the target the names that they have on the source by now.

    Where changes travel leaf by leaf, no change is about them, and it may be done at once. One was renamed if its name
    is gone, and all its partitions that are there have one parent of another name, which the target lacks.
    """
    while renamed := await _renamed_parents(source, target):
        for old, new in renamed.items():
            await rename(target, epoch, old, new)


async def _renamed_parents(source: Connection, target: Connection) -> dict[TableName, TableName]:
    ours, theirs = await _parents(source), await _parents(target)
    here, there = await read_tables(source), await read_tables(target)
    published = await control.read_tables(target)  # one that is published as one waits for the stream to come to it
    now: dict[TableName, set[TableName]] = defaultdict(set)
    for partition, parent in theirs.items():
        if partition in ours and parent not in here and parent not in published:
            now[parent].add(ours[partition])
    return {old: next(iter(names)) for old, names in now.items() if len(names) == 1 and names.isdisjoint(there)}


async def read_tables(connection: Connection) -> set[TableName]:
    """All tables, also partitioned ones."""
    return {TableName(*row) for row in await (await connection.execute(_TABLES)).fetchall()}


async def rename(target: Connection, epoch: UUID, old: TableName, new: TableName) -> None:
    """Give a table of the target another name. Raises SchemaMismatchError if that is refused."""
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
    log.info("renamed a table of a tree", table=str(old), now=str(new))


async def detach_partitions(source: Connection, target: Connection, epoch: UUID) -> None:
    """Detach what is attached on the target alone, or with other bounds, of what was copied.

    Dropped partitions stay as tables of their own; new bounds come as those of a partition that was attached do.
    Raises SchemaMismatchError with the statement that the target refused.
    """
    ours, theirs = await read_places(source), await read_places(target)
    known = set(await control.read_tables(target))
    for name in list(known):
        while (place := theirs.get(name)) is not None:
            known.add(place.parent)
            name = place.parent  # noqa: PLW2901  # up to the root
    for table, place in theirs.items():
        if table in known and ours.get(table) != place:
            await detach(target, epoch, table, place.parent)


class Place(NamedTuple):
    """What a partition is one of, and its bounds as PostgreSQL prints them."""

    parent: TableName
    bounds: str


async def read_places(connection: Connection) -> dict[TableName, Place]:
    """Of all partitions."""
    rows = await (await connection.execute(_PARTITIONS)).fetchall()
    return {TableName(*row[:2]): Place(TableName(*row[2:4]), row[4]) for row in rows}


async def _parents(connection: Connection) -> dict[TableName, TableName]:
    return {table: place.parent for table, place in (await read_places(connection)).items()}


async def detach(target: Connection, epoch: UUID, table: TableName, parent: TableName) -> None:
    """Make a partition a table of its own. Raises SchemaMismatchError with the statement that the target refused."""
    statement = sql.SQL("ALTER TABLE {} DETACH PARTITION {}").format(qualified(parent), qualified(table))
    try:
        async with control.under_epoch(target, epoch):
            await target.execute(statement)
    except psycopg.Error as error:
        raise refused(error, f"detaching {table}", statement.as_string()) from None
    log.info("detached a partition", table=str(table), root=str(parent))


async def with_relatives(
    source: Connection, target: Connection, tables: Iterable[TableName]
) -> dict[TableName, TableName | None]:
    """These tables, and what the target lacks of the trees that they are in, each with what it is a partition of."""
    parents, ours, there = await _parents(source), await read_tables(source), await read_tables(target)
    found = set(tables)
    while more := {
        relative
        for partition, parent in parents.items()
        for relative, other in ((parent, partition), (partition, parent))
        if other in found and relative in ours and relative not in found and relative not in there
    }:
        found |= more
    return {table: parents.get(table) for table in sorted(found)}
