"""Whether insert-only tables were updated or deleted from since they were copied, by the source's own statistics.

Source: PostgreSQL documentation, "The Cumulative Statistics System" (pg_stat_all_tables, pg_stat_database): a session
reports its counts within seconds, and a crash or a reset begins them anew.
"""

import asyncio
import time
from collections.abc import Iterable, Mapping
from typing import Any, Final, LiteralString, NamedTuple

from replicator import control
from replicator.catalog import PublishedTable
from replicator.catalog.query import fetch
from replicator.model import TableName
from replicator.postgres import Connection

STEP: Final = "insert-only"
"""The recorded step whose detail holds the counts of when the tables were copied."""

_UNKNOWN: Final = -1
"""A count that equals no other: what was counted before the statistics were reset."""

_WRITES: Final[LiteralString] = """
SELECT relid AS oid, n_tup_upd + n_tup_del AS writes FROM pg_catalog.pg_stat_all_tables WHERE relid = ANY (%s)
"""

_RESET: Final[LiteralString] = """
SELECT coalesce(stats_reset::text, '') FROM pg_catalog.pg_stat_database WHERE datname = pg_catalog.current_database()
"""


_REPORTED_WITHIN: Final = 11.0
"""Seconds. A session reports what it counted at the end of a transaction, a second after the last time at the soonest,
or when it has been idle for ten (pgstat.c, PGSTAT_IDLE_INTERVAL; PostgreSQL 14 waits for its next transaction)."""

_UNREPORTED: Final[LiteralString] = """
SELECT EXISTS (SELECT FROM pg_catalog.pg_stat_activity
                WHERE datname = pg_catalog.current_database() AND pid <> pg_catalog.pg_backend_pid()
                  AND backend_type = 'client backend' AND application_name NOT LIKE 'replicator %%'
                  AND (state_change > pg_catalog.clock_timestamp() - pg_catalog.make_interval(secs => %s)) IS NOT FALSE)
"""
_PAUSE: Final = 0.2


class _Count(NamedTuple):
    oid: int
    writes: int


async def record_writes(source: Connection, target: Connection, tables: Iterable[PublishedTable]) -> None:
    """Keep the counts of the insert-only tables, for `written_since`; call it before their snapshot is taken.

    A table that is copied again counts from now on; the others keep what was recorded.
    """
    now = await _read(source, [table for table in tables if table.insert_only])
    if not now["counts"]:
        return
    before = (await control.read_steps(target)).get(STEP, {"reset": now["reset"], "counts": {}})
    kept = before["counts"] if before["reset"] == now["reset"] else dict.fromkeys(before["counts"], _UNKNOWN)
    await control.record_step(target, STEP, {"reset": now["reset"], "counts": {**kept, **now["counts"]}})


async def wait_until_reported(source: Connection) -> None:
    """Wait until every session must have reported what it wrote before this call, as if nobody wrote any more."""
    deadline = time.monotonic() + _REPORTED_WITHIN
    while time.monotonic() < deadline:
        row = await (await source.execute(_UNREPORTED, [_REPORTED_WITHIN])).fetchone()
        if row and not row[0]:
            return
        await asyncio.sleep(_PAUSE)


async def written_since(
    source: Connection, recorded: Mapping[str, Any] | None, tables: Iterable[PublishedTable]
) -> list[TableName]:
    """The insert-only tables whose statistics show, or do not rule out, updates or deletes since the copy.

    ``recorded`` is the detail of STEP; None counts from the beginning of the statistics.
    """
    candidates = [table for table in tables if table.insert_only]
    if not candidates:
        return []
    return changed_tables(candidates, recorded or {"reset": "", "counts": {}}, await _read(source, candidates))


def changed_tables(
    tables: Iterable[PublishedTable], before: Mapping[str, Any], now: Mapping[str, Any]
) -> list[TableName]:
    """Compare two readings: a count that differs, or statistics that were reset, rule nothing out."""
    if before["counts"] and before["reset"] != now["reset"]:
        return [table.table for table in tables]
    return [
        table.table for table in tables if before["counts"].get(str(table.table), 0) != now["counts"][str(table.table)]
    ]


async def _read(source: Connection, tables: Iterable[PublishedTable]) -> dict[str, Any]:
    tables = list(tables)
    parts = [part.oid for table in tables for part in table.parts]
    counts = {row.oid: row.writes for row in await fetch(source, _Count, _WRITES, parts)}
    reset = await (await source.execute(_RESET)).fetchone()
    return {
        "reset": reset[0] if reset else "",
        "counts": {str(table.table): sum(counts.get(part.oid, 0) for part in table.parts) for table in tables},
    }
