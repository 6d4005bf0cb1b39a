"""What pgoutput's messages are made of: their kinds, those of tuples and values, and the fields that many of them have.

Source: PostgreSQL documentation, "Logical Replication Message Formats", protocol version 2.
"""

import struct
from typing import Final

from replicator.errors import ProtocolError

BEGIN, COMMIT, ORIGIN, RELATION, TYPE, INSERT, UPDATE, DELETE, TRUNCATE, EMITTED = b"BCORYIUDTM"
STREAM_START, STREAM_STOP, STREAM_COMMIT, STREAM_ABORT = b"SEcA"
"""The first byte of each message. Those of the second line come only for transactions that are sent before they
commit."""

NEW_TUPLE, OLD_TUPLE, KEY_TUPLE = b"NOK"
"""The row after the change; the one before it; the key before it."""

TEXT_VALUE, NULL_VALUE, UNCHANGED_VALUE = b"tnu"
"""The last one: out of line, not changed, and so not sent."""

ID: Final = struct.Struct(">xI")
"""Behind a message's kind: a relation's or a type's oid; inside a streamed block, the xid before it."""

TUPLE: Final = struct.Struct(">BH")
"""A tuple's kind and its number of values."""

LENGTH: Final = struct.Struct(">I")
"""Bytes of the value or content that follows."""

_NAMES: Final = {
    BEGIN: "Begin",
    COMMIT: "Commit",
    ORIGIN: "Origin",
    RELATION: "Relation",
    TYPE: "Type",
    INSERT: "Insert",
    UPDATE: "Update",
    DELETE: "Delete",
    TRUNCATE: "Truncate",
    EMITTED: "Message",
    STREAM_START: "Stream Start",
    STREAM_STOP: "Stream Stop",
    STREAM_COMMIT: "Stream Commit",
    STREAM_ABORT: "Stream Abort",
}


def read_id(message: bytes | memoryview) -> int:
    """What stands as ID. Raises ProtocolError if the message ends before."""
    try:
        (found,) = ID.unpack_from(message)
    except struct.error:
        raise unreadable(message) from None
    return int(found)


def unreadable(message: bytes | memoryview, size: int | None = None) -> ProtocolError:
    """The error for a message that is not what its kind announces, or comes where it must not; it tells no value.

    ``size``: of the whole message in bytes, where only its beginning is given.
    """
    kind = bytes(message[:1])
    name = _NAMES.get(kind[0]) if kind else None
    what = f"an unreadable {name} message" if name else f"a message of the unknown kind {kind!r}"
    return ProtocolError(f"the source's stream holds {what} ({len(message) if size is None else size} bytes)")
