"""Trees of partitions that the app changes while the stream runs: partitions that left them leave the target's, too.

A detached table takes every row that it took as a partition, so this may be done at once, though the stream may be
behind. An attached one does not: that waits with the indexes of later deploys until the stream has passed (refresh).
Source: PostgreSQL documentation, ALTER TABLE (DETACH PARTITION), "System Catalogs" (pg_inherits).
"""

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
