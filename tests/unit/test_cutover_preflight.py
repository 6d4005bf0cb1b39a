"""What stands in the way of a cutover: the pure verdicts, and how they are told."""

import json

import pytest

from replicator.catalog import PublishedTable
from replicator.cli import tell
from replicator.control import TableRecord
from replicator.cutover.obstacle import Obstacle, ObstructedError
from replicator.cutover.preflight import compare_sequences, compare_tables
from replicator.cutover.sequences import Pairing, SequenceInfo, Value, pair
from replicator.errors import Side
from replicator.model import ReplicaIdentity, SchemaMode, TableName, TableState
from replicator.source.writes import changed_tables

A = TableName("public", "a")


def _published(oid: int = 1, table: TableName = A, *, insert_only: bool = False) -> PublishedTable:
    return PublishedTable(oid, table, ReplicaIdentity.DEFAULT, ("id",), None, insert_only, ())


def _record(oid: int = 1, state: TableState = TableState.READY, table: TableName = A) -> dict[TableName, TableRecord]:
    return {table: TableRecord(table, oid, state)}


def test_what_was_copied_and_is_published_as_it_was_is_no_obstacle() -> None:
    assert compare_tables([_published()], _record()) == []


def test_a_table_that_was_created_meanwhile_is_named() -> None:
    new = TableName("public", "new")
    (obstacle,) = compare_tables([_published(), _published(2, new)], _record())
    assert "public.new was created" in obstacle.message


def test_a_table_that_was_dropped_and_created_again_is_another_one() -> None:
    (obstacle,) = compare_tables([_published(oid=7)], _record(oid=1))
    assert "public.a was created" in obstacle.message


def test_a_table_that_is_not_copied_yet_is_named() -> None:
    (obstacle,) = compare_tables([_published()], _record(state=TableState.COPYING))
    assert "public.a is not copied yet" in obstacle.message


def test_a_table_that_is_not_published_any_more_is_named() -> None:
    gone = TableName("public", "gone")
    (obstacle,) = compare_tables([_published()], _record() | _record(2, table=gone))
    assert "public.gone was copied but is not published" in obstacle.message


# --- sequences --------------------------------------------------------------------------------------------------------

_OWNED = SequenceInfo(1, "public", "a_id_seq", "public", "a", "id")
_FREE = SequenceInfo(2, "public", "numbers")


def test_sequences_are_matched_by_the_column_that_owns_them_before_their_name() -> None:
    renamed = _OWNED._replace(oid=10, name="other_name")
    impostor = SequenceInfo(11, "public", "a_id_seq")
    found = pair([_OWNED], [renamed, impostor], {A}, SchemaMode.EXISTING)
    assert found.pairs == ((_OWNED, renamed),)


def test_sequences_that_one_column_owns_are_matched_by_their_names() -> None:
    """Given a serial column that became an identity and kept its first sequence, then each has a twin of its own."""
    second = _OWNED._replace(oid=20, name="a_id_seq1")
    first_there, second_there = _OWNED._replace(oid=30), second._replace(oid=31)
    for target in ([first_there, second_there], [second_there, first_there]):
        found = pair([_OWNED, second], target, {A}, SchemaMode.COPY)
        assert found.pairs == ((_OWNED, first_there), (second, second_there))


def test_a_second_sequence_of_a_column_stands_in_the_way_if_the_target_has_one() -> None:
    second = _OWNED._replace(oid=20, name="a_id_seq1")
    found = pair([_OWNED, second], [_OWNED._replace(oid=30)], {A}, SchemaMode.COPY)
    assert (len(found.pairs), found.missing) == (1, (second.title,))


def test_sequences_of_tables_that_are_not_migrated_are_left_alone() -> None:
    found = pair([_OWNED], [_OWNED], set(), SchemaMode.COPY)
    assert (found.pairs, found.left_out) == ((), (_OWNED.title,))


def test_a_sequence_that_the_target_lacks_stands_in_the_way() -> None:
    found = pair([_OWNED, _FREE], [], {A}, SchemaMode.COPY)
    (obstacle,) = compare_sequences(found, {})
    assert "public.a_id_seq, public.numbers" in obstacle.message


def test_a_schema_of_the_users_own_may_do_without_a_free_sequence() -> None:
    found = pair([_FREE], [], {A}, SchemaMode.EXISTING)
    assert (found.missing, found.left_out) == ((), (_FREE.title,))


def test_a_sequence_of_the_targets_own_stands_in_the_way_unless_it_has_a_twin() -> None:
    """Given a target of the user's making whose column counts by itself, the source's by a free sequence."""
    assert pair([_OWNED], [_OWNED], {A}, SchemaMode.EXISTING).unpaired == ()
    assert pair([_FREE], [_OWNED], {A}, SchemaMode.COPY).unpaired == ()
    found = pair([_FREE], [_OWNED], {A}, SchemaMode.EXISTING)
    (obstacle,) = compare_sequences(found, {})
    assert "where public.a_id_seq of the target has to go on" in obstacle.message


def test_a_value_beyond_the_targets_range_stands_in_the_way() -> None:
    small = _FREE._replace(maximum=100)
    found = Pairing(((_FREE, small),), (), ())
    assert compare_sequences(found, {_FREE.oid: Value(100, True)}) == []
    (obstacle,) = compare_sequences(found, {_FREE.oid: Value(101, True)})
    assert "beyond its range" in obstacle.message


def test_a_sequence_of_our_making_gets_the_range_of_the_source() -> None:
    found = pair([_FREE], [_FREE._replace(maximum=100)], {A}, SchemaMode.COPY)
    assert compare_sequences(found, {_FREE.oid: Value(101, True)}) == []


# --- insert-only tables -----------------------------------------------------------------------------------------------


def _reading(count: int, reset: str = "2026-01-01") -> dict[str, object]:
    return {"reset": reset, "counts": {"public.a": count}}


def test_equal_counts_rule_out_updates_and_deletes() -> None:
    assert changed_tables([_published(insert_only=True)], _reading(5), _reading(5)) == []


def test_a_higher_count_is_an_update_or_delete() -> None:
    assert changed_tables([_published(insert_only=True)], _reading(5), _reading(6)) == [A]


def test_statistics_that_were_reset_rule_nothing_out() -> None:
    assert changed_tables([_published(insert_only=True)], _reading(5), _reading(5, "2026-02-02")) == [A]


def test_without_a_record_every_counted_update_is_after_the_copy() -> None:
    assert changed_tables([_published(insert_only=True)], {"reset": "", "counts": {}}, _reading(1)) == [A]


def test_each_obstacle_is_told_on_a_line_of_its_own_with_its_remedy(capsys: pytest.CaptureFixture[str]) -> None:
    """Given several obstacles, when a cutover that had begun is refused, then each has a line, and so has the end."""
    obstacles = [Obstacle("t is not copied yet", "Wait", Side.OURS), Obstacle("a key is refused", "Drop it")]

    tell(ObstructedError(obstacles, "the source takes writes"), as_json=False)

    assert capsys.readouterr().err.splitlines() == [
        "error: replicator: t is not copied yet — Wait.",
        "error: source: a key is refused — Drop it.",
        "error: source: nothing was switched: the source takes writes — When nothing stands in the way any more, "
        "run `replicator cutover` again.",
    ]


def test_each_obstacle_is_an_error_of_its_own_in_json(capsys: pytest.CaptureFixture[str]) -> None:
    tell(ObstructedError([Obstacle("a", "Do b"), Obstacle("c", "Do d", Side.TARGET)]), as_json=True)

    assert json.loads(capsys.readouterr().out) == {
        "errors": [
            {"side": "source", "message": "a", "remedy": "Do b."},
            {"side": "target", "message": "c", "remedy": "Do d."},
        ]
    }
