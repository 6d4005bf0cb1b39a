"""Keys, indexes and statistics of tables whose rows are there, while other tables are still being copied."""

import asyncio
import contextlib
from collections import defaultdict, deque
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
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

    async def wait(self) -> bool:
        """Wait for a table. False when there will be no more."""
        while not self._waiting and not self._closed:
            self._changed.clear()
            await self._changed.wait()
        return bool(self._waiting)

    def take(self) -> list[PublishedTable]:
        """One large table, or several small ones."""
        batch = [self._waiting.popleft()]
        while self._waiting and len(batch) < _AT_ONCE and not (_is_large(batch[0]) or _is_large(self._waiting[0])):
            batch.append(self._waiting.popleft())
        return batch


def _is_large(table: PublishedTable) -> bool:
    return table.size >= _SMALL_BYTES


@dataclass(frozen=True, slots=True)
class KeyMaker:
    """Makes what each table waits for; ``statements`` by published table, ``ready`` hears of tables that are done."""

    settings: Settings
    epoch: UUID
    statements: Mapping[TableName, Sequence[KeyStatement]]
    ready: Callable[[Sequence[TableName]], None]
    _idle: asyncio.Queue[Connection] = field(default_factory=asyncio.Queue)

    async def run(self, copied: CopiedTables) -> None:
        """Serve until there will be no more tables. Raises TargetError that names a statement that was refused."""
        async with contextlib.AsyncExitStack() as stack:
            for _ in range(self.settings.index_jobs):
                session = connected(self.settings.target, Side.TARGET, "worker index")
                self._idle.put_nowait(await stack.enter_async_context(session))
            async with asyncio.TaskGroup() as group:
                while await copied.wait():
                    # small tables gather while all connections are busy
                    target = await self._idle.get()
                    group.create_task(self._serve(target, copied.take()))

    async def _serve(self, target: Connection, tables: Sequence[PublishedTable]) -> None:
        names = [table.table for table in tables]
        statements = [statement for name in names for statement in self.statements.get(name, ())]
        try:
            if _is_large(tables[0]):
                target, statements = await self._make_large(target, statements), []
            await self._finish(target, statements, names)
        finally:
            self._idle.put_nowait(target)
        self.ready(names)
        log.info("ready", **({"table": str(names[0])} if len(names) == 1 else {"tables": len(names)}))

    async def _make_large(self, target: Connection, statements: Sequence[KeyStatement]) -> Connection:
        """Make each in a transaction of its own, indexes side by side; return a connection, maybe another one."""
        groups = list(_with_comments(statements))
        for group in groups:
            if not _is_plain_index(group[0]):
                await self._make(target, group)
        self._idle.put_nowait(target)
        async with asyncio.TaskGroup() as tasks:
            for group in groups:
                if _is_plain_index(group[0]):
                    tasks.create_task(self._make_on_any(group))
        return await self._idle.get()

    async def _make_on_any(self, statements: Sequence[KeyStatement]) -> None:
        target = await self._idle.get()
        try:
            await self._make(target, statements)
        finally:
            self._idle.put_nowait(target)

    async def _make(self, target: Connection, statements: Sequence[KeyStatement]) -> None:
        with reporting(Side.TARGET, "making keys and indexes", TargetError):
            async with control.under_epoch(target, self.epoch):
                await _run(target, statements)

    async def _finish(self, target: Connection, statements: Sequence[KeyStatement], names: Sequence[TableName]) -> None:
        """Make what is left, and statistics, in the transaction that says *ready*."""
        with reporting(Side.TARGET, "making keys and indexes", TargetError):
            async with control.under_epoch(target, self.epoch):
                await _run(target, statements)
                await target.execute(sql.SQL("ANALYZE {}").format(sql.SQL(", ").join(map(qualified, names))))
                await control.set_table_states(target, names, TableState.READY)


def _with_comments(statements: Iterable[KeyStatement]) -> Iterator[list[KeyStatement]]:
    """Each statement with the comments on what it makes."""
    group: list[KeyStatement] = []
    for statement in statements:
        if group and statement.kind != "COMMENT":
            yield group
            group = []
        group.append(statement)
    if group:
        yield group


def _is_plain_index(statement: KeyStatement) -> bool:
    """It locks the table against writes only, so several can be made at once; an ALTER TABLE after it does not."""
    return statement.kind == "INDEX" and "\nALTER TABLE " not in statement.statement


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


async def make_rest(target: Connection, epoch: UUID, may_wait: Container[str] = ()) -> None:
    """Make what needs the keys of several tables: partitioned indexes, views that group by a key.

    What the cutover can make as well ``may_wait`` for it: those of these kinds that need what is not there yet.
    """
    statements = await control.read_keys(target)
    with reporting(Side.TARGET, "making keys and indexes", TargetError):
        for start in range(0, len(statements), _AT_ONCE):
            async with control.under_epoch(target, epoch):
                await _run(target, statements[start : start + _AT_ONCE], may_wait)


async def _run(target: Connection, statements: Sequence[KeyStatement], may_wait: Container[str] = ()) -> None:
    if not statements:
        return
    entries = [Entry(s.kind, s.schema, s.name, s.statement) for s in statements]
    if waiting := await make_entries(target, entries, may_wait):
        log.info("left to the cutover: they need what only that makes", objects=[str(entry) for entry in waiting])
    await control.mark_keys(target, [statement.position for statement in statements])


async def analyze_roots(target: Connection, epoch: UUID) -> None:
    """Give partitioned tables statistics of their own: neither ANALYZE of a partition nor autovacuum does."""
    only = sql.SQL("ONLY " if target.info.server_version >= _ONLY_SINCE else "")
    with reporting(Side.TARGET, "analyzing partitioned tables", TargetError):
        cursor = await target.execute(_ROOTS)
        for schema, name in await cursor.fetchall():
            await target.execute(sql.SQL("ANALYZE {}{}").format(only, qualified(TableName(schema, name))))
        async with control.under_epoch(target, epoch):
            await control.record_step(target, ANALYZE_STEP)
