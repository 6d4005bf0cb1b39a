"""Taking what libpq has received: every kind of frame, until there is none, the buffer is full, or others wait.

What comes of it is in the buffer: whole transactions, pieces of large ones, and how far an idle source is.
"""

import contextlib
import time
from collections.abc import Iterable
from typing import Final

import structlog
from psycopg.pq.abc import PGconn

from replicator.errors import ProtocolError, ServerUnavailableError, Side
from replicator.lsn import Lsn
from replicator.model import Transaction
from replicator.pgoutput.transactions import Assembler
from replicator.source.buffer import Buffer
from replicator.source.feedback import Feedback
from replicator.source.frames import HEADER_BYTES, XLOG_DATA, Keepalive, ShutdownWatch, read_keepalive
from replicator.source.kept import StoredMessage, disk_error
from replicator.source.reading import FrameReader, Pause
from replicator.source.streamed import Streamed

log = structlog.get_logger(__name__)

_AT_ONCE: Final = 1000
"""Frames that are read before other tasks get their turn: some milliseconds."""

_LITTLE: Final = 4096
"""Bytes; libpq makes room for twice as many at least before it reads from the socket."""

_PIECES: Final = 4
"""A transaction is handed out in pieces of this part of the buffer, so that one is applied while the next is read."""


class Receiver:
    """Takes the frames of one START_REPLICATION, from ``start`` on. ``buffer_bytes`` bounds all that it holds."""

    def __init__(self, connection: PGconn, feedback: Feedback, start: Lsn, buffer_bytes: int) -> None:
        self._connection = connection
        self._feedback = feedback
        self._idle_lsn = start
        self.assembler = Assembler(buffer_bytes // _PIECES)
        # an open transaction has its place beside it
        self.buffer = Buffer(buffer_bytes - buffer_bytes // _PIECES)
        self._streamed = Streamed(self.assembler)
        self._reader = FrameReader(connection, self.assembler, self._streamed, self.buffer)
        self._shutdown = ShutdownWatch()
        self._lacks_room = False

    @property
    def frames(self) -> int:
        """How many there were."""
        return self._reader.frames

    @property
    def received(self) -> int:
        """How many bytes there were in them."""
        return self._reader.received

    @property
    def kept_bytes(self) -> int:
        """Bytes of transactions that have not committed, in temporary files."""
        return self._streamed.size

    @property
    def subtransactions(self) -> list[int]:
        """Those of a transaction that is UNDECIDED."""
        return self._streamed.subtransactions

    def decide(self, rolled_back: Iterable[int]) -> None:
        """Tell which of `subtransactions` were rolled back."""
        self._streamed.decide(rolled_back)

    def close(self) -> None:
        """Forget the transactions that have not committed."""
        self._streamed.close()

    def receive(self, until: float) -> Pause:
        """Take frames until one of the reasons for a pause, but for LARGE and COMMITTED.

        Once so many bytes as ``until`` have come in all, the others' turn is NOTHING. What came before an error is in
        the buffer. After UNDECIDED, `decide` has to be called first. Raises ProtocolError, LocalDiskError,
        psycopg.Error, or ServerUnavailableError if the source shuts down.
        """
        reader, last, consumed = self._reader, self._reader.frames + _AT_ONCE, None
        while (pause := self._replay()) is None:
            before = reader.frames
            found = self._read(last - before)
            if reader.frames > before:
                self._feedback.hear()
            if found is Pause.LARGE:
                self._take_large(reader.take_large())
            elif isinstance(found, bytes):
                self._take_keepalive(read_keepalive(found))
            elif found is Pause.NOTHING and (consumed is None or self._may_hold_more(reader.received - consumed)):
                # not before libpq's buffer is empty, or it would grow
                self._connection.consume_input()
                consumed = reader.received
            elif found is Pause.TURN and reader.received >= until:
                return Pause.NOTHING
            elif found is not Pause.COMMITTED:
                return found
        return pause

    def _may_hold_more(self, consumed: int) -> bool:
        """Whether there may be more where so many bytes came from: by TLS, records come one by one, and are held back.

        Else little tells that it was all. To look again would cost the source more than us: it is still sending.
        """
        return consumed >= _LITTLE or (consumed > 0 and self._connection.ssl_in_use)

    def _read(self, limit: int) -> bytes | Pause:
        before = self._reader.transactions
        try:
            return self._reader.read(limit)
        finally:
            if self._reader.transactions > before:
                self._took_transactions(self._reader.end_lsn)

    def _replay(self) -> Pause | None:
        """Take what there is of a streamed transaction that has committed; why no frame may be read after it."""
        if self._streamed.undecided:
            return Pause.UNDECIDED
        while self._streamed.replaying and not self.buffer.full:
            self._feedback.hear()  # it is not listened to meanwhile
            piece = self._streamed.next_piece()
            if piece is None:
                return Pause.TURN
            self._take_transaction(piece)
        return Pause.FULL if self.buffer.full else None

    def _take_large(self, frame: memoryview) -> None:
        """Take a frame that is so large that copies of it count: one is on the way, so it waits on the disk."""
        kind, payload = frame[0], frame[HEADER_BYTES:]
        frame.release()
        with payload:
            if kind != XLOG_DATA:
                raise ProtocolError(f"the source sent a keepalive of {len(payload)} bytes")
            if self._streamed.in_block:
                self._streamed.take(payload)
                return
            try:
                message = StoredMessage.store(payload)
            except OSError as error:
                message = None
                self._tell_once(error)
                transaction = self.assembler.feed(bytes(payload))
        if message is not None:
            transaction = self._feed_stored(message)
        if transaction is not None:
            self._take_transaction(transaction)

    def _tell_once(self, error: OSError) -> None:
        if not self._lacks_room:
            log.warning("large rows are held in memory: there is no room for temporary files", reason=error.strerror)
        self._lacks_room = True

    def _feed_stored(self, message: StoredMessage) -> Transaction | None:
        try:
            with contextlib.closing(message):
                return self.assembler.feed_large(message)
        except OSError as error:
            raise disk_error(error) from None

    def _take_transaction(self, transaction: Transaction) -> None:
        self.buffer.add(transaction)
        self._took_transactions(transaction.end_lsn)

    def _took_transactions(self, end_lsn: Lsn) -> None:
        self._feedback.advance(end_lsn)
        self._shutdown.saw_data()

    def _take_keepalive(self, keepalive: Keepalive) -> None:
        self._feedback.advance(keepalive.end_lsn)
        # one that came inside a transaction is told again behind it, which may have been rolled back
        if keepalive.end_lsn > self._idle_lsn and not (self.assembler.open or self._streamed.in_block):
            self._idle_lsn = keepalive.end_lsn
            self.buffer.idle(keepalive.end_lsn)
        if self._shutdown.saw(keepalive, time.monotonic()):
            # its fast shutdown would wait until we have confirmed all that it sent
            raise ServerUnavailableError("the source is shutting down", side=Side.SOURCE)
        if keepalive.reply_requested:
            self._feedback.send()
