"""The spool on a real target: what was committed is read once, in order; what was not, never."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from uuid import UUID, uuid4

import pytest

from replicator import control
from replicator.errors import FencedError, Side
from replicator.lsn import Lsn
from replicator.model import Transaction
from replicator.postgres import Connection, connected
from replicator.source.stream import Received
from replicator.spool.reader import SpoolReader
from replicator.spool.writer import SpoolWriter
from tests.fixtures.changes import insert, piece, relation, transaction
from tests.fixtures.databases import Database

T = relation(["id"], ["id"])
EPOCH = uuid4()


def inserting(value: int, lsn: int) -> Transaction:
    return as_read(transaction(insert(T, str(value)), lsn=lsn))


def as_read(item: Transaction) -> Transaction:
    return item._replace(changes=list(item.changes))


@pytest.fixture
async def target_connection(target: Database) -> AsyncIterator[Connection]:
    """A target whose progress stands at 1000."""
    async with connected(target.dsn, Side.TARGET, "test") as connection:
        await control.create(connection)
        await take(connection, EPOCH)
        await control.start_progress(connection, EPOCH, Lsn(1000))
        yield connection


async def take(connection: Connection, epoch: UUID) -> None:
    await control.take_lease(connection, epoch)


async def spool(target: Database, *transactions: Transaction, idle: int | None = None, epoch: UUID = EPOCH) -> Lsn:
    """Add these in a session of its own, which ends then; the position that it reached."""
    async with connected(target.dsn, Side.TARGET, "test") as connection:
        writer = await SpoolWriter.begin(connection, epoch)
        await writer.add(Received(list(transactions), Lsn(idle) if idle else None), 0)
        return writer.lsn


async def read(connection: Connection, progress: int) -> list[Transaction]:
    reader = SpoolReader(connection, lambda: Lsn(progress))
    found: list[Transaction] = []
    with contextlib.suppress(TimeoutError):
        while True:
            async with asyncio.timeout(0.3):
                found += (await reader.next()).transactions
    assert reader.caught_up.is_set()
    return found


async def test_what_was_spooled_in_several_sessions_is_read_in_order(
    target: Database, target_connection: Connection
) -> None:
    assert await spool(target, inserting(1, 2000), inserting(2, 3000)) == 3008
    assert await spool(target, idle=4000) == 4000
    assert await spool(target, inserting(3, 5000)) == 5008

    assert await read(target_connection, 1000) == [inserting(1, 2000), inserting(2, 3000), inserting(3, 5000)]


async def test_law_1_what_was_applied_before_is_not_handed_out_again(
    target: Database, target_connection: Connection
) -> None:
    """Given one chunk whose first transaction was applied before the worker was stopped."""
    await spool(target, inserting(1, 2000), inserting(2, 3000))

    assert await read(target_connection, 2008) == [inserting(2, 3000)]
    assert await read(target_connection, 3008) == []
    assert await control.read_chunks(target_connection, 0, 1) == []


async def test_law_2_a_large_transaction_is_there_whole_or_not_at_all(
    target: Database, target_connection: Connection
) -> None:
    pieces = [as_read(piece(insert(T, n), lsn=2000)) for n in "12"]
    assert await spool(target, inserting(0, 1500), *pieces) == 1000
    assert await read(target_connection, 1000) == []

    await spool(target, inserting(0, 1500), *pieces, inserting(3, 2000))

    assert await read(target_connection, 1000) == [inserting(0, 1500), *pieces, inserting(3, 2000)]


async def test_law_6_a_worker_whose_lease_was_taken_adds_nothing(
    target: Database, target_connection: Connection
) -> None:
    async with connected(target.dsn, Side.TARGET, "test") as connection:
        writer = await SpoolWriter.begin(connection, EPOCH)
        other = uuid4()
        await take(target_connection, other)

        with pytest.raises(FencedError):
            await writer.add(Received([inserting(1, 2000)], None), 0)
        with pytest.raises(FencedError):
            await writer.add(Received([], Lsn(3000)), 0)

    assert await spool(target, epoch=other) == 1000
    assert await read(target_connection, 1000) == []
    with pytest.raises(FencedError):
        await spool(target, epoch=EPOCH)


async def test_law_1_two_writers_of_one_worker_do_not_both_add(target: Database, target_connection: Connection) -> None:
    async with connected(target.dsn, Side.TARGET, "test") as connection:
        late = await SpoolWriter.begin(connection, EPOCH)
        await spool(target, idle=1500)

        with pytest.raises(FencedError):
            await late.add(Received([inserting(1, 2000)], None), 0)

    assert await read(target_connection, 1000) == []


async def test_only_a_drained_spool_ends(target: Database, target_connection: Connection) -> None:
    await spool(target, inserting(1, 2000))
    with pytest.raises(FencedError):
        await control.end_spool(target_connection, EPOCH)
    assert len(await read(target_connection, 1000)) == 1

    await control.advance(target_connection, EPOCH, Lsn(1000), Lsn(2008))
    await control.end_spool(target_connection, EPOCH)

    progress = await control.read_progress(target_connection)
    assert progress is not None
    assert progress.spooled is None
    assert await control.read_chunks(target_connection, 0, 1) == []
