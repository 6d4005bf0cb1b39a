"""Adding to the spool: whole transactions, each once (law 1), under the lease's epoch (law 6)."""

import time
from collections.abc import Iterator, Sequence
from typing import Final, Self
from uuid import UUID

from replicator import control
from replicator.errors import Side, TargetError
from replicator.lsn import Lsn
from replicator.model import Transaction
from replicator.postgres import Connection, reporting
from replicator.source.stream import Received
from replicator.spool.lines import encode

_CHUNK_BYTES: Final = 1024 * 1024
"""Transactions are put together up to this size: few statements, and a reader that holds one chunk holds little."""

_BEGIN: Final = "BEGIN; SET LOCAL idle_in_transaction_session_timeout = 0"
"""A large transaction stays open for as long as the source sends it."""


class SpoolWriter:
    """Adds what the stream receives, in the order of its commits."""

    def __init__(self, connection: Connection, epoch: UUID, lsn: Lsn, number: int) -> None:
        self._connection = connection
        self._epoch = epoch
        self.lsn = lsn
        """Everything that the source committed before it is durable on the target."""
        self._number = number
        self._open = False
        self._advanced_at = 0.0

    @classmethod
    async def begin(cls, connection: Connection, epoch: UUID) -> Self:
        """Go on where the spool ends, or begin it where progress stands. ``connection`` is for this alone."""
        with reporting(Side.TARGET, "beginning the spool", TargetError):
            lsn = await control.begin_spool(connection, epoch)
            return cls(connection, epoch, lsn, await control.last_chunk(connection))

    async def add(self, received: Received, idle_interval: float) -> None:
        """Make it durable, but for a large transaction whose end has not come; its pieces wait for that.

        An idle advance is recorded once in ``idle_interval`` seconds at most. Raises FencedError if the spool is
        another worker's now, TargetError, or what is worth another try.
        """
        with reporting(Side.TARGET, "writing to the spool", TargetError):
            if received.transactions:
                await self._add(received.transactions)
            if received.idle_lsn and not self._open and time.monotonic() - self._advanced_at >= idle_interval:
                await self._advance(received.idle_lsn)

    async def _add(self, transactions: Sequence[Transaction]) -> None:
        if not self._open:
            await self._connection.execute(_BEGIN)
            self._open = True
        for chunk in _chunks(transactions):
            self._number += 1
            last = chunk[-1]
            await control.add_chunk(
                self._connection, self._number, last.end_lsn if last.complete else None, encode(chunk)
            )
        if transactions[-1].complete:
            await self._commit(transactions[-1].end_lsn)

    async def _commit(self, end_lsn: Lsn) -> None:
        try:
            await control.advance_spool(self._connection, self._epoch, self.lsn, end_lsn)
        except BaseException:
            await self._roll_back()
            raise
        await self._connection.execute("COMMIT")
        self._open, self.lsn, self._advanced_at = False, end_lsn, time.monotonic()

    async def _roll_back(self) -> None:
        with reporting(Side.TARGET, "rolling the spool back", TargetError):
            await self._connection.execute("ROLLBACK")
            self._open = False

    async def _advance(self, lsn: Lsn) -> None:
        if lsn > self.lsn:
            await control.advance_spool(self._connection, self._epoch, self.lsn, lsn)
            self.lsn, self._advanced_at = lsn, time.monotonic()


def _chunks(transactions: Sequence[Transaction]) -> Iterator[list[Transaction]]:
    """Put small ones together; one that is larger is a chunk of its own."""
    chunk: list[Transaction] = []
    size = 0
    for item in transactions:
        if chunk and size + item.size > _CHUNK_BYTES:
            yield chunk
            chunk, size = [], 0
        chunk.append(item)
        size += item.size
    if chunk:
        yield chunk
