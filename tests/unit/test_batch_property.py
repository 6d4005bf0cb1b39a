"""The law of coalescing: a batch's plan does what its changes do one by one. A plain dict plays the table."""

from decimal import Decimal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from replicator.apply.batch import Batch, KeyedChanges, KeylessChanges, Rule, fill
from replicator.lsn import INVALID
from replicator.model import UNCHANGED, Change, Relation, Row, Truncate
from tests.fixtures.changes import row, transaction
from tests.fixtures.histories import BY_FULL_ROW, BY_KEY, State, histories, play

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


@pytest.mark.parametrize("relation", [BY_KEY, BY_FULL_ROW], ids=["default", "full"])
@settings(deadline=None, max_examples=100)
@given(data=st.data())
def test_a_folded_batch_does_what_its_changes_do_one_by_one(relation: Relation, data: st.DataObject) -> None:
    steps = data.draw(histories(relation))
    cut = data.draw(st.integers(0, len(steps)))
    before, batched = steps[:cut], steps[cut:]
    table = rows(play(before))

    for plan in fold([step.change for step in batched], Rule((0,), INVALID)):
        assert isinstance(plan, KeyedChanges)
        execute(plan, table)

    assert table == rows(play(steps))


@settings(deadline=None, max_examples=100)
@given(data=st.data())
def test_a_folded_batch_without_a_key_does_what_its_changes_do_one_by_one(data: st.DataObject) -> None:
    steps = data.draw(histories(BY_FULL_ROW))
    cut = data.draw(st.integers(0, len(steps)))
    images = sorted(rows(play(steps[:cut])).values())

    for plan in fold([step.change for step in steps[cut:]], Rule(None, INVALID)):
        assert isinstance(plan, KeylessChanges)
        for image, count in plan.removed.items():
            for _ in range(count):
                images.remove(image)
        images += plan.inserts

    assert sorted(images) == sorted(rows(play(steps)).values())
