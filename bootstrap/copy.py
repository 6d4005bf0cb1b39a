"""The relay: COPY out of the source straight into COPY into the target, on one event loop.

asyncpg, because it hands over large chunks where libpq hands over a row; only here (design: Copying). On the source a
transaction holds ACCESS SHARE on its tables from before their first chunk until after their last; on the target it
holds the lease's epoch (law 6), and tables change their state in it together with their rows.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Self, cast
from uuid import UUID

import asyncpg
from psycopg import sql

from bootstrap.binary import CopyFormat, copy_format
from bootstrap.driver import DRIVER_ERRORS, Session, connected, translate_error
from bootstrap.jobs import Load, Piece
from replicator.catalog import Part, PublishedTable
from replicator.errors import (
    CopyError,
    FencedError,
    Side,
    SnapshotLostError,
)
from replicator.model import TableName, TableState
from replicator.postgres import qualified

_QUEUED_CHUNKS: Final = 2
"""Chunks between the two sides; a chunk is what had arrived, up to a megabyte, or a slice of a row that is larger."""

_SLICE: Final = 2 * 1024 * 1024
"""Bytes that the target's side is given at once: it copies them twice, and a row may be as large as memory."""

_FRESH: Final = """
SELECT c.oid
  FROM unnest($1::oid[], $2::text[]) t(oid, name)
  JOIN pg_catalog.pg_class c ON c.oid = t.oid
 WHERE pg_catalog.to_regclass(t.name)::oid = c.oid AND pg_catalog.pg_relation_filenode(c.oid) = c.relfilenode
   AND NOT EXISTS (SELECT FROM pg_catalog.pg_attribute a
                    WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
                      AND (pg_catalog.pg_identify_object_as_address(c.tableoid, c.oid, a.attnum)).object_names[3]
                          IS DISTINCT FROM a.attname)
"""
"""The tables whose file is the one that the snapshot sees, and whose columns all have their names still: catalogs are
read by the snapshot, by the functions they are not (which give NULL for the name of what was dropped)."""

_TYPES: Final = """
SELECT t.name, a.attname::text, a.atttypid
  FROM unnest($1::text[]) t(name)
  JOIN pg_catalog.pg_attribute a ON a.attrelid = t.name::regclass AND a.attnum > 0 AND NOT a.attisdropped
"""

_HOLD_EPOCH: Final = "SELECT FROM replicator.lease WHERE epoch = $1 FOR SHARE"
_SET_STATE: Final = """
WITH held AS MATERIALIZED (SELECT FROM replicator.lease WHERE epoch = $1 FOR SHARE)
UPDATE replicator.tables t
   SET state = $2, rows = u.rows, bytes = u.bytes, updated_at = clock_timestamp()
  FROM held, unnest($3::text[], $4::text[], $5::bigint[], $6::bigint[]) u(schema, name, rows, bytes)
 WHERE t.schema = u.schema AND t.name = u.name
"""
"""What control.py says with psycopg, in asyncpg's words: it commits with the rows."""


_Chunks = asyncio.Queue[bytes | BaseException | None]


@dataclass(frozen=True, slots=True)
class Copied:
    """How much was copied: rows, and bytes as COPY sends them."""

    rows: int = 0
    bytes: int = 0

    def __add__(self, other: "Copied") -> "Copied":
        return Copied(self.rows + other.rows, self.bytes + other.bytes)


class TablesGoneError(Exception):
    """A table to be copied does not exist any more under its name. No failure of ours: it goes to another round."""


class Relay:
    """A connection to each side, for one job at a time. After an error it must be closed."""

    def __init__(
        self,
        source: Session,
        target: Session,
        epoch: UUID,
        count_bytes: Callable[[int], None],
    ) -> None:
        self._source = source
        self._target = target
        self._epoch = epoch
        self._count_bytes = count_bytes

    @classmethod
    @contextlib.asynccontextmanager
    async def opened(
        cls, source: str, target: str, epoch: UUID, *, replica: bool, count_bytes: Callable[[int], None]
    ) -> AsyncIterator[Self]:
        """Connect both sides for as long as the block runs.

        ``replica``: the target's role may set session_replication_role. ``count_bytes`` hears of every chunk.
        Raises what `postgres.connect` does.
        """
        role = {"session_replication_role": "replica"} if replica else {}
        async with connected(source, Side.SOURCE, {}) as reader, connected(target, Side.TARGET, role) as writer:
            yield cls(reader, writer, epoch, count_bytes)

    # --- a transaction on each side -----------------------------------------------------------------------------------

    async def begin_source(self, snapshot: str, parts: Sequence[Part]) -> frozenset[int]:
        """Lock the parts under the snapshot and return the oids of those that were not emptied or rewritten since.

        Raises TablesGoneError, with the transaction ended, or SnapshotLostError.
        """
        begin = sql.SQL("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; SET TRANSACTION SNAPSHOT {}")
        lock = sql.SQL("; LOCK TABLE {} IN ACCESS SHARE MODE").format(_only(part.table for part in parts))
        statement = begin.format(sql.Literal(snapshot)) + (lock if parts else sql.SQL(""))
        try:
            await self._source.execute(statement.as_string())
        except (asyncpg.UndefinedTableError, asyncpg.InvalidSchemaNameError, asyncpg.WrongObjectTypeError):
            await self._source.execute("ROLLBACK")
            raise TablesGoneError from None
        except (
            asyncpg.InvalidParameterValueError,
            asyncpg.UndefinedObjectError,
            asyncpg.ObjectNotInPrerequisiteStateError,
        ):
            raise SnapshotLostError("the snapshot of this round is gone") from None
        except DRIVER_ERRORS as error:
            raise translate_error(error, Side.SOURCE, "locking tables for the copy") from None
        return await self._fresh(parts)

    async def _fresh(self, parts: Sequence[Part]) -> frozenset[int]:
        names = [qualified(part.table).as_string() for part in parts]
        try:
            rows = await self._source.fetch(_FRESH, [part.oid for part in parts], names)
        except DRIVER_ERRORS as error:
            raise translate_error(error, Side.SOURCE, "checking tables for the copy") from None
        return frozenset(row["oid"] for row in rows)

    async def begin_target(self) -> None:
        """Begin the target's transaction, which holds the epoch. Raises FencedError."""
        try:
            await self._target.execute("BEGIN")
            if await self._target.fetchrow(_HOLD_EPOCH, self._epoch) is None:
                raise FencedError("another worker has taken the lease")
        except DRIVER_ERRORS as error:
            raise translate_error(error, Side.TARGET, "beginning a copy") from None

    async def set_states(self, state: TableState, tables: Mapping[TableName, Copied | None]) -> None:
        """Record a state with what was copied, in the target's transaction or one of its own. Raises FencedError."""
        columns = (
            [table.schema for table in tables],
            [table.name for table in tables],
            [copied and copied.rows for copied in tables.values()],
            [copied and copied.bytes for copied in tables.values()],
        )
        try:
            status = await self._target.execute(_SET_STATE, self._epoch, state.value, *columns)
        except DRIVER_ERRORS as error:
            raise translate_error(error, Side.TARGET, "recording what was copied") from None
        if _count(status) != len(tables):
            raise FencedError("another worker has taken the lease, or has changed the list of tables")

    async def commit(self) -> None:
        """Make the copy durable on the target, then let go of the source's tables."""
        try:
            await self._target.execute("COMMIT")
        except DRIVER_ERRORS as error:
            raise translate_error(error, Side.TARGET, "committing a copy") from None
        await self.end_source()

    async def end_source(self) -> None:
        """End the source's transaction."""
        try:
            await self._source.execute("COMMIT")
        except DRIVER_ERRORS as error:
            raise translate_error(error, Side.SOURCE, "ending a copy") from None

    # --- rows ---------------------------------------------------------------------------------------------------------

    async def truncate(self, table: TableName) -> None:
        """Give an empty table a new file in this transaction, as COPY FREEZE wants it (documentation: COPY)."""
        statement = sql.SQL("TRUNCATE ONLY {}").format(qualified(table))
        try:
            await self._target.execute(statement.as_string())
        except DRIVER_ERRORS as error:
            raise translate_error(error, Side.TARGET, f"preparing {table} for the copy") from None

    async def formats_of(self, loads: Sequence[Load]) -> Mapping[int, CopyFormat]:
        """How the rows of each part can travel, by its oid.

        In binary, if both sides' columns are of the same types, and these have a format for ever.
        """
        lock = sql.SQL("LOCK TABLE {} IN ROW EXCLUSIVE MODE").format(_only(load.table.table for load in loads))
        parts = {piece.part.oid: (load.table, piece.part) for load in loads for piece in load.pieces}
        try:
            ours = await _types(self._source, [part.table for _, part in parts.values()])
        except DRIVER_ERRORS as error:
            raise translate_error(error, Side.SOURCE, "reading the columns of tables") from None
        try:
            await self._target.execute(lock.as_string())
            theirs = await _types(self._target, [load.table.table for load in loads])
        except DRIVER_ERRORS as error:
            raise translate_error(error, Side.TARGET, "reading the columns of tables") from None
        return {
            oid: copy_format(table.columns, ours[part.table], theirs[table.table])
            for oid, (table, part) in parts.items()
        }

    async def copy(
        self, table: PublishedTable, piece: Piece, *, freeze: bool = False, how: CopyFormat = "text"
    ) -> Copied:
        """Copy one piece within both transactions. Raises CopyError, or a retryable error when a side is away.

        ``freeze``: no later pass has to mark the rows as visible to all. The table must have been truncated.
        """
        chunks: _Chunks = asyncio.Queue(_QUEUED_CHUNKS)
        reading = asyncio.create_task(self._read(table, piece, chunks, how))
        try:
            status = await self._target.copy_to_table(
                table.table.name,
                schema_name=table.table.schema,
                columns=list(table.columns),
                source=_until_end(chunks),
                format=how,
                freeze=freeze,
            )
        except DRIVER_ERRORS as error:
            raise translate_error(error, Side.TARGET, f"copying into {table.table}") from None
        finally:
            reading.cancel()
            await asyncio.wait([reading])
        copied = reading.result()
        if _count(status) != copied.rows:
            raise CopyError(
                f"table {table.table}: the source sent {copied.rows} rows, the target took {_count(status)}"
            )
        return copied

    async def _read(self, table: PublishedTable, piece: Piece, chunks: _Chunks, how: CopyFormat) -> Copied:
        """Fill the queue. None is put only after the source has said that the copy is complete."""
        total = 0

        async def hand_over(chunk: bytes) -> None:
            nonlocal total
            total += len(chunk)
            self._count_bytes(len(chunk))
            for start in range(0, len(chunk), _SLICE):
                await chunks.put(chunk[start : start + _SLICE])
            # the driver holds it until it has read the next one, and a row may be as large as memory
            cast("bytearray", chunk).clear()

        try:
            status = await self._source.copy_from_query(piece.query(table), output=hand_over, format=how)
        except DRIVER_ERRORS as error:
            await chunks.put(translate_error(error, Side.SOURCE, f"copying from {piece.part.table}"))
            return Copied()
        await chunks.put(None)
        return Copied(_count(status), total)


async def _until_end(chunks: _Chunks) -> AsyncIterator[bytes]:
    """What was read, until its end. Raises what ended it early: asyncpg then ends the target's COPY with an error."""
    while (chunk := await chunks.get()) is not None:
        if isinstance(chunk, BaseException):
            raise chunk
        yield chunk


def _only(tables: Iterable[TableName]) -> sql.Composed:
    """None of their partitions or inheritance children."""
    return sql.SQL(", ").join(sql.SQL("ONLY {}").format(qualified(table)) for table in tables)


async def _types(session: Session, tables: Sequence[TableName]) -> Mapping[TableName, Mapping[str, int]]:
    """The object ids of the columns' types, by their names."""
    names = {qualified(table).as_string(): table for table in tables}
    found: dict[TableName, dict[str, int]] = {table: {} for table in tables}
    for name, column, type_oid in await session.fetch(_TYPES, list(names)):
        found[names[name]][column] = type_oid
    return found


def _count(status: str) -> int:
    """The number at the end of a command's tag: ``COPY 5``."""
    return int(status.rpartition(" ")[2])
