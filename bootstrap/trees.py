"""Trees of partitions that the app changes while the stream runs: names, and partitions that left them.

A detached table takes every row that it took as a partition, so this may be done at once, though the stream may be
behind. An attached one does not: that waits with the indexes of later deploys until the stream has passed (refresh).
Source: PostgreSQL documentation, ALTER TABLE (DETACH PARTITION), "System Catalogs" (pg_inherits).
"""

from collections import defaultdict
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

_PARTITIONS: Final[LiteralString] = """
SELECT n.nspname, c.relname, pn.nspname, p.relname
  FROM pg_catalog.pg_inherits i
  JOIN pg_catalog.pg_class c ON c.oid = i.inhrelid AND c.relispartition AND c.relkind IN ('r', 'p', 'f')
  JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
  JOIN pg_catalog.pg_class p ON p.oid = i.inhparent JOIN pg_catalog.pg_namespace pn ON pn.oid = p.relnamespace
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
    """Detach what is attached on the target alone, of what was copied. Dropped partitions stay as tables of their own.

    Raises SchemaMismatchError with the statement that the target refused.
    """
    ours, theirs = await _parents(source), await _parents(target)
    known = set(await control.read_tables(target))
    for name in list(known):
        while (above := theirs.get(name)) is not None:
            known.add(above)
            name = above  # noqa: PLW2901  # up to the root
    for table, parent in theirs.items():
        if table in known and ours.get(table) != parent:
            await _detach(target, epoch, table, parent)


async def _parents(connection: Connection) -> dict[TableName, TableName]:
    rows = await (await connection.execute(_PARTITIONS)).fetchall()
    return {TableName(*row[:2]): TableName(*row[2:]) for row in rows}


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
