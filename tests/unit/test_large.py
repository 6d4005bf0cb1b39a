"""Changes with huge rows are decoded like all others, only with fewer copies."""

import tracemalloc

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from replicator.errors import ProtocolError
from replicator.pgoutput.decoder import Decoder
from replicator.pgoutput.large import LARGE, decode_large
from replicator.pgoutput.transactions import Assembler
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


def decoder() -> Decoder:
    decoder = Decoder()
    decoder.decode(wire.relation(5, [b"a", b"b", b"c"]))
    return decoder


@settings(deadline=None)
@given(_CHANGES)
def test_it_reads_what_the_ordinary_decoder_reads(message: bytes) -> None:
    ordinary = decoder()

    assert decode_large(memoryview(message), ordinary.relations) == ordinary.decode(message)


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
            decode_large(memoryview(bent), ordinary.relations)
    else:
        assert decode_large(memoryview(bent), ordinary.relations) == expected


def test_only_an_update_may_leave_a_value_out() -> None:
    message = wire.insert(5, [b"1", wire.UNCHANGED_TOAST, None])

    with pytest.raises(ProtocolError):
        decode_large(memoryview(message), decoder().relations)


def test_what_is_no_change_of_a_row_is_left_to_the_other() -> None:
    assembler = Assembler(LARGE)
    for payload in (wire.begin(), wire.emitted(b"app", b"x" * LARGE)):
        assert assembler.feed_large(memoryview(payload)) is None

    transaction = assembler.feed(wire.commit())

    assert transaction is not None
    assert list(transaction.changes) == []


def test_it_copies_a_huge_row_once() -> None:
    message = wire.insert(5, [b"1", rb"\x" + b"ab" * LARGE, None])
    relations = decoder().relations
    tracemalloc.start()
    try:
        decode_large(memoryview(message), relations)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert peak < 1.5 * len(message)
