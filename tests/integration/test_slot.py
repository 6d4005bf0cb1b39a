"""The replication slot on real servers: its snapshot, what is refused and why, and what is read of it."""

from collections.abc import AsyncIterator, Iterator

import psycopg
import pytest

from replicator.errors import (
    ConfigurationError,
    ReplicatorError,
    Side,
    SlotBusyError,
    SlotLostError,
    SourceError,
    TransientError,
)
from replicator.postgres import Connection, connect
from replicator.source.slot import create_slot, drop_slot, identify, read_slot, slot_error
from tests.fixtures.databases import Database, new_source
from tests.fixtures.servers import SOURCE_MAJOR, ServerMaker, new_server
from tests.fixtures.waiting import wait_until

START = "START_REPLICATION SLOT {} LOGICAL 0/0 (proto_version '1', publication_names 'none')"


@pytest.fixture(scope="module")
def tight_source() -> Iterator[Database]:
    """A source with one slot, which is lost after a few segments of WAL."""
    with new_server(SOURCE_MAJOR, max_replication_slots="1", max_slot_wal_keep_size="1MB") as server:
        yield new_source(server)


@pytest.fixture
async def replication(source: Database) -> AsyncIterator[Connection]:
    connection = await connect(source.dsn, Side.SOURCE, "test", replication=True)
    yield connection
    await connection.close()  # not `async with`, which would commit: impossible while a stream is open


@pytest.fixture
async def ordinary(source: Database) -> AsyncIterator[Connection]:
    async with await connect(source.dsn, Side.SOURCE, "test") as connection:
        yield connection


async def start(replication: Connection, slot: str) -> None:
    """Begin to stream, as a worker does."""
    await replication.execute(START.format(slot).encode())


async def test_given_a_new_slot_its_snapshot_has_what_committed_before_and_nothing_after(any_source: Database) -> None:
    any_source.execute("CREATE TABLE t (id int); INSERT INTO t VALUES (1)")
    async with await connect(any_source.dsn, Side.SOURCE, "test", replication=True) as replication:
        made = await create_slot(replication, "s", temporary=True, lock_timeout=10)

        any_source.execute("INSERT INTO t VALUES (2)")
        with psycopg.connect(any_source.dsn) as reader:
            reader.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
            reader.execute(f"SET TRANSACTION SNAPSHOT '{made.snapshot}'".encode())
            assert reader.execute("SELECT id FROM t").fetchall() == [(1,)]
        assert made.lsn > 0


async def test_given_a_temporary_slot_it_is_gone_with_its_connection(source: Database, ordinary: Connection) -> None:
    replication = await connect(source.dsn, Side.SOURCE, "test", replication=True)
    await create_slot(replication, "s_temporary", temporary=True, lock_timeout=10)
    assert await read_slot(ordinary, "s_temporary") is not None

    pid = replication.info.backend_pid
    await replication.close()

    wait_until(lambda: not source.value("SELECT count(*) FROM pg_stat_activity WHERE pid = %s", [pid]))
    assert await read_slot(ordinary, "s_temporary") is None


async def test_given_a_slot_its_positions_are_read_on_the_sources_clock(
    replication: Connection, ordinary: Connection
) -> None:
    made = await create_slot(replication, "s_read", lock_timeout=10)

    slot = await read_slot(ordinary, "s_read")

    assert slot is not None
    assert not slot.lost
    assert slot.active_pid is None
    assert slot.confirmed_flush == made.lsn
    assert slot.restart_lsn is not None
    assert slot.restart_lsn <= made.lsn <= slot.wal_lsn
    assert slot.retained_bytes == slot.wal_lsn - slot.restart_lsn
    assert slot.now.tzinfo is not None


async def test_given_a_replication_connection_the_source_says_who_it_is(
    source: Database, replication: Connection
) -> None:
    identity = await identify(replication)

    assert identity.database == source.name
    assert identity.timeline == 1
    assert identity.system_identifier == source.value("SELECT system_identifier::text FROM pg_control_system()")


async def test_given_an_ordinary_connection_as_through_a_pooler_the_error_says_so(ordinary: Connection) -> None:
    with pytest.raises(ConfigurationError, match="pooler"):
        await identify(ordinary)


async def test_given_an_old_transaction_the_wait_for_a_slot_is_bounded_and_leaves_none(
    source: Database, replication: Connection, ordinary: Connection
) -> None:
    with psycopg.connect(source.dsn) as old:
        old.execute("SELECT pg_current_xact_id()")

        with pytest.raises(TransientError, match="did not end in time"):
            await create_slot(replication, "s_waiting", lock_timeout=0.1)

    assert await read_slot(ordinary, "s_waiting") is None


async def test_given_a_slot_in_use_dropping_it_says_by_whom_and_keeps_it(
    replication: Connection, ordinary: Connection
) -> None:
    await create_slot(replication, "s_busy", lock_timeout=10)
    await start(replication, "s_busy")

    with pytest.raises(SlotBusyError, match=str(replication.info.backend_pid)):
        await drop_slot(ordinary, "s_busy")

    slot = await read_slot(ordinary, "s_busy")
    assert slot is not None
    assert slot.active_pid == replication.info.backend_pid


async def test_given_a_slot_or_none_dropping_it_leaves_none(replication: Connection, ordinary: Connection) -> None:
    await create_slot(replication, "s_dropped", lock_timeout=10)

    await drop_slot(ordinary, "s_dropped")
    await drop_slot(ordinary, "s_dropped")

    assert await read_slot(ordinary, "s_dropped") is None


async def test_given_no_free_slot_the_error_says_what_to_do(tight_source: Database) -> None:
    async with await connect(tight_source.dsn, Side.SOURCE, "test", replication=True) as replication:
        await create_slot(replication, "s_first", temporary=True, lock_timeout=10)

        with pytest.raises(SourceError) as caught:
            await create_slot(replication, "s_second", lock_timeout=10)

    assert "max_replication_slots" in caught.value.hint
    assert not caught.value.retryable


async def test_given_a_slot_whose_wal_is_gone_it_is_lost_for_reader_and_stream(tight_source: Database) -> None:
    async with (
        await connect(tight_source.dsn, Side.SOURCE, "test", replication=True) as replication,
        await connect(tight_source.dsn, Side.SOURCE, "test") as ordinary,
    ):
        await create_slot(replication, "s_lost", lock_timeout=10)
        for _ in range(4):
            tight_source.execute(
                "SELECT pg_logical_emit_message(false, 'test', 'x'); SELECT pg_switch_wal()", superuser=True
            )
        tight_source.execute("CHECKPOINT", superuser=True)

        slot = await read_slot(ordinary, "s_lost")
        assert slot is not None
        assert slot.lost
        with pytest.raises(psycopg.Error) as refused:
            await start(replication, "s_lost")
        assert isinstance(slot_error(refused.value, "streaming"), SlotLostError)
        await drop_slot(ordinary, "s_lost")


async def test_given_no_slot_of_that_name_streaming_says_that_it_is_lost(replication: Connection) -> None:
    with pytest.raises(psycopg.Error) as refused:
        await start(replication, "s_never_made")

    assert isinstance(slot_error(refused.value, "streaming"), SlotLostError)


async def test_given_a_wal_level_that_is_too_low_the_error_says_so(make_server: ServerMaker) -> None:
    source = new_source(make_server(SOURCE_MAJOR, wal_level="replica"))
    async with await connect(source.dsn, Side.SOURCE, "test", replication=True) as replication:
        with pytest.raises(ReplicatorError) as caught:
            await create_slot(replication, "s", lock_timeout=10)

    assert isinstance(caught.value, SourceError)
    assert "wal_level = logical" in caught.value.hint
