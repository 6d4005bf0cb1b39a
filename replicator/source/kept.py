# cython: annotation_typing=False
"""Files without a name for what waits on the worker's disk: uncommitted transactions, huge messages. Compiled.

Having no name, a file is gone with the process. It is written and read in the event loop: it is the page cache that
takes and gives. Whatever is called here raises OSError.
"""

import contextlib
import errno
import os
import tempfile
from collections.abc import Iterable
from io import BufferedRandom
from typing import Final, Self

from replicator.errors import LocalDiskError
from replicator.pgoutput.large import LARGE
from replicator.pgoutput.streamed import Subtransactions
from replicator.pgoutput.wire import ID, LENGTH

_BLOCK: Final = 256 * 1024
"""Bytes that are written and read at once."""

_AFTER_XID: Final = ID.size
_LENGTH: Final = LENGTH.size
_length_of = LENGTH.pack
_NOWHERE: Final = 2**62
"""A place behind all messages."""


class StoredMessage:
    """A message that lies in a file, because it is LARGE: each copy of it in memory would count."""

    def __init__(self, file: BufferedRandom, start: int, length: int) -> None:
        self._file, self._start, self._length = file, start, length

    @classmethod
    def store(cls, payload: memoryview) -> Self:
        """Put a message into a file of its own, which `close` forgets."""
        file = _new_file()
        try:
            file.write(payload)
            file.flush()
        except BaseException:
            _close(file)
            raise
        return cls(file, 0, len(payload))

    def __len__(self) -> int:
        return self._length

    def read(self, start: int, size: int) -> bytes:
        """At most so many bytes from ``start`` on; fewer only at the message's end."""
        return _read_from(self._file, self._start + start, max(0, min(size, self._length - start)))

    def close(self) -> None:
        """Forget the file, which it has to itself after `store`."""
        _close(self._file)


Message = bytes | memoryview
"""The latter, if it is LARGE: a copy of it would cost memory."""


class Kept:
    """The messages of one top-level transaction, each without its xid and behind its length."""

    def __init__(self, xid: int) -> None:
        self._subtransactions = Subtransactions(xid)
        self._xid = xid
        self._file = _new_file()
        self.size = 0
        self._unwritten: list[bytes] = []
        self._unwritten_bytes = 0
        self._block = b""
        self._position = self._block_start = 0
        self._rolled_back: list[tuple[int, int]] = []
        self._rolled_back_start = self._rolled_back_end = _NOWHERE
        self.is_rolled_back = False
        """Whether the message that was read last is of a subtransaction that `leave_out` was told of."""

    def close(self) -> None:
        """Forget all of it."""
        _close(self._file)

    def add(self, xid: int, payload: Message, appendix: bytes) -> int:
        """Append a message and what belongs behind it; returns by how many bytes it has grown."""
        if xid != self._xid:
            self._subtransactions.add(xid, self.size)
            self._xid = xid
        length = len(payload) - _AFTER_XID + 1 + len(appendix)
        grown = _LENGTH + length
        unwritten = self._unwritten
        unwritten.append(_length_of(length))
        unwritten.append(bytes(payload[:1]))
        if length < LARGE:
            unwritten.append(bytes(payload[_AFTER_XID:]))
        else:
            self._write()
            self._file.write(payload[_AFTER_XID:])
        if appendix:
            self._unwritten.append(appendix)
        self.size += grown
        self._unwritten_bytes += grown
        if self._unwritten_bytes > _BLOCK:
            self._write()
        return grown

    def abort(self, xid: int) -> int:
        """Cut off what was rolled back; returns its bytes."""
        before, self.size = self.size, self._subtransactions.abort(xid, self.size)
        if self.size < before:
            self._write()
            self._file.truncate(self.size)
            self._file.seek(self.size)
        return before - self.size

    @property
    def subtransactions(self) -> list[int]:
        """Those that have messages here: whether they were rolled back is not certain."""
        return self._subtransactions.xids

    def leave_out(self, xids: Iterable[int]) -> None:
        """Tell which subtransactions were rolled back, before anything is read."""
        self._rolled_back = self._subtransactions.spans(xids, self.size)[::-1]
        self._next_rolled_back()

    def _next_rolled_back(self) -> None:
        span = self._rolled_back.pop() if self._rolled_back else (_NOWHERE, _NOWHERE)
        self._rolled_back_start, self._rolled_back_end = span

    def complete(self) -> None:
        """No more will be added: it can be read."""
        self._write()
        self._file.flush()

    def next(self) -> bytes | StoredMessage | None:
        """The next message as it would have come after the commit, with what belongs behind it; None at the end."""
        position = self._position
        if len(self._block) - position < _LENGTH and not self._read(_LENGTH):
            return None
        position, data = self._position, self._block
        place = self._block_start + position
        if place >= self._rolled_back_end:
            self._next_rolled_back()
        self.is_rolled_back = place >= self._rolled_back_start
        length = data[position] << 24 | data[position + 1] << 16 | data[position + 2] << 8 | data[position + 3]
        if length >= LARGE:
            start = self._block_start + position + _LENGTH
            self._block, self._position, self._block_start = b"", 0, start + length
            return StoredMessage(self._file, start, length)
        end = position + _LENGTH + length
        if end > len(self._block):
            self._read(_LENGTH + length)
            position, end = 0, _LENGTH + length
        self._position = end
        return self._block[position + _LENGTH : end]

    def _read(self, size: int) -> bool:
        """Let the block begin at the position and hold so many bytes at least. False at the end."""
        start = self._block_start + self._position
        if start == self.size:
            return False
        self._block = _read_from(self._file, start, max(size, min(_BLOCK, self.size - start)))
        self._block_start, self._position = start, 0
        return True

    def _write(self) -> None:
        pieces, self._unwritten, self._unwritten_bytes = self._unwritten, [], 0
        self._file.write(b"".join(pieces))


def disk_error(error: OSError) -> LocalDiskError:
    """What has gone wrong with a file."""
    return LocalDiskError(f"keeping what the source has sent: {error.strerror or type(error).__name__}")


def _read_from(file: BufferedRandom, start: int, size: int) -> bytes:
    piece = os.pread(file.fileno(), size, start)
    if len(piece) < size:
        raise OSError(errno.EIO, "a temporary file has become shorter")
    return piece


def _new_file() -> BufferedRandom:
    return tempfile.TemporaryFile(prefix="replicator")


def _close(file: BufferedRandom) -> None:
    """What could not be written is not needed."""
    with contextlib.suppress(OSError):
        file.close()
