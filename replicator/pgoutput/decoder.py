# cython: annotation_typing=False
"""Decode pgoutput messages: one call a message, a tuple becomes one line of COPY text (``model.Row``). Compiled.

Source: PostgreSQL documentation, "Logical Replication Message Formats", protocol version 2, text mode.
Values are not parsed (law 7), and nothing is guessed (law 4): what is unknown, too short or too long is an error.
"""

import struct
from collections.abc import Callable, Mapping
from typing import Final

from replicator.errors import ProtocolError
from replicator.lsn import Lsn
from replicator.model import (
    NULL,
    UNCHANGED,
    Delete,
    Insert,
    Relation,
    RelationColumn,
    ReplicaIdentity,
    Row,
    TableName,
    Truncate,
    Update,
)
from replicator.pgoutput.messages import Begin, Commit, Emitted, Message, Origin, TypeName

# Each starts at the message's first byte, its kind, and skips it; Commit's flags are unused.
_BEGIN_BODY: Final = struct.Struct(">xQqI")
_COMMIT_BODY: Final = struct.Struct(">xxQQq")
_ORIGIN: Final = struct.Struct(">xQ")
_OID: Final = struct.Struct(">xI")
_EMITTED: Final = struct.Struct(">xBQ")
_TRUNCATE: Final = struct.Struct(">xIB")
_TUPLE: Final = struct.Struct(">BH")
_RELATION_TAIL: Final = struct.Struct(">BH")
_COLUMN_TAIL: Final = struct.Struct(">Ii")
_LENGTH: Final = struct.Struct(">I")

_CHANGE_BYTES: Final = 8
"""A change's kind, its relation, which tuple follows, and that tuple's number of columns."""

_make: Final = tuple.__new__
"""Half the time of calling a named tuple's class."""

_BEGIN, _COMMIT, _INSERT, _UPDATE, _DELETE = b"BCIUD"
_NEW, _OLD, _KEY = b"NOK"
_TEXT, _NULL, _UNCHANGED = b"tnu"
_PG_CATALOG: Final = "pg_catalog"

_KIND_NAMES: Final = {
    b"B": "Begin",
    b"C": "Commit",
    b"O": "Origin",
    b"R": "Relation",
    b"Y": "Type",
    b"I": "Insert",
    b"U": "Update",
    b"D": "Delete",
    b"T": "Truncate",
    b"M": "Message",
}


class Decoder:
    """Decodes the messages of one START_REPLICATION; remembers the relations that it described."""

    def __init__(self) -> None:
        self._relations: dict[int, Relation] = {}
        self._rarer: Final[dict[int, Callable[[bytes], Message]]] = {
            ord("O"): _origin,
            ord("R"): self._relation,
            ord("Y"): _type_name,
            ord("T"): self._truncate,
            ord("M"): _emitted,
        }

    @property
    def relations(self) -> Mapping[int, Relation]:
        """What was described so far, by oid."""
        return self._relations

    def decode(self, payload: bytes) -> Message:
        """Decode one whole message. Raises ProtocolError if it is unknown, too short or too long."""
        try:
            kind = payload[0]
            if kind == _INSERT:
                return self._insert(payload)
            if kind == _UPDATE:
                return self._update(payload)
            if kind == _DELETE:
                return self._delete(payload)
            if kind == _BEGIN:
                return _make(Begin, _BEGIN_BODY.unpack(payload))
            if kind == _COMMIT:
                return _make(Commit, _COMMIT_BODY.unpack(payload))
            return self._rarer[kind](payload)
        except (IndexError, KeyError, ValueError, struct.error):
            raise _unreadable(payload) from None

    def _relation(self, payload: bytes) -> Relation:
        (oid,) = _OID.unpack_from(payload)
        schema, position = _string(payload, 5)
        name, position = _string(payload, position)
        identity, count = _RELATION_TAIL.unpack_from(payload, position)
        columns = []
        position += _RELATION_TAIL.size
        for _ in range(count):
            column, position = _column(payload, position)
            columns.append(column)
        _check_end(payload, position)
        table = TableName(schema or _PG_CATALOG, name)
        relation = Relation(oid, table, ReplicaIdentity(chr(identity)), tuple(columns))
        # the source repeats itself after any invalidation: the same description stays the same object
        if self._relations.get(oid) != relation:
            self._relations[oid] = relation
        return self._relations[oid]

    def _changed(self, payload: bytes) -> Relation:
        """The relation of a change, whose first tuple must have as many values as it has columns."""
        if len(payload) < _CHANGE_BYTES:
            raise _unreadable(payload)
        oid = payload[1] << 24 | payload[2] << 16 | payload[3] << 8 | payload[4]
        relation = self._relations[oid]
        if payload[6] << 8 | payload[7] != len(relation.columns):
            raise _unreadable(payload)
        return relation

    def _insert(self, payload: bytes) -> Insert:
        relation = self._changed(payload)
        if payload[5] != _NEW:
            raise _unreadable(payload)
        row, position = _row(payload, _CHANGE_BYTES, len(relation.columns), False)
        if position != len(payload):
            raise _unreadable(payload)
        return _make(Insert, (relation, row))

    def _update(self, payload: bytes) -> Update:
        relation = self._changed(payload)
        kind, count = payload[5], len(relation.columns)
        old, old_is_full, position = None, False, _CHANGE_BYTES
        if kind != _NEW:
            old_is_full = _is_full(kind)
            old, position = _row(payload, position, count, False)
            kind, count_new = _TUPLE.unpack_from(payload, position)
            if kind != _NEW or count_new != count:
                raise _unreadable(payload)
            position += _TUPLE.size
        new, position = _row(payload, position, count, True)
        if position != len(payload):
            raise _unreadable(payload)
        return _make(Update, (relation, old, old_is_full, new))

    def _delete(self, payload: bytes) -> Delete:
        relation = self._changed(payload)
        old_is_full = _is_full(payload[5])
        old, position = _row(payload, _CHANGE_BYTES, len(relation.columns), False)
        if position != len(payload):
            raise _unreadable(payload)
        return _make(Delete, (relation, old, old_is_full))

    def _truncate(self, payload: bytes) -> Truncate:
        count, options = _TRUNCATE.unpack_from(payload)
        _check_end(payload, _TRUNCATE.size + 4 * count)
        if options & ~3:
            raise _unreadable(payload)
        oids = struct.unpack_from(f">{count}I", payload, _TRUNCATE.size)
        return Truncate(tuple(self._relations[oid] for oid in oids), bool(options & 1), bool(options & 2))


def _row(payload: bytes, position: int, count: int, may_lack: bool) -> tuple[Row, int]:
    """Read ``count`` values as one row; return it and where it ends. ``may_lack``: whether a value may be UNCHANGED.

    The hot loop: raw values are joined, and looked at one by one only if the line holds more special bytes than its
    separators and markers. Compiled, nothing but ``end`` keeps it from reading beyond the message.
    """
    data, end = payload, len(payload)
    values: list[bytes] = []
    markers = 0
    separators = count - 1
    while count:
        count -= 1
        if position >= end:
            raise _unreadable(payload)
        kind = data[position]
        position += 1
        if kind == _TEXT:
            if end - position < 4:
                raise _unreadable(payload)
            length = data[position] << 24 | data[position + 1] << 16 | data[position + 2] << 8 | data[position + 3]
            position += 4
            if not 0 <= length <= end - position:
                raise _unreadable(payload)
            values.append(data[position : position + length])
            position += length
            continue
        markers += 1
        if kind == _NULL:
            values.append(NULL)
        elif kind == _UNCHANGED and may_lack:
            values.append(UNCHANGED)
        else:
            raise _unreadable(payload)
    line = b"\t".join(values)
    if (
        # backslash, newline, carriage return, tab; an integer is looked for far faster than a bytes object
        (line.count(b"\\") != markers if markers else 92 in line)
        or 10 in line
        or 13 in line
        or line.count(b"\t") > separators
    ):
        line = b"\t".join([_escape(value) for value in values])
    return line, position


def _escape(value: bytes) -> bytes:
    # by identity: a value that the source printed is never one of these two objects, even if it reads the same
    if value is NULL or value is UNCHANGED:
        return value
    return (
        value.replace(b"\\", rb"\\").replace(b"\t", rb"\t").replace(b"\n", rb"\n").replace(b"\r", rb"\r")
    )  # fmt: skip


def _is_full(kind: int) -> bool:
    if kind not in (_OLD, _KEY):
        raise ValueError("not an old tuple")
    return kind == _OLD


def _origin(payload: bytes) -> Origin:
    (lsn,) = _ORIGIN.unpack_from(payload)
    name, position = _string(payload, _ORIGIN.size, errors="replace")
    _check_end(payload, position)
    return Origin(Lsn(lsn), name)


def _type_name(payload: bytes) -> TypeName:
    (oid,) = _OID.unpack_from(payload)
    schema, position = _string(payload, _OID.size)
    name, position = _string(payload, position)
    _check_end(payload, position)
    return TypeName(oid, schema or _PG_CATALOG, name)


def _emitted(payload: bytes) -> Emitted:
    flags, lsn = _EMITTED.unpack_from(payload)
    if flags & ~1:
        raise _unreadable(payload)
    # another program's may be anything, in a database of the encoding SQL_ASCII
    prefix, position = _string(payload, _EMITTED.size, errors="replace")
    (length,) = _LENGTH.unpack_from(payload, position)
    start = position + _LENGTH.size
    _check_end(payload, start + length)
    return Emitted(bool(flags), Lsn(lsn), prefix, payload[start:])


def _column(payload: bytes, position: int) -> tuple[RelationColumn, int]:
    flags = payload[position]
    if flags & ~1:
        raise _unreadable(payload)
    name, position = _string(payload, position + 1)
    type_oid, type_modifier = _COLUMN_TAIL.unpack_from(payload, position)
    return RelationColumn(name, type_oid, type_modifier, bool(flags)), position + _COLUMN_TAIL.size


def _string(payload: bytes, position: int, errors: str = "strict") -> tuple[str, int]:
    """Read a null-terminated name and where the next field starts."""
    end = payload.index(0, position)
    return payload[position:end].decode(errors=errors), end + 1


def _check_end(payload: bytes, position: int) -> None:
    if position != len(payload):
        raise _unreadable(payload)


def _unreadable(payload: bytes) -> ProtocolError:
    kind = payload[:1]
    name = _KIND_NAMES.get(kind)
    what = f"an unreadable {name} message" if name else f"a message of the unknown kind {kind!r}"
    return ProtocolError(f"the source's stream holds {what} ({len(payload)} bytes)")
