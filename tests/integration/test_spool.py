"""The spool on a real target: tables that are ready take their changes at once, the others' wait, each once."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import replace
from uuid import uuid4

import pytest

from monitoring.metrics import Metrics
from replicator import control
from replicator.errors import FencedError, SchemaMismatchError
from replicator.lag import LagTracker
from replicator.model import LogicalMessage, Relation, TableState, Transaction, Truncate
from replicator.pulse import Counters
from replicator.spool.flow import HoldingFlow
from replicator.spool.target import HoldingTarget
from tests.fixtures.applying import START, Applier
from tests.fixtures.changes import insert, piece, transaction
from tests.fixtures.script import Script

INTERVAL = 0.05
SNAPSHOT = 5000


class Spooled:
    """A table that is ready, and one that is being copied, whose snapshot lies at ``SNAPSHOT``."""

    def __init__(self, applier: Applier, ready: Relation, copied: Relation) -> None:
        self.applier = applier
        self.ready = ready
        self.copied = copied
        self.interrupt = asyncio.Event()

    @contextlib.asynccontextmanager
    async def flow(self, script: Script) -> AsyncIterator[HoldingFlow]:
        target = await HoldingTarget.open(self.applier.database.superuser_dsn, self.applier.epoch)
        try:
            await target.begin()
            yield HoldingFlow(script, target, Metrics(), Counters(), LagTracker())
        finally:
            await target.close()

    async def streamed(self, *transactions: Transaction, idle: int | None = None) -> None:
        """In a session of its own, take these while ready tables stream."""
        script = Script()
        script.hand_out(*transactions, idle=idle)
        async with self.flow(script) as flow:
            task = asyncio.create_task(flow.stream_ready(INTERVAL, self.interrupt))
            await asyncio.wait((task,), timeout=6 * INTERVAL)
            self.interrupt.set()
            await task
            self.interrupt.clear()

    async def drained(self) -> None:
        async with self.flow(Script()) as flow:
            await flow.drain(INTERVAL)

    def finish_copy(self) -> None:
        self.applier.execute("UPDATE replicator.tables SET state = 'ready' WHERE name = 'copied'")

    def ids(self, name: str) -> list[int]:
        return [n for (n,) in self.applier.rows(f"SELECT id FROM {name} ORDER BY id")]

    @property
    def chunks(self) -> int:
        return int(self.applier.rows("SELECT count(*) FROM replicator.spool")[0][0])

    @property
    def ends_at(self) -> int | None:
        ((end,),) = self.applier.rows("SELECT (spooled - '0/0')::bigint FROM replicator.progress")
        return None if end is None else int(end)

    def both(self, n: int, lsn: int) -> Transaction:
        return transaction(insert(self.ready, str(n)), insert(self.copied, str(n)), lsn=lsn)


@pytest.fixture
async def spooled(plain_applier: Applier) -> Spooled:
    plain_applier.database.execute(
        "CREATE TABLE ready (id int PRIMARY KEY); CREATE TABLE copied (id int PRIMARY KEY REFERENCES ready)"
    )
    ready = await plain_applier.relation("ready", snapshot_lsn=START)
    copied = await plain_applier.relation("copied", snapshot_lsn=SNAPSHOT, state=TableState.COPYING)
    return Spooled(plain_applier, ready, copied)


async def test_a_ready_table_streams_while_another_is_copied(spooled: Spooled) -> None:
    """Law 1: progress stays, for it is of all tables; the spool's end moves, for the stream goes on there."""
    await spooled.streamed(spooled.both(1, 2000), spooled.both(2, 6000))

    assert (spooled.ids("ready"), spooled.ids("copied")) == ([1, 2], [])
    assert (spooled.applier.progress(), spooled.ends_at) == (START, 6008)

    await spooled.streamed(idle=7000)
    assert spooled.ends_at == 7000


async def test_a_table_streams_as_soon_as_it_is_ready_and_has_taken_what_lies_behind_its_snapshot(
    spooled: Spooled,
) -> None:
    await spooled.streamed(spooled.both(1, 2000), spooled.both(2, 6000))
    spooled.finish_copy()

    await spooled.streamed(spooled.both(3, 7000))

    assert (spooled.ids("ready"), spooled.ids("copied")) == ([1, 2, 3], [2, 3])
    assert spooled.chunks == 0
    assert spooled.applier.progress() == START

    await spooled.drained()
    assert (spooled.applier.progress(), spooled.ends_at) == (7008, None)


async def test_law_2_a_large_transaction_is_applied_and_spooled_whole_or_not_at_all(spooled: Spooled) -> None:
    pieces = [piece(insert(spooled.ready, str(n)), insert(spooled.copied, str(n)), lsn=6000) for n in (1, 2)]
    await spooled.streamed(spooled.both(0, 5500), *pieces)
    assert (spooled.ids("ready"), spooled.chunks, spooled.ends_at) == ([0], 1, 5508)

    await spooled.streamed(*pieces, spooled.both(3, 6000))
    spooled.finish_copy()
    await spooled.drained()

    assert (spooled.ids("ready"), spooled.ids("copied")) == ([0, 1, 2, 3], [0, 1, 2, 3])


async def test_a_truncate_of_a_ready_table_and_of_one_that_waits_reaches_both(spooled: Spooled) -> None:
    """Though the target has a foreign key between them, which refuses to truncate one without the other."""
    truncate = Truncate((spooled.ready, spooled.copied), False, False)
    await spooled.streamed(spooled.both(1, 6000), transaction(truncate, lsn=6100), spooled.both(2, 6200))
    assert spooled.ids("ready") == [2]
    spooled.finish_copy()

    await spooled.drained()

    assert (spooled.ids("ready"), spooled.ids("copied")) == ([2], [2])


async def test_a_marker_is_seen_when_nothing_waits_any_more(spooled: Spooled) -> None:
    """The cutover takes it for the proof that all that lies before it is applied."""
    nonce = "0123456789abcdef" * 2
    marker = transaction(LogicalMessage("replicator", nonce.encode()), lsn=6100)
    await spooled.streamed(spooled.both(1, 6000), marker)
    assert spooled.applier.rows("SELECT marker FROM replicator.progress") == [(None,)]
    spooled.finish_copy()

    await spooled.drained()

    assert spooled.applier.rows("SELECT marker FROM replicator.progress") == [(nonce,)]


async def test_law_6_a_worker_whose_lease_was_taken_neither_spools_nor_applies(spooled: Spooled) -> None:
    script = Script()
    script.hand_out(spooled.both(1, 6000))
    async with spooled.flow(script) as flow:
        await control.take_lease(spooled.applier.connection, uuid4())
        with pytest.raises(FencedError):
            await flow.stream_ready(INTERVAL, spooled.interrupt)

    assert (spooled.ids("ready"), spooled.chunks) == ([], 0)


async def test_law_1_two_sessions_of_one_worker_do_not_both_spool_or_drain(spooled: Spooled) -> None:
    script = Script()
    async with spooled.flow(script) as late:
        await spooled.streamed(spooled.both(1, 6000))
        script.hand_out(spooled.both(1, 6000))
        with pytest.raises(FencedError):
            await late.hold(INTERVAL, spooled.interrupt)
    spooled.finish_copy()

    async with spooled.flow(Script()) as late:
        await spooled.streamed(idle=7000)
        with pytest.raises(FencedError):
            await late.drain(INTERVAL)

    assert (spooled.ids("ready"), spooled.ids("copied")) == ([1], [1])


async def test_what_the_target_takes_as_it_is_leaves_the_spool_before_its_operator_is_asked_for_a_statement(
    spooled: Spooled,
) -> None:
    """Given a column that was renamed in between, then the rows from before it are in when the target follows."""
    renamed = replace(spooled.copied, columns=(replace(spooled.copied.columns[0], name="number"),))
    await spooled.streamed(spooled.both(1, 6000), transaction(insert(renamed, "2"), lsn=6100))
    spooled.finish_copy()

    for _ in range(2):
        with pytest.raises(SchemaMismatchError, match=r"column id of public\.copied is NOT NULL"):
            await spooled.drained()
        assert (spooled.ids("copied"), spooled.chunks) == ([1], 1)
    spooled.applier.execute("ALTER TABLE copied RENAME id TO number")
    await spooled.drained()

    assert spooled.applier.rows("SELECT number FROM copied ORDER BY number") == [(1,), (2,)]


async def test_a_table_that_is_held_again_streams_only_after_what_was_spooled(spooled: Spooled) -> None:
    """As when the bootstrap wants to change tables that are ready."""
    script = Script()
    async with spooled.flow(script) as flow:
        script.hand_out(spooled.both(1, 6000))
        hold = asyncio.create_task(flow.hold(INTERVAL, spooled.interrupt))
        await asyncio.sleep(3 * INTERVAL)
        spooled.interrupt.set()
        await hold
        assert (spooled.ids("ready"), spooled.chunks) == ([], 2)
        spooled.interrupt.clear()
        script.hand_out(spooled.both(2, 6100))
        streams = asyncio.create_task(flow.stream_ready(INTERVAL, spooled.interrupt))
        await asyncio.sleep(6 * INTERVAL)
        spooled.interrupt.set()
        await streams

    assert (spooled.ids("ready"), spooled.ids("copied")) == ([1, 2], [])


async def test_law_7_a_column_whose_type_a_later_round_has_changed_takes_values_of_the_new_type(
    spooled: Spooled,
) -> None:
    """A session remembers statements with the types of their parameters: with the old one a time of day would go."""
    spooled.applier.execute("CREATE TABLE dated (id int PRIMARY KEY, v date)")
    dated = await spooled.applier.relation("dated", snapshot_lsn=START)
    script = Script()
    async with spooled.flow(script) as flow:
        for lsn, kind, value in ((6000, "date", "2026-01-01"), (7000, "timestamp", "2026-01-01 10:30:00")):
            spooled.applier.execute(f"ALTER TABLE dated ALTER v TYPE {kind}")
            streams = asyncio.create_task(flow.stream_ready(INTERVAL, spooled.interrupt))
            for n in range(2):  # the first may come before the table is known to be ready
                script.hand_out(transaction(insert(dated, str(lsn + n), value), lsn=lsn + n * 100))
                await asyncio.sleep(6 * INTERVAL)
            spooled.interrupt.set()
            await streams
            spooled.interrupt.clear()

    assert spooled.applier.rows("SELECT id, v::text FROM dated WHERE id > 7000") == [(7001, "2026-01-01 10:30:00")]
