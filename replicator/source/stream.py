"""The replication stream: START_REPLICATION, keepalives, status updates, and a bounded buffer of transactions.

All of the driver's low-level use is here. The socket is read by a callback of the event loop, and status updates go
out on a timer, so both go on while the consumer waits for the target: wal_sender_timeout is 60 s, and 30 s on some
hosts. Only a consumer that blocks the event loop itself stops them.
"""

import asyncio
import contextlib
import time
from collections.abc import Sequence
from typing import Final, Self

import psycopg
from psycopg import pq

from replicator.errors import ProtocolError, ReplicatorError, ServerUnavailableError, Side
from replicator.lsn import Lsn, format_lsn
from replicator.model import Transaction
from replicator.pgoutput.transactions import Assembler
from replicator.postgres import Connection, connect
from replicator.source.buffer import Buffer, Received
from replicator.source.frames import (
    HEADER_BYTES,
    XLOG_DATA,
    Keepalive,
    ShutdownWatch,
    read_keepalive,
    start_replication,
    status_update,
)
from replicator.source.gathering import Gathering
from replicator.source.reading import FrameReader, Pause
from replicator.source.slot import slot_error
from replicator.source.streamed import Streamed

__all__ = ["Received", "ReplicationStream"]

_FRAMES_AT_ONCE: Final = 1000
"""Frames that are read before other tasks get their turn: some milliseconds."""

_PIECES: Final = 4
"""A transaction is handed out in pieces of this part of the buffer, so that one is applied while the next is read."""

_AS_STORED: Final = "SET client_encoding = SQL_ASCII"
"""Such a database converts nothing, but would end the stream at bytes that are no UTF-8, for good. So the target has
to refuse them, which names the table, and leaves them out once it was copied again."""

_SILENCE: Final = 60.0
"""Seconds without a word from the source, though asked, after which it counts as lost; as wal_receiver_timeout."""


class ReplicationStream:
    """One START_REPLICATION, from its connection to its end. It is never resumed: open a new one."""

    def __init__(
        self,
        connection: Connection,
        slot: str,
        *,
        start: Lsn,
        confirmed: Lsn,
        buffer_bytes: int,
        status_interval: float,
    ) -> None:
        self._connection = connection
        self._slot = slot
        self._received = self._idle_lsn = start
        self._confirmed = confirmed
        self._assembler = Assembler(buffer_bytes // _PIECES)
        self._streamed = Streamed(self._assembler)
        # an open transaction has its place beside it
        self._buffer = Buffer(buffer_bytes - buffer_bytes // _PIECES)
        self._status_interval = status_interval
        self._arrived = asyncio.Event()
        self._failure: ReplicatorError | None = None
        self._shutdown = ShutdownWatch()
        self._heard, self._heard_at = True, 0.0
        self._loop = asyncio.get_running_loop()
        self._socket = connection.pgconn.socket
        self._reading = False
        self._turn: asyncio.Handle | None = None
        self._reader = FrameReader(connection.pgconn, self._assembler, self._buffer)
        self._gathering = Gathering(self._socket, self._on_turn)
        self._timer: asyncio.TimerHandle | None = None

    @classmethod
    async def open(
        cls,
        dsn: str,
        slot: str,
        publications: Sequence[str],
        start: Lsn,
        *,
        confirmed: Lsn | None = None,
        buffer_bytes: int,
        status_interval: float,
        streaming: bool = True,
    ) -> Self:
        """Connect and stream from ``start``. ``confirmed`` is where the slot stands, if that is before ``start``.

        ``buffer_bytes`` bounds what is held for `next`, ``status_interval`` is in seconds; with ``streaming``, large
        transactions come before they commit. Raises SlotBusyError, SlotLostError, SourceError, or what `connect` does.
        """
        connection = await connect(dsn, Side.SOURCE, "stream", replication=True)
        try:
            if connection.info.parameter_status("server_encoding") == "SQL_ASCII":
                await connection.execute(_AS_STORED)
            await connection.execute(start_replication(slot, publications, start, streaming=streaming))
        except psycopg.Error as error:
            await connection.close()
            raise slot_error(error, _doing(slot)) from None
        except BaseException:
            await connection.close()
            raise
        stream = cls(
            connection,
            slot,
            start=start,
            confirmed=start if confirmed is None else confirmed,
            buffer_bytes=buffer_bytes,
            status_interval=status_interval,
        )
        stream._resume()
        stream._tick()
        return stream

    @property
    def received(self) -> Lsn:
        """Everything that the source committed before it has arrived."""
        return self._received

    @property
    def kept_bytes(self) -> int:
        """Bytes of transactions that have not committed, in temporary files."""
        return self._streamed.size

    async def next(self) -> Received:
        """Wait for something, and take everything that has arrived. Nothing is lost if the call is cancelled.

        Raises, once everything was taken, what ended the stream: ServerUnavailableError if the source is away or
        shuts down, SlotLostError, SourceError or ProtocolError.
        """
        self._buffer.done()
        self._resume_unless_full()
        while not self._buffer:
            if self._failure is not None:
                raise self._failure
            self._arrived.clear()
            await self._arrived.wait()
        received = self._buffer.take()
        if self._buffer.full:
            self._pause()
        self._resume_unless_full()
        return received

    def confirm(self, lsn: Lsn) -> None:
        """Let the source forget what lies before ``lsn``, which must be durable on the target (law 3).

        The next status update says so; a position before an earlier one changes nothing.
        """
        if lsn > self._received:
            raise ReplicatorError(f"confirming {format_lsn(lsn)}, but only {format_lsn(self._received)} was received")
        self._confirmed = max(self._confirmed, lsn)

    async def close(self) -> None:
        """Send what is confirmed, and end the connection."""
        self._end(ServerUnavailableError("the stream was closed", side=Side.SOURCE))
        await self._connection.close()

    # --- reading ------------------------------------------------------------------------------------------------------

    def _resume_unless_full(self) -> None:
        if not self._reading and self._failure is None and not self._buffer.full:
            self._resume()

    def _resume(self) -> None:
        self._reading = True
        self._loop.add_reader(self._socket, self._on_readable)
        # what libpq holds already does not make the socket readable
        self._read_soon()

    def _pause(self) -> None:
        self._reading = False
        self._loop.remove_reader(self._socket)

    def _read_soon(self) -> None:
        if self._turn is None:
            self._turn = self._loop.call_soon(self._on_turn)

    def _on_turn(self) -> None:
        self._turn = None
        if self._reading:
            self._on_readable()

    def _on_readable(self) -> None:
        try:
            self._read()
        except ReplicatorError as error:
            self._end(error)
        except psycopg.Error as error:
            self._end(slot_error(error, _doing(self._slot)))
        except Exception as error:
            # a defect: without this the consumer would wait for ever
            self._end(ReplicatorError(f"reading the stream failed: {type(error).__name__}"))
            raise

    def _read(self) -> None:
        """Take frames until there is none, the buffer is full, or it is the others' turn."""
        if self._streamed.replaying and not self._replay():
            return
        reader, began, drained = self._reader, self._reader.frames, False
        while True:
            before, transactions = reader.frames, reader.transactions
            try:
                found = reader.read(_FRAMES_AT_ONCE - (before - began), self._streamed.in_block)
            finally:
                # what came before an error is handed out, too
                if reader.transactions > transactions:
                    self._took_transactions(reader.end_lsn)
            if reader.frames > before:
                self._heard, drained = True, False
            if found is Pause.LARGE:
                self._take_large(reader.take_large())
                if not self._goes_on():
                    return
            elif isinstance(found, bytes):
                self._take_other(found)
                if not self._goes_on():
                    return
            elif found is not Pause.NOTHING:
                self._pause_for(found)
                return
            elif drained:
                self._gathering.drained(reader.frames - began)
                return
            else:
                # not before libpq's buffer is empty, or it would grow; again after any frame, as TLS holds bytes back
                self._connection.pgconn.consume_input()
                drained = True

    def _pause_for(self, reason: Pause) -> None:
        if reason is Pause.END:
            raise self._end_of_copy()
        if reason is Pause.FULL:
            self._pause()
        else:
            self._read_soon()

    def _goes_on(self) -> bool:
        """Whether to read on after a frame that might have filled the buffer, or ended a streamed transaction."""
        return self._reading and (not self._streamed.replaying or self._replay())

    def _take_other(self, frame: bytes) -> None:
        """Take a keepalive, or what belongs to a streamed transaction."""
        if frame[0] != XLOG_DATA:
            self._take_keepalive(read_keepalive(frame))
        else:
            self._streamed.take(frame[HEADER_BYTES:])

    def _take_large(self, frame: memoryview) -> None:
        """Take a frame that is so large that copies of it count."""
        if frame[0] != XLOG_DATA:
            raise ProtocolError(f"the source sent a keepalive of {len(frame)} bytes")
        if self._streamed.in_block:
            self._streamed.take(frame[HEADER_BYTES:])
        elif (transaction := self._assembler.feed_large(frame[HEADER_BYTES:])) is not None:
            self._take_transaction(transaction)

    def _replay(self) -> bool:
        """Take a streamed transaction that has committed; False if the buffer is full, or it is the others' turn."""
        self._heard = True  # the source is not listened to meanwhile
        while self._streamed.replaying:
            piece = self._streamed.next_piece()
            if piece is None:
                self._read_soon()
                return False
            self._take_transaction(piece)
            if not self._reading:
                return False
        return True

    def _take_transaction(self, transaction: Transaction) -> None:
        self._buffer.add(transaction)
        self._took_transactions(transaction.end_lsn)
        if self._buffer.full:
            self._pause()

    def _took_transactions(self, end_lsn: Lsn) -> None:
        self._received = max(self._received, end_lsn)
        self._shutdown.saw_data()
        self._arrived.set()

    def _take_keepalive(self, keepalive: Keepalive) -> None:
        self._received = max(self._received, keepalive.end_lsn)
        # one that came inside a transaction is told again behind it, which may have been rolled back
        if keepalive.end_lsn > self._idle_lsn and not (self._assembler.open or self._streamed.in_block):
            self._idle_lsn = keepalive.end_lsn
            self._buffer.idle(keepalive.end_lsn)
            self._arrived.set()
        if self._shutdown.saw(keepalive, time.monotonic()):
            # its fast shutdown would wait until we have confirmed all that it sent
            raise ServerUnavailableError("the source is shutting down", side=Side.SOURCE)
        if keepalive.reply_requested:
            self._send_status()

    # --- status updates -----------------------------------------------------------------------------------------------

    def _tick(self) -> None:
        """Keep the connection, and wake a walsender that missed a commit: 17's sometimes does (measured: 1 in 1500)."""
        self._timer = self._loop.call_later(self._status_interval, self._tick)
        try:
            self._send_status(reply_requested=self._silence() > _SILENCE / 2)
            if self._reading:
                # whatever TLS may still hold back, it waits no longer than this
                self._read_soon()
        except ReplicatorError as error:
            self._end(error)
        except psycopg.Error as error:
            self._end(slot_error(error, _doing(self._slot)))

    def _silence(self) -> float:
        """For how many seconds the source has said nothing. Raises ServerUnavailableError when it is too long."""
        now = time.monotonic()
        if self._heard or not self._reading:
            self._heard, self._heard_at = False, now
        silence = now - self._heard_at
        if silence > _SILENCE:
            raise ServerUnavailableError(f"the source has said nothing for {silence:.0f} s", side=Side.SOURCE)
        return silence

    def _send_status(self, *, reply_requested: bool = False) -> None:
        update = status_update(self._received, self._confirmed, time.time(), reply_requested=reply_requested)
        self._connection.pgconn.put_copy_data(update)
        # what the socket does not take now goes with the next update
        self._connection.pgconn.flush()

    # --- the end ------------------------------------------------------------------------------------------------------

    def _end(self, reason: ReplicatorError) -> None:
        """Close at once, wherever the end was noticed: a stopped worker must not hold a walsender open (law 4)."""
        if self._failure is not None:
            return
        self._failure = reason
        self._pause()
        self._streamed.close()
        self._gathering.close()
        for handle in (self._timer, self._turn):
            if handle is not None:
                handle.cancel()
        with contextlib.suppress(psycopg.Error):
            self._send_status()
        self._connection.pgconn.finish()
        self._arrived.set()

    def _end_of_copy(self) -> ReplicatorError:
        """Why the source ended the stream."""
        result = self._connection.pgconn.get_result()
        if result is not None and result.status == pq.ExecStatus.FATAL_ERROR:
            return slot_error(psycopg.errors.error_from_result(result), _doing(self._slot))
        return ServerUnavailableError("the source has ended the stream", side=Side.SOURCE)


def _doing(slot: str) -> str:
    return f"streaming from replication slot {slot}"
