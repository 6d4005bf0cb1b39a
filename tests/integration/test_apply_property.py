"""The law of applying: batches of any cut leave the table that the same changes leave one by one, on a real server."""

import asyncio
import contextlib
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from enum import Enum

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from psycopg import sql
from psycopg.rows import TupleRow

from replicator.apply.batch import Batch
from replicator.model import Change, Delete, Insert, Relation, Update
from tests.fixtures.applying import Applier, join_all, new_applier, stage_all
from tests.fixtures.changes import piece, transaction
from tests.fixtures.databases import Database
from tests.fixtures.histories import BEFORE, BY_FULL_ROW, BY_KEY, COLUMNS, Step, histories

SECONDS = 3.0
"""For each shape of table; a failure gets more, to be made small."""

TABLE = """
CREATE TABLE {} (id numeric {key}, u int UNIQUE, big text, n int {identity},
                 double int GENERATED ALWAYS AS (u * 2) STORED);
ALTER TABLE {} ALTER big SET STORAGE EXTERNAL;
"""


class End(Enum):
    """What comes to its end with a change."""

    NOTHING = "nothing"
    PIECE = "piece"
    TRANSACTION = "transaction"
    BATCH = "batch"


ENDS = [End.NOTHING] * 3 + [End.TRANSACTION] * 3 + [End.PIECE, End.BATCH]


@dataclass
class Worker:
    """Folds and applies changes as the worker does, cut where the test says."""

    applier: Applier
    changes: list[Change] = field(default_factory=list)
    batch: Batch | None = None

    async def take(self, change: Change, end: End) -> None:
        self.changes.append(change)
        if end is End.PIECE:
            await self._piece()
        elif end is not End.NOTHING:
            await self._transaction()
        if end is End.BATCH:
            await self.apply()

    async def finish(self) -> None:
        await self._transaction()
        await self.apply()

    async def _piece(self) -> None:
        await self.apply()
        batch = await self.applier.batch(piece(*self._taken(), lsn=self.applier.next_lsn))
        await self.applier.target.run(batch)

    async def _transaction(self) -> None:
        self.batch = self.batch or await self.applier.batch()
        await self.applier.fold(self.batch, transaction(*self._taken(), lsn=self.applier.next_lsn))
        self.applier.next_lsn += 100

    async def apply(self) -> None:
        if self.batch is not None:
            batch, self.batch = self.batch, None
            await self.applier.target.apply(batch)

    def _taken(self) -> list[Change]:
        taken, self.changes = self.changes, []
        return taken


def fill(table: str) -> str:
    """What the table holds at first."""
    rows = sql.SQL(", ").join(
        sql.SQL("({})").format(sql.SQL(", ").join(map(sql.Literal, row))) for row in BEFORE.values()
    )
    return f"INSERT INTO {table} ({', '.join(COLUMNS)}) OVERRIDING SYSTEM VALUE VALUES {rows.as_string()}"


def one_by_one(steps: Sequence[Step]) -> str:
    """The same changes as an application would make them, on the table ``expected``."""
    return "; ".join(map(_statement, steps))


def _statement(step: Step) -> str:
    names = sql.SQL(", ").join(map(sql.Identifier, COLUMNS))
    values = sql.SQL(", ").join(map(sql.Literal, step.after or ()))
    if step.before is None:
        statement = sql.SQL("INSERT INTO expected ({}) OVERRIDING SYSTEM VALUE VALUES ({})").format(names, values)
    elif step.after is None:
        statement = sql.SQL("DELETE FROM expected WHERE id = {}").format(sql.Literal(step.before.id))
    else:
        assignments = [
            sql.SQL("{} = {}").format(sql.Identifier(name), sql.Literal(value))
            for name, value in zip(COLUMNS[:-1], step.after[:-1], strict=True)
        ]
        statement = sql.SQL("UPDATE expected SET {} WHERE id = {}").format(
            sql.SQL(", ").join(assignments), sql.Literal(step.before.id)
        )
    return statement.as_string()


SHAPES = {
    "plain": (BY_KEY, "PRIMARY KEY", ""),
    "identity": (BY_KEY, "PRIMARY KEY", "GENERATED ALWAYS AS IDENTITY"),
    "full": (BY_FULL_ROW, "PRIMARY KEY", ""),
    "keyless": (BY_FULL_ROW, "", ""),
}


@dataclass
class Given:
    """An empty table ``t`` to apply to, and one like it named ``expected``. Hypothesis draws outside of the loop."""

    runner: asyncio.Runner
    applier: Applier
    described: Relation
    relation: Relation
    deadline: float

    async def apply(self, steps: Sequence[Step], ends: Sequence[End]) -> None:
        worker = Worker(self.applier)
        try:
            for step, end in zip(steps, ends, strict=True):
                await worker.take(of(self.relation, step.change), end)
            await worker.finish()
        except BaseException:
            await self.applier.close()
            raise


def of(relation: Relation, change: Change) -> Change:
    """The change, of the table that is on the target."""
    assert isinstance(change, Insert | Update | Delete)
    return replace(change, relation=relation)


@pytest.fixture(params=SHAPES)
def table(
    request: pytest.FixtureRequest, applied_database: Database, application: psycopg.Connection[TupleRow]
) -> Iterator[Given]:
    described, key, identity = SHAPES[request.param]
    with asyncio.Runner() as runner, contextlib.ExitStack() as stack:
        applier = runner.run(new_applier(applied_database, application))
        stack.callback(lambda: runner.run(applier.end()))
        for name in ("t", "expected"):
            applier.execute(TABLE.format(name, name, key=key, identity=identity))
        relation = runner.run(applier.relation("t", identity=described.identity))
        yield Given(runner, applier, described, relation, time.monotonic() + SECONDS)


@settings(deadline=None, max_examples=60, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_any_batches_leave_what_the_changes_leave_one_by_one(table: Given, data: st.DataObject) -> None:
    steps = data.draw(histories(table.described, max_steps=15))
    ends = data.draw(st.lists(st.sampled_from(ENDS), min_size=len(steps), max_size=len(steps)))
    way = data.draw(st.sampled_from([None, join_all, stage_all]))
    if time.monotonic() > table.deadline:
        return
    applier, run = table.applier, table.runner.run
    applier.execute("TRUNCATE t, expected")
    applier.execute(fill("t"))
    applier.execute(fill("expected"))
    applier.execute(one_by_one(steps))

    deadline, table.deadline = table.deadline, table.deadline + 30
    with pytest.MonkeyPatch.context() as monkeypatch:
        if way is not None:
            way(monkeypatch)
        run(table.apply(steps, ends))
    assert run(applier.printed("TABLE t ORDER BY id")) == run(applier.printed("TABLE expected ORDER BY id"))
    table.deadline = deadline
