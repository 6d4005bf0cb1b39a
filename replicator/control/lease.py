"""The lease's epoch, which fences a second worker, and what the worker says of itself (law 6)."""

import contextlib
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql

from replicator.control.schema import LEASE, NOW, PROGRESS, WORKER, run
from replicator.errors import FencedError
from replicator.postgres import Connection


@dataclass(frozen=True, slots=True)
class Worker:
    """The worker that holds the lease; ``heartbeat_age`` is seconds by the target's clock."""

    epoch: UUID
    backend_pid: int
    host: str
    version: str
    started_at: datetime
    heartbeat_age: float
    statistics: Mapping[str, Any]


async def take_lease(connection: Connection, epoch: UUID) -> None:
    """Make ``epoch`` the only one that may write. Waits for transactions that hold the old epoch's row."""
    async with connection.transaction():
        await run(
            connection,
            postgresql.insert(LEASE).values(epoch=epoch).on_conflict_do_update(
                index_elements=["only"], set_={"epoch": epoch}
            ),
        )  # fmt: skip
        await run(connection, PROGRESS.update().values(epoch=epoch))


@contextlib.asynccontextmanager
async def under_epoch(connection: Connection, epoch: UUID) -> AsyncIterator[None]:
    """A transaction that holds the lease's row ``FOR SHARE`` (law 6). Raises FencedError if it is another's."""
    mine = sa.select(LEASE.c.epoch).where(LEASE.c.epoch == epoch).with_for_update(read=True)
    async with connection.transaction():
        cursor = await run(connection, mine)
        if await cursor.fetchone() is None:
            raise FencedError("another worker has taken the lease")
        yield


async def register_worker(connection: Connection, epoch: UUID, host: str, version: str) -> None:
    """Record who holds the lease; the session's own backend is the one whose end frees it."""
    values = {
        "epoch": epoch,
        "backend_pid": sa.func.pg_backend_pid(),
        "host": host,
        "version": version,
        "started_at": NOW,
        "heartbeat_at": NOW,
    }
    statement = postgresql.insert(WORKER).values(**values)
    await run(connection, statement.on_conflict_do_update(index_elements=["only"], set_=values))


async def heartbeat(connection: Connection, epoch: UUID, statistics: Mapping[str, Any]) -> None:
    """Say that the worker lives, with what `status` shows of it. Raises FencedError if the lease is another's."""
    cursor = await run(
        connection,
        WORKER.update().where(WORKER.c.epoch == epoch).values(heartbeat_at=NOW, statistics=dict(statistics)),
    )
    if cursor.rowcount != 1:
        raise FencedError("another worker has taken the lease")


async def read_worker(connection: Connection) -> Worker | None:
    """The last worker that held the lease, alive or not."""
    age = sa.cast(sa.extract("epoch", NOW - WORKER.c.heartbeat_at), sa.Float).label("heartbeat_age")
    columns = [WORKER.c[name] for name in ("epoch", "backend_pid", "host", "version", "started_at", "statistics")]
    cursor = await run(connection, sa.select(*columns, age))
    row = await cursor.fetchone()
    return None if row is None else Worker(**row)
