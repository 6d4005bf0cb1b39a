"""Laws 2 and 3 of the flow: what is visible, and what counts as progress, between what came and what is committed."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass

import psycopg
import pytest

from monitoring.metrics import Metrics
from replicator.errors import DivergenceError
from replicator.flow import Flow
from replicator.lag import LagTracker
from replicator.lsn import INVALID
from replicator.model import Relation
from replicator.pulse import Counters
from tests.fixtures.applying import START, Applier
from tests.fixtures.changes import insert, piece, transaction, update
from tests.fixtures.script import Script

SOON = 20
INTERVAL = 0.2
"""Seconds between idle advances."""

NEVER = 3600.0

ROWS = "SELECT id FROM t ORDER BY id"


@dataclass
class Flowing:
    """A flow from a script to a table ``t`` of a real target."""

    script: Script
    counters: Counters
    applier: Applier
    relation: Relation
    task: asyncio.Task[None]

    async def until(self, condition: Callable[[], bool]) -> None:
        """Wait; whenever it looks, what counts as progress is durable on the target, or more (law 3)."""
        async with asyncio.timeout(SOON):
            while not condition():
                self.check()
                await asyncio.sleep(0.01)
        self.check()

    def check(self) -> None:
        if self.task.done():
            self.task.result()
        counted = self.counters.progress
        assert counted <= self.applier.progress()


Maker = Callable[[float], contextlib.AbstractAsyncContextManager[Flowing]]


@pytest.fixture
def flowing(plain_applier: Applier) -> Maker:
    @contextlib.asynccontextmanager
    async def make(interval: float) -> AsyncIterator[Flowing]:
        plain_applier.database.execute("CREATE TABLE t (id int PRIMARY KEY, a text)")
        relation = await plain_applier.relation("t")
        script, counters = Script(), Counters()
        target = await plain_applier.open()
        flow = Flow(script, target, Metrics(), counters, LagTracker())
        task = asyncio.create_task(flow.run(interval))
        try:
            yield Flowing(script, counters, plain_applier, relation, task)
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    return make


async def test_law_3_an_idle_advance_counts_once_it_is_persisted(flowing: Maker) -> None:
    async with flowing(INTERVAL) as it:
        for lsn in (2000, 3000, 4000):
            it.script.hand_out(idle=lsn)
            await it.until(lambda lsn=lsn: it.counters.progress == lsn)  # type: ignore[misc]

            assert it.applier.progress() == lsn


async def test_nothing_is_asked_for_again_and_again_while_the_next_piece_of_a_transaction_is_awaited(
    flowing: Maker,
) -> None:
    """Given an idle advance that waited to be persisted when a piece came, then it does not hurry the flow."""
    async with flowing(INTERVAL) as it:
        for lsn in (2000, 3000):
            it.script.hand_out(idle=lsn)
        it.script.hand_out(piece(insert(it.relation, "1", "a"), lsn=4000))
        await it.until(lambda: it.script.asked == 4)
        await asyncio.sleep(5 * INTERVAL)

        assert it.script.asked < 10


async def test_law_3_what_was_received_does_not_count_before_it_is_committed(flowing: Maker) -> None:
    async with flowing(INTERVAL) as it:
        await it.until(lambda: it.counters.progress == START)
        with psycopg.connect(it.applier.database.dsn) as other:
            other.execute("LOCK TABLE t")
            it.script.hand_out(transaction(insert(it.relation, "1", "x"), lsn=2000))
            it.script.hand_out(idle=3000)
            await it.until(lambda: it.counters.received > START)
            await asyncio.sleep(0.1)
            it.check()
            assert it.counters.progress == START

        await it.until(lambda: it.counters.progress == 3000)


async def test_law_3_no_idle_advance_is_made_inside_a_transaction_that_is_still_coming(flowing: Maker) -> None:
    """It would be rolled back with the transaction, after it was confirmed."""
    async with flowing(INTERVAL) as it:
        it.script.hand_out(idle=2000)
        await it.until(lambda: it.counters.progress == 2000)
        # this one waits for its interval, and before that a transaction begins
        it.script.hand_out(idle=3000)
        it.script.hand_out(piece(insert(it.relation, "1", "x"), lsn=4000))

        until = asyncio.get_running_loop().time() + 4 * INTERVAL
        await it.until(lambda: asyncio.get_running_loop().time() > until)

        assert it.applier.progress() in (2000, 3000)
        it.script.hand_out(transaction(insert(it.relation, "2", "x"), lsn=4000))
        await it.until(lambda: it.counters.progress == 4008)
        assert it.applier.rows(ROWS) == [(1,), (2,)]


async def test_law_2_pieces_are_seen_with_the_last_of_them_and_what_came_before_is_not_kept_waiting(
    flowing: Maker,
) -> None:
    async with flowing(NEVER) as it:
        it.script.hand_out(
            transaction(insert(it.relation, "1", "before"), lsn=2000),
            piece(insert(it.relation, "2", "piece"), lsn=3000),
        )
        it.script.hand_out(piece(insert(it.relation, "3", "piece"), update(it.relation, "1", "piece"), lsn=3000))
        await it.until(lambda: it.counters.changes == 4)

        assert it.applier.rows(ROWS) == [(1,)]
        assert it.counters.transactions == 1
        assert it.applier.progress() == 2008
        it.script.hand_out(transaction(insert(it.relation, "4", "last"), lsn=3000), idle=5000)
        await it.until(lambda: it.counters.progress >= 3008)
        assert it.applier.rows(ROWS) == [(1,), (2,), (3,), (4,)]


async def test_law_2_a_transaction_whose_last_piece_never_comes_leaves_nothing(flowing: Maker) -> None:
    async with flowing(NEVER) as it:
        it.script.hand_out(piece(insert(it.relation, "1", "x"), lsn=2000))
        await it.until(lambda: it.counters.changes == 1)
        it.task.cancel()
        await asyncio.gather(it.task, return_exceptions=True)
        await it.applier.close()

        assert it.applier.rows(ROWS) == []
        assert it.applier.progress() == START


async def test_law_4_nothing_that_comes_after_a_change_that_does_not_fit_is_applied(flowing: Maker) -> None:
    async with flowing(NEVER) as it:
        it.script.hand_out(transaction(update(it.relation, "1", "x"), lsn=2000))
        it.script.hand_out(transaction(insert(it.relation, "2", "x"), lsn=3000), idle=4000)

        with pytest.raises(DivergenceError):
            await asyncio.wait_for(it.task, SOON)

        assert it.applier.rows(ROWS) == []
        assert it.applier.progress() == START
        assert it.counters.progress in (START, INVALID)
