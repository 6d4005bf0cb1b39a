"""Keys, indexes and statistics of tables whose rows are there, while other tables are still being copied."""

import asyncio
from collections import defaultdict, deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, LiteralString
from uuid import UUID

import structlog
from psycopg import sql

from bootstrap.entries import Entry
from bootstrap.making import make_entries
from replicator import control
from replicator.catalog import PublishedTable
from replicator.config import Settings
from replicator.control import KeyStatement
from replicator.errors import Side, TargetError
from replicator.model import TableName, TableState
from replicator.postgres import Connection, connected, qualified, reporting

log = structlog.get_logger(__name__)

_SMALL_BYTES: Final = 4 * 1024 * 1024
_AT_ONCE: Final = 50
"""Small tables, or statements at the end, that share a transaction."""

ANALYZE_STEP: Final = "analyze"

_ROOTS: Final[LiteralString] = """
SELECT DISTINCT n.nspname, r.relname
  FROM replicator.tables t
  JOIN pg_catalog.pg_namespace tn ON tn.nspname = t.schema
  JOIN pg_catalog.pg_class c ON c.relnamespace = tn.oid AND c.relname = t.name AND c.relispartition
 CROSS JOIN LATERAL pg_catalog.pg_partition_ancestors(c.oid) a
  JOIN pg_catalog.pg_class r ON r.oid = a.relid AND r.relkind = 'p'
  JOIN pg_catalog.pg_namespace n ON n.oid = r.relnamespace
"""
_ONLY_SINCE: Final = 180_000
"""The server version that can analyze a partitioned table without its partitions."""


class CopiedTables:
    """The copied tables that wait for their keys. ``close`` says that no more will come."""

    def __init__(self, tables: Iterable[PublishedTable]) -> None:
        self._waiting = deque(tables)
        self._closed = False
        self._changed = asyncio.Event()

    def add(self, tables: Iterable[PublishedTable]) -> None:
        """Let these tables wait as well."""
        self._waiting.extend(tables)
        self._changed.set()

    def close(self) -> None:
        """No more will be added."""
        self._closed = True
        self._changed.set()

    async def take(self) -> list[PublishedTable]:
        """One large table, or several small ones; none when there will be no more."""
        while not self._waiting and not self._closed:
            self._changed.clear()
            await self._changed.wait()
        batch: list[PublishedTable] = []
        while self._waiting and len(batch) < _AT_ONCE:
            if batch and self._waiting[0].size >= _SMALL_BYTES:
                break
            batch.append(self._waiting.popleft())
            if batch[0].size >= _SMALL_BYTES:
                break
        return batch


@dataclass(frozen=True, slots=True)
class KeyMaker:
    """Makes what each table waits for; ``statements`` by published table, ``ready`` hears of tables that are done."""

    settings: Settings
    epoch: UUID
    statements: Mapping[TableName, Sequence[KeyStatement]]
    ready: Callable[[Sequence[TableName]], None]

    async def work(self, copied: CopiedTables) -> None:
        """Serve until there will be no more tables. Raises TargetError that names a statement that was refused."""
        async with connected(self.settings.target, Side.TARGET, "worker index") as target:
            while batch := await copied.take():
                with reporting(Side.TARGET, "making keys and indexes", TargetError):
                    await self._make(target, [table.table for table in batch])

    async def _make(self, target: Connection, tables: Sequence[TableName]) -> None:
        statements = [statement for table in tables for statement in self.statements.get(table, ())]
        if len(tables) == 1:
            # a large one: what is made of it stays made
            for statement in statements[:-1]:
                async with target.transaction():
                    await control.hold_epoch(target, self.epoch)
                    await _run(target, [statement])
            statements = statements[-1:]
        async with target.transaction():
            await control.hold_epoch(target, self.epoch)
            await _run(target, statements)
            await target.execute(sql.SQL("ANALYZE {}").format(sql.SQL(", ").join(map(qualified, tables))))
            await control.set_table_states(target, tables, TableState.READY)
        self.ready(tables)
        names = {"table": str(tables[0])} if len(tables) == 1 else {"tables": len(tables)}
        log.info("ready", **names)


def by_table(
    statements: Iterable[KeyStatement], tables: Iterable[PublishedTable]
) -> Mapping[TableName, Sequence[KeyStatement]]:
    """The statements of each published table and of its partitions; those of no such table are for the end."""
    published = {name: table.table for table in tables for name in (table.table, *(p.table for p in table.parts))}
    found: dict[TableName, list[KeyStatement]] = defaultdict(list)
    for statement in statements:
        if statement.table in published:
            found[published[statement.table]].append(statement)
    return found


async def make_rest(target: Connection, epoch: UUID) -> None:
    """Make what needs the keys of several tables: partitioned indexes, views that group by a key."""
    statements = await control.read_keys(target)
    with reporting(Side.TARGET, "making keys and indexes", TargetError):
        for start in range(0, len(statements), _AT_ONCE):
            async with target.transaction():
                await control.hold_epoch(target, epoch)
                await _run(target, statements[start : start + _AT_ONCE])


async def _run(target: Connection, statements: Sequence[KeyStatement]) -> None:
    if not statements:
        return
    await make_entries(target, [Entry(s.kind, s.schema, s.name, s.statement) for s in statements])
    await control.mark_keys(target, [statement.position for statement in statements])


async def analyze_roots(target: Connection, epoch: UUID) -> None:
    """Give partitioned tables statistics of their own: neither ANALYZE of a partition nor autovacuum does."""
    only = sql.SQL("ONLY " if target.info.server_version >= _ONLY_SINCE else "")
    with reporting(Side.TARGET, "analyzing partitioned tables", TargetError):
        cursor = await target.execute(_ROOTS)
        for schema, name in await cursor.fetchall():
            await target.execute(sql.SQL("ANALYZE {}{}").format(only, qualified(TableName(schema, name))))
        async with target.transaction():
            await control.hold_epoch(target, epoch)
            await control.record_step(target, ANALYZE_STEP)
