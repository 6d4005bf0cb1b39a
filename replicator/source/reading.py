# cython: annotation_typing=False
"""The hot loop of the stream: frames out of libpq, transactions into the buffer. Compiled."""

from enum import Enum
from typing import Final

from psycopg.pq.abc import PGconn

from replicator.lsn import INVALID
from replicator.pgoutput.large import LARGE
from replicator.pgoutput.streamed import NOT_ORDINARY
from replicator.pgoutput.transactions import Assembler
from replicator.source.buffer import Buffer
from replicator.source.frames import HEADER_BYTES, XLOG_DATA
from replicator.source.streamed import Streamed


class Pause(Enum):
    """Why there is no other frame now."""

    LARGE = "one has to be taken with fewer copies"
    COMMITTED = "a transaction that was sent before has committed, and has to be taken"
    UNDECIDED = "the source has to be asked which parts of such a transaction were rolled back"
    NOTHING = "libpq has read no more"
    FULL = "the buffer is full"
    TURN = "as many were read as should be at once"
    END = "the source has ended the stream"


_NOTHING: Final = Pause.NOTHING
_FULL: Final = Pause.FULL
_TURN: Final = Pause.TURN
_END: Final = Pause.END
_LARGE: Final = Pause.LARGE
_COMMITTED: Final = Pause.COMMITTED


class FrameReader:
    """Takes the frames of one START_REPLICATION.

    ``frames`` counts them, ``received`` their bytes, ``transactions`` those (and pieces) that went to the buffer;
    ``end_lsn`` is where the last of their commits ended.
    """

    def __init__(self, connection: PGconn, assembler: Assembler, streamed: Streamed, buffer: Buffer) -> None:
        self._connection = connection
        self._assembler = assembler
        self._streamed = streamed
        self._buffer = buffer
        self._large: memoryview | None = None
        self.frames = self.received = 0
        self.transactions = 0
        self.end_lsn = INVALID

    def take_large(self) -> memoryview:
        """The frame after LARGE, in the driver's memory, once: it would be held while the next one comes."""
        frame, self._large = self._large, None
        assert frame is not None
        return frame

    def read(self, limit: int) -> bytes | Pause:
        """Take changes up to the next frame of another kind, which is returned; or tell why there is none.

        ``limit``: frames to read at most. Raises what `Assembler.feed` and `Streamed.take` raise.
        """
        assembler, streamed, buffer = self._assembler, self._streamed, self._buffer
        while limit > 0:
            limit -= 1
            length, view = self._connection.get_copy_data(1)
            if length <= 0:
                return _NOTHING if length == 0 else _END
            self.frames += 1
            self.received += length
            if length > LARGE:
                self._large = view
                return _LARGE
            frame = view.tobytes()
            data = frame
            if data[0] != XLOG_DATA:
                return frame
            payload = data[HEADER_BYTES:length] if length > HEADER_BYTES else b""
            if streamed.in_block or (payload and data[HEADER_BYTES] in NOT_ORDINARY):
                streamed.take(payload)
                if streamed.replaying or streamed.undecided:
                    return _COMMITTED
                continue
            transaction = assembler.feed(payload)
            if transaction is not None:
                buffer.add(transaction)
                self.transactions += 1
                self.end_lsn = transaction.end_lsn or self.end_lsn
                if buffer.full:
                    return _FULL
        return _TURN
