"""The replication command and its frames, and how a source that shuts down is recognised."""

import struct

import pytest

from replicator.errors import ProtocolError
from replicator.lsn import Lsn
from replicator.source.frames import Keepalive, ShutdownWatch, read_keepalive, start_replication, status_update


def test_names_are_quoted_as_identifiers_inside_a_literal() -> None:
    command = start_replication("slot", ["plain", 'a"b', "c'd,e\\"], Lsn(0x16_B374D848), streaming=True)

    assert command == (
        b'START_REPLICATION SLOT "slot" LOGICAL 16/B374D848 '
        b"""(proto_version '2', publication_names '"plain","a""b","c''d,e\\"', messages 'true', streaming 'on')"""
    )
    assert start_replication("slot", ["p"], Lsn(1), streaming=False).endswith(b"streaming 'off')")


def test_keepalive() -> None:
    assert read_keepalive(b"k" + struct.pack(">QqB", 2**40, 5, 1)) == Keepalive(Lsn(2**40), True)


@pytest.mark.parametrize("frame", [b"", b"k", b"k" + bytes(16), b"k" + bytes(18), b"p" + bytes(17)])
def test_any_other_frame_is_an_error(frame: bytes) -> None:
    with pytest.raises(ProtocolError):
        read_keepalive(frame)


def test_a_status_update_confirms_as_flushed_and_applied_and_tells_the_time_since_2000() -> None:
    update = status_update(Lsn(20), Lsn(10), 946_684_801.5, reply_requested=True)

    assert update == b"r" + struct.pack(">QQQqB", 20, 10, 10, 1_500_000, 1)


# --- the shutdown of the source ---------------------------------------------------------------------------------------

PING = Keepalive(Lsn(100), True)


def test_three_requests_in_a_row_for_the_same_end_mean_a_shutdown() -> None:
    watch = ShutdownWatch()

    assert [watch.saw(PING, now) for now in (0.0, 0.1, 0.2)] == [False, False, True]


def test_requests_that_come_as_slowly_as_a_time_out_do_not() -> None:
    watch = ShutdownWatch()

    # wal_sender_timeout = 1 s, the least that makes sense, asks every half of it
    assert not any(watch.saw(PING, now) for now in (0.0, 0.5, 1.0, 1.5, 2.0))


@pytest.mark.parametrize(
    "between",
    [Keepalive(Lsn(100), False), Keepalive(Lsn(101), True), Keepalive(Lsn(101), False)],
    ids=["one without a request", "one with another end", "both"],
)
def test_another_keepalive_between_them_does_not(between: Keepalive) -> None:
    watch = ShutdownWatch()

    seen = [watch.saw(keepalive, now) for now, keepalive in enumerate_quickly([PING, PING, between, PING, PING])]

    assert not any(seen)


def test_data_between_them_does_not() -> None:
    watch = ShutdownWatch()
    watch.saw(PING, 0.0)
    watch.saw(PING, 0.1)
    watch.saw_data()

    assert not watch.saw(PING, 0.2)


def enumerate_quickly(keepalives: list[Keepalive]) -> list[tuple[float, Keepalive]]:
    return [(number / 100, keepalive) for number, keepalive in enumerate(keepalives)]
