"""Progress: one row, moved by compare-and-set in the transaction that applies (law 1)."""

from dataclasses import dataclass
from typing import Any, Final, LiteralString
from uuid import UUID

import sqlalchemy as sa

from replicator.control.schema import PROGRESS, run
from replicator.errors import FencedError
from replicator.lsn import Lsn, format_lsn, parse_lsn
from replicator.postgres import Connection


@dataclass(frozen=True, slots=True)
class Progress:
    """The end LSN of the last applied transaction (law 1), and the nonce of the last marker in it.

    ``spooled`` is where the spool ends: what lies between is durable on the target, applied or spooled, table by table.
    """

    epoch: UUID
    lsn: Lsn
    marker: str | None
    spooled: Lsn | None = None

    @property
    def durable(self) -> Lsn:
        """Where the stream goes on: everything before it is on the target, applied or spooled."""
        return self.lsn if self.spooled is None else max(self.lsn, self.spooled)


async def read_progress(connection: Connection) -> Progress | None:
    """Progress, or None before the first snapshot is recorded."""
    cursor = await run(connection, sa.select(PROGRESS))
    row = await cursor.fetchone()
    if row is None:
        return None
    spooled = row["spooled"] and parse_lsn(row["spooled"])
    return Progress(row["epoch"], parse_lsn(row["lsn"]), row["marker"], spooled)


async def start_progress(connection: Connection, epoch: UUID, lsn: Lsn) -> None:
    """Record where the stream begins: the main slot's consistent point."""
    await run(connection, PROGRESS.insert().values(epoch=epoch, lsn=format_lsn(lsn)))


ADVANCE: Final[LiteralString] = """
UPDATE replicator.progress
   SET lsn = %(new)s, marker = coalesce(%(marker)s, marker), updated_at = clock_timestamp()
 WHERE epoch = %(epoch)s AND lsn = %(old)s::pg_lsn
"""
"""Law 1's compare-and-set, the last statement of every apply transaction; must change exactly one row."""


def advance_parameters(epoch: UUID, old: Lsn, new: Lsn, marker: str | None) -> dict[str, Any]:
    """The parameters of ADVANCE."""
    return {"epoch": epoch, "old": format_lsn(old), "new": format_lsn(new), "marker": marker}


async def advance(
    connection: Connection,
    epoch: UUID,
    old: Lsn,
    new: Lsn,
    marker: str | None = None,
    *,
    statement: LiteralString = ADVANCE,
) -> None:
    """Move progress from ``old`` to ``new``, or raise FencedError: then the caller must roll back."""
    # prepared here as it is in pipelines: where one is aborted, the driver would take for prepared what it was only
    # going to prepare, if it had run the same statement without before
    cursor = await connection.execute(statement, advance_parameters(epoch, old, new, marker), prepare=True)
    assert_advanced(cursor.rowcount, old)


def assert_advanced(changed: int, old: Lsn) -> None:
    """Raise FencedError unless ADVANCE changed its one row: then the caller must roll back."""
    if changed != 1:
        raise FencedError(f"progress is not {format_lsn(old)} of this worker any more")
