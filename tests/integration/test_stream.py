"""The replication stream against real servers: what it receives, keeps, confirms, and how it ends."""

import asyncio
import secrets
import termios
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import replace
from typing import Any

import pytest

from replicator.config import MIB
from replicator.demo.servers import StopMode
from replicator.errors import ReplicatorError, ServerUnavailableError, SlotBusyError, SlotLostError, SourceError
from replicator.lsn import Lsn, parse_lsn
from replicator.model import (
    NULL,
    UNCHANGED,
    Change,
    Delete,
    Insert,
    LogicalMessage,
    ReplicaIdentity,
    TableName,
    Transaction,
    Truncate,
    Update,
)
from replicator.source import feedback, gathering
from replicator.source.stream import ReplicationStream
from tests.fixtures import wire
from tests.fixtures.databases import Database, drop, new_source
from tests.fixtures.proxy import ProxyMaker
from tests.fixtures.servers import AnyServer, ServerMaker

SLOT_PREFIX = "replicator_test_"
IN_TIME = 30
"""Seconds that nothing here should ever take."""


async def none(_: Sequence[int]) -> list[int]:
    """No savepoint is rolled back here."""
    return []


class Streamed:
    """A source with a publication of all its tables, and a slot that stands where they were made."""

    def __init__(self, database: Database, publication: str = "everything") -> None:
        self.database = database
        self.slot = SLOT_PREFIX + secrets.token_hex(4)
        self.publication = publication
        quoted = publication.replace('"', '""')
        database.execute(
            f"""
            CREATE TABLE t (id int PRIMARY KEY, a text, b text);
            ALTER TABLE t ALTER b SET STORAGE EXTERNAL;
            CREATE TABLE other (id int);
            CREATE PUBLICATION "{quoted}" FOR TABLE t;
            """
        )
        created = database.value(
            "SELECT lsn::text FROM pg_create_logical_replication_slot(%s, 'pgoutput')", [self.slot]
        )
        self.start = parse_lsn(created)

    async def open(self, start: Lsn | None = None, dsn: str | None = None, **options: Any) -> ReplicationStream:
        return await ReplicationStream.open(
            dsn or self.database.dsn,
            self.slot,
            [self.publication],
            self.start if start is None else start,
            **dict[str, Any](rolled_back=none, buffer_bytes=MIB, status_interval=0.2) | options,
        )

    def confirmed(self) -> Lsn:
        return parse_lsn(
            self.database.value(
                "SELECT confirmed_flush_lsn::text FROM pg_replication_slots WHERE slot_name = %s", [self.slot]
            )
        )


@pytest.fixture
def streamed(source: Database) -> Streamed:
    return Streamed(source)


Opener = Callable[..., Awaitable[ReplicationStream]]


@pytest.fixture
async def opener() -> AsyncIterator[Opener]:
    """Open streams that are closed at the end of the test."""
    async with AsyncExitStack() as stack:

        async def open_stream(streamed: Streamed, *arguments: Any, **options: Any) -> ReplicationStream:
            stream = await streamed.open(*arguments, **options)
            stack.push_async_callback(stream.close)
            return stream

        yield open_stream


async def take(stream: ReplicationStream, enough: Callable[[list[Transaction]], bool]) -> list[Transaction]:
    """Take until there is enough."""
    taken: list[Transaction] = []
    async with asyncio.timeout(IN_TIME):
        while not enough(taken):
            taken += (await stream.next()).transactions
    return taken


def has(changes: int) -> Callable[[list[Transaction]], bool]:
    return lambda taken: sum(len(transaction.changes) for transaction in taken) >= changes


def changes_of(transactions: list[Transaction]) -> list[Change]:
    return [change for transaction in transactions for change in transaction.changes]


def new_rows(transactions: list[Transaction]) -> list[bytes]:
    return [change.new for change in changes_of(transactions) if isinstance(change, Insert)]


async def idle(stream: ReplicationStream, lsn: Lsn) -> None:
    """Take until the source says that it is idle at ``lsn`` or later, with nothing else coming."""
    async with asyncio.timeout(IN_TIME):
        while True:
            received = await stream.next()
            assert received.transactions == []
            if received.idle_lsn is not None and received.idle_lsn >= lsn:
                return


async def wait_for(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(IN_TIME):
        while not condition():
            await asyncio.sleep(0.05)


def end_of_wal(database: Database) -> Lsn:
    return parse_lsn(database.value("SELECT pg_current_wal_flush_lsn()::text"))


# --- what it receives -------------------------------------------------------------------------------------------------


async def test_receives_every_kind_of_change(streamed: Streamed, opener: Opener) -> None:
    stream = await opener(streamed)
    streamed.database.execute(
        """
        INSERT INTO t VALUES (1, E'a\\tb\\\\', NULL), (2, 'x', repeat('long', 2000));
        UPDATE t SET a = 'y' WHERE id = 2;
        UPDATE t SET id = 3 WHERE id = 1;
        DELETE FROM t WHERE id = 3;
        SELECT pg_logical_emit_message(true, 'replicator', 'nonce');
        TRUNCATE t RESTART IDENTITY;
        """
    )

    (transaction,) = await take(stream, has(7))

    first = transaction.changes[0]
    assert isinstance(first, Insert)
    table = first.relation
    assert (table.table, table.identity) == (TableName("public", "t"), ReplicaIdentity.DEFAULT)
    assert [(column.name, column.key) for column in table.columns] == [("id", True), ("a", False), ("b", False)]
    assert list(transaction.changes) == [
        Insert(table, b"1\ta\\tb\\\\\t\\N"),
        Insert(table, b"2\tx\t" + b"long" * 2000),
        Update(table, None, False, b"2\ty\t" + UNCHANGED),
        Update(table, b"\t".join([b"1", NULL, NULL]), False, b"3\ta\\tb\\\\\t\\N"),
        Delete(table, b"\t".join([b"3", NULL, NULL]), False),
        LogicalMessage("replicator", b"nonce"),
        Truncate((table,), False, True),
    ]
    assert transaction.complete
    assert streamed.start <= transaction.commit_lsn < transaction.end_lsn <= stream.received


async def test_under_full_the_old_row_comes_whole_and_the_new_one_as_sent(streamed: Streamed, opener: Opener) -> None:
    stream = await opener(streamed)
    streamed.database.execute(
        """
        ALTER TABLE t REPLICA IDENTITY FULL;
        INSERT INTO t VALUES (1, 'x', repeat('long', 2000));
        UPDATE t SET a = 'y';
        DELETE FROM t;
        """
    )

    insert, update, delete = changes_of(await take(stream, has(3)))

    long = b"long" * 2000
    assert isinstance(insert, Insert)
    assert insert.relation.identity is ReplicaIdentity.FULL
    assert update == Update(insert.relation, b"1\tx\t" + long, True, b"1\ty\t" + UNCHANGED)
    assert delete == Delete(insert.relation, b"1\ty\t" + long, True)


async def test_a_changed_table_is_described_anew(streamed: Streamed, opener: Opener) -> None:
    stream = await opener(streamed)
    streamed.database.execute("INSERT INTO t VALUES (1); ALTER TABLE t ADD c int; INSERT INTO t VALUES (2)")

    before, after = changes_of(await take(stream, has(2)))

    assert isinstance(before, Insert)
    assert isinstance(after, Insert)
    assert [len(change.relation.columns) for change in (before, after)] == [3, 4]


async def test_values_are_printed_under_the_pinned_settings(streamed: Streamed, opener: Opener) -> None:
    """Law 7: the source's database has extra_float_digits = 0, which would round."""
    streamed.database.execute("CREATE TABLE v (id int PRIMARY KEY, f float8, d timestamptz, r regclass)")
    streamed.database.execute("ALTER PUBLICATION everything ADD TABLE v")
    stream = await opener(streamed)
    streamed.database.execute(
        "SET timezone = 'Asia/Kolkata'; INSERT INTO v VALUES (1, 0.1::float8 + 0.2, '2024-01-02 03:04:05Z', 'public.v')"
    )

    assert new_rows(await take(stream, has(1))) == [b"1\t0.30000000000000004\t2024-01-02 03:04:05+00\tpublic.v"]


async def test_an_idle_source_tells_how_far_it_is(streamed: Streamed, opener: Opener) -> None:
    stream = await opener(streamed)
    streamed.database.execute("INSERT INTO other SELECT generate_series(1, 100)")

    await idle(stream, end_of_wal(streamed.database))


async def test_law_3_a_source_that_tells_how_far_it_is_inside_a_transaction_is_not_idle(
    streamed: Streamed, opener: Opener
) -> None:
    stream = await opener(streamed)
    stream._receiver.assembler.feed(wire.begin(2**62, xid=1))

    streamed.database.execute("INSERT INTO other VALUES (1)")

    now = end_of_wal(streamed.database)
    await wait_for(lambda: stream.received >= now)
    assert not stream._buffer


async def test_publication_names_may_hold_anything(source: Database, opener: Opener) -> None:
    streamed = Streamed(source, """we"ird, 'name\\""")
    stream = await opener(streamed)
    source.execute("INSERT INTO t VALUES (1)")

    assert len(await take(stream, has(1))) == 1


async def test_next_may_be_cancelled_without_loss(streamed: Streamed, opener: Opener) -> None:
    stream = await opener(streamed)
    rows: list[bytes] = []

    async def read_impatiently() -> None:
        while len(rows) < 300:
            try:
                async with asyncio.timeout(0.0005):
                    rows.extend(new_rows((await stream.next()).transactions))
            except TimeoutError:
                continue

    writes = "DO 'BEGIN FOR i IN 1..300 LOOP INSERT INTO t VALUES (i); COMMIT; END LOOP; END'"
    async with asyncio.timeout(IN_TIME):
        await asyncio.gather(asyncio.to_thread(streamed.database.execute, writes), read_impatiently())

    assert rows == [b"%d\t\\N\t\\N" % i for i in range(1, 301)]


# --- what it keeps ----------------------------------------------------------------------------------------------------

LARGE = "INSERT INTO t SELECT i, repeat('x', 1000) FROM generate_series(1, 20000) i"
"""20 MB: more than the sockets of the loopback hold."""


async def test_a_large_transaction_comes_in_pieces_within_the_buffer(streamed: Streamed, opener: Opener) -> None:
    stream = await opener(streamed, buffer_bytes=MIB)
    await asyncio.to_thread(streamed.database.execute, LARGE)
    pieces: list[Transaction] = []
    largest = 0
    async with asyncio.timeout(IN_TIME):
        while not (pieces and pieces[-1].complete):
            await asyncio.sleep(0.01)
            received = await stream.next()
            largest = max(largest, sum(piece.size for piece in received.transactions))
            pieces += received.transactions
            assert received.idle_lsn is None or not pieces or pieces[-1].complete

    assert len(pieces) > 20
    assert len({piece.commit_lsn for piece in pieces}) == 1
    assert [row.split(b"\t")[0] for row in new_rows(pieces)] == [b"%d" % i for i in range(1, 20001)]
    assert largest <= MIB


async def test_a_full_buffer_goes_on_with_what_had_arrived(streamed: Streamed, opener: Opener) -> None:
    """What libpq holds already does not make the socket readable."""
    writes = "DO 'BEGIN FOR i IN 1..100 LOOP INSERT INTO t VALUES (i); COMMIT; END LOOP; END'"
    await asyncio.to_thread(streamed.database.execute, writes)

    stream = await opener(streamed, buffer_bytes=4096, status_interval=600)

    # within 15 s the source would write a snapshot of running transactions, and tell of it
    async with asyncio.timeout(10):
        assert len(await take(stream, has(100))) == 100


async def test_a_consumer_that_stands_still_keeps_its_connection(streamed: Streamed, opener: Opener) -> None:
    """Design, Source connection: status updates go out while a slow target blocks an apply."""
    dsn = f"{streamed.database.dsn}?options=-c%20wal_sender_timeout%3D1s"
    stream = await opener(streamed, dsn=dsn, buffer_bytes=MIB)
    await asyncio.to_thread(streamed.database.execute, LARGE)

    await asyncio.sleep(2.5)

    assert len(new_rows(await take(stream, has(20000)))) == 20000


# --- a busy source ----------------------------------------------------------------------------------------------------

BUSY = "DO 'BEGIN FOR i IN 1..2000 LOOP INSERT INTO t VALUES (i); COMMIT; END LOOP; END'"


@pytest.mark.parametrize("buffer_bytes", [4096, MIB])
async def test_frames_that_are_left_to_gather_all_come(
    streamed: Streamed, opener: Opener, monkeypatch: pytest.MonkeyPatch, buffer_bytes: int
) -> None:
    """Given a source that always counts as busy, whether the buffer is ever full or not."""
    monkeypatch.setattr(gathering, "_BUSY", -1)
    stream = await opener(streamed, buffer_bytes=buffer_bytes)
    writing = asyncio.create_task(asyncio.to_thread(streamed.database.execute, BUSY))

    async with asyncio.timeout(IN_TIME):
        rows = new_rows(await take(stream, has(2000)))
    await writing

    assert rows == [b"%d\t\\N\t\\N" % i for i in range(1, 2001)]


async def test_a_failure_while_frames_gather_ends_the_stream(
    streamed: Streamed, opener: Opener, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else nobody would read any more, and nobody would know."""
    asyncio.get_running_loop().set_exception_handler(lambda *_: None)
    monkeypatch.setattr(gathering, "_BUSY", -1)
    monkeypatch.setattr(termios, "FIONREAD", 0)
    stream = await opener(streamed)
    streamed.database.execute("INSERT INTO t VALUES (1)")

    with pytest.raises(ReplicatorError, match="reading the stream failed: OSError"):
        async with asyncio.timeout(IN_TIME):
            await take(stream, has(2))


# --- what it confirms (law 3) -----------------------------------------------------------------------------------------


async def test_only_what_was_confirmed_is_confirmed_to_the_slot(streamed: Streamed, opener: Opener) -> None:
    stream = await opener(streamed)
    streamed.database.execute("INSERT INTO t VALUES (1)")
    streamed.database.execute("INSERT INTO t VALUES (2)")
    first, second = await take(stream, has(2))

    stream.confirm(first.end_lsn)
    stream.confirm(streamed.start)
    await wait_for(lambda: streamed.confirmed() != streamed.start)
    await asyncio.sleep(0.5)

    assert streamed.confirmed() == first.end_lsn
    assert second.end_lsn <= stream.received


async def test_a_slot_that_is_held_back_stays_so_when_the_stream_starts_later(
    streamed: Streamed, opener: Opener
) -> None:
    """Design: a failover of the target may lose commits, so the slot is held back behind progress."""
    streamed.database.execute("INSERT INTO t VALUES (1)")
    before = streamed.confirmed()
    stream = await opener(streamed, end_of_wal(streamed.database), confirmed=before)

    streamed.database.execute("INSERT INTO t VALUES (2)")
    await take(stream, has(1))
    await asyncio.sleep(0.5)

    assert streamed.confirmed() == before


async def test_what_was_not_received_cannot_be_confirmed(streamed: Streamed, opener: Opener) -> None:
    stream = await opener(streamed)

    with pytest.raises(ReplicatorError, match="was received"):
        stream.confirm(Lsn(stream.received + 1))


async def test_a_new_stream_resends_exactly_what_comes_after_its_start(streamed: Streamed, opener: Opener) -> None:
    stream = await opener(streamed)
    for i in range(5):
        streamed.database.execute(f"INSERT INTO t VALUES ({i})")
    transactions = await take(stream, has(5))
    stream.confirm(transactions[1].end_lsn)
    await stream.close()

    again = await opener(streamed, transactions[2].end_lsn)

    assert [row[:1] for row in new_rows(await take(again, has(2)))] == [b"3", b"4"]


async def test_closing_confirms_what_was_confirmed_last(streamed: Streamed, opener: Opener) -> None:
    stream = await opener(streamed, status_interval=10)
    streamed.database.execute("INSERT INTO t VALUES (1)")
    (transaction,) = await take(stream, has(1))

    stream.confirm(transaction.end_lsn)
    await stream.close()

    await wait_for(lambda: streamed.confirmed() == transaction.end_lsn)


# --- how it ends ------------------------------------------------------------------------------------------------------


async def rest(stream: ReplicationStream) -> tuple[list[Transaction], ReplicatorError]:
    """What still comes, and what next() raises then."""
    taken: list[Transaction] = []

    def keep(transactions: list[Transaction]) -> bool:
        taken[:] = transactions
        return False

    with pytest.raises(ReplicatorError) as caught:
        await take(stream, keep)
    return taken, caught.value


async def ended(stream: ReplicationStream) -> ReplicatorError:
    return (await rest(stream))[1]


@pytest.mark.parametrize("mode", StopMode)
async def test_the_source_may_stop_while_nothing_is_confirmed(
    private_source: Database, opener: Opener, mode: StopMode
) -> None:
    """Law 5: a fast shutdown waits for its walsenders, so we must not hold one. It sends what is committed before."""
    streamed = Streamed(private_source)
    stream = await opener(streamed)
    private_source.execute("INSERT INTO t VALUES (1)")
    await take(stream, has(1))
    private_source.execute("INSERT INTO t VALUES (2)")

    await asyncio.to_thread(private_source.server.stop, mode, timeout=10)

    transactions, error = await rest(stream)
    assert isinstance(error, ServerUnavailableError)
    assert mode is StopMode.IMMEDIATE or new_rows(transactions) == [b"2\t\\N\t\\N"]

    private_source.server.start()
    again = await opener(streamed)
    assert len(new_rows(await take(again, has(2)))) == 2


async def test_the_source_may_stop_while_everything_is_confirmed(private_source: Database, opener: Opener) -> None:
    stream = await opener(Streamed(private_source))
    private_source.execute("INSERT INTO t VALUES (1)")
    (transaction,) = await take(stream, has(1))
    stream.confirm(transaction.end_lsn)

    await asyncio.to_thread(private_source.server.stop, timeout=10)

    assert isinstance(await ended(stream), ServerUnavailableError)


async def test_a_lost_connection_is_an_outage(streamed: Streamed, opener: Opener, make_proxy: ProxyMaker) -> None:
    proxy = make_proxy(streamed.database.server.port)
    stream = await opener(streamed, dsn=proxy.dsn(streamed.database.dsn))

    await asyncio.to_thread(proxy.cut)

    assert isinstance(await ended(stream), ServerUnavailableError)


async def test_a_source_that_falls_silent_is_an_outage(
    streamed: Streamed, opener: Opener, make_proxy: ProxyMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feedback, "_SILENCE", 1.0)
    proxy = make_proxy(streamed.database.server.port)
    stream = await opener(streamed, dsn=proxy.dsn(streamed.database.dsn))
    await asyncio.sleep(1.5)  # an idle source answers when it is asked

    proxy.deaf()

    assert "nothing" in str(await ended(stream))
    proxy.hear()


async def test_a_terminated_walsender_is_an_outage(streamed: Streamed, opener: Opener) -> None:
    stream = await opener(streamed)

    streamed.database.execute(
        "SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots WHERE slot_name = %s", [streamed.slot]
    )

    error = await ended(stream)
    assert isinstance(error, ServerUnavailableError)
    assert "57P01" in error.message


async def test_a_slot_in_use_means_wait(streamed: Streamed, opener: Opener) -> None:
    """Law 6: a deploy overlaps two workers."""
    await opener(streamed)

    with pytest.raises(SlotBusyError):
        await opener(streamed)


async def test_a_slot_that_is_gone_is_lost(streamed: Streamed, opener: Opener) -> None:
    streamed.database.execute("SELECT pg_drop_replication_slot(%s)", [streamed.slot])

    with pytest.raises(SlotLostError):
        await opener(streamed)


@pytest.mark.parametrize("major", [15, 17])
async def test_a_slot_whose_wal_was_removed_is_lost(make_server: ServerMaker, opener: Opener, major: int) -> None:
    server = make_server(major, max_slot_wal_keep_size="1MB", min_wal_size="32MB", max_wal_size="32MB")
    streamed = Streamed(new_source(server))
    for _ in range(5):
        streamed.database.execute("CREATE TABLE x (); DROP TABLE x", superuser=True)
        streamed.database.execute("SELECT pg_switch_wal()", superuser=True)
    streamed.database.execute("CHECKPOINT", superuser=True)

    with pytest.raises(SlotLostError):
        await opener(streamed)


async def test_a_publication_that_is_gone_stops_the_stream(streamed: Streamed, opener: Opener) -> None:
    stream = await opener(streamed)
    streamed.database.execute("DROP PUBLICATION everything; INSERT INTO t VALUES (1)")

    error = await ended(stream)

    assert isinstance(error, SourceError)
    assert not error.retryable
    assert "everything" in error.message


async def test_next_raises_again_and_confirm_is_harmless_after_the_end(streamed: Streamed, opener: Opener) -> None:
    stream = await opener(streamed)
    await stream.close()
    await stream.close()

    stream.confirm(stream.received)

    for _ in range(2):
        with pytest.raises(ServerUnavailableError, match="closed"):
            await stream.next()


async def test_a_character_that_utf8_lacks_ends_the_stream_with_its_place_and_the_remedy(
    source_server: AnyServer, opener: Opener
) -> None:
    """Given a source of another encoding, when a byte comes that is no character, then nothing stands in for it."""
    source = new_source(source_server, "WIN1252")
    try:
        streamed = Streamed(replace(source, dsn=f"{source.dsn}?client_encoding=utf8"))
        stream = await opener(streamed)
        source.execute("INSERT INTO t VALUES (1, chr(128))")
        (transaction,) = await take(stream, has(1))
        (change,) = transaction.changes
        assert isinstance(change, Insert)
        assert change.new == b"1\t\xe2\x82\xac\t\\N"

        source.execute("INSERT INTO t VALUES (2, chr(129))")

        with pytest.raises(
            SourceError, match=r"UTF-8 has no place for \(22P05\), in the change at [0-9A-F]+/[0-9A-F]+$"
        ) as caught:
            await take(stream, has(1))
        assert "Correct the text on the source" in caught.value.hint
        await stream.close()
    finally:
        drop(source)
