"""Parting a transaction: what is applied at once, and what each table that has to wait keeps for later. Pure.

A TRUNCATE of several tables is parted too: ``cascade`` tells then, and only then, that there were others.
"""

from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import replace

from replicator.apply.batch import marker_of
from replicator.control import NO_TABLE
from replicator.model import Change, LogicalMessage, Relation, Transaction, Truncate

Streams = Callable[[int], bool]
"""Whether the changes of a table, told by its oid on the source, are applied at once."""


def part(transaction: Transaction, streams: Streams) -> tuple[Transaction, Mapping[int, list[Change]]]:
    """What is left of a transaction to be applied now, and the changes of each table that waits, by its oid.

    A cutover's marker waits until nothing else does, so that it proves what it should.
    """
    if marker_of(transaction) is not None:
        return replace(transaction, changes=[]), {NO_TABLE: list(transaction.changes)}
    now: list[Change] = []
    later: defaultdict[int, list[Change]] = defaultdict(list)
    for change in transaction.changes:
        if isinstance(change, Truncate):
            _part_truncate(change, streams, now, later)
        elif not isinstance(change, LogicalMessage):
            oid = change.relation.oid
            (now if streams(oid) else later[oid]).append(change)
    return replace(transaction, changes=now), later


def _part_truncate(change: Truncate, streams: Streams, now: list[Change], later: Mapping[int, list[Change]]) -> None:
    at_once = tuple(relation for relation in change.relations if streams(relation.oid))
    waiting = [relation for relation in change.relations if not streams(relation.oid)]
    parted = len(change.relations) > 1
    if at_once:
        now.append(_of(change, at_once, parted=parted and bool(waiting)))
    for relation in waiting:
        later[relation.oid].append(_of(change, (relation,), parted=parted))


def _of(change: Truncate, relations: tuple[Relation, ...], *, parted: bool) -> Truncate:
    return change._replace(relations=relations, cascade=parted)
