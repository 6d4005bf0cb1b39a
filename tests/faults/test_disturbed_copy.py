"""What may happen to a copy under way: servers restart, answers are lost, tables change, and it is told to stop."""

import pytest

from replicator.demo.servers import StopMode
from tests.fixtures.databases import Database
from tests.fixtures.gates import ROWS, Gates
from tests.fixtures.migration import Migration, MigrationMaker, add_ballast
from tests.fixtures.proxy import ProxyMaker
from tests.fixtures.waiting import wait_until

SECONDS = 15
"""What "within seconds" may mean on a busy machine."""


def wait_new_round(migration: Migration, before: dict[str, tuple[str, str]]) -> dict[str, tuple[str, str]]:
    """Wait until all tables have begun anew, and return what is recorded of them."""

    def begun() -> bool:
        return {lsn for _, lsn in migration.tables().values()}.isdisjoint(lsn for _, lsn in before.values())

    wait_until(begun, what="a new round")
    return migration.tables()


@pytest.mark.fault("source", "restarts during the copy: smart, fast, immediate", "copies again under a new snapshot")
def test_restarts_of_the_source_only_cost_a_new_round(migration: Migration, gates: Gates) -> None:
    gates.hold(ROWS)
    migration.worker.start()
    for mode in StopMode:
        gates.wait_reached(ROWS)
        before = migration.tables()
        migration.source.server.stop(mode, timeout=SECONDS)
        migration.source.server.start()
        wait_new_round(migration, before)

    gates.release()
    migration.wait_streaming()
    migration.finish()


@pytest.mark.fault("target", "restarts during the copy: smart, fast, immediate", "copies again under a new snapshot")
def test_restarts_of_the_target_only_cost_a_new_round(migration: Migration, gates: Gates) -> None:
    gates.hold(ROWS)
    migration.worker.start()
    for mode in StopMode:
        gates.wait_reached(ROWS)
        before = migration.tables()
        migration.target.server.restart(mode)
        gates.hold(ROWS)
        wait_new_round(migration, before)

    gates.release()
    migration.wait_streaming()
    migration.finish()


@pytest.mark.fault(
    "network", "is cut between a COMMIT of the copy and its answer", "keeps the rows, copies nothing twice"
)
def test_a_copy_whose_commit_had_no_answer_is_kept(
    source: Database, target: Database, gates: Gates, make_migration: MigrationMaker, make_proxy: ProxyMaker
) -> None:
    proxy = make_proxy(target.server.port)
    migration = make_migration(source, target, TARGET_DATABASE_URL=proxy.dsn(target.dsn))
    gates.hold(ROWS)
    migration.worker.start()
    gates.wait_reached(ROWS)
    before = migration.tables()
    proxy.lose_next_commit()

    gates.release()
    migration.wait_streaming()

    assert proxy.lost_answers == 1
    assert {lsn for _, lsn in migration.tables().values()} == {lsn for _, lsn in before.values()}
    migration.finish()


@pytest.mark.fault("source", "TRUNCATE and rewrites between snapshot and copy", "copies those tables again")
def test_tables_that_were_truncated_or_rewritten_since_the_snapshot_come_again(
    migration: Migration, gates: Gates
) -> None:
    add_ballast(migration.source)
    migration.settings = migration.worker.settings = migration.settings.model_copy(update={"copy_jobs": 1})
    gates.hold("ballast")
    migration.worker.start()
    # the largest comes first, and the others wait for the only connection
    gates.wait_reached("ballast")
    before = migration.tables()
    migration.source.execute("TRUNCATE proposals")
    migration.source.execute("ALTER TABLE documents ALTER COLUMN views TYPE bigint")
    # these rows would be rounded to the type that the target's schema was made with
    migration.source.execute("ALTER TABLE accounts ALTER COLUMN balance TYPE numeric(14, 4)")
    migration.source.execute("UPDATE accounts SET balance = 0.1234")

    gates.release()
    migration.wait_streaming()

    changed = {name for name, (_, lsn) in migration.tables().items() if lsn != before[name][1]}
    assert changed == {"accounts", "documents", "proposals"}
    migration.finish()


@pytest.mark.fault("worker", "SIGTERM during the copy", "exits 0 within seconds, leaves nothing half done")
def test_sigterm_ends_a_copy_at_once_and_leaves_no_row(migration: Migration, gates: Gates) -> None:
    gates.hold(ROWS)
    migration.worker.start()
    gates.wait_reached(ROWS)

    assert migration.worker.stop(SECONDS) == 0

    gates.release()
    for table in migration.tables():
        wait_until(lambda name=table: migration.target.value(f"SELECT count(*) FROM {name}") == 0)  # type: ignore[misc]
    migration.start()
    migration.finish()
