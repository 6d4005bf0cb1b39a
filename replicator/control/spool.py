"""The spool: changes that are durable on the target before their table can take them, kept by table.

``progress.spooled`` is where it ends, moved like progress itself, by compare-and-set in the transaction that applies
and adds (law 1). It is NULL when nothing is spooled. What is of no table lies under ``NO_TABLE``.
"""

from collections.abc import Sequence
from typing import Final, LiteralString, NamedTuple
from uuid import UUID

from replicator.control.progress import Advance
from replicator.errors import FencedError
from replicator.lsn import Lsn, format_lsn, parse_lsn
from replicator.postgres import Connection

NO_TABLE: Final = 0
"""No relation has this oid."""

ADVANCE_SPOOL: Final = Advance(
    "UPDATE replicator.progress SET spooled = $3 WHERE epoch = $1 AND spooled = $2::pg_lsn", marks=False
)
"""What ADVANCE is while changes are spooled."""

_BEGIN: Final[LiteralString] = """
UPDATE replicator.progress SET spooled = coalesce(spooled, lsn) WHERE epoch = %s RETURNING spooled::text
"""
_ADD: Final[LiteralString] = "INSERT INTO replicator.spool (source_oid, number, data) VALUES (%s, %s, %b)"
_LAST: Final[LiteralString] = "SELECT coalesce(max(number), 0) FROM replicator.spool"
_TABLES: Final[LiteralString] = "SELECT DISTINCT source_oid FROM replicator.spool"
_NEXT: Final[LiteralString] = """
SELECT number, data FROM (
  SELECT number, data,
         sum(pg_catalog.octet_length(data)) OVER (ORDER BY number) - pg_catalog.octet_length(data) AS before
    FROM replicator.spool WHERE source_oid = %s AND number > %s ORDER BY number LIMIT 100) chunks
 WHERE before < %s ORDER BY number
"""
_FORGET: Final[LiteralString] = "DELETE FROM replicator.spool WHERE source_oid = %s AND number <= %s"
_SIZE: Final[LiteralString] = "SELECT pg_catalog.pg_total_relation_size('replicator.spool')"
_END: Final[LiteralString] = """
UPDATE replicator.progress
   SET lsn = greatest(lsn, spooled), spooled = NULL, marker = coalesce(%s, marker), updated_at = clock_timestamp()
 WHERE epoch = %s AND spooled = %s::pg_lsn AND NOT EXISTS (SELECT FROM replicator.spool WHERE source_oid <> 0)
"""


class Chunk(NamedTuple):
    """One table's changes of some transactions, or of a part of a large one; ``number`` counts up."""

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


async def spooled_tables(connection: Connection) -> set[int]:
    """The source's oids of tables that have changes in the spool."""
    return {oid for (oid,) in await (await connection.execute(_TABLES)).fetchall()}


async def add_chunks(connection: Connection, chunks: Sequence[tuple[int, int, bytes]]) -> None:
    """Add chunks: the table's oid on the source, the number, and the changes."""
    for chunk in chunks:
        await connection.execute(_ADD, chunk, prepare=True)


async def read_chunks(connection: Connection, source_oid: int, after: int, size: int) -> list[Chunk]:
    """A table's next chunks behind number ``after``: at least one, if there is one, and then up to ``size`` bytes."""
    cursor = await connection.execute(_NEXT, [source_oid, after, size], prepare=True, binary=True)
    return [Chunk(*row) for row in await cursor.fetchall()]


async def spool_size(connection: Connection) -> int:
    """The bytes on disk; what was dropped counts until the server has tidied up."""
    row = await (await connection.execute(_SIZE)).fetchone()
    return int(row[0]) if row else 0


async def forget_chunks(connection: Connection, source_oid: int, number: int) -> None:
    """Drop what was applied of a table, within the caller's transaction."""
    await connection.execute(_FORGET, [source_oid, number], prepare=True)


async def end_spool(connection: Connection, epoch: UUID, spooled: Lsn, marker: str | None) -> None:
    """Nothing is spooled any more: progress is where the spool ended. Raises FencedError if that is not so."""
    async with connection.transaction():
        cursor = await connection.execute(_END, [marker, epoch, format_lsn(spooled)])
        if cursor.rowcount != 1:
            raise FencedError("the spool was not drained by this worker")
        await connection.execute("TRUNCATE replicator.spool")
