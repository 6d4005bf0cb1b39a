"""What is spooled is read back as it was sent: every kind of change, odd names, and bytes of any value."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from replicator.errors import ProtocolError
from replicator.lsn import INVALID, Lsn
from replicator.model import (
    NULL,
    UNCHANGED,
    Change,
    Delete,
    Insert,
    LogicalMessage,
    Relation,
    RelationColumn,
    ReplicaIdentity,
    TableName,
    Transaction,
    Truncate,
    Update,
)
from replicator.spool.lines import Reader, encode
from tests.fixtures.changes import relation

NAMES = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1, max_size=5)
COLUMNS = st.builds(RelationColumn, NAMES, st.integers(0, 2**32 - 1), st.integers(-1, 2**31 - 1), st.booleans())
RELATIONS = st.builds(
    Relation,
    st.integers(1, 2**32 - 1),
    st.builds(TableName, NAMES, NAMES),
    st.sampled_from(ReplicaIdentity),
    st.lists(
        st.builds(RelationColumn, NAMES, st.integers(0, 2**32 - 1), st.integers(-1, 2**31 - 1), st.booleans()),
        max_size=3,
    ).map(tuple),
)
VALUES = st.one_of(st.sampled_from([NULL, UNCHANGED, b"", b"I 0", b" "]), st.binary())
ROWS = st.lists(VALUES.map(lambda value: value.replace(b"\n", b"\\n")), max_size=3).map(b"\t".join)


@st.composite
def transactions(draw: st.DrawFn) -> list[Transaction]:
    relations = draw(st.lists(RELATIONS, min_size=1, max_size=3))
    known = st.sampled_from(relations)
    change: st.SearchStrategy[Change] = st.one_of(
        st.builds(Insert, known, ROWS),
        st.builds(Update, known, st.none(), st.just(False), ROWS),
        st.builds(Update, known, ROWS, st.booleans(), ROWS),
        st.builds(Delete, known, ROWS, st.booleans()),
        st.builds(Truncate, st.lists(known, min_size=1).map(tuple), st.booleans(), st.booleans()),
        st.builds(LogicalMessage, st.text(st.characters(exclude_categories=["Cs"])), st.binary()),
    )
    position = st.integers(0, 2**64 - 1).map(Lsn)
    whole = st.builds(
        Transaction,
        position,
        position,
        st.integers(-(2**63), 2**63 - 1),
        st.lists(change),
        st.integers(0, 2**63 - 1),
        st.booleans(),
    )
    return draw(st.lists(whole))


@settings(max_examples=30)
@given(st.lists(transactions(), max_size=3))
def test_chunks_are_read_back_as_they_were_written(chunks: list[list[Transaction]]) -> None:
    reader = Reader()

    assert [reader.decode(encode(chunk)) for chunk in chunks if chunk] == [chunk for chunk in chunks if chunk]


def test_a_relation_is_one_object_in_all_chunks() -> None:
    """A batch takes another object for another shape, and would end a segment there."""
    reader, one = Reader(), relation(["id"], ["id"])

    first, second = (reader.decode(encode([_inserting(r)])) for r in (one, relation(["id"], ["id"])))

    assert isinstance(first[0].changes[0], Insert)
    assert isinstance(second[0].changes[0], Insert)
    assert first[0].changes[0].relation is second[0].changes[0].relation


def test_an_unreadable_chunk_is_never_skipped() -> None:
    """Law 4."""
    whole = encode([_inserting(relation(["id"], ["id"]))])
    for chunk in (b"", b"Z", whole.rsplit(b"\n", 1)[0], whole.replace(b"I 0", b"I 7"), whole + b"\nI 0"):
        with pytest.raises(ProtocolError):
            Reader().decode(chunk)


def _inserting(into: Relation) -> Transaction:
    return Transaction(Lsn(1), INVALID, 0, [Insert(into, b"1")], 1)
