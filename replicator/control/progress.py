"""Progress: one row, moved by compare-and-set in the transaction that applies (law 1)."""

from dataclasses import dataclass
from typing import Final, LiteralString
from uuid import UUID

import sqlalchemy as sa
from psycopg import AsyncRawCursor
from psycopg.rows import TupleRow

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


@dataclass(frozen=True, slots=True)
class Advance:
    """A compare-and-set of progress, the last statement of every apply transaction; must change exactly one row.

    Its parameters are the epoch, the old LSN, the new one and, where it ``marks``, the marker or NULL.
    """

    statement: LiteralString
    marks: bool

    def parameters(self, epoch: UUID, old: Lsn, new: Lsn, marker: str | None) -> list[str | None]:
        """Them as text."""
        place = [str(epoch), format_lsn(old), format_lsn(new)]
        return [*place, marker] if self.marks else [*place]


ADVANCE: Final = Advance(
    """
UPDATE replicator.progress
   SET lsn = $3, marker = coalesce($4, marker), updated_at = clock_timestamp()
 WHERE epoch = $1 AND lsn = $2::pg_lsn
""",
    marks=True,
)
"""Law 1's."""


async def advance(
    connection: Connection,
    epoch: UUID,
    old: Lsn,
    new: Lsn,
    marker: str | None = None,
    *,
    how: Advance = ADVANCE,
) -> None:
    """Move progress from ``old`` to ``new``, or raise FencedError: then the caller must roll back."""
    cursor: AsyncRawCursor[TupleRow] = AsyncRawCursor(connection)
    await cursor.execute(how.statement, how.parameters(epoch, old, new, marker), prepare=True)
    assert_advanced(cursor.rowcount, old)


def assert_advanced(changed: int, old: Lsn) -> None:
    """Raise FencedError unless ADVANCE changed its one row: then the caller must roll back."""
    if changed != 1:
        raise FencedError(f"progress is not {format_lsn(old)} of this worker any more")
