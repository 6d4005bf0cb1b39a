"""Transactions that come before they commit: nothing of them before, everything after, and nothing that was aborted."""

import contextlib
import resource
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from replicator.config import MIB
from replicator.errors import LocalDiskError, ProtocolError
from replicator.model import Insert, LogicalMessage, Transaction
from replicator.pgoutput.large import LARGE
from replicator.pgoutput.streamed import read_xid
from tests.fixtures import wire
from tests.fixtures.feeding import Fed


@pytest.fixture
def fed() -> Iterator[Fed]:
    it = Fed()
    yield it
    it.streamed.close()


def block(xid: int, *messages: bytes, first: bool = True) -> list[bytes]:
    return [wire.stream_start(xid, first=first), *messages, wire.stream_stop()]


def described(xid: int, *columns: bytes) -> bytes:
    return wire.of(xid, wire.relation(5, columns or [b"id"]))


def row(xid: int, value: bytes) -> bytes:
    return wire.of(xid, wire.insert(5, [value]))


# --- commits and aborts -----------------------------------------------------------------------------------------------


def test_nothing_comes_out_before_the_commit_and_then_all_of_it(fed: Fed) -> None:
    fed.feed(*block(7, described(7), row(7, b"1")), *block(7, row(7, b"2"), first=False))
    assert fed.transactions == []
    assert fed.streamed.size > 0

    fed.feed(wire.stream_commit(7, 100, 108, 9))

    assert fed.rows == [[b"1", b"2"]]
    (transaction,) = fed.transactions
    assert (transaction.commit_lsn, transaction.end_lsn, transaction.committed_at) == (100, 108, 9)
    assert transaction.complete
    assert fed.streamed.size == 0


def test_transactions_come_out_in_the_order_of_their_commits_with_others_between(fed: Fed) -> None:
    fed.feed(*block(7, described(7), row(7, b"1")), *block(9, described(9), row(9, b"2")))
    fed.feed(wire.relation(5, [b"id"]), wire.begin(90), wire.insert(5, [b"3"]), wire.commit(90, 98))
    fed.feed(*block(7, row(7, b"4"), first=False), wire.stream_commit(9, 100, 108), wire.stream_commit(7, 200, 208))

    assert fed.rows == [[b"3"], [b"2"], [b"1", b"4"]]


def test_an_aborted_transaction_never_comes_out(fed: Fed) -> None:
    fed.feed(*block(7, described(7), row(7, b"1")), wire.stream_abort(7, 7))

    assert (fed.transactions, fed.streamed.size) == ([], 0)
    with pytest.raises(ProtocolError):
        fed.feed(wire.stream_commit(7))


def test_what_an_aborted_subtransaction_did_is_taken_back(fed: Fed) -> None:
    fed.feed(*block(7, described(7), row(7, b"1"), row(8, b"2"), row(9, b"3"), row(8, b"4")))
    fed.feed(wire.stream_abort(7, 9), wire.stream_abort(7, 8))
    fed.feed(*block(7, row(7, b"5"), first=False), wire.stream_commit(7))

    assert fed.rows == [[b"1", b"5"]]


def test_law_1_what_was_rolled_back_untold_does_not_come_out(fed: Fed) -> None:
    """Given subtransactions at the commit, when the source is asked, then those that committed come out, also where
    their parent has written between them, and no row of the others."""
    fed.rolled_back = [8, 10]
    fed.feed(*block(7, described(7), row(8, b"gone"), row(7, b"1"), row(9, b"2"), row(10, b"gone"), row(9, b"3")))
    fed.feed(*block(7, row(10, b"gone"), row(11, b"4"), row(12, b"gone"), first=False), wire.stream_abort(7, 12))

    fed.feed(*block(7, row(7, b"5"), first=False), wire.stream_commit(7))

    assert fed.rows == [[b"1", b"2", b"3", b"4", b"5"]]


def test_law_1_nothing_is_read_before_it_is_decided_what_was_rolled_back(fed: Fed) -> None:
    fed.feed(*block(7, described(7), row(7, b"1"), row(8, b"2")))

    fed.streamed.take(wire.stream_commit(7))

    assert (fed.streamed.undecided, fed.streamed.replaying) == (True, False)
    assert fed.streamed.subtransactions == [8]
    fed.streamed.decide([])
    assert (fed.streamed.undecided, fed.streamed.replaying) == (False, True)
    assert fed.streamed.subtransactions == []


def test_a_description_in_what_was_rolled_back_untold_holds_for_what_follows(fed: Fed) -> None:
    """The source does not send it again, since it does not know that it was rolled back."""
    fed.rolled_back = [8]
    fed.feed(*block(7, described(8), row(8, b"gone"), row(7, b"1")), wire.stream_commit(7))

    assert fed.rows == [[b"1"]]


def test_a_huge_row_that_was_rolled_back_untold_is_left_out(fed: Fed) -> None:
    fed.rolled_back = [8]
    fed.feed(*block(7, described(7), row(8, b"x" * LARGE), row(7, b"1"), row(9, b"y" * LARGE)), wire.stream_commit(7))

    assert [value for rows in fed.rows for value in rows] == [b"1", b"y" * LARGE]


def test_rows_and_rollbacks_that_cross_what_is_written_at_once(fed: Fed) -> None:
    """Given some hundred kB, a huge row among small ones, and rollbacks of what is written already, of what is not,
    and of a huge row, then exactly what was not rolled back comes out, in its order."""
    huge, small = b"xyz" * LARGE, [b"%d" % n for n in range(40_000)]
    fed.feed(*block(7, described(7), *(row(7, value) for value in small), row(7, huge), row(7, b"behind it")))
    fed.feed(*block(7, *(row(8, value) for value in small), row(8, huge), row(8, b"gone"), first=False))
    fed.feed(wire.stream_abort(7, 8), *block(7, row(9, b"gone, too"), first=False), wire.stream_abort(7, 9))
    fed.feed(*block(7, row(7, b"last"), first=False), wire.stream_commit(7))

    assert [value for rows in fed.rows for value in rows] == [*small, huge, b"behind it", b"last"]


def test_an_abort_of_what_never_came_takes_nothing_back(fed: Fed) -> None:
    fed.feed(wire.stream_abort(3, 4), *block(7, described(7), row(7, b"1")), wire.stream_abort(7, 8))
    fed.feed(wire.stream_abort(4, 4), wire.stream_commit(7))

    assert fed.rows == [[b"1"]]


def test_a_transaction_that_begins_again_forgets_what_came_before(fed: Fed) -> None:
    fed.feed(*block(7, described(7), row(7, b"1")), *block(7, described(7), row(7, b"2")), wire.stream_commit(7))

    assert fed.rows == [[b"2"]]


def test_a_large_one_comes_in_pieces_and_lets_others_have_their_turn() -> None:
    fed = Fed(piece_bytes=300_000)
    values = [b"%d" % i for i in range(5000)]
    fed.feed(*block(7, described(7), *(row(7, value) for value in values)), wire.stream_start(9), wire.stream_stop())
    fed.streamed.take(wire.stream_commit(7))

    out = []
    while fed.streamed.replaying:
        out.append(fed.streamed.next_piece())

    pieces = [piece for piece in out if piece is not None]
    assert [change.new for piece in pieces for change in piece.changes if isinstance(change, Insert)] == values
    assert [piece.complete for piece in pieces] == [False] * (len(pieces) - 1) + [True]
    assert len(pieces) > 1
    assert max(piece.size for piece in pieces) < 301_000
    assert None in out
    fed.streamed.close()


def test_every_kind_of_message_loses_its_xid_and_origins_are_left_out(fed: Fed) -> None:
    messages = [wire.type_name(9, b"public", b"mood"), wire.relation(5, [b"id"]), wire.insert(5, [b"1"])]
    messages += [wire.update(5, [b"2"], key=[b"1"]), wire.delete(5, key=[b"2"]), wire.truncate([5])]
    messages += [wire.emitted(b"replicator", b"nonce")]
    plain = Fed()
    plain.feed(wire.begin(), *messages, wire.commit())

    fed.feed(*block(7, wire.origin(1, b"far"), *(wire.of(7, message) for message in messages)), wire.stream_commit(7))

    assert fed.transactions[0].changes == plain.transactions[0].changes
    assert fed.transactions[0].changes[-1] == LogicalMessage("replicator", b"nonce")


def test_a_huge_row_is_kept_and_comes_out_the_same(fed: Fed) -> None:
    huge = b"x\t" * LARGE

    fed.feed(*block(7, described(7)), wire.stream_start(7, first=False))
    fed.streamed.take(memoryview(row(7, huge)))
    fed.feed(wire.stream_stop(), wire.stream_commit(7))

    assert [line for rows in fed.rows for line in rows] == [huge.replace(b"\t", b"\\t")]


# --- descriptions -----------------------------------------------------------------------------------------------------


def columns(transaction: Transaction) -> list[str]:
    (change,) = transaction.changes
    assert isinstance(change, Insert)
    return [column.name for column in change.relation.columns]


def test_a_description_holds_for_others_only_after_the_commit(fed: Fed) -> None:
    fed.feed(wire.relation(5, [b"old"]), *block(7, described(7, b"new"), row(7, b"1")))
    fed.feed(wire.begin(90), wire.insert(5, [b"2"]), wire.commit(90, 98), wire.stream_commit(7))
    fed.feed(wire.begin(200), wire.insert(5, [b"3"]), wire.commit(200, 208))

    assert [columns(transaction) for transaction in fed.transactions] == [["old"], ["new"], ["new"]]


def test_a_description_that_came_later_outlives_the_commit(fed: Fed) -> None:
    fed.feed(*block(7, described(7, b"old"), row(7, b"1")), *block(9, described(9, b"older"), row(9, b"2")))
    fed.feed(wire.relation(5, [b"new"]), wire.stream_commit(9), wire.stream_commit(7))
    fed.feed(wire.begin(200), wire.insert(5, [b"3"]), wire.commit(200, 208))

    assert [columns(transaction) for transaction in fed.transactions] == [["older"], ["old"], ["new"]]


def test_of_two_streamed_transactions_the_later_description_holds_whichever_commits_first(fed: Fed) -> None:
    fed.feed(*block(7, described(7, b"first"), row(7, b"1")), *block(9, described(9, b"second"), row(9, b"2")))
    fed.feed(wire.stream_commit(9), wire.stream_commit(7))
    fed.feed(wire.begin(200), wire.insert(5, [b"3"]), wire.commit(200, 208))

    assert [columns(transaction) for transaction in fed.transactions] == [["second"], ["first"], ["second"]]


# --- what must not come -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "payloads",
    [
        [wire.stream_stop()],
        [wire.stream_start(7, first=False)],
        [wire.stream_commit(7)],
        [wire.stream_start(7), wire.stream_start(8)],
        [wire.stream_start(7), wire.stream_commit(7)],
        [wire.stream_start(7), b"I"],
        [wire.stream_start(7), b""],
        [b""],
        [wire.begin(), wire.stream_start(7)],
        [wire.stream_start(7)[:-1]],
        [wire.stream_abort(7, 8) + b"x"],
        [*block(7), wire.stream_commit(7)[:-1]],
        [*block(7, row(7, b"1")), wire.stream_commit(7)],
        [*block(7, wire.of(7, b"R")), wire.stream_commit(7)],
    ],
)
def test_a_message_out_of_place_is_an_error(fed: Fed, payloads: list[bytes]) -> None:
    with pytest.raises(ProtocolError):
        fed.feed(*payloads)


@given(st.binary(max_size=20))
def test_whatever_comes_inside_a_block_is_read_or_refused(payload: bytes) -> None:
    with contextlib.suppress(ProtocolError):
        xid = read_xid(payload)
        assert xid is None or 0 <= xid < 2**32


# --- the disk ---------------------------------------------------------------------------------------------------------


def test_the_file_has_no_name(fed: Fed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))

    fed.feed(*block(7, described(7), row(7, b"x" * MIB)))

    assert list(tmp_path.iterdir()) == []


def test_without_a_place_for_files_it_says_so(fed: Fed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "absent"))

    with pytest.raises(LocalDiskError, match="No such file"):
        fed.feed(wire.stream_start(7))


def test_without_room_it_says_so(fed: Fed) -> None:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    fed.feed(wire.stream_start(7), described(7))
    resource.setrlimit(resource.RLIMIT_FSIZE, (MIB, before[1]))
    try:
        with pytest.raises(LocalDiskError, match="too large"):
            fed.feed(*[row(7, b"x" * MIB)] * 3, row(7, b"y"))
        fed.streamed.close()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
