"""Reads the status: the control tables on the target, and what only the source knows."""

from typing import Final, LiteralString, Self

import psycopg

from replicator import control, postgres
from replicator.config import Settings
from replicator.errors import ReplicatorError, Side
from replicator.lsn import Lsn, parse_lsn
from replicator.postgres import Connection
from replicator.source.replanning import UNPUBLISHED_STEP
from replicator.source.slot import read_slot
from replicator.status.report import Status
from replicator.status.verdict import Records, SourceView, judge

_READ_ONLY: Final[LiteralString] = "SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY"
_WAL_LSN: Final[LiteralString] = "SELECT pg_current_wal_flush_lsn()::text"


async def read_status(settings: Settings) -> Status:
    """Read the status once. Raises a ReplicatorError if the target cannot be read; the source may be away."""
    async with StatusReader(settings) as reader:
        return await reader.read()


class StatusReader:
    """Keeps its two connections between readings. A source that refused us for good is not asked again (law 5)."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._target: Connection | None = None
        self._source: Connection | None = None
        self._refusal: ReplicatorError | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        for connection in (self._target, self._source):
            if connection is not None:
                await connection.close()

    async def read(self) -> Status:
        """Read the status now."""
        records = await self._read_target()
        if records is None:
            return Status()
        # after progress: what is applied meanwhile may show as lag, but lag never shows as less than it is
        return judge(records, await self._read_source(records.migration.slot), self._settings.lease_timeout)

    async def _read_target(self) -> Records | None:
        self._target = await _connected(self._target, self._settings.target, Side.TARGET)
        try:
            async with self._target.transaction():
                await self._target.execute(_READ_ONLY)
                return await _records(self._target)
        except psycopg.Error as error:
            raise postgres.translate(error, Side.TARGET, "reading the control tables") from None

    async def _read_source(self, slot: str) -> SourceView | ReplicatorError:
        """What the source says, or why it says nothing."""
        if self._refusal is not None:
            return self._refusal
        try:
            self._source = await _connected(self._source, self._settings.source, Side.SOURCE)
            return await _view(self._source, slot)
        except ReplicatorError as error:
            if not error.retryable:
                self._refusal = error
            return error


async def _connected(connection: Connection | None, dsn: str, side: Side) -> Connection:
    if connection is not None and not connection.closed:
        return connection
    return await postgres.connect(dsn, side, "status")


async def _records(target: Connection) -> Records | None:
    migration = await control.read_migration(target) if await control.exists(target) else None
    if migration is None:
        return None
    progress, worker = await control.read_progress(target), await control.read_worker(target)
    tables = list((await control.read_tables(target)).values())
    unpublished = (await control.read_steps(target)).get(UNPUBLISHED_STEP, {})
    spooled = await control.spool_size(target) if progress is not None and progress.spooled is not None else None
    return Records(migration, progress, worker, tables, unpublished, spooled)


async def _view(source: Connection, slot_name: str) -> SourceView:
    slot = await read_slot(source, slot_name)
    return SourceView(slot.wal_lsn, slot) if slot else SourceView(await _wal_lsn(source), None)


async def _wal_lsn(source: Connection) -> Lsn:
    try:
        row = await (await source.execute(_WAL_LSN)).fetchone()
    except psycopg.Error as error:
        raise postgres.translate(error, Side.SOURCE, "reading the end of the WAL") from None
    assert row is not None
    return parse_lsn(row[0])
