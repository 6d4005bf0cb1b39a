"""Decode changes whose rows are so large that each copy of one counts: piece by piece out of a file.

The ordinary decoder slices, joins and escapes: six copies of a row that is one large value. Here there is the row.
"""

import struct
from collections.abc import Mapping
from io import BytesIO
from typing import Final, Protocol

from replicator.model import NULL, UNCHANGED, Delete, Insert, Relation, Row, Update
from replicator.pgoutput import wire
from replicator.pgoutput.decoder import escape

LARGE: Final = 4 * 1024 * 1024
"""Bytes of a message from which on it is worth the slower way."""

_CHUNK: Final = 256 * 1024


class LargeMessage(Protocol):
    """A message that is not in memory."""

    def __len__(self) -> int: ...

    def read(self, start: int, size: int) -> bytes:
        """At most so many bytes from ``start`` on; fewer only at the message's end."""


def decode_large(message: LargeMessage, relations: Mapping[int, Relation]) -> Insert | Update | Delete | None:
    """Decode a whole message; None if it is no change of a row. Raises ProtocolError if it cannot be read."""
    cursor = _Cursor(message)
    try:
        kind = cursor.next_kind()
        if kind not in (wire.INSERT, wire.UPDATE, wire.DELETE):
            return None
        (oid,) = cursor.take(wire.ID)
        change = _decode(cursor, kind, relations[oid])
        if not cursor.at_end:
            raise ValueError("too long")
    except (KeyError, ValueError):
        raise wire.unreadable(message.read(0, 1), len(message)) from None
    return change


class _Cursor:
    """Reads on from where it stands. Raises ValueError at a message that ends too early."""

    def __init__(self, message: LargeMessage) -> None:
        self._message = message
        self._position = 0

    @property
    def at_end(self) -> bool:
        return self._position == len(self._message)

    def next_kind(self) -> int:
        """The next byte, which stays the next."""
        return _whole(self._message.read(self._position, 1), 1)[0]

    def read(self, size: int) -> bytes:
        piece = _whole(self._message.read(self._position, size), size)
        self._position += size
        return piece

    def take(self, fields: struct.Struct) -> tuple[int, ...]:
        return fields.unpack(self.read(fields.size))


def _whole(piece: bytes, size: int) -> bytes:
    if len(piece) < size:
        raise ValueError("too short")
    return piece


def _decode(cursor: _Cursor, kind: int, relation: Relation) -> Insert | Update | Delete:
    old: Row | None = None
    old_is_full = False
    if kind != wire.INSERT and cursor.next_kind() != wire.NEW_TUPLE:
        old_is_full = {wire.OLD_TUPLE: True, wire.KEY_TUPLE: False}[cursor.next_kind()]
        old = _row(cursor, relation, may_lack=False)
    if kind == wire.DELETE:
        if old is None:
            raise ValueError("a deletion without its row")
        return Delete(relation, old, old_is_full)
    if cursor.next_kind() != wire.NEW_TUPLE:
        raise ValueError("no new row")
    new = _row(cursor, relation, may_lack=True)
    return Insert(relation, new) if kind == wire.INSERT else Update(relation, old, old_is_full, new)


def _row(cursor: _Cursor, relation: Relation, *, may_lack: bool) -> Row:
    """Read a tuple, its kind included, as one line of COPY text."""
    _, count = cursor.take(wire.TUPLE)
    if count != len(relation.columns):
        raise ValueError("another number of columns")
    line = BytesIO()
    for number in range(count):
        if number:
            line.write(b"\t")
        (kind,) = cursor.read(1)
        if kind == wire.TEXT_VALUE:
            (length,) = cursor.take(wire.LENGTH)
            _copy_escaped(cursor, length, line)
        elif kind == wire.NULL_VALUE:
            line.write(NULL)
        elif kind == wire.UNCHANGED_VALUE and may_lack:
            line.write(UNCHANGED)
        else:
            raise ValueError("unknown kind of value")
    # not a copy: it shares the buffer with the bytes that it returns
    return line.getvalue()


def _copy_escaped(cursor: _Cursor, length: int, line: BytesIO) -> None:
    for start in range(0, length, _CHUNK):
        line.write(escape(cursor.read(min(_CHUNK, length - start))))
