# cython: annotation_typing=False
"""Decode pgoutput messages: one call a message, a tuple becomes one line of COPY text (``model.Row``). Compiled.

Source: PostgreSQL documentation, "Logical Replication Message Formats", protocol version 2, text mode.
Values are not parsed (law 7), and nothing is guessed (law 4): what is unknown, too short or too long is an error.
"""

import struct
from collections.abc import Callable, Mapping
from typing import Final

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
from replicator.pgoutput.wire import (
    BEGIN,
    COMMIT,
    DELETE,
    EMITTED,
    ID,
    INSERT,
    KEY_TUPLE,
    LENGTH,
    NEW_TUPLE,
    NULL_VALUE,
    OLD_TUPLE,
    ORIGIN,
    RELATION,
    TEXT_VALUE,
    TRUNCATE,
    TUPLE,
    TYPE,
    UNCHANGED_VALUE,
    UPDATE,
    unreadable,
)

# Each starts at the message's first byte, its kind, and skips it; Commit's flags are unused.
_BEGIN_BODY: Final = struct.Struct(">xQqI")
_COMMIT_BODY: Final = struct.Struct(">xxQQq")
_ORIGIN: Final = struct.Struct(">xQ")
_EMITTED: Final = struct.Struct(">xBQ")
_TRUNCATE: Final = struct.Struct(">xIB")
_RELATION_TAIL: Final = struct.Struct(">BH")
_COLUMN_TAIL: Final = struct.Struct(">Ii")

_CHANGE_BYTES: Final = 8
"""A change's kind, its relation, which tuple follows, and that tuple's number of columns."""

_TAB, _NEWLINE, _RETURN, _BACKSLASH = b"\t\n\r\\"
_PG_CATALOG: Final = "pg_catalog"


class Decoder:
    """Decodes the messages of one START_REPLICATION; remembers the relations that it described."""

    def __init__(self) -> None:
        self._relations: dict[int, Relation] = {}
        self._position = 0
        self._rarer: Final[dict[int, Callable[[bytes], Message]]] = {
            ORIGIN: _origin,
            RELATION: self._relation,
            TYPE: _type_name,
            TRUNCATE: self._truncate,
            EMITTED: _emitted,
        }

    @property
    def relations(self) -> Mapping[int, Relation]:
        """What was described so far, by oid."""
        return self._relations

    def decode(self, payload: bytes) -> Message:
        """Decode one whole message. Raises ProtocolError if it is unknown, too short or too long."""
        try:
            kind = payload[0]
            if kind == INSERT:
                return self._insert(payload)
            if kind == UPDATE:
                return self._update(payload)
            if kind == DELETE:
                return self._delete(payload)
            if kind == BEGIN:
                return Begin(*_BEGIN_BODY.unpack(payload))
            if kind == COMMIT:
                return Commit(*_COMMIT_BODY.unpack(payload))
            return self._rarer[kind](payload)
        except (IndexError, KeyError, ValueError, struct.error):
            raise unreadable(payload) from None

    def _relation(self, payload: bytes) -> Relation:
        (oid,) = ID.unpack_from(payload)
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
        """The relation of a change, whose first tuple has as many values as it has columns; moves to the values."""
        if len(payload) < _CHANGE_BYTES:
            raise unreadable(payload)
        oid = payload[1] << 24 | payload[2] << 16 | payload[3] << 8 | payload[4]
        relation = self._relations[oid]
        if payload[6] << 8 | payload[7] != len(relation.columns):
            raise unreadable(payload)
        self._position = _CHANGE_BYTES
        return relation

    def _insert(self, payload: bytes) -> Insert:
        relation = self._changed(payload)
        if payload[5] != NEW_TUPLE:
            raise unreadable(payload)
        # a row filter makes an insert of an update that moves a row in
        new = self._row(payload, len(relation.columns), True)
        if self._position != len(payload):
            raise unreadable(payload)
        return Insert(relation, new)

    def _update(self, payload: bytes) -> Update:
        relation = self._changed(payload)
        kind, count = payload[5], len(relation.columns)
        old, old_is_full = None, False
        if kind != NEW_TUPLE:
            old_is_full = _is_full(kind)
            old = self._row(payload, count, False)
            kind, count_new = TUPLE.unpack_from(payload, self._position)
            if kind != NEW_TUPLE or count_new != count:
                raise unreadable(payload)
            self._position += TUPLE.size
        new = self._row(payload, count, True)
        if self._position != len(payload):
            raise unreadable(payload)
        return Update(relation, old, old_is_full, new)

    def _delete(self, payload: bytes) -> Delete:
        relation = self._changed(payload)
        old_is_full = _is_full(payload[5])
        old = self._row(payload, len(relation.columns), False)
        if self._position != len(payload):
            raise unreadable(payload)
        return Delete(relation, old, old_is_full)

    def _row(self, payload: bytes, count: int, may_lack: bool) -> Row:
        """Read ``count`` values at the position, which moves behind them. ``may_lack``: a value may be UNCHANGED.

        The hot loop: raw values are joined, and escaped one by one only if one of them holds a special byte. Compiled,
        nothing but ``end`` keeps it from reading beyond the message.
        """
        data, end, position = payload, len(payload), self._position
        values: list[bytes] = []
        special = False
        while count:
            count -= 1
            if position >= end:
                raise unreadable(payload)
            kind = data[position]
            position += 1
            if kind == TEXT_VALUE:
                if end - position < 4:
                    raise unreadable(payload)
                length = data[position] << 24 | data[position + 1] << 16 | data[position + 2] << 8 | data[position + 3]
                position += 4
                if not 0 <= length <= end - position:
                    raise unreadable(payload)
                value = data[position : position + length]
                position += length
                if _TAB in value or _BACKSLASH in value:  # in the line, they stand between values, and for NULL
                    special = True
                values.append(value)
            elif kind == NULL_VALUE:
                values.append(NULL)
            elif kind == UNCHANGED_VALUE and may_lack:
                values.append(UNCHANGED)
            else:
                raise unreadable(payload)
        self._position = position
        line = b"\t".join(values)
        if special or _NEWLINE in line or _RETURN in line:
            line = b"\t".join([escape(value) for value in values])
        return line

    def _truncate(self, payload: bytes) -> Truncate:
        count, options = _TRUNCATE.unpack_from(payload)
        _check_end(payload, _TRUNCATE.size + 4 * count)
        if options & ~3:
            raise unreadable(payload)
        oids = struct.unpack_from(f">{count}I", payload, _TRUNCATE.size)
        return Truncate(tuple(self._relations[oid] for oid in oids), bool(options & 1), bool(options & 2))


def escape(value: bytes) -> bytes:
    """A value as COPY text has it."""
    # by identity: a value that the source printed is never one of these two objects, even if it reads the same
    if value is NULL or value is UNCHANGED:
        return value
    return (
        value.replace(b"\\", rb"\\").replace(b"\t", rb"\t").replace(b"\n", rb"\n").replace(b"\r", rb"\r")
    )  # fmt: skip


def _is_full(kind: int) -> bool:
    if kind not in (OLD_TUPLE, KEY_TUPLE):
        raise ValueError("not an old tuple")
    return kind == OLD_TUPLE


def _origin(payload: bytes) -> Origin:
    (lsn,) = _ORIGIN.unpack_from(payload)
    name, position = _string(payload, _ORIGIN.size, errors="replace")
    _check_end(payload, position)
    return Origin(Lsn(lsn), name)


def _type_name(payload: bytes) -> TypeName:
    (oid,) = ID.unpack_from(payload)
    schema, position = _string(payload, ID.size)
    name, position = _string(payload, position)
    _check_end(payload, position)
    return TypeName(oid, schema or _PG_CATALOG, name)


def _emitted(payload: bytes) -> Emitted:
    flags, lsn = _EMITTED.unpack_from(payload)
    if flags & ~1:
        raise unreadable(payload)
    # another program's may be anything, in a database of the encoding SQL_ASCII
    prefix, position = _string(payload, _EMITTED.size, errors="replace")
    (length,) = LENGTH.unpack_from(payload, position)
    start = position + LENGTH.size
    _check_end(payload, start + length)
    return Emitted(bool(flags), Lsn(lsn), prefix, payload[start:])


def _column(payload: bytes, position: int) -> tuple[RelationColumn, int]:
    flags = payload[position]
    if flags & ~1:
        raise unreadable(payload)
    name, position = _string(payload, position + 1)
    type_oid, type_modifier = _COLUMN_TAIL.unpack_from(payload, position)
    return RelationColumn(name, type_oid, type_modifier, bool(flags)), position + _COLUMN_TAIL.size


def _string(payload: bytes, position: int, errors: str = "strict") -> tuple[str, int]:
    """Read a null-terminated name and where the next field starts."""
    end = payload.index(0, position)
    return payload[position:end].decode(errors=errors), end + 1


def _check_end(payload: bytes, position: int) -> None:
    if position != len(payload):
        raise unreadable(payload)
