"""A backlog that touches very many tables: each takes locks on the target until its batch is committed."""

import asyncio

import pytest

from monitoring.metrics import Metrics
from replicator import flow
from replicator.flow import Flow
from replicator.lag import LagTracker
from replicator.model import Transaction
from replicator.pulse import Counters
from tests.fixtures.applying import Applier, stage_all
from tests.fixtures.changes import insert, transaction
from tests.fixtures.script import Script

TABLES = 12


async def test_a_batch_ends_where_it_has_touched_many_tables(
    plain_applier: Applier, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Law 2: given transactions of a table each, when they come at once, then batches end between them."""
    monkeypatch.setattr(flow, "_MAX_TABLES", 5)
    stage_all(monkeypatch)
    for number in range(TABLES):
        plain_applier.execute(f"CREATE TABLE t{number} (id int PRIMARY KEY)")
    relations = [await plain_applier.relation(f"t{number}") for number in range(TABLES)]
    script, metrics = Script(), Metrics()
    moving = Flow(script, await plain_applier.open(), metrics, Counters(), LagTracker())
    changes: list[Transaction] = [
        transaction(insert(relation, "1"), lsn=2000 + 100 * number) for number, relation in enumerate(relations)
    ]
    script.hand_out(*changes)

    task = asyncio.create_task(moving.run(3600))
    try:
        async with asyncio.timeout(20):
            while plain_applier.progress() < changes[-1].end_lsn:
                await asyncio.sleep(0.01)
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    assert metrics.registry.get_sample_value("replicator_batch_changes_count") == 2
    for number in range(TABLES):
        assert plain_applier.rows(f"SELECT count(*) FROM t{number}") == [(1,)]
