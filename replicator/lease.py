"""One worker at a time (law 6): a session lock says who may begin, an epoch says whose writes count.

The lock is an advisory lock of the target: it ends with its session, so a worker that was killed is replaced at once.
A session can outlive its worker (a frozen process, a network that swallows packets), so a heartbeat that is too old
has its session ended. Neither is what keeps the data safe: that is the epoch, which every transaction asserts.
"""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, LiteralString
from uuid import UUID, uuid4

import psycopg
import structlog

from replicator import __version__, control
from replicator.errors import FencedError, MigrationRemovedError, Side
from replicator.postgres import Connection, connect, translate

log = structlog.get_logger(__name__)

_LOCK: Final = (0x7265706C, 1)
"""The advisory lock's two keys: "repl" in ASCII, and the one lock that there is."""

_POLL: Final = 1.0
"""Seconds between attempts."""

_TRY_LOCK: Final[LiteralString] = "SELECT pg_try_advisory_lock(%s, %s)"

_END_HOLDER: Final[LiteralString] = """
SELECT pg_terminate_backend(l.pid) FROM pg_locks l
 WHERE l.locktype = 'advisory' AND l.granted AND l.classid = %s::bigint::oid AND l.objid = %s::bigint::oid
   AND l.objsubid = 2 AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
"""

_END_WORKERS: Final[LiteralString] = """
SELECT pg_terminate_backend(pid) FROM pg_stat_activity
 WHERE datname = current_database() AND usename = current_user
   AND pid <> pg_backend_pid() AND application_name LIKE 'replicator worker%'
"""
"""What an earlier worker left behind: sessions that still hold locks, such as a copy whose client is gone."""

_CONNECTIONS: Final[LiteralString] = """
SELECT pg_catalog.substr(application_name, length('replicator ') + 1), count(*) FROM pg_catalog.pg_stat_activity
 WHERE datname = current_database() AND usename = current_user AND application_name LIKE 'replicator %'
 GROUP BY 1
"""


@dataclass(frozen=True, slots=True)
class Lease:
    """The right to write, for as long as its session lives and nobody has taken the epoch over."""

    epoch: UUID
    connection: Connection

    async def beat(self, statistics: Mapping[str, Any]) -> control.Migration | None:
        """Renew the lease and read where the migration stands. Raises FencedError or what `translate` makes."""
        try:
            await control.heartbeat(self.connection, self.epoch, statistics)
            return await control.read_migration(self.connection)
        except (psycopg.errors.UndefinedTable, psycopg.errors.InvalidSchemaName):
            raise MigrationRemovedError("the control tables are gone") from None
        except psycopg.Error as error:
            raise translate(error, Side.TARGET, "renewing the lease", otherwise=FencedError) from None

    async def count_connections(self) -> dict[str, int]:
        """Our open sessions on the target by what they are for, those of other commands too."""
        try:
            cursor = await self.connection.execute(_CONNECTIONS, prepare=True)
            return dict(await cursor.fetchall())
        except psycopg.Error as error:
            raise translate(error, Side.TARGET, "counting sessions") from None


@contextlib.asynccontextmanager
async def hold_lease(dsn: str, timeout: float, waiting: Callable[[], None]) -> AsyncIterator[Lease]:  # noqa: ASYNC109
    """Wait for the lease, calling ``waiting`` while another worker has it, and hold it while the block runs.

    ``timeout`` is the seconds without a heartbeat after which the holder's session is ended.
    """
    connection = await connect(dsn, Side.TARGET, "lease")
    try:
        try:
            lease = await _take(connection, timeout, waiting)
        except psycopg.Error as error:
            raise translate(error, Side.TARGET, "taking the lease") from None
        yield lease
    finally:
        await connection.close()


async def _take(connection: Connection, patience: float, waiting: Callable[[], None]) -> Lease:
    while not await _is_true(connection, _TRY_LOCK):
        waiting()
        await _end_frozen_holder(connection, patience)
        await asyncio.sleep(_POLL)
    epoch = uuid4()
    await control.create(connection)
    await connection.execute(_END_WORKERS)
    await control.take_lease(connection, epoch)
    await control.register_worker(connection, epoch, socket.gethostname(), __version__)
    log.info("took the lease", epoch=str(epoch))
    return Lease(epoch, connection)


async def _end_frozen_holder(connection: Connection, patience: float) -> None:
    holder = await control.read_worker(connection) if await control.exists(connection) else None
    if holder is not None and holder.heartbeat_age > patience:
        log.warning("the other worker is silent: taking over", host=holder.host, seconds=round(holder.heartbeat_age))
        await connection.execute(_END_HOLDER, _LOCK)


async def _is_true(connection: Connection, query: LiteralString) -> bool:
    row = await (await connection.execute(query, _LOCK)).fetchone()
    return bool(row and row[0])
