# cython: annotation_typing=False
"""A file without a name for the messages of one transaction that has not committed. Compiled."""

import contextlib
import tempfile
from collections.abc import Iterator
from io import BufferedRandom
from typing import Final, cast

from replicator.pgoutput.large import LARGE
from replicator.pgoutput.streamed import Subtransactions
from replicator.pgoutput.wire import ID, LENGTH

_BUFFER: Final = 256 * 1024
_AFTER_XID: Final = ID.size

Message = bytes | memoryview
"""The latter, if it is LARGE: a copy of it would cost memory."""


class Kept:
    """The messages of one top-level transaction, each without its xid and behind its length.

    Having no name, the file is gone with the process. It is written and read in the event loop: it is the page cache
    that takes and gives, in small pieces. Every method raises OSError.
    """

    def __init__(self, xid: int) -> None:
        self._subtransactions = Subtransactions(xid)
        self._xid = xid
        file = tempfile.TemporaryFile(buffering=_BUFFER, prefix="replicator")  # noqa: SIM115
        self._file = cast("BufferedRandom", file)
        self.size = 0

    def close(self) -> None:
        """Forget all of it; what could not be written is not needed."""
        with contextlib.suppress(OSError):
            self._file.close()

    def add(self, xid: int, payload: Message, appendix: bytes) -> int:
        """Append a message and what belongs behind it; returns by how many bytes it has grown."""
        if xid != self._xid:
            self._subtransactions.add(xid, self.size)
            self._xid = xid
        length = len(payload) - _AFTER_XID + 1 + len(appendix)
        pieces = (LENGTH.pack(length), payload[:1], payload[_AFTER_XID:], appendix)
        if length < LARGE:
            self._file.write(b"".join(pieces))
        else:
            for piece in pieces:
                self._file.write(piece)
        self.size += LENGTH.size + length
        return LENGTH.size + length

    def abort(self, xid: int) -> int:
        """Cut off what was rolled back; returns its bytes."""
        before, self.size = self.size, self._subtransactions.abort(xid, self.size)
        if self.size < before:
            self._file.truncate(self.size)
            self._file.seek(self.size)
        return before - self.size

    def read(self) -> Iterator[Message]:
        """The messages as they would have come after the commit, with what belongs behind them."""
        self._file.seek(0)
        while head := self._file.read(LENGTH.size):
            (length,) = LENGTH.unpack(head)
            yield self._file.read(length) if length < LARGE else self._read_large(length)

    def _read_large(self, length: int) -> memoryview:
        message = memoryview(bytearray(length))
        self._file.readinto(message)
        return message
