"""The replication stream: START_REPLICATION, and reading, status updates and its end by the event loop.

The socket is read by a callback of the event loop, and status updates go out on a timer, so both go on while the
consumer waits for the target: wal_sender_timeout is 60 s, and 30 s on some hosts. Only a consumer that blocks the event
loop itself stops them. What becomes of what is read: receiver.py. What the source is told: feedback.py.
"""

import asyncio
import contextlib
import fcntl
import math
import sys
import termios
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from typing import Final, Self

import psycopg
from psycopg import pq

from replicator.errors import ReplicatorError, ServerUnavailableError, Side
from replicator.lsn import Lsn
from replicator.postgres import Connection, connect
from replicator.source.buffer import Received
from replicator.source.feedback import Feedback
from replicator.source.frames import start_replication
from replicator.source.gathering import AT_ONCE, Gathering
from replicator.source.reading import Pause
from replicator.source.receiver import Receiver
from replicator.source.slot import slot_error

__all__ = ["Received", "ReplicationStream"]

RolledBack = Callable[[Sequence[int]], Awaitable[Iterable[int]]]
"""Tells which of these subtransactions, whose transaction has committed, were rolled back. Raises psycopg.Error, or
UntoldRollbackError where it cannot tell."""

_AS_STORED: Final = "SET client_encoding = SQL_ASCII"
"""Such a database converts nothing, but would end the stream at bytes that are no UTF-8, for good. So the target has
to refuse them, which names the table, and leaves them out once it was copied again."""


class ReplicationStream:
    """One START_REPLICATION, from its connection to its end. It is never resumed: open a new one."""

    def __init__(
        self,
        connection: Connection,
        slot: str,
        *,
        start: Lsn,
        confirmed: Lsn,
        rolled_back: RolledBack,
        buffer_bytes: int,
        status_interval: float,
    ) -> None:
        self._connection = connection
        self._rolled_back = rolled_back
        self._slot = slot
        self._status_interval = status_interval
        self._feedback = Feedback(connection.pgconn, start, confirmed)
        self._receiver = Receiver(connection.pgconn, self._feedback, start, buffer_bytes)
        self._buffer = self._receiver.buffer
        self._arrived = asyncio.Event()
        self._failure: ReplicatorError | None = None
        self._loop = asyncio.get_running_loop()
        self._socket = connection.pgconn.socket
        self._reading = False
        self._turn: asyncio.Handle | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._gathering = Gathering()
        self._moment: asyncio.TimerHandle | None = None
        self._decision: asyncio.Task[None] | None = None

    @classmethod
    async def open(
        cls,
        dsn: str,
        slot: str,
        publications: Sequence[str],
        start: Lsn,
        *,
        confirmed: Lsn | None = None,
        rolled_back: RolledBack,
        buffer_bytes: int,
        status_interval: float,
        streaming: bool = True,
    ) -> Self:
        """Connect and stream from ``start``. ``confirmed`` is where the slot stands, if that is before ``start``.

        With ``streaming``, large transactions come before they commit, and ``rolled_back`` is asked which parts of them
        did not. ``buffer_bytes`` bounds what is held for `next`, ``status_interval`` is in seconds.
        Raises SlotBusyError, SlotLostError, SourceError, or what `connect` does.
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
            rolled_back=rolled_back,
            buffer_bytes=buffer_bytes,
            status_interval=status_interval,
        )
        stream._resume()
        stream._tick()
        return stream

    @property
    def received(self) -> Lsn:
        """Everything that the source committed before it has arrived."""
        return self._feedback.received

    @property
    def kept_bytes(self) -> int:
        """Bytes of transactions that have not committed, in temporary files."""
        return self._receiver.kept_bytes

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
        self._feedback.confirm(lsn)

    async def close(self) -> None:
        """Send what is confirmed, and end the connection."""
        self._end(ServerUnavailableError("the stream was closed", side=Side.SOURCE))
        await self._connection.close()

    # --- reading ------------------------------------------------------------------------------------------------------

    def _resume_unless_full(self) -> None:
        waits = self._reading or self._moment is not None or self._decision is not None
        if not waits and self._failure is None and not self._buffer.full:
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
        with self._ended_by_errors():
            pause = self._receiver.receive(self._gathering.until)
            if self._buffer:
                self._arrived.set()
            if pause is Pause.FULL:
                self._pause()
            elif pause is Pause.TURN:
                self._read_soon()
            elif pause is Pause.NOTHING:
                self._let_gather()
            elif pause is Pause.UNDECIDED:
                self._pause()
                self._decision = self._loop.create_task(self._decide())
            else:
                raise self._end_of_copy()

    async def _decide(self) -> None:
        """Go on with a large transaction once the source has told what was rolled back of it."""
        with self._ended_by_errors():
            self._receiver.decide(await self._rolled_back(self._receiver.subtransactions))
            self._decision = None
            self._resume_unless_full()

    # --- gathering ----------------------------------------------------------------------------------------------------

    def _let_gather(self) -> None:
        """What was to be read has been: while the source is busy, wait for a moment, even if the consumer waits."""
        if self._gathering.is_busy(self._receiver.frames, self._loop.time()):
            self._pause()
            self._moment = self._loop.call_later(AT_ONCE, self._on_look)
        elif self._gathering.until < math.inf:
            self._gathering.go_on()
            self._read_soon()

    def _on_look(self) -> None:
        with self._ended_by_errors():
            self._gathering.look(self._waiting())
            self._moment = self._loop.call_later(self._gathering.moment - AT_ONCE, self._on_gathered)

    def _on_gathered(self) -> None:
        with self._ended_by_errors():
            self._gathering.end(self._receiver.received, self._waiting())
            self._moment = None
            self._resume_unless_full()

    def _waiting(self) -> int:
        """Bytes that have arrived, and were not read from the socket."""
        return int.from_bytes(fcntl.ioctl(self._socket, termios.FIONREAD, bytes(4)), sys.byteorder)

    def _tick(self) -> None:
        """Keep the connection, and wake a walsender that missed a commit: 17's sometimes does (measured: 1 in 1500)."""
        self._timer = self._loop.call_later(self._status_interval, self._tick)
        with self._ended_by_errors():
            if not self._reading:
                self._feedback.hear()
            self._feedback.remind()
            if self._reading:
                # whatever TLS may still hold back, it waits no longer than this
                self._read_soon()

    # --- the end ------------------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def _ended_by_errors(self) -> Iterator[None]:
        try:
            yield
        except ReplicatorError as error:
            self._end(error)
        except psycopg.Error as error:
            self._end(slot_error(error, _doing(self._slot)))
        except Exception as error:
            # a defect: without this the consumer would wait for ever
            self._end(ReplicatorError(f"reading the stream failed: {type(error).__name__}"))
            raise

    def _end(self, reason: ReplicatorError) -> None:
        """Close at once, wherever the end was noticed: a stopped worker must not hold a walsender open (law 4)."""
        if self._failure is not None:
            return
        self._failure = reason
        self._pause()
        self._receiver.close()
        for handle in (self._timer, self._turn, self._moment, self._decision):
            if handle is not None:
                handle.cancel()
        with contextlib.suppress(psycopg.Error):
            self._feedback.send()
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
