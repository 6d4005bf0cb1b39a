"""Raising the fence on a live source without hurting the app: short tries, pauses between them, and an end to it.

The locks are waited for less long than ``deadlock_timeout``, so where the app and the fence wait for each other it is
the fence that gives way, before any deadlock is looked for. Autovacuum alone yields only to one who waits longer: it is
sent away first, by a lock that no reader or writer waits behind.
"""

import asyncio
from collections.abc import Sequence
from typing import Final, LiteralString, NamedTuple

import psycopg
from psycopg import sql

from replicator.catalog.query import fetch
from replicator.cutover.report import Report
from replicator.errors import CutoverError
from replicator.postgres import Connection, qualified
from replicator.source.fence import Fence, FencedTable, raise_fence

_BELOW_DEADLOCK: Final = 0.7
"""Of deadlock_timeout: the longest that a try may wait."""

_PAUSE: Final = 1.0
"""Seconds between two tries, for the app to catch up."""

_NOT_NOW: Final = (
    psycopg.errors.LockNotAvailable,
    psycopg.errors.QueryCanceled,
    psycopg.errors.DeadlockDetected,
)

_DEADLOCK_TIMEOUT: Final[LiteralString] = """
SELECT extract(epoch FROM pg_catalog.current_setting('deadlock_timeout')::interval)::float8
"""

# a worker of the server itself has no user
_AUTOVACUUMED: Final[LiteralString] = """
SELECT DISTINCT l.relation AS oid
  FROM pg_catalog.pg_locks l
  JOIN pg_catalog.pg_stat_activity a ON a.pid = l.pid
 WHERE l.relation = ANY (%s) AND l.granted AND l.mode = 'ShareUpdateExclusiveLock' AND a.usesysid IS NULL
   AND l.database = (SELECT d.oid FROM pg_catalog.pg_database d WHERE d.datname = pg_catalog.current_database())
"""

_BLOCKERS: Final[LiteralString] = """
SELECT DISTINCT l.pid, coalesce(a.application_name, '') AS application,
       a.pid IS NOT NULL AND a.usesysid IS NULL AS autovacuum,
       extract(epoch FROM pg_catalog.clock_timestamp() - a.xact_start)::float8 AS seconds
  FROM pg_catalog.pg_locks l
  LEFT JOIN pg_catalog.pg_stat_activity a ON a.pid = l.pid
 WHERE l.relation = ANY (%s) AND l.granted AND l.mode NOT IN ('AccessShareLock', 'RowShareLock')
   AND l.database = (SELECT d.oid FROM pg_catalog.pg_database d WHERE d.datname = pg_catalog.current_database())
   AND l.pid IS DISTINCT FROM pg_catalog.pg_backend_pid()
 ORDER BY seconds DESC NULLS FIRST LIMIT 5
"""


class _Oid(NamedTuple):
    oid: int


class Blocker(NamedTuple):
    """Who holds a lock that the fence needs, and for how many seconds; without ``pid``, a prepared transaction."""

    pid: int | None
    application: str
    autovacuum: bool
    seconds: float | None

    def __str__(self) -> str:
        if self.pid is None:
            return "a prepared transaction"
        who = "autovacuum" if self.autovacuum else f"process {self.pid}"
        name = f" ({self.application})" if self.application else ""
        return who + name + ("" if self.seconds is None else f", in a transaction for {self.seconds:.1f} s")


async def fence_patiently(
    source: Connection,
    tables: Sequence[FencedTable],
    *,
    destination: str,
    lifts_after: float | None,
    lock_timeout: float,
    patience: float,
    report: Report,
) -> Fence:
    """Try to raise the fence for ``patience`` seconds. Raises CutoverError, unfenced, when it cannot be had.

    ``lifts_after``: seconds after which it lets writes pass (None: never); ``lock_timeout``: seconds, the longest
    that a try may keep the app waiting.
    """
    loop = asyncio.get_running_loop()
    end = loop.time() + patience
    deadlock_timeout = await _deadlock_timeout(source)
    lock_seconds = min(lock_timeout, deadlock_timeout * _BELOW_DEADLOCK)
    while True:
        await _send_autovacuum_away(source, tables, deadlock_timeout)
        try:
            return await raise_fence(
                source, tables, destination=destination, seconds=lifts_after, lock_seconds=lock_seconds
            )
        except _NOT_NOW:
            blockers = await fetch(source, Blocker, _BLOCKERS, [table.oid for table in tables])
        by = f": blocked by {'; '.join(map(str, blockers))}" if blockers else ""
        if loop.time() + _PAUSE >= end:
            raise CutoverError(
                f"the fence could not get its locks within {patience:g} s{by}",
                hint="End the long transactions on the source, then run `replicator cutover` again.",
            )
        report(f"the fence has to wait for running transactions{by}; the app goes on, trying again")
        await asyncio.sleep(_PAUSE)


async def _deadlock_timeout(source: Connection) -> float:
    row = await (await source.execute(_DEADLOCK_TIMEOUT)).fetchone()
    return float(row[0]) if row else 1.0


async def _send_autovacuum_away(source: Connection, tables: Sequence[FencedTable], deadlock_timeout: float) -> None:
    """One table at a time, holding nothing else: whoever waits for us then can never be part of a deadlock."""
    busy = {row.oid for row in await fetch(source, _Oid, _AUTOVACUUMED, [table.oid for table in tables])}
    limit = sql.Literal(f"{round((deadlock_timeout + 0.5) * 1000)}ms")
    for table in tables:
        if table.oid not in busy:
            continue
        try:
            async with source.transaction():
                await source.execute(sql.SQL("SET LOCAL lock_timeout = {}").format(limit))
                name = qualified(table.table)
                await source.execute(sql.SQL("LOCK TABLE ONLY {} IN SHARE UPDATE EXCLUSIVE MODE").format(name))
        except _NOT_NOW:
            continue  # one that prevents wraparound does not yield: the fence's own try tells
