"""The assembler: whole transactions (law 2), or pieces of those that are larger than memory."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from replicator.config import MIB
from replicator.errors import ProtocolError
from replicator.model import Insert, LogicalMessage, Transaction
from replicator.pgoutput.transactions import Assembler
from tests.fixtures import wire


def fed(assembler: Assembler, *payloads: bytes) -> list[Transaction]:
    """What comes out when the payloads go in, after relation 5 with one column was described."""
    assembler.feed(wire.relation(5, [b"id"]))
    return [transaction for payload in payloads if (transaction := assembler.feed(payload)) is not None]


def rows(transactions: list[Transaction]) -> list[bytes]:
    return [change.new for transaction in transactions for change in transaction.changes if isinstance(change, Insert)]


def test_a_transaction_comes_out_at_its_commit() -> None:
    assembler = Assembler(MIB)

    out = fed(assembler, wire.begin(100, 7), wire.insert(5, [b"1"]), wire.insert(5, [b"2"]), wire.commit(100, 108))

    (transaction,) = out
    assert rows(out) == [b"1", b"2"]
    assert (transaction.commit_lsn, transaction.end_lsn, transaction.committed_at) == (100, 108, 7)
    assert transaction.complete
    assert transaction.size >= 2


def test_nothing_comes_out_before_the_commit_and_open_says_so() -> None:
    assembler = Assembler(MIB)

    assert fed(assembler, wire.begin(), wire.insert(5, [b"1"])) == []
    assert assembler.open
    assert assembler.size > 0

    assert assembler.feed(wire.commit()) is not None
    assert not assembler.open
    assert assembler.size == 0


def test_an_empty_transaction_comes_out_too() -> None:
    (transaction,) = fed(Assembler(MIB), wire.begin(), wire.commit())

    assert list(transaction.changes) == []
    assert transaction.complete
    assert transaction.end_lsn == 108


def test_the_next_transaction_does_not_hold_the_changes_of_the_last() -> None:
    out = fed(
        Assembler(MIB),
        *(wire.begin(), wire.insert(5, [b"1"]), wire.commit()),
        *(wire.begin(200), wire.insert(5, [b"2"]), wire.commit(200, 208)),
    )

    assert [rows([transaction]) for transaction in out] == [[b"1"], [b"2"]]


def test_origins_types_and_relations_are_no_changes() -> None:
    (transaction,) = fed(
        Assembler(MIB),
        *(wire.begin(), wire.origin(1, b"far"), wire.type_name(7, b"public", b"mood"), wire.relation(6, [b"a"])),
        wire.commit(),
    )

    assert list(transaction.changes) == []


# --- messages ---------------------------------------------------------------------------------------------------------


def test_a_transactional_message_is_a_change() -> None:
    (transaction,) = fed(Assembler(MIB), wire.begin(), wire.emitted(b"replicator", b"nonce"), wire.commit())

    assert list(transaction.changes) == [LogicalMessage("replicator", b"nonce")]


def test_a_message_that_is_longer_than_ours_is_not_kept() -> None:
    payloads = [wire.begin(), wire.emitted(b"replicator", b"x" * MIB), wire.insert(5, [b"1"]), wire.commit()]
    (transaction,) = fed(Assembler(MIB), *payloads)
    assert [type(change) for change in transaction.changes] == [Insert]
    assert transaction.size < MIB


def test_other_messages_are_ignored_in_and_outside_a_transaction() -> None:
    message = wire.emitted(b"app", b"x", transactional=False)

    (transaction,) = fed(Assembler(MIB), message, wire.begin(), message, wire.commit(), message)

    assert list(transaction.changes) == []


# --- pieces -----------------------------------------------------------------------------------------------------------


def test_a_transaction_that_is_too_large_comes_in_pieces() -> None:
    row = [b"x" * 400]

    out = fed(Assembler(1000), wire.begin(100), *[wire.insert(5, row)] * 5, wire.commit(100, 108))

    assert [piece.complete for piece in out] == [False, False, True]
    assert [piece.end_lsn for piece in out] == [0, 0, 108]
    assert {piece.commit_lsn for piece in out} == {100}


@given(st.lists(st.binary(max_size=500).map(bytes.hex), max_size=40), st.integers(1, 5000))
def test_pieces_hold_every_change_once_in_order_and_stay_small(texts: list[str], piece_bytes: int) -> None:
    values = [text.encode() for text in texts]
    assembler = Assembler(piece_bytes)

    out = fed(assembler, wire.begin(), *(wire.insert(5, [value]) for value in values), wire.commit())

    assert rows(out) == values
    assert [piece.complete for piece in out] == [False] * (len(out) - 1) + [True]
    # at most one change more than the bound
    assert all(piece.size <= piece_bytes + 2000 for piece in out)


# --- what must not come here ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "payloads",
    [
        [wire.insert(5, [b"1"])],
        [wire.truncate([5])],
        [wire.emitted(b"replicator", b"nonce")],
        [wire.commit()],
        [wire.begin(), wire.begin()],
        [wire.begin(100), wire.commit(200, 208)],
    ],
    ids=["insert outside", "truncate outside", "message outside", "commit alone", "begin twice", "another's commit"],
)
def test_a_message_out_of_place_is_an_error(payloads: list[bytes]) -> None:
    with pytest.raises(ProtocolError):
        fed(Assembler(MIB), *payloads)
