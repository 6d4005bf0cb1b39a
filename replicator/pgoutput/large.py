"""Decode changes whose rows are so large that each copy of one counts: straight from the driver's memory to the row.

The ordinary decoder slices, joins and escapes: six copies of a row that is one large value. Here there is one.
"""

import struct
from collections.abc import Mapping
from io import BytesIO
from typing import Final

from replicator.model import NULL, UNCHANGED, Delete, Insert, Relation, Row, Update
from replicator.pgoutput import wire
from replicator.pgoutput.decoder import escape

LARGE: Final = 4 * 1024 * 1024
"""Bytes of a message from which on it is worth the slower way."""

_CHUNK: Final = 256 * 1024


def decode_large(message: memoryview, relations: Mapping[int, Relation]) -> Insert | Update | Delete | None:
    """Decode a whole message; None if it is no change of a row. Raises ProtocolError if it cannot be read."""
    try:
        if message[0] not in (wire.INSERT, wire.UPDATE, wire.DELETE):
            return None
        return _decode(message, relations[wire.read_id(message)])
    except (IndexError, KeyError, ValueError, struct.error):
        raise wire.unreadable(message) from None


def _decode(message: memoryview, relation: Relation) -> Insert | Update | Delete:
    kind, position = message[0], wire.ID.size
    old: Row | None = None
    old_is_full = False
    if kind != wire.INSERT and message[position] != wire.NEW_TUPLE:
        old_is_full = {wire.OLD_TUPLE: True, wire.KEY_TUPLE: False}[message[position]]
        old, position = _row(message, position, relation, may_lack=False)
    if kind == wire.DELETE:
        if old is None:
            raise ValueError("a deletion without its row")
        change: Insert | Update | Delete = Delete(relation, old, old_is_full)
    else:
        if message[position] != wire.NEW_TUPLE:
            raise ValueError("no new row")
        new, position = _row(message, position, relation, may_lack=kind == wire.UPDATE)
        change = Insert(relation, new) if kind == wire.INSERT else Update(relation, old, old_is_full, new)
    if position != len(message):
        raise ValueError("too long")
    return change


def _row(message: memoryview, position: int, relation: Relation, *, may_lack: bool) -> tuple[Row, int]:
    """Read a tuple, its kind included, as one line of COPY text; return it and where it ends."""
    _, count = wire.TUPLE.unpack_from(message, position)
    if count != len(relation.columns):
        raise ValueError("another number of columns")
    position += wire.TUPLE.size
    line = BytesIO()
    for number in range(count):
        if number:
            line.write(b"\t")
        kind = message[position]
        position += 1
        if kind == wire.TEXT_VALUE:
            (length,) = wire.LENGTH.unpack_from(message, position)
            start, position = position + wire.LENGTH.size, position + wire.LENGTH.size + length
            if position > len(message):
                raise ValueError("too short")
            _write_escaped(line, message[start:position])
        elif kind == wire.NULL_VALUE:
            line.write(NULL)
        elif kind == wire.UNCHANGED_VALUE and may_lack:
            line.write(UNCHANGED)
        else:
            raise ValueError("unknown kind of value")
    # not a copy: it shares the buffer with the bytes that it returns
    return line.getvalue(), position


def _write_escaped(line: BytesIO, value: memoryview) -> None:
    for start in range(0, len(value), _CHUNK):
        line.write(escape(bytes(value[start : start + _CHUNK])))
