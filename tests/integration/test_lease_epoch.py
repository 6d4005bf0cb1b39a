"""Law 6: what begins under an epoch, a copy, a step, a change of state, counts under no other (see test_lease.py)."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from uuid import UUID, uuid4

import pytest

from bootstrap.copy import Relay
from replicator import control
from replicator.control import TableRecord
from replicator.errors import FencedError, MigrationRemovedError, Side
from replicator.lease import hold_lease
from replicator.lsn import Lsn
from replicator.model import TableName, TableState
from replicator.postgres import Connection, connected
from tests.fixtures.databases import Database, settings_for

PATIENCE = 60.0
"""Seconds of silence that no test lasts."""

SOON = 20

NAME = TableName("public", "t")

_WAITS = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"


def ignore() -> None:
    """Nobody wants to know that a worker waits."""


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(SOON):
        while not condition():
            await asyncio.sleep(0.02)


@pytest.fixture
async def connection(target: Database) -> AsyncIterator[Connection]:
    """A session on a target with control tables."""
    async with connected(target.dsn, Side.TARGET, "test") as connection:
        await control.create(connection)
        yield connection


# --- whose writes count -----------------------------------------------------------------------------------------------


async def test_law_6_progress_changes_hands_with_the_lease(target: Database, connection: Connection) -> None:
    """Laws 1 and 6: from then on the compare-and-set of the worker before finds no row."""
    before = uuid4()
    await control.take_lease(connection, before)
    await control.start_progress(connection, before, Lsn(1000))

    async with hold_lease(target.dsn, PATIENCE, ignore):
        with pytest.raises(FencedError):
            await control.advance(connection, before, Lsn(1000), Lsn(2000))

    progress = await control.read_progress(connection)
    assert progress is not None
    assert progress.lsn == Lsn(1000)


async def test_a_worker_whose_control_tables_are_gone_says_so(target: Database) -> None:
    async with hold_lease(target.dsn, PATIENCE, ignore) as lease:
        target.execute("DROP SCHEMA replicator CASCADE")

        with pytest.raises(MigrationRemovedError):
            await lease.beat({})


async def test_law_6_a_transaction_under_another_epoch_is_refused(connection: Connection) -> None:
    await control.take_lease(connection, uuid4())

    with pytest.raises(FencedError):
        async with control.under_epoch(connection, uuid4()):
            pass


# --- copies and steps hold the epoch ----------------------------------------------------------------------------------

Held = Callable[[UUID], contextlib.AbstractAsyncContextManager[None]]


@pytest.fixture(params=["step", "copy"])
def holding(request: pytest.FixtureRequest, source: Database, target: Database) -> Held:
    """A transaction of the bootstrap on the target: one of psycopg's, and one of the relay."""

    @contextlib.asynccontextmanager
    async def step(epoch: UUID) -> AsyncIterator[None]:
        async with connected(target.dsn, Side.TARGET, "test") as session, control.under_epoch(session, epoch):
            yield

    @contextlib.asynccontextmanager
    async def copy(epoch: UUID) -> AsyncIterator[None]:
        settings = settings_for(source, target)
        async with Relay.opened(
            settings.source, settings.target, epoch, replica=False, count_bytes=lambda _: None
        ) as relay:
            await relay.begin_target()
            yield

    return copy if request.param == "copy" else step


async def test_law_6_the_lease_is_not_taken_while_a_transaction_of_its_worker_is_open(
    connection: Connection, target: Database, holding: Held
) -> None:
    """Else the next worker would empty a table that the one before is about to commit rows into."""
    epoch = uuid4()
    await control.take_lease(connection, epoch)
    async with holding(epoch):
        taking = asyncio.create_task(control.take_lease(connection, uuid4()))
        await until(lambda: taking.done() or target.value(_WAITS, superuser=True))
        assert not taking.done()

    async with asyncio.timeout(SOON):
        await taking


async def test_law_6_no_transaction_begins_under_another_epoch(connection: Connection, holding: Held) -> None:
    await control.take_lease(connection, uuid4())

    with pytest.raises(FencedError):
        async with holding(uuid4()):
            pass


async def test_law_6_the_state_of_a_table_is_not_recorded_under_another_epoch(
    source: Database, target: Database, connection: Connection
) -> None:
    """A table that came in parts becomes *copied* in a statement of its own, after their transactions."""
    await control.take_lease(connection, uuid4())
    await control.add_tables(connection, [TableRecord(NAME, 1, TableState.COPYING)])

    async with Relay.opened(source.dsn, target.dsn, uuid4(), replica=False, count_bytes=lambda _: None) as relay:
        with pytest.raises(FencedError):
            await relay.set_states(TableState.COPIED, {NAME: None})

    assert (await control.read_tables(connection))[NAME].state is TableState.COPYING
