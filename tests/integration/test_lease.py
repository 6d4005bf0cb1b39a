"""Law 6 on a real target: one worker at a time, and the next one as soon as the lease is free or silent."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from uuid import UUID, uuid4

import psycopg
import pytest

from replicator import control
from replicator.errors import FencedError, ServerUnavailableError, Side
from replicator.lease import Lease, hold_lease
from replicator.lsn import Lsn
from replicator.postgres import Connection, connected
from tests.fixtures.databases import Database

PATIENT = 60.0
START = Lsn(1000)


@dataclass
class Waiter:
    """A worker that wants the lease, in a task of its own; ``lease`` is set while it has it."""

    dsn: str
    timeout: float = PATIENT
    lease: "asyncio.Future[Lease]" = field(default_factory=lambda: asyncio.get_running_loop().create_future())
    told: asyncio.Event = field(default_factory=asyncio.Event)
    done: asyncio.Event = field(default_factory=asyncio.Event)

    async def run(self) -> None:
        async with hold_lease(self.dsn, self.timeout, self.told.set) as lease:
            self.lease.set_result(lease)
            await self.done.wait()

    async def has_it(self) -> Lease:
        return await asyncio.wait_for(self.lease, 20)


@contextlib.asynccontextmanager
async def waiting(database: Database, timeout: float = PATIENT) -> AsyncIterator[Waiter]:
    waiter = Waiter(database.dsn, timeout)
    task = asyncio.create_task(waiter.run())
    try:
        yield waiter
    finally:
        waiter.done.set()
        await asyncio.wait([task], timeout=20)
        task.cancel()


@pytest.fixture
async def session(target: Database) -> AsyncIterator[Connection]:
    """A session beside the workers'."""
    async with connected(target.dsn, Side.TARGET, "test") as connection:
        yield connection


async def recorded_epoch(session: Connection) -> UUID | None:
    row = await (await session.execute("SELECT epoch FROM replicator.lease")).fetchone()
    return None if row is None else UUID(str(row[0]))


async def test_the_first_worker_has_the_lease_at_once(target: Database, session: Connection) -> None:
    async with waiting(target) as first:
        lease = await first.has_it()

        assert not first.told.is_set()
        assert await recorded_epoch(session) == lease.epoch
        worker = await control.read_worker(session)
        assert worker is not None
        assert worker.epoch == lease.epoch
        await lease.beat({"applied": 7})
        worker = await control.read_worker(session)
        assert worker is not None
        assert worker.statistics == {"applied": 7}


async def test_law_6_the_second_worker_waits_until_the_first_ones_session_ends(
    target: Database, session: Connection
) -> None:
    async with waiting(target) as first:
        old = await first.has_it()
        await control.start_progress(session, old.epoch, START)
        async with waiting(target) as second:
            await asyncio.wait_for(second.told.wait(), 20)
            assert not second.lease.done()
            assert await recorded_epoch(session) == old.epoch

            first.done.set()
            new = await second.has_it()

        assert await recorded_epoch(session) == new.epoch != old.epoch
        progress = await control.read_progress(session)
        assert progress is not None
        assert (progress.epoch, progress.lsn) == (new.epoch, START)


async def test_law_6_a_silent_worker_is_replaced_and_its_session_ended(target: Database, session: Connection) -> None:
    async with waiting(target) as first:
        old = await first.has_it()
        await control.start_progress(session, old.epoch, START)

        async with waiting(target, timeout=0.1) as second:
            new = await second.has_it()

            assert new.epoch != old.epoch
            with pytest.raises(ServerUnavailableError):
                await old.beat({})


async def test_law_6_a_worker_that_beats_is_not_replaced(target: Database) -> None:
    async with waiting(target) as first:
        lease = await first.has_it()
        async with waiting(target, timeout=1.5) as second:
            for _ in range(15):
                await asyncio.sleep(0.2)
                await lease.beat({})

            assert second.told.is_set()
            assert not second.lease.done()
            first.done.set()
            await second.has_it()


async def test_law_6_an_epoch_that_was_replaced_can_do_nothing_more(target: Database, session: Connection) -> None:
    async with waiting(target) as first:
        old = await first.has_it()
        await control.start_progress(session, old.epoch, START)
    async with waiting(target) as second:
        new = await second.has_it()

        # the old worker has not noticed: it opens new sessions
        with pytest.raises(FencedError):
            await control.heartbeat(session, old.epoch, {})
        with pytest.raises(FencedError):
            await control.advance(session, old.epoch, START, Lsn(2000))
        with pytest.raises(FencedError):
            async with control.under_epoch(session, old.epoch):
                pass
        await control.advance(session, new.epoch, START, Lsn(2000))


async def test_law_6_a_lease_that_another_took_by_force_is_noticed_by_the_next_beat(target: Database) -> None:
    async with waiting(target) as first, connected(target.dsn, Side.TARGET, "test") as other:
        lease = await first.has_it()
        await control.take_lease(other, epoch := uuid4())
        await control.register_worker(other, epoch, "elsewhere", "0")

        with pytest.raises(FencedError):
            await lease.beat({})


async def test_law_6_a_transaction_that_holds_the_epoch_keeps_the_lease_from_being_taken(
    target: Database, session: Connection
) -> None:
    async with waiting(target) as first:
        old = await first.has_it()
    async with contextlib.AsyncExitStack() as later:
        async with control.under_epoch(session, old.epoch):
            second = await later.enter_async_context(waiting(target))
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(asyncio.shield(second.lease), 1.5)
            await session.execute("CREATE TABLE copied ()")

        new = await second.has_it()

    assert await recorded_epoch(session) == new.epoch
    assert target.value("SELECT to_regclass('copied') IS NOT NULL")


async def test_law_6_what_a_worker_that_is_gone_left_behind_is_ended(target: Database) -> None:
    async with waiting(target) as first:
        old = await first.has_it()

    async def work_on() -> None:
        async with connected(target.dsn, Side.TARGET, "worker copy") as left, control.under_epoch(left, old.epoch):
            await left.execute("CREATE TABLE copied ()")
            async with waiting(target) as second:
                await second.has_it()

    with pytest.raises(psycopg.OperationalError):
        await work_on()

    assert not target.value("SELECT to_regclass('copied') IS NOT NULL")


async def test_it_counts_our_sessions_by_what_they_are_for(target: Database, session: Connection) -> None:
    copying = "worker copy"
    async with waiting(target) as worker:
        lease = await worker.has_it()
        async with connected(target.dsn, Side.TARGET, copying), connected(target.dsn, Side.TARGET, copying):
            assert await lease.count_connections() == {"lease": 1, "test": 1, "worker copy": 2}


async def test_two_waiting_workers_get_it_one_after_the_other(target: Database) -> None:
    async with waiting(target) as first:
        await first.has_it()
        async with waiting(target) as second, waiting(target) as third:
            await asyncio.wait_for(asyncio.gather(second.told.wait(), third.told.wait()), 20)
            first.done.set()
            await asyncio.wait([second.lease, third.lease], timeout=20, return_when=asyncio.FIRST_COMPLETED)

            winner, other = (second, third) if second.lease.done() else (third, second)
            assert not other.lease.done()
            winner.done.set()
            await other.has_it()
