"""The law of coalescing: a batch's plan does what its changes do one by one. A plain dict plays the table."""

from collections import Counter
from decimal import Decimal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from replicator.apply.batch import Batch, Rule
from replicator.apply.keyed import KeyedChanges
from replicator.apply.keyless import KeylessChanges
from replicator.apply.rows import fill
from replicator.lsn import INVALID
from replicator.model import UNCHANGED, Change, Delete, Insert, Relation, ReplicaIdentity, Row, Truncate, Update
from tests.fixtures.changes import relation, row, transaction
from tests.fixtures.histories import BEFORE, BY_FULL_ROW, BY_KEY, State, histories, play

Table = dict[Decimal, Row]


def fold(changes: list[Change], rule: Rule) -> list[KeyedChanges | KeylessChanges]:
    batch = Batch(lambda _: rule)
    for n, change in enumerate(changes):
        batch.add(transaction(change, lsn=100 + n))
    return [table for segment in batch.segments if not isinstance(segment, Truncate) for table in segment]


def key(value: bytes) -> Decimal:
    return Decimal(value.split(b"\t")[0].decode())


def execute(plan: KeyedChanges, table: Table) -> None:
    """As the target does: take what was not sent, delete, update, insert; and every row is where it must be."""
    arriving = [fill(image, table[key(origin)]) for origin, image in plan.moves] + plan.inserts
    for origin in [*plan.deletes, *(origin for origin, _ in plan.moves)]:
        del table[key(origin)]
    for origin, image in plan.updates:
        table[key(origin)] = fill(image, table[key(origin)])
    for image in arriving:
        assert UNCHANGED not in image.split(b"\t")
        assert key(image) not in table
        table[key(image)] = image


def rows(state: State) -> Table:
    return {key: row(*values) for key, values in state.items()}


@pytest.mark.parametrize("table_relation", [BY_KEY, BY_FULL_ROW], ids=["default", "full"])
@settings(deadline=None, max_examples=40)
@given(data=st.data())
def test_a_folded_batch_does_what_its_changes_do_one_by_one(table_relation: Relation, data: st.DataObject) -> None:
    steps = data.draw(histories(table_relation))
    table = rows(BEFORE)

    for plan in fold([step.change for step in steps], Rule((0,), INVALID)):
        assert isinstance(plan, KeyedChanges)
        execute(plan, table)

    assert table == rows(play(steps, BEFORE))


KEYLESS = relation(["a"], identity=ReplicaIdentity.FULL)
ALL_IMAGES = [row("x"), row(""), row(None)]
IMAGES = st.sampled_from(ALL_IMAGES)


@st.composite
def keyless_histories(draw: st.DrawFn) -> list[tuple[Row | None, Row | None]]:
    """What happened to copies of few images: (before, after), None is no row."""
    copies: list[Row] = []
    history: list[tuple[Row | None, Row | None]] = []
    for _ in range(draw(st.integers(1, 30))):
        before = draw(st.none() | st.sampled_from(copies)) if copies else None
        after = draw(IMAGES if before is None else st.none() | IMAGES)
        if before is not None:
            copies.remove(before)
        if after is not None:
            copies.append(after)
        history.append((before, after))
    return history


def keyless_change(before: Row | None, after: Row | None) -> Change:
    if before is None:
        return Insert(KEYLESS, after or b"")
    return Delete(KEYLESS, before, True) if after is None else Update(KEYLESS, before, True, after)


def count(history: list[tuple[Row | None, Row | None]]) -> Counter[Row | None]:
    """How many copies of each image there are in the end."""
    copies = Counter(after for _, after in history)
    copies.subtract(before for before, _ in history)
    return copies


@settings(deadline=None, max_examples=40)
@given(history=keyless_histories(), cut=st.integers(0, 30))
def test_a_folded_batch_without_a_key_does_what_its_changes_do_one_by_one(
    history: list[tuple[Row | None, Row | None]], cut: int
) -> None:
    copies = count(history[:cut])

    for plan in fold([keyless_change(*step) for step in history[cut:]], Rule(None, INVALID)):
        assert isinstance(plan, KeylessChanges)
        for image, removed in plan.removed.items():
            assert copies[image] >= removed
            copies[image] -= removed
        copies.update(plan.inserts)

    expected = count(history)
    assert [copies[image] for image in ALL_IMAGES] == [expected[image] for image in ALL_IMAGES]
