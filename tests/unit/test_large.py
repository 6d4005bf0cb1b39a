"""Changes with huge rows are decoded like all others, only with fewer copies."""

import contextlib
import tracemalloc
from collections.abc import Mapping

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from replicator.errors import ProtocolError
from replicator.model import Delete, Insert, Relation, Update
from replicator.pgoutput.decoder import Decoder
from replicator.pgoutput.large import LARGE, decode_large
from replicator.pgoutput.transactions import Assembler
from replicator.source.kept import StoredMessage
from tests.fixtures import wire

COLUMNS = 3
_VALUES = st.lists(
    st.one_of(st.none(), st.binary(max_size=30), st.text("\\\t\n\rab").map(str.encode)),
    min_size=COLUMNS,
    max_size=COLUMNS,
)
_NEW = st.lists(
    st.one_of(st.none(), st.binary(max_size=30), st.just(wire.UNCHANGED_TOAST)), min_size=COLUMNS, max_size=COLUMNS
)
_CHANGES = st.one_of(
    st.builds(lambda values: wire.insert(5, values), _VALUES),
    st.builds(lambda values: wire.update(5, values), _NEW),
    st.builds(lambda values, old: wire.update(5, values, old=old), _NEW, _VALUES),
    st.builds(lambda values, old: wire.update(5, values, key=old), _NEW, _VALUES),
    st.builds(lambda old: wire.delete(5, old=old), _VALUES),
    st.builds(lambda old: wire.delete(5, key=old), _VALUES),
)


def decoded(message: bytes, relations: Mapping[int, Relation]) -> Insert | Update | Delete | None:
    with contextlib.closing(StoredMessage.store(memoryview(message))) as stored:
        return decode_large(stored, relations)


def decoder() -> Decoder:
    decoder = Decoder()
    decoder.decode(wire.relation(5, [b"a", b"b", b"c"]))
    return decoder


@settings(deadline=None)
@given(_CHANGES)
def test_it_reads_what_the_ordinary_decoder_reads(message: bytes) -> None:
    ordinary = decoder()

    assert decoded(message, ordinary.relations) == ordinary.decode(message)


@settings(deadline=None)
@given(_CHANGES, st.data())
def test_it_refuses_what_the_ordinary_decoder_refuses(message: bytes, data: st.DataObject) -> None:
    ordinary = decoder()
    bent = bytearray(message)
    bent[data.draw(st.integers(1, len(bent) - 1))] = data.draw(st.integers(0, 255))
    bent = bent[: data.draw(st.integers(1, len(bent)))] + data.draw(st.binary(max_size=2))
    try:
        expected = ordinary.decode(bytes(bent))
    except ProtocolError:
        with pytest.raises(ProtocolError):
            decoded(bytes(bent), ordinary.relations)
    else:
        assert decoded(bytes(bent), ordinary.relations) == expected


@pytest.mark.parametrize(
    "message",
    [
        wire.update(5, [b"1", b"2", None], old=[b"1", wire.UNCHANGED_TOAST, None]),
        wire.delete(5, key=[b"1", wire.UNCHANGED_TOAST, None]),
    ],
    ids=["update", "delete"],
)
def test_no_old_row_may_leave_a_value_out(message: bytes) -> None:
    with pytest.raises(ProtocolError):
        decoded(message, decoder().relations)


def test_what_is_no_change_of_a_row_is_left_to_the_other() -> None:
    assembler = Assembler(LARGE)
    for payload in (wire.begin(), wire.emitted(b"app", b"x" * LARGE)):
        with contextlib.closing(StoredMessage.store(memoryview(payload))) as stored:
            assert assembler.feed_large(stored) is None

    transaction = assembler.feed(wire.commit())

    assert transaction is not None
    assert list(transaction.changes) == []


def test_only_the_rows_of_a_huge_message_are_in_memory() -> None:
    huge = rb"\x" + b"ab" * LARGE
    message = StoredMessage.store(memoryview(wire.update(5, [b"1", huge, None], old=[b"1", huge, None])))
    relations = decoder().relations
    tracemalloc.start()
    try:
        decode_large(message, relations)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
        message.close()

    assert peak < 1.25 * len(message)
