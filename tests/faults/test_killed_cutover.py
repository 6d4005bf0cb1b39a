"""kill -9 of `replicator cutover`: before the point of no return its fence lifts itself, after it a rerun ends it."""

import subprocess

import pytest

from replicator.cutover.plan import Step
from replicator.demo.worker import command, environment
from tests.fixtures.databases import Database
from tests.fixtures.gates import Gates
from tests.fixtures.migration import Migration, MigrationMaker
from tests.fixtures.waiting import wait_until


def kill_at(step: Step, migration: Migration, gates: Gates) -> None:
    """Kill a cutover that has done ``step``, when it is about to record that."""
    gates.hold(step.recorded_name)
    with subprocess.Popen([command(), "cutover"], env=environment(migration.settings)) as process:
        gates.wait_reached(step.recorded_name)
        process.kill()
    gates.send_away(step.recorded_name)
    gates.release()


@pytest.mark.fault("worker", "the cutover is killed inside its fence", "the fence lifts itself at its deadline")
def test_the_fence_of_a_killed_cutover_lifts_itself(
    source: Database, target: Database, gates: Gates, make_migration: MigrationMaker
) -> None:
    migration = make_migration(source, target, cutover_timeout=4)
    migration.start()
    kill_at(Step.FENCE, migration, gates)
    wait_until(lambda: migration.app.refused, what="the app meets the fence")

    before = migration.app.committed
    wait_until(lambda: migration.app.committed > before + 20, what="the app writes again")

    migration.assert_equal()
    migration.finish()


STEPS = (Step.FENCE, Step.CONFIRM, Step.POINT_OF_NO_RETURN, Step.SEAL, Step.SCHEMA, Step.OPEN, Step.VALIDATE)
"""Before the point of no return, at it, and after it; the others are like these."""


@pytest.mark.fault("worker", "the cutover is killed at each step", "the next one goes on to the end")
def test_killed_at_one_step_after_the_other_it_goes_on_to_the_end(migration: Migration, gates: Gates) -> None:
    migration.start()
    for step in STEPS:
        kill_at(step, migration, gates)

    report = migration.cut_over()

    assert report["left_out"] == report["unfinished"] == []
    migration.assert_finished()
