"""The spool: transactions that are durable on the target before their tables are ready to take them.

Its position, ``progress.spooled``, is moved like progress itself, by compare-and-set in the transaction that adds the
chunks (law 1). It is NULL when nothing is spooled.
"""

from typing import Final, LiteralString, NamedTuple
from uuid import UUID

from replicator.control.lease import hold_epoch
from replicator.errors import FencedError
from replicator.lsn import Lsn, format_lsn, parse_lsn
from replicator.postgres import Connection

_BEGIN: Final[LiteralString] = """
UPDATE replicator.progress SET spooled = coalesce(spooled, lsn) WHERE epoch = %s RETURNING spooled::text
"""
_ADD: Final[LiteralString] = "INSERT INTO replicator.spool (number, end_lsn, data) VALUES (%s, %s, %b)"
_ADVANCE: Final[LiteralString] = """
UPDATE replicator.progress SET spooled = %s WHERE epoch = %s AND spooled = %s::pg_lsn
"""
_LAST: Final[LiteralString] = "SELECT coalesce(max(number), 0) FROM replicator.spool"
_NEXT: Final[LiteralString] = """
SELECT number, data FROM replicator.spool WHERE number > %s ORDER BY number LIMIT %s
"""
_FORGET: Final[LiteralString] = """
DELETE FROM replicator.spool
 WHERE number <= (SELECT max(number) FROM replicator.spool WHERE end_lsn <= %s::pg_lsn)
"""
_SIZE: Final[LiteralString] = "SELECT pg_catalog.pg_total_relation_size('replicator.spool')"
_END: Final[LiteralString] = """
UPDATE replicator.progress SET spooled = NULL WHERE epoch = %s AND spooled <= lsn
"""


class Chunk(NamedTuple):
    """Some transactions, or a part of a large one; ``number`` counts up."""

    number: int
    data: bytes


async def begin_spool(connection: Connection, epoch: UUID) -> Lsn:
    """Begin to spool where progress stands, or go on where it ended. Raises FencedError without progress of ours."""
    row = await (await connection.execute(_BEGIN, [epoch])).fetchone()
    if row is None:
        raise FencedError("progress is not of this worker any more")
    return parse_lsn(row[0])


async def last_chunk(connection: Connection) -> int:
    """The highest number in use, or 0."""
    row = await (await connection.execute(_LAST)).fetchone()
    return int(row[0]) if row else 0


async def add_chunk(connection: Connection, number: int, end_lsn: Lsn | None, data: bytes) -> None:
    """Add a chunk; ``end_lsn`` is None where a transaction goes on in the next one."""
    await connection.execute(_ADD, [number, end_lsn and format_lsn(end_lsn), data], prepare=True)


async def advance_spool(connection: Connection, epoch: UUID, old: Lsn, new: Lsn) -> None:
    """Move the spool's end from ``old`` to ``new``, or raise FencedError: then the caller must roll back."""
    cursor = await connection.execute(_ADVANCE, [format_lsn(new), epoch, format_lsn(old)], prepare=True)
    if cursor.rowcount != 1:
        raise FencedError(f"the spool does not end at {format_lsn(old)} of this worker any more")


async def read_chunks(connection: Connection, after: int, limit: int) -> list[Chunk]:
    """The next chunks behind number ``after``."""
    cursor = await connection.execute(_NEXT, [after, limit], binary=True)
    return [Chunk(*row) for row in await cursor.fetchall()]


async def spool_size(connection: Connection) -> int:
    """The bytes on disk; what was dropped counts until the server has tidied up."""
    row = await (await connection.execute(_SIZE)).fetchone()
    return int(row[0]) if row else 0


async def forget_chunks(connection: Connection, progress: Lsn) -> None:
    """Drop what progress has passed."""
    await connection.execute(_FORGET, [format_lsn(progress)])


async def end_spool(connection: Connection, epoch: UUID) -> None:
    """Nothing is spooled any more. Raises FencedError unless progress has reached the spool's end."""
    async with connection.transaction():
        await hold_epoch(connection, epoch)
        cursor = await connection.execute(_END, [epoch])
        if cursor.rowcount != 1:
            raise FencedError("the spool was not drained by this worker")
        await connection.execute("TRUNCATE replicator.spool")
