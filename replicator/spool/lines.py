"""Transactions as lines of bytes and back. Pure.

A row is one line already (``model.Row``), so a chunk is lines, and each kind of change says how many rows follow:

    T commit_lsn end_lsn committed_at size complete      a transaction, or a piece of one
    R number description                                 a relation, before its first change in the chunk
    I relation                                           and the new row
    U relation old_kind                                  and the old row unless its kind is -, and the new row
    D relation old_kind                                  and the old row
    X relation,… cascade restart_identity                a TRUNCATE
    M prefix content                                     a logical message, in hexadecimal
"""

import json
from collections.abc import Iterable, Iterator, Sequence
from typing import Final

from replicator.errors import ProtocolError
from replicator.lsn import Lsn
from replicator.model import (
    Change,
    Delete,
    Insert,
    LogicalMessage,
    Relation,
    RelationColumn,
    ReplicaIdentity,
    Row,
    TableName,
    Transaction,
    Truncate,
    Update,
)

_NO_OLD, _KEY, _FULL = b"-", b"k", b"f"
_OLD_KINDS: Final = (_KEY, _FULL)


def encode(transactions: Iterable[Transaction]) -> bytes:
    """One chunk, which can be read without any other."""
    return b"\n".join(_Writer().write(transactions))


class _Writer:
    """Numbers the relations of a chunk in the order of their first change."""

    def __init__(self) -> None:
        self._lines: list[bytes] = []
        self._numbers: dict[int, int] = {}

    def write(self, transactions: Iterable[Transaction]) -> list[bytes]:
        for item in transactions:
            head = (item.commit_lsn, item.end_lsn, item.committed_at, item.size, int(item.complete))
            self._lines.append(b"T %d %d %d %d %d" % head)
            for change in item.changes:
                self._write(change)
        return self._lines

    def _write(self, change: Change) -> None:
        if isinstance(change, Insert):
            number = self._number(change.relation)
            self._lines += (b"I %d" % number, change.new)
        elif isinstance(change, Update):
            number = self._number(change.relation)
            kind = _NO_OLD if change.old is None else _OLD_KINDS[change.old_is_full]
            old = () if change.old is None else (change.old,)
            self._lines += (b"U %d %s" % (number, kind), *old, change.new)
        elif isinstance(change, Delete):
            number = self._number(change.relation)
            self._lines += (b"D %d %s" % (number, _OLD_KINDS[change.old_is_full]), change.old)
        elif isinstance(change, Truncate):
            numbers = ",".join(str(self._number(relation)) for relation in change.relations)
            self._lines.append(b"X %s %d %d" % (numbers.encode(), change.cascade, change.restart_identity))
        else:
            # an empty content has no digits: the line ends with its blank
            self._lines.append(b"M %s %s" % (change.prefix.encode().hex().encode(), change.content.hex().encode()))

    def _number(self, relation: Relation) -> int:
        # a relation is the same object as long as its description is the same, and the transactions keep it alive
        number = self._numbers.get(id(relation))
        if number is None:
            number = self._numbers[id(relation)] = len(self._numbers)
            self._lines.append(b"R %d %s" % (number, _description(relation)))
        return number


class Reader:
    """Reads chunks; the same description is the same relation in all of them."""

    def __init__(self) -> None:
        self._known: dict[bytes, Relation] = {}

    def decode(self, chunk: bytes) -> list[Transaction]:
        """The transactions of a chunk. Raises ProtocolError if it is none."""
        try:
            return self._decode(iter(chunk.split(b"\n")))
        except (ValueError, KeyError, IndexError, TypeError, RuntimeError, StopIteration):
            raise ProtocolError(f"the spool holds an unreadable chunk ({len(chunk)} bytes)") from None

    def _decode(self, lines: Iterator[bytes]) -> list[Transaction]:
        transactions: list[Transaction] = []
        changes: list[Change] = []
        relations: dict[bytes, Relation] = {}
        for line in lines:
            kind, fields = line[:1], line[2:].split(b" ")
            if kind == b"I":
                changes.append(Insert(relations[fields[0]], next(lines)))
            elif kind == b"U":
                changes.append(_update(relations[fields[0]], fields[1], lines))
            elif kind == b"D":
                changes.append(Delete(relations[fields[0]], next(lines), _is_full(fields[1])))
            elif kind == b"T":
                changes = []
                transactions.append(_transaction(fields, changes))
            elif kind == b"R":
                number, description = line[2:].split(b" ", 1)
                relations[number] = self._relation(description)
            elif kind == b"X":
                listed = tuple(relations[number] for number in fields[0].split(b","))
                changes.append(Truncate(listed, fields[1] == b"1", fields[2] == b"1"))
            elif kind == b"M":
                prefix, content = (bytes.fromhex(field.decode()) for field in fields)
                changes.append(LogicalMessage(prefix.decode(), content))
            else:
                raise ValueError("unknown kind of line")
        return transactions

    def _relation(self, description: bytes) -> Relation:
        if description not in self._known:
            oid, schema, name, identity, columns = json.loads(description)
            read = tuple(RelationColumn(*column) for column in columns)
            self._known[description] = Relation(oid, TableName(schema, name), ReplicaIdentity(identity), read)
        return self._known[description]


def _description(relation: Relation) -> bytes:
    columns = [(column.name, column.type_oid, column.type_modifier, column.key) for column in relation.columns]
    return json.dumps([relation.oid, *relation.table, relation.identity.value, columns]).encode()


def _transaction(fields: Sequence[bytes], changes: Sequence[Change]) -> Transaction:
    commit_lsn, end_lsn, committed_at, size, complete = map(int, fields)
    return Transaction(Lsn(commit_lsn), Lsn(end_lsn), committed_at, changes, size, bool(complete))


def _update(relation: Relation, kind: bytes, lines: Iterator[Row]) -> Update:
    if kind == _NO_OLD:
        return Update(relation, None, False, next(lines))
    return Update(relation, next(lines), _is_full(kind), next(lines))


def _is_full(kind: bytes) -> bool:
    return bool(_OLD_KINDS.index(kind))
