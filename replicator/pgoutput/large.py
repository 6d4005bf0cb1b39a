"""Decode changes whose rows are so large that each copy of one counts: straight from the driver's memory to the row.

The ordinary decoder slices, joins and escapes: six copies of a row that is one large value. Here there is one.
"""

import struct
from collections.abc import Mapping
from io import BytesIO
from typing import Final

from replicator.errors import ProtocolError
from replicator.model import NULL, UNCHANGED, Delete, Insert, Relation, Row, Update

LARGE: Final = 4 * 1024 * 1024
"""Bytes of a message from which on it is worth the slower way."""

_CHUNK: Final = 256 * 1024
_CHANGE: Final = struct.Struct(">xI")
_TUPLE: Final = struct.Struct(">BH")
_LENGTH: Final = struct.Struct(">I")
_INSERT, _UPDATE, _DELETE = b"IUD"
_NEW, _OLD, _KEY = b"NOK"
_TEXT, _NULL, _UNCHANGED = b"tnu"


def decode_large(message: memoryview, relations: Mapping[int, Relation]) -> Insert | Update | Delete | None:
    """Decode a whole message; None if it is no change of a row. Raises ProtocolError if it cannot be read."""
    try:
        if message[0] not in (_INSERT, _UPDATE, _DELETE):
            return None
        (oid,) = _CHANGE.unpack_from(message)
        return _decode(message, relations[oid])
    except (IndexError, KeyError, ValueError, struct.error):
        raise ProtocolError(f"the source's stream holds an unreadable change ({len(message)} bytes)") from None


def _decode(message: memoryview, relation: Relation) -> Insert | Update | Delete:
    kind, position = message[0], _CHANGE.size
    old: Row | None = None
    old_is_full = False
    if kind != _INSERT and message[position] != _NEW:
        old_is_full = {_OLD: True, _KEY: False}[message[position]]
        old, position = _row(message, position, relation, may_lack=False)
    if kind == _DELETE:
        if old is None:
            raise ValueError("a deletion without its row")
        change: Insert | Update | Delete = Delete(relation, old, old_is_full)
    else:
        if message[position] != _NEW:
            raise ValueError("no new row")
        new, position = _row(message, position, relation, may_lack=kind == _UPDATE)
        change = Insert(relation, new) if kind == _INSERT else Update(relation, old, old_is_full, new)
    if position != len(message):
        raise ValueError("too long")
    return change


def _row(message: memoryview, position: int, relation: Relation, *, may_lack: bool) -> tuple[Row, int]:
    """Read a tuple, its kind included, as one line of COPY text; return it and where it ends."""
    _, count = _TUPLE.unpack_from(message, position)
    if count != len(relation.columns):
        raise ValueError("another number of columns")
    position += _TUPLE.size
    line = BytesIO()
    for number in range(count):
        if number:
            line.write(b"\t")
        kind = message[position]
        position += 1
        if kind == _TEXT:
            (length,) = _LENGTH.unpack_from(message, position)
            start, position = position + _LENGTH.size, position + _LENGTH.size + length
            if position > len(message):
                raise ValueError("too short")
            _write_escaped(line, message[start:position])
        elif kind == _NULL:
            line.write(NULL)
        elif kind == _UNCHANGED and may_lack:
            line.write(UNCHANGED)
        else:
            raise ValueError("unknown kind of value")
    # not a copy: it shares the buffer with the bytes that it returns
    return line.getvalue(), position


def _write_escaped(line: BytesIO, value: memoryview) -> None:
    for start in range(0, len(value), _CHUNK):
        chunk = bytes(value[start : start + _CHUNK])
        line.write(
            chunk.replace(b"\\", rb"\\").replace(b"\t", rb"\t").replace(b"\n", rb"\n").replace(b"\r", rb"\r")
        )  # fmt: skip
