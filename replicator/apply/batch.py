# cython: annotation_typing=False
"""Coalescing: many transactions become, for each row, the one thing that happened to it. Pure, and compiled.

Changes of different tables are independent of each other (`keyed`, `keyless`), until a TRUNCATE or a table's new shape
ends the *segment*. Nothing here hides a conflict: what cannot follow from a consistent beginning raises (law 4).
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from replicator.apply.keyed import KeyedChanges
from replicator.apply.keyless import KeylessChanges
from replicator.errors import ReplicatorError, UnknownTableError
from replicator.lsn import INVALID, Lsn, format_lsn
from replicator.model import Change, Delete, Insert, LogicalMessage, Relation, RowChange, Transaction, Truncate, Update

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


TableChanges = KeyedChanges | KeylessChanges
Segment = list[TableChanges] | Truncate
"""Changes of several tables whose order does not matter, or a TRUNCATE, which what came before must precede."""

Rules = Callable[[Relation], Rule]


class Batch:
    """Whole transactions (or pieces of one), coalesced, in segments that must be applied in order."""

    def __init__(self, rules: Rules) -> None:
        self._rules = rules
        self._segments: list[Segment] = []
        self._tables: dict[int, TableChanges] = {}
        self._last: TableChanges | None = None
        self._inserts = self._updates = self._deletes = self._truncates = 0
        self.transactions = 0
        self.first_lsn = INVALID
        self.end_lsn = INVALID
        self.marker: str | None = None

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
        if transaction.complete:
            self.end_lsn = transaction.end_lsn
            self.transactions += 1

    def add_familiar(self, transactions: Sequence[Transaction], start: int) -> int:
        """Fold in transactions from ``start`` on, up to a piece or one that is `unfamiliar`; returns where that is.

        Raises as `add`.
        """
        for index in range(start, len(transactions)):
            transaction = transactions[index]
            if not transaction.complete or self.unfamiliar(transaction):
                return index
            self.add(transaction)
        return len(transactions)

    def unfamiliar(self, transaction: Transaction) -> list[Relation]:
        """The relations that a transaction touches and this batch has no changes of, each once."""
        found: list[Relation] = []
        last: Relation | None = None
        for change in transaction.changes:
            if isinstance(change, RowChange):
                relation = change.relation
                if relation is not last:
                    last = relation
                    changes = self._tables.get(relation.oid)
                    if (changes is None or changes.relation is not relation) and relation not in found:
                        found.append(relation)
            elif isinstance(change, Truncate):
                found += [relation for relation in change.relations if relation not in found]
        return found

    def _add(self, change: Change, commit_lsn: Lsn) -> None:
        if isinstance(change, RowChange):
            self._fold(change, commit_lsn)
        elif isinstance(change, Truncate):
            self._truncate(change, commit_lsn)

    def _fold(self, change: RowChange, commit_lsn: Lsn) -> None:
        changes = self._last
        if changes is None or changes.relation is not change.relation:
            changes = self._changes_of(change.relation, commit_lsn)
            if changes is None:
                return
        if isinstance(change, Insert):
            self._inserts += 1
            changes.insert(change)
        elif isinstance(change, Update):
            self._updates += 1
            if not changes.update(change):
                self._anew(change.relation, commit_lsn).update(change)
        elif isinstance(change, Delete):
            self._deletes += 1
            if not changes.delete(change):
                self._anew(change.relation, commit_lsn).delete(change)

    def _anew(self, relation: Relation, commit_lsn: Lsn) -> TableChanges:
        """Let what came before be applied first, and begin again on a relation whose changes are taken."""
        self._close_segment()
        changes = self._changes_of(relation, commit_lsn)
        assert changes is not None
        return changes

    def _changes_of(self, relation: Relation, commit_lsn: Lsn) -> TableChanges | None:
        """Where to fold changes of a relation; None if they are in its snapshot already."""
        changes = self._tables.get(relation.oid)
        if changes is None or changes.relation is not relation:
            rule = self._rules(relation)
            if commit_lsn < rule.snapshot_lsn < NEVER:
                return None
            changes = self._open(relation, rule)
        self._last = changes
        return changes

    def _open(self, relation: Relation, rule: Rule) -> TableChanges:
        """Begin on a relation. One that has changed its shape must not be folded into what its old shape left."""
        if rule.snapshot_lsn == NEVER:
            raise UnknownTableError(f"table {relation.table} has no snapshot yet")
        if relation.oid in self._tables:
            self._close_segment()
        changes = KeylessChanges(relation) if rule.key is None else KeyedChanges(relation, rule.key)
        self._tables[relation.oid] = changes
        return changes

    def _truncate(self, change: Truncate, commit_lsn: Lsn) -> None:
        relations = tuple(r for r in change.relations if commit_lsn >= self._rules(r).snapshot_lsn)
        if relations:
            self._close_segment()
            self._segments.append(change._replace(relations=relations))
            self._truncates += 1

    def _close_segment(self) -> None:
        if self._tables:
            self._segments.append(list(self._tables.values()))
            self._tables = {}
            self._last = None

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
        return self._inserts + self._updates + self._deletes + self._truncates

    @property
    def operations(self) -> dict[str, int]:
        """The same by operation."""
        return {
            "insert": self._inserts,
            "update": self._updates,
            "delete": self._deletes,
            "truncate": self._truncates,
        }


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
