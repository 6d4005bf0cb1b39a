"""The buffer between the stream and its consumer."""

from replicator.lsn import INVALID, Lsn
from replicator.model import Transaction
from replicator.source.buffer import Buffer, Received


def transaction(end_lsn: int, size: int = 0) -> Transaction:
    return Transaction(Lsn(end_lsn - 1), Lsn(end_lsn), 0, [], size)


def test_what_was_added_is_taken_once_in_order() -> None:
    buffer = Buffer(1000)
    buffer.add(transaction(10))
    buffer.add(transaction(20))

    assert buffer
    assert buffer.take() == Received([transaction(10), transaction(20)], None)
    assert not buffer
    assert buffer.take() == Received([], None)


def test_idleness_alone_is_something_to_take() -> None:
    buffer = Buffer(1000)
    buffer.idle(Lsn(30))

    assert buffer
    assert buffer.take() == Received([], Lsn(30))


def test_idleness_after_a_transaction_comes_with_it() -> None:
    buffer = Buffer(1000)
    buffer.add(transaction(10))
    buffer.idle(Lsn(30))

    assert buffer.take() == Received([transaction(10)], Lsn(30))


def test_a_transaction_or_a_piece_ends_idleness() -> None:
    """Law 3: progress must not pass a transaction, of which perhaps only a piece has come."""
    buffer = Buffer(1000)
    buffer.idle(Lsn(30))
    piece = Transaction(Lsn(39), INVALID, 0, [], 5, complete=False)
    buffer.add(piece)

    assert buffer.take() == Received([piece], None)


def test_it_is_full_beyond_its_limit_until_it_is_taken() -> None:
    buffer = Buffer(1000)
    buffer.add(transaction(10, 600))
    assert not buffer.full
    buffer.add(transaction(20, 600))
    assert buffer.full

    buffer.take()

    assert not buffer.full


def test_empty_transactions_fill_it_too() -> None:
    buffer = Buffer(1000)
    for number in range(1, 11):
        buffer.add(transaction(number))

    assert buffer.full


def test_beside_a_huge_row_that_is_being_applied_nothing_is_received() -> None:
    buffer = Buffer(1000)
    buffer.add(transaction(10, 5000))

    buffer.take()

    assert buffer.full
    buffer.done()
    assert not buffer.full
