"""Coalescing: each rule of replicator.apply.batch, one by one."""

from collections.abc import Callable

import pytest

from replicator.apply.batch import (
    NEVER,
    Batch,
    Rule,
    Segment,
    TableChanges,
)
from replicator.apply.keyed import KeyedChanges
from replicator.apply.keyless import KeylessChanges
from replicator.errors import ApplyError, ProtocolError, UnknownTableError
from replicator.lsn import INVALID, Lsn
from replicator.model import UNCHANGED, Change, LogicalMessage, Relation, ReplicaIdentity, Transaction, Truncate
from tests.fixtures.changes import delete, insert, piece, relation, row, transaction, truncate, update

T = relation(["id", "a", "b"], ["id"])
OTHER = relation(["id"], ["id"], name="other", oid=2)
FULL = relation(["id", "a", "b"], identity=ReplicaIdentity.FULL)
KEYLESS = relation(["a", "b"], identity=ReplicaIdentity.FULL)

NONCE, OTHER_NONCE = b"0123456789abcdef" * 2, b"fedcba9876543210" * 2

BY_ID = Rule((0,), INVALID)
NO_KEY = Rule(None, INVALID)


def rules(rule: Rule = BY_ID) -> Callable[[Relation], Rule]:
    return lambda _: rule


def folded(*changes: Change, rule: Rule = BY_ID) -> Batch:
    """Each change in a transaction of its own."""
    batch = Batch(rules(rule))
    for n, change in enumerate(changes, 1):
        batch.add(transaction(change, lsn=100 * n))
    return batch


def tables(segment: Segment) -> list[TableChanges]:
    assert not isinstance(segment, Truncate)
    return segment


def only_table(batch: Batch) -> KeyedChanges:
    """What the batch holds, of one table with a key."""
    (segment,) = batch.segments
    (only,) = tables(segment)
    assert isinstance(only, KeyedChanges)
    return only


def keyed(*changes: Change, rule: Rule = BY_ID) -> KeyedChanges:
    """What becomes of changes of one table with a key."""
    return only_table(folded(*changes, rule=rule))


def keyless(*changes: Change) -> KeylessChanges:
    (segment,) = folded(*changes, rule=NO_KEY).segments
    (only,) = tables(segment)
    assert isinstance(only, KeylessChanges)
    return only


def plan(changes: KeyedChanges) -> dict[str, object]:
    """The parts of the plan that are not empty."""
    parts = {
        "inserts": changes.inserts,
        "updates": changes.updates,
        "moves": changes.moves,
        "deletes": changes.deletes,
    }
    return {name: part for name, part in parts.items() if part}


# --- the table of the docstring ---------------------------------------------------------------------------------------


def test_absent_then_present_is_an_insert() -> None:
    assert plan(keyed(insert(T, "1", "x", "y"))) == {"inserts": [row("1", "x", "y")]}


def test_an_inserted_row_that_is_updated_is_still_one_insert() -> None:
    changes = keyed(insert(T, "1", "x", "y"), update(T, "1", "z", "y"))

    assert plan(changes) == {"inserts": [row("1", "z", "y")]}


def test_an_inserted_row_whose_key_changes_is_an_insert_with_the_last_key() -> None:
    changes = keyed(insert(T, "1", "x", "y"), update(T, "2", "x", "y", key=["1", None, None]))

    assert plan(changes) == {"inserts": [row("2", "x", "y")]}


def test_present_then_present_is_an_update_to_the_last_image() -> None:
    changes = keyed(update(T, "1", "x", "y"), update(T, "1", "z", "y"))

    assert plan(changes) == {"updates": [(b"1", row("1", "z", "y"))]}


def test_present_with_another_key_is_a_move_by_the_key_before_the_batch() -> None:
    changes = keyed(update(T, "2", "x", "y", key=["1", None, None]), update(T, "3", "x", "y", key=["2", None, None]))

    assert plan(changes) == {"moves": [(b"1", row("3", "x", "y"))]}


def test_a_key_that_changes_there_and_back_is_an_update() -> None:
    changes = keyed(update(T, "2", "x", "y", key=["1", None, None]), update(T, "1", "z", "y", key=["2", None, None]))

    assert plan(changes) == {"updates": [(b"1", row("1", "z", "y"))]}


def test_present_then_absent_is_a_delete() -> None:
    assert plan(keyed(update(T, "1", "x", "y"), delete(T, key=["1", None, None]))) == {"deletes": [b"1"]}


def test_a_moved_row_is_deleted_by_the_key_before_the_batch() -> None:
    changes = keyed(update(T, "2", "x", "y", key=["1", None, None]), delete(T, key=["2", None, None]))

    assert plan(changes) == {"deletes": [b"1"]}


def test_absent_then_absent_is_nothing() -> None:
    assert folded(insert(T, "1", "x", "y"), delete(T, key=["1", None, None])).segments == []


def test_a_deleted_key_that_is_inserted_again_is_an_update() -> None:
    changes = keyed(delete(T, key=["1", None, None]), insert(T, "1", "x", "y"))

    assert plan(changes) == {"updates": [(b"1", row("1", "x", "y"))]}


def test_a_deleted_key_that_was_inserted_again_is_deleted_once() -> None:
    changes = keyed(delete(T, key=["1", None, None]), insert(T, "1", "x", "y"), delete(T, key=["1", None, None]))

    assert plan(changes) == {"deletes": [b"1"]}


# --- keys that change hands -------------------------------------------------------------------------------------------


def test_a_row_may_take_the_key_of_one_that_was_deleted() -> None:
    changes = keyed(delete(T, key=["2", None, None]), update(T, "2", "x", "y", key=["1", None, None]))

    assert plan(changes) == {"moves": [(b"1", row("2", "x", "y"))], "deletes": [b"2"]}


def test_a_row_that_took_a_deleted_key_and_goes_leaves_two_deletes() -> None:
    changes = keyed(
        delete(T, key=["2", None, None]),
        update(T, "2", "x", "y", key=["1", None, None]),
        delete(T, key=["2", None, None]),
    )

    assert plan(changes) == {"deletes": [b"2", b"1"]}


def test_two_rows_may_swap_their_keys() -> None:
    changes = keyed(
        update(T, "9", "one", "y", key=["1", None, None]),
        update(T, "1", "two", "y", key=["2", None, None]),
        update(T, "2", "one", "y", key=["9", None, None]),
    )

    assert plan(changes) == {"moves": [(b"2", row("1", "two", "y")), (b"1", row("2", "one", "y"))]}


def test_a_chain_of_keys_moves_every_row_once() -> None:
    changes = keyed(*(update(T, str(n + 1), "x", "y", key=[str(n), None, None]) for n in (3, 2, 1)))

    assert sorted(changes.moves) == [(b"%d" % n, row(str(n + 1), "x", "y")) for n in (1, 2, 3)]
    assert plan(changes).keys() == {"moves"}


def test_a_new_row_may_take_the_key_that_another_gave_up() -> None:
    changes = keyed(update(T, "2", "x", "y", key=["1", None, None]), insert(T, "1", "new", "y"))

    assert plan(changes) == {"inserts": [row("1", "new", "y")], "moves": [(b"1", row("2", "x", "y"))]}


def test_keys_that_are_equal_but_print_differently_are_a_move() -> None:
    changes = keyed(update(T, "1.00", "x", "y", key=["1.0", None, None]))

    assert plan(changes) == {"moves": [(b"1.0", row("1.00", "x", "y"))]}


def test_a_composite_key_is_read_in_key_order_from_wherever_its_columns_lie() -> None:
    table = relation(["a", "x", "b"], ["a", "b"])

    changes = keyed(update(table, "A", "x", "B\t2"), rule=Rule((2, 0), INVALID))

    assert plan(changes) == {"updates": [(row("B\t2", "A"), row("A", "x", "B\t2"))]}


# --- unchanged TOAST --------------------------------------------------------------------------------------------------


def test_a_value_that_was_not_sent_comes_from_the_pending_row() -> None:
    changes = keyed(update(T, "1", "long", "y"), update(T, "1", UNCHANGED, "z"))

    assert plan(changes) == {"updates": [(b"1", row("1", "long", "z"))]}


def test_a_value_that_was_not_sent_to_an_inserted_row_comes_from_the_insert() -> None:
    changes = keyed(insert(T, "1", "long", "y"), update(T, "2", UNCHANGED, "z", key=["1", None, None]))

    assert plan(changes) == {"inserts": [row("2", "long", "z")]}


def test_a_value_that_nobody_sent_stays_unchanged() -> None:
    changes = keyed(update(T, "1", UNCHANGED, UNCHANGED), update(T, "1", UNCHANGED, "z"))

    assert plan(changes) == {"updates": [(b"1", row("1", UNCHANGED, "z"))]}


def test_under_full_a_value_that_was_not_sent_comes_from_the_old_row() -> None:
    changes = keyed(update(FULL, "1", UNCHANGED, "z", old=["1", "long", "y"]))

    assert plan(changes) == {"updates": [(b"1", row("1", "long", "z"))]}


def test_from_a_k_tuple_come_key_columns_only() -> None:
    table = relation(["id", "long_key", "a"], ["id", "long_key"])

    changes = keyed(update(table, "2", UNCHANGED, UNCHANGED, key=["1", "k", None]), rule=Rule((0, 1), INVALID))

    assert plan(changes) == {"moves": [(row("1", "k"), row("2", "k", UNCHANGED))]}


def test_a_key_that_nobody_sent_is_refused() -> None:
    with pytest.raises(ProtocolError):
        folded(update(T, UNCHANGED, "x", "y"))


def test_a_text_that_reads_like_the_mark_of_an_unchanged_value_is_a_text() -> None:
    changes = keyed(update(T, "1", r"\U", "y"), update(T, "1", r"\U!", UNCHANGED))

    assert plan(changes) == {"updates": [(b"1", row("1", r"\U!", "y"))]}


@pytest.mark.parametrize("rule", [BY_ID, NO_KEY], ids=["key", "no key"])
def test_a_new_row_that_lacks_a_value_is_refused_with_the_way_out(rule: Rule) -> None:
    with pytest.raises(ApplyError, match=r"public\.t.*row filter") as refused:
        folded(insert(T, "1", UNCHANGED, "y"), rule=rule)

    assert refused.value.hint is not None
    assert "state = 'copying' WHERE schema = 'public' AND name = 't'" in refused.value.hint


def test_a_new_text_that_reads_like_that_mark_is_a_text() -> None:
    changes = insert(T, "1", r"\U", r"C:\Users")

    assert plan(keyed(changes)) == {"inserts": [row("1", r"\U", r"C:\Users")]}
    assert list(keyless(changes).inserts) == [row("1", r"\U", r"C:\Users")]


# --- tables without a key ---------------------------------------------------------------------------------------------


def test_keyless_copies_are_counted() -> None:
    changes = keyless(insert(KEYLESS, "a", None), insert(KEYLESS, "a", None), delete(KEYLESS, old=["b", "c"]))

    assert list(changes.inserts) == [row("a", None)] * 2
    assert changes.removed == {row("b", "c"): 1}
    assert len(changes) == 3


def test_a_keyless_copy_that_came_and_went_is_nothing() -> None:
    changes = keyless(
        insert(KEYLESS, "a", "b"), insert(KEYLESS, "a", "b"), delete(KEYLESS, old=["a", "b"]), insert(KEYLESS, "c", "d")
    )

    assert changes.added == {row("a", "b"): 1, row("c", "d"): 1}
    assert changes.removed == {}


def test_a_keyless_update_takes_one_copy_of_the_old_image_and_adds_one_of_the_new() -> None:
    changes = keyless(*[update(KEYLESS, "a", UNCHANGED, old=["b", "long"])] * 2)

    assert changes.added == {row("a", "long"): 2}
    assert changes.removed == {row("b", "long"): 2}


def test_a_keyless_chain_of_updates_is_one_change_of_an_image() -> None:
    changes = keyless(update(KEYLESS, "b", "x", old=["a", "x"]), update(KEYLESS, "c", "x", old=["b", "x"]))

    assert (changes.added, changes.removed) == ({row("c", "x"): 1}, {row("a", "x"): 1})


@pytest.mark.parametrize("change", [update(KEYLESS, "a", "b"), delete(KEYLESS, key=["a", None])])
def test_a_keyless_change_without_its_old_row_is_refused(change: Change) -> None:
    with pytest.raises(ProtocolError, match=r"public\.t"):
        folded(change, rule=NO_KEY)


# --- segments ---------------------------------------------------------------------------------------------------------


def test_tables_share_a_segment() -> None:
    (segment,) = folded(insert(T, "1", "x", "y"), insert(OTHER, "1"), insert(T, "2", "x", "y")).segments

    assert [table.relation for table in tables(segment)] == [T, OTHER]


def test_a_relation_that_changed_its_shape_begins_a_segment() -> None:
    wider = relation(["id", "a", "b", "c"], ["id"])

    before, after = folded(insert(T, "1", "x", "y"), update(wider, "1", "x", "y", "z")).segments

    assert [(table.relation, len(table)) for table in (*tables(before), *tables(after))] == [(T, 1), (wider, 1)]


def test_a_truncate_stands_between_what_came_before_and_what_comes_after() -> None:
    clear = truncate(T, OTHER, restart_identity=True)

    before, middle, after = folded(insert(T, "1", "x", "y"), clear, insert(T, "1", "x", "z")).segments

    assert middle == clear
    assert (len(tables(before)), len(tables(after))) == (1, 1)


def test_tables_whose_changes_cancelled_out_are_left_out() -> None:
    batch = folded(insert(T, "1", "x", "y"), insert(OTHER, "1"), delete(T, key=["1", None, None]))

    (segment,) = batch.segments
    assert [table.relation for table in tables(segment)] == [OTHER]


# --- snapshots --------------------------------------------------------------------------------------------------------


def test_changes_from_before_the_snapshot_are_in_it_already() -> None:
    batch = Batch(rules(Rule((0,), Lsn(200))))

    batch.add(transaction(insert(T, "1", "x", "y"), lsn=199))
    batch.add(transaction(insert(T, "2", "x", "y"), lsn=200))

    assert plan(only_table(batch)) == {"inserts": [row("2", "x", "y")]}
    assert (batch.transactions, batch.changes, batch.end_lsn) == (2, 1, 208)


def test_a_truncate_leaves_out_tables_whose_snapshot_is_younger() -> None:
    snapshots = {T: Lsn(200), OTHER: Lsn(100)}
    batch = Batch(lambda relation: Rule((0,), snapshots[relation]))

    batch.add(transaction(truncate(T, OTHER), lsn=150))

    assert batch.segments == [truncate(OTHER)]


def test_a_truncate_of_younger_tables_only_is_nothing() -> None:
    batch = Batch(rules(Rule((0,), Lsn(200))))
    batch.add(transaction(truncate(T), lsn=150))

    assert (batch.segments, batch.changes) == ([], 0)


def test_a_truncate_passes_over_a_root_whose_leaves_it_lists() -> None:
    batch = Batch(lambda relation: Rule(None, NEVER) if relation is T else BY_ID)
    batch.add(transaction(truncate(T, OTHER)))

    assert batch.segments == [truncate(OTHER)]


def test_law_4_a_row_of_a_table_that_is_never_taken_is_not_skipped() -> None:
    with pytest.raises(UnknownTableError, match=r"public\.t"):
        folded(insert(T, "1", "x", "y"), rule=Rule(None, NEVER))


# --- markers, pieces, counts ------------------------------------------------------------------------------------------


def test_the_last_marker_of_our_own_is_kept() -> None:
    batch = folded(
        LogicalMessage("replicator", NONCE), LogicalMessage("replicator", OTHER_NONCE), LogicalMessage("app", NONCE)
    )

    assert (batch.marker, batch.transactions, batch.segments) == (OTHER_NONCE.decode(), 3, [])


@pytest.mark.parametrize("content", [b"", b"\0" * 32, b"\xff" * 32, b"x" * 32, NONCE + b"\n", NONCE[1:]])
def test_what_another_program_writes_under_our_prefix_is_no_marker(content: bytes) -> None:
    assert folded(LogicalMessage("replicator", NONCE), LogicalMessage("replicator", content)).marker == NONCE.decode()


@pytest.mark.parametrize(
    "other",
    [transaction(LogicalMessage("replicator", NONCE), insert(T, "1")), piece(LogicalMessage("replicator", NONCE))],
)
def test_a_marker_is_a_whole_transaction_of_its_own(other: Transaction) -> None:
    batch = Batch(rules())
    batch.add(other)
    assert batch.marker is None


def test_a_piece_ends_no_transaction() -> None:
    batch = Batch(rules())
    batch.add(piece(insert(T, "1", "x", "y"), lsn=100))
    assert (batch.transactions, batch.first_lsn, batch.end_lsn) == (0, 100, INVALID)

    batch.add(transaction(update(T, "1", "z", "y"), lsn=100))
    assert (batch.transactions, batch.first_lsn, batch.end_lsn) == (1, 100, 108)
    assert plan(only_table(batch)) == {"inserts": [row("1", "z", "y")]}


def test_changes_are_counted_before_coalescing() -> None:
    batch = folded(insert(T, "1", "x", "y"), update(T, "1", "z", "y"), delete(T, key=["1", None, None]), truncate(T))

    assert batch.operations == {"insert": 1, "update": 1, "delete": 1, "truncate": 1}
    assert batch.changes == 4


def test_the_relations_that_are_new_to_a_batch_come_once_each() -> None:
    batch = folded()
    changes = transaction(
        LogicalMessage("app", b""), insert(T, "1", "x", "y"), truncate(OTHER, T), insert(T, "1", "x", "y")
    )

    assert batch.unfamiliar(changes) == [T, OTHER]
    batch.add(transaction(insert(T, "1", "x", "y")))
    assert batch.unfamiliar(transaction(insert(T, "2", "x", "y"), insert(OTHER, "1"))) == [OTHER]


def test_transactions_are_added_up_to_a_piece_or_a_new_relation() -> None:
    batch = folded(insert(T, "1", "x", "y"))
    familiar = transaction(insert(T, "2", "x", "y"), lsn=200)
    new, cut = transaction(insert(OTHER, "1"), lsn=300), piece(insert(T, "3", "x", "y"), lsn=400)

    assert batch.add_familiar([familiar, new], 0) == 1
    assert batch.add_familiar([new, cut], 1) == 1
    assert batch.add_familiar([new], 1) == 1
    assert (batch.changes, batch.end_lsn) == (2, familiar.end_lsn)


# --- law 4: what cannot follow from a consistent beginning ------------------------------------------------------------

K1, K2 = ["1", None, None], ["2", None, None]


@pytest.mark.parametrize(
    "changes",
    [
        [insert(T, "1", "x", "y"), insert(T, "1", "x", "y")],
        [update(T, "1", "x", "y"), insert(T, "1", "x", "y")],
        [delete(T, key=K1), delete(T, key=K1)],
        [delete(T, key=K1), update(T, "1", "x", "y")],
        [delete(T, key=K1), update(T, "2", "x", "y", key=K1)],
        [insert(T, "2", "x", "y"), update(T, "2", "x", "y", key=K1)],
        [update(T, "2", "x", "y", key=K1), update(T, "2", "x", "y", key=["3", None, None])],
    ],
    ids=["insert twice", "insert known", "delete twice", "update gone", "move gone", "move onto new", "move together"],
)
def test_law_4_an_impossible_sequence_is_refused_with_table_and_lsn(changes: list[Change]) -> None:
    with pytest.raises(ProtocolError, match=r"public\.t.* 0/C8$") as caught:
        folded(*changes)

    assert not caught.value.retryable


# --- two rows of one key ----------------------------------------------------------------------------------------------

SWAP = (
    update(FULL, "2", "first", "y", old=["1", "first", "y"]),
    update(FULL, "1", "second", "z", old=["2", "second", "z"]),
)
"""Under a key that only the target has, or that is deferrable on the source."""


@pytest.mark.parametrize("last", [SWAP[1], delete(FULL, old=["2", "second", "z"])])
def test_law_4_another_row_of_the_same_key_waits_until_the_first_one_was_applied(last: Change) -> None:
    """The one would be taken for the other: what the target has of it would stay, and the first would be lost."""
    first, second = folded(SWAP[0], last).segments

    (moved,) = tables(first)
    assert isinstance(moved, KeyedChanges)
    assert moved.moves == [(b"1", row("2", "first", "y"))]
    (rest,) = tables(second)
    assert isinstance(rest, KeyedChanges)
    assert rest.moves or rest.deletes == [b"2"]


def test_the_same_row_under_full_stays_one_change() -> None:
    changes = keyed(SWAP[0], update(FULL, "2", "later", "y", old=["2", "first", "y"]))

    assert changes.moves == [(b"1", row("2", "later", "y"))]
