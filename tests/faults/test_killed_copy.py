"""kill -9 of the worker while it copies, at points that are held open; then `replicator run` again (law 8)."""

import pytest

from tests.fixtures.gates import INDEXES, ROWS, Gates
from tests.fixtures.migration import Migration, add_ballast
from tests.fixtures.waiting import wait_until


@pytest.mark.fault("worker", "kill -9 before any row is copied", "begins under a new snapshot")
def test_killed_before_any_row_is_copied_all_tables_come_under_a_new_snapshot(
    migration: Migration, gates: Gates
) -> None:
    gates.hold(ROWS)
    migration.worker.start()
    gates.wait_reached(ROWS)
    migration.worker.kill()
    before = migration.tables()
    assert {state for state, _ in before.values()} <= {"pending", "copying"}

    gates.release()
    migration.start()

    after = migration.tables()
    assert set(after) == set(before)
    assert {lsn for _, lsn in before.values()}.isdisjoint(lsn for _, lsn in after.values())
    migration.finish()


@pytest.mark.fault("worker", "kill -9 between two tables", "keeps what is copied, copies the others again")
def test_killed_between_tables_those_that_are_copied_stay_and_the_others_come_again(
    migration: Migration, gates: Gates
) -> None:
    add_ballast(migration.source)
    gates.hold("ballast")
    migration.worker.start()
    gates.wait_reached("ballast")
    wait_until(lambda: migration.tables()["sessions"][0] == "ready", what="the small tables are copied and indexed")
    migration.worker.kill()
    before = migration.tables()
    assert before["ballast"][0] == "copying"

    migration.worker.start()
    # the copy that the killed worker left behind still stands there, and must not be in the way
    wait_until(lambda: migration.tables()["ballast"][1] != before["ballast"][1], what="a new round")
    gates.wait_reached("ballast")
    gates.release()
    migration.wait_streaming()

    after = migration.tables()
    assert after.pop("ballast") > before.pop("ballast")
    assert after == before
    migration.finish()


@pytest.mark.fault("worker", "kill -9 while indexes are built", "keeps all rows")
def test_killed_while_indexes_are_built_no_table_is_copied_again(migration: Migration, gates: Gates) -> None:
    gates.hold(INDEXES)
    migration.worker.start()
    gates.wait_reached(INDEXES)
    migration.worker.kill()
    before = migration.tables()
    assert {state for state, _ in before.values()} <= {"copied", "ready"}

    gates.release()
    migration.start()

    assert {name: lsn for name, (_, lsn) in migration.tables().items()} == {
        name: lsn for name, (_, lsn) in before.items()
    }
    migration.finish()
