"""Coalescing: many transactions become, for each row, the one thing that happened to it. Pure.

A keyed row that a batch touched is remembered by its key now, with its *origin*: its key before the batch, or None if
it did not exist then. That, and whether it exists at the end, is all that the target needs:

    absent  → present   insert
    present → present   update, or a move when the key changed
    present → absent    delete, by origin
    absent  → absent    nothing

A table without a key is a multiset of whole rows: a change adds one copy of an image or takes one away.

Nothing here hides a conflict: what cannot follow from a consistent beginning raises (law 4).
"""

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Final

from replicator.errors import DivergenceError, ProtocolError, ReplicatorError, UnknownTableError
from replicator.lsn import INVALID, Lsn, format_lsn
from replicator.model import (
    UNCHANGED,
    Change,
    Delete,
    Insert,
    Key,
    LogicalMessage,
    Relation,
    ReplicaIdentity,
    Row,
    Transaction,
    Truncate,
    Update,
)

MARKER_PREFIX: Final = "replicator"
"""The prefix of our own logical messages, whose content is a nonce."""

_NONCE: Final = re.compile(rb"[0-9a-f]{32}")


NEVER: Final = Lsn(2**64 - 1)
"""As a rule's ``snapshot_lsn``: a root that a TRUNCATE lists beside its leaves. No row can come under its name."""


@dataclass(frozen=True, slots=True)
class Rule:
    """How a relation's changes are taken.

    ``key`` lists the positions of the key columns among the published ones, or is None for a table without a key.
    Changes of transactions whose commit LSN is below ``snapshot_lsn`` are in the table's snapshot already.
    """

    key: tuple[int, ...] | None
    snapshot_lsn: Lsn


@dataclass(slots=True)
class KeyedChanges:
    """What happened to the rows of one table that has a key."""

    relation: Relation
    rule: Rule
    rows: dict[Key, tuple[Key | None, Row]] = field(default_factory=dict)
    gone: dict[Key, None] = field(default_factory=dict)
    _key: Callable[[Row], Key] = field(init=False)

    def __post_init__(self) -> None:
        self._key = key_reader(self.rule.key or ())

    def insert(self, change: Insert) -> None:
        """A new row; where the batch deleted the same key before, the old row has become the new one."""
        key = self._key(change.new)
        if key in self.rows:
            raise self._impossible("inserts a key that it has inserted before")
        origin = None
        if key in self.gone:
            del self.gone[key]
            origin = key
        self.rows[key] = (origin, change.new)

    def update(self, change: Update) -> None:
        """A changed row: values that were not sent come from the old tuple, or from what the batch holds of the row."""
        new = self._filled_from_old(change)
        key = self._key(new)
        if UNCHANGED in new and UNCHANGED in key.split(b"\t"):
            raise self._impossible("does not send a key")
        old_key = key if change.old is None else self._key(change.old)
        pending = self.rows.pop(old_key, None)
        if pending is None:
            if old_key in self.gone:
                raise self._impossible("updates a row that it has deleted")
            pending = (old_key, new)
        else:
            pending = (pending[0], fill(new, pending[1]))
        if key in self.rows:
            raise self._impossible("gives two rows the same key")
        self.rows[key] = pending

    def delete(self, change: Delete) -> None:
        """A row that is no more; one that the batch made itself leaves no trace."""
        key = self._key(change.old)
        pending = self.rows.pop(key, None)
        if pending is not None:
            origin = pending[0]
        elif key in self.gone:
            raise self._impossible("deletes a row twice")
        else:
            origin = key
        if origin is not None:
            self.gone[origin] = None

    def _filled_from_old(self, change: Update) -> Row:
        if change.old is None or UNCHANGED not in change.new:
            return change.new
        # a K tuple holds the identity columns only: the others are NULL there, whatever they are in the row
        only = None if change.old_is_full else {i for i, column in enumerate(self.relation.columns) if column.key}
        return fill(change.new, change.old, only)

    def _impossible(self, what: str) -> ReplicatorError:
        if self.relation.identity is ReplicaIdentity.FULL:
            # the key is the target's alone: the source may have dropped its own
            return DivergenceError(f"the stream of {self.relation.table} {what}, by the key that the target has")
        return ProtocolError(f"the stream of {self.relation.table} {what}")

    @property
    def inserts(self) -> list[Row]:
        """Rows that did not exist before the batch."""
        return [row for origin, row in self.rows.values() if origin is None]

    @property
    def updates(self) -> list[tuple[Key, Row]]:
        """Rows that keep their key."""
        return [(key, row) for key, (origin, row) in self.rows.items() if origin == key]

    @property
    def moves(self) -> list[tuple[Key, Row]]:
        """Rows whose key changed, by the key that they have on the target."""
        return [(origin, row) for key, (origin, row) in self.rows.items() if origin is not None and origin != key]

    @property
    def deletes(self) -> list[Key]:
        """Keys of rows that are gone."""
        return list(self.gone)

    def __len__(self) -> int:
        return len(self.rows) + len(self.gone)


@dataclass(slots=True)
class KeylessChanges:
    """What happened to a table without a key: how many copies of which row images came and went."""

    relation: Relation
    rule: Rule
    added: dict[Row, int] = field(default_factory=dict)
    removed: dict[Row, int] = field(default_factory=dict)

    def insert(self, change: Insert) -> None:
        """One more copy of the image."""
        self._count(change.new, self.added, self.removed)

    def update(self, change: Update) -> None:
        """One copy of the old image becomes one of the new. Only REPLICA IDENTITY FULL sends the old image."""
        if change.old is None or not change.old_is_full:
            raise ProtocolError(f"an update of {self.relation.table}, which has no key, came without its old row")
        self._count(change.old, self.removed, self.added)
        self._count(fill(change.new, change.old), self.added, self.removed)

    def delete(self, change: Delete) -> None:
        """One copy of the image less."""
        if not change.old_is_full:
            raise ProtocolError(f"a deletion in {self.relation.table}, which has no key, came without its old row")
        self._count(change.old, self.removed, self.added)

    @staticmethod
    def _count(image: Row, here: dict[Row, int], there: dict[Row, int]) -> None:
        left = there.get(image, 0)
        if left > 1:
            there[image] = left - 1
        elif left == 1:
            del there[image]
        else:
            here[image] = here.get(image, 0) + 1

    @property
    def inserts(self) -> Iterator[Row]:
        """Every image as often as it came."""
        for image, count in self.added.items():
            for _ in range(count):
                yield image

    def __len__(self) -> int:
        return sum(self.added.values()) + sum(self.removed.values())


TableChanges = KeyedChanges | KeylessChanges
Segment = list[TableChanges] | Truncate
"""Changes of several tables whose order does not matter, or a TRUNCATE, which what came before must precede."""

Rules = Callable[[Relation], Rule]


class Batch:
    """Whole transactions (or pieces of one), coalesced, in segments that must be applied in order.

    ``size`` is the bytes of the rows that were added, before coalescing.
    """

    def __init__(self, rules: Rules) -> None:
        self._rules = rules
        self._segments: list[Segment] = []
        self._tables: dict[int, TableChanges] = {}
        self.operations = {"insert": 0, "update": 0, "delete": 0, "truncate": 0}
        self.transactions = 0
        self.first_lsn = INVALID
        self.end_lsn = INVALID
        self.marker: str | None = None
        self.size = 0

    def add(self, transaction: Transaction) -> None:
        """Fold a transaction in.

        Raises ProtocolError on a sequence that no consistent table allows, UnknownTableError for a table to copy first.
        """
        if self.first_lsn == INVALID:
            self.first_lsn = transaction.commit_lsn
        self.marker = marker_of(transaction) or self.marker
        try:
            for change in transaction.changes:
                self._add(change, transaction.commit_lsn)
        except ReplicatorError as error:
            raise error.located(f"in transaction {format_lsn(transaction.commit_lsn)}") from None
        self.size += transaction.size
        if transaction.complete:
            self.end_lsn = transaction.end_lsn
            self.transactions += 1

    def _add(self, change: Change, commit_lsn: Lsn) -> None:
        if isinstance(change, LogicalMessage):
            return
        if isinstance(change, Truncate):
            self._truncate(change, commit_lsn)
            return
        changes = self._tables.get(change.relation.oid)
        if changes is None or changes.relation is not change.relation:
            rule = self._rules(change.relation)
            if commit_lsn < rule.snapshot_lsn < NEVER:
                return
            changes = self._open(change.relation, rule)
        if isinstance(change, Insert):
            self.operations["insert"] += 1
            changes.insert(change)
        elif isinstance(change, Update):
            self.operations["update"] += 1
            changes.update(change)
        else:
            self.operations["delete"] += 1
            changes.delete(change)

    def _open(self, relation: Relation, rule: Rule) -> TableChanges:
        """Begin on a relation. One that has changed its shape must not be folded into what its old shape left."""
        if rule.snapshot_lsn == NEVER:
            raise UnknownTableError(f"table {relation.table} has no snapshot yet")
        if relation.oid in self._tables:
            self._close_segment()
        changes = KeylessChanges(relation, rule) if rule.key is None else KeyedChanges(relation, rule)
        self._tables[relation.oid] = changes
        return changes

    def _truncate(self, change: Truncate, commit_lsn: Lsn) -> None:
        relations = tuple(r for r in change.relations if commit_lsn >= self._rules(r).snapshot_lsn)
        if relations:
            self._close_segment()
            self._segments.append(change._replace(relations=relations))
            self.operations["truncate"] += 1

    def _close_segment(self) -> None:
        if self._tables:
            self._segments.append(list(self._tables.values()))
            self._tables = {}

    @property
    def segments(self) -> list[Segment]:
        """What to apply, in order; tables whose changes cancelled out are left out."""
        self._close_segment()
        kept: list[Segment] = []
        for segment in self._segments:
            if isinstance(segment, Truncate):
                kept.append(segment)
            elif tables := [changes for changes in segment if len(changes)]:
                kept.append(tables)
        return kept

    @property
    def changes(self) -> int:
        """Changes of rows that were folded in, before coalescing."""
        return sum(self.operations.values())


def marker_of(transaction: Transaction) -> str | None:
    """The nonce of a cutover's marker, which is a whole transaction of its own.

    Other programs may use the prefix as well, with any content; what is beside other changes is none of ours.
    """
    if len(transaction.changes) != 1 or not transaction.complete:
        return None
    (change,) = transaction.changes
    if not isinstance(change, LogicalMessage) or change.prefix != MARKER_PREFIX:
        return None
    return change.content.decode() if _NONCE.fullmatch(change.content) else None


def relations_of(transaction: Transaction) -> Iterable[Relation]:
    """The relations that a transaction touches, each once, in the order of their first change."""
    found: dict[int, Relation] = {}
    for change in transaction.changes:
        if isinstance(change, Truncate):
            found |= {id(relation): relation for relation in change.relations}
        elif not isinstance(change, LogicalMessage):
            found[id(change.relation)] = change.relation
    return found.values()


def key_reader(positions: tuple[int, ...]) -> Callable[[Row], Key]:
    """A function from a row to its key. The commonest keys get the cheapest one: this runs once a change."""
    if positions == (0,):
        return lambda row: row.split(b"\t", 1)[0]
    last = max(positions, default=-1) + 1
    if len(positions) == 1:
        position = positions[0]
        return lambda row: row.split(b"\t", last)[position]

    def read(row: Row) -> Key:
        values = row.split(b"\t", last)
        return b"\t".join([values[position] for position in positions])

    return read


def fill(row: Row, before: Row, only: Iterable[int] | None = None) -> Row:
    """Replace the values that were not sent by those of ``before``, at the positions ``only`` (default: all)."""
    if UNCHANGED not in row:
        return row
    allowed = None if only is None else frozenset(only)
    pairs = zip(row.split(b"\t"), before.split(b"\t"), strict=True)
    return b"\t".join(
        old if new == UNCHANGED and (allowed is None or position in allowed) else new
        for position, (new, old) in enumerate(pairs)
    )


def unchanged_positions(row: Row) -> tuple[int, ...]:
    """The positions of the values that were not sent."""
    if UNCHANGED not in row:
        return ()
    return tuple(position for position, value in enumerate(row.split(b"\t")) if value == UNCHANGED)
