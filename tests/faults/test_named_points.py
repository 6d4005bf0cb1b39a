"""kill -9 at named points of the code: before and after each commit, confirmation, change of phase and round."""

import itertools
import subprocess
import sys
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

import pytest

from replicator.demo.worker import environment
from tests.faults.conftest import StageFactory
from tests.faults.dying import owner_and_name
from tests.faults.stage import Stage, seeded
from tests.fixtures.databases import Database
from tests.fixtures.migration import Migration
from tests.fixtures.waiting import wait_until

DYING = Path(__file__).with_name("dying.py")

KILLED = -9

BOOTSTRAP = (
    "replicator.control.lease:take_lease",
    "replicator.control.migration:start_migration",
    "replicator.source.publication:create_publications",
    "replicator.source.slot:create_slot",
    "bootstrap.rounds:Round._record",
    "bootstrap.rounds:Round._make_places",
    "replicator.spool.target:HoldingTarget._spool",
    "bootstrap.transfer:Transfer._copy",
    "replicator.control.statements:mark_keys",
    "replicator.control.steps:record_step",
    "replicator.control.migration:set_phase",
    "replicator.control.spool:forget_chunks",
    "replicator.control.spool:end_spool",
)
"""In the order in which a migration comes to them, so that each start of the worker gets to the next one."""

STREAM = {
    "replicator.apply.target:Target._run_prepared": 5,
    "replicator.apply.target:Target.run": 3,
    "replicator.apply.target:Target.commit": 3,
    "replicator.apply.target:Target.advance": 3,
    "replicator.source.stream:ReplicationStream.confirm": 10,
    "replicator.source.feedback:Feedback.send": 5,
    "replicator.control.lease:heartbeat": 10,
}
"""Each with the number of calls among which one is chosen at random."""

COMMITS = tuple(STREAM)[:3]
"""Here only rows without a key are written: any other change may come twice, and not show."""

MOMENTS = ("before", "after")


@pytest.mark.parametrize("point", [*BOOTSTRAP, *STREAM])
def test_each_point_is_in_the_code(point: str) -> None:
    assert callable(getattr(*owner_and_name(point)))


def program(point: str, moment: str, call: int) -> list[str | Path]:
    return [sys.executable, DYING, point, moment, str(call)]


def wait_killed(migration: Migration, point: str, meanwhile: Callable[[], object] = lambda: None) -> None:
    """Wait until the worker has come to its point."""

    def ended() -> bool:
        meanwhile()
        return not migration.worker.running

    wait_until(ended, timeout=60, what=f"killed at {point}", interval=0.2)
    assert migration.worker.wait() == KILLED, migration.worker.current_log[-2000:]


@pytest.mark.fault(
    "worker",
    "kill -9 before and after each record, slot, round, commit and phase until it streams",
    "goes on with what is left, begins no finished table again",
)
@pytest.mark.parametrize("moment", MOMENTS)
@pytest.mark.long
def test_killed_at_each_point_of_the_bootstrap(
    source: Database, target: Database, new_stage: StageFactory, moment: str
) -> None:
    migration = new_stage(source, target, spool="always").migration
    for point in BOOTSTRAP:
        migration.worker.start(program(point, moment, 1))
        wait_killed(migration, point)

    migration.start()

    migration.assert_equal()


@pytest.mark.fault(
    "worker", "kill -9 before and after a commit, an idle advance, a confirmation, a heartbeat", "goes on where it was"
)
@pytest.mark.parametrize(
    ("point", "moment"),
    [
        pytest.param(point, moment, marks=[pytest.mark.long] if number else [])
        for number, (point, moment) in enumerate(itertools.product(STREAM, MOMENTS))
    ],
)
def test_killed_at_a_point_of_the_stream(stage: Stage, point: str, moment: str) -> None:
    migration, chance, commits = stage.migration, seeded(), point in COMMITS
    assert migration.worker.stop() == 0
    with migration.app.paused() if commits or point.endswith("advance") else nullcontext():
        migration.worker.start(program(point, moment, chance.randint(1, STREAM[point])))
        wait_killed(migration, point, lambda: write(migration.source, chance.choice(_ROWS) if commits else 0))

    migration.start()

    migration.assert_equal()


def write(source: Database, rows: int) -> None:
    """Move the WAL, with ``rows`` that show when they come twice."""
    source.execute("SELECT pg_logical_emit_message(true, 'test', '')" if not rows else _WRITE.format(rows))


_ROWS = (3, 200, 2000)
"""So few have a statement each, so many share one, and more go through COPY, beside others of a few."""

_WRITE = """
INSERT INTO visits SELECT '/twice', NULL, n FROM generate_series(1, {}) n;
UPDATE accounts SET balance = balance WHERE id IN (SELECT id FROM accounts LIMIT 3)
"""


@pytest.mark.fault(
    "worker", "the cutover is killed before and after what it records, in any order", "the next one goes on to the end"
)
@pytest.mark.long
def test_a_cutover_that_is_killed_at_random_points(own_stage: Stage) -> None:
    migration, chance = own_stage.migration, seeded()
    migration.start()
    for _ in range(6):
        point, calls = chance.choice([("replicator.control.steps:record_step", 8), (_SET_PHASE, 1)])
        command = [*program(point, chance.choice(MOMENTS), chance.randint(1, calls)), "cutover"]
        subprocess.run(command, env=environment(migration.settings), check=False, timeout=60)

    report = migration.cut_over()

    assert report["left_out"] == report["unfinished"] == []
    migration.assert_finished()


_SET_PHASE = "replicator.control.migration:set_phase"
