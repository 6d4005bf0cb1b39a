"""Which subtransactions of a transaction that has committed were rolled back: the source's commit log knows.

The stream does not always tell. Seen with PostgreSQL 17.10, after a reconnection: it seems to forget those that it had
spilled to its disk before it sent them. Then its own subscriptions would have their rows.
"""

from collections.abc import Sequence
from typing import Final, LiteralString

from replicator.errors import UntoldRollbackError
from replicator.postgres import Connection

_AT_ONCE: Final = 100_000
"""Subtransactions that are asked for in one query: there may be millions."""

# Xids are within 2**31 of each other, before or behind: the newest one that has ended tells their upper halves.
_STATUSES: Final[LiteralString] = """
WITH known AS (SELECT pg_catalog.pg_snapshot_xmax(pg_catalog.pg_current_snapshot())::text::bigint AS xid),
     asked AS (SELECT u.xid, pg_catalog.pg_xact_status(
                        (k.xid + ((u.xid - (k.xid & 4294967295) + 6442450944) & 4294967295) - 2147483648)::text::xid8
                      ) AS status
                 FROM known k, unnest(%s::bigint[]) u (xid))
SELECT coalesce(array_agg(xid) FILTER (WHERE status = 'aborted'), '{}') AS aborted,
       count(*) FILTER (WHERE status IS NULL) AS unknown
  FROM asked
"""


async def rolled_back(source: Connection, xids: Sequence[int]) -> list[int]:
    """Those that were. The transaction's commit must have been received.

    Each of them was rolled back before that, which the commit log has known since; the others have committed with it,
    though the server may say for a moment, or while it waits for a synchronous standby, that they are in progress.
    Raises psycopg.Error, or UntoldRollbackError if they are too old for the commit log.
    """
    found: list[int] = []
    for start in range(0, len(xids), _AT_ONCE):
        cursor = await source.execute(_STATUSES, [list(xids[start : start + _AT_ONCE])])
        row = await cursor.fetchone()
        assert row is not None  # an aggregate has one
        aborted, unknown = row
        if unknown:
            raise UntoldRollbackError(f"{unknown} subtransaction(s) of a large transaction are too old to be told of")
        found += aborted
    return found
