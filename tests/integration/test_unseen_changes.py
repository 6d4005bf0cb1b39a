"""Law 4: what the stream does not show brings the table again, in a round of its own."""

import pytest

from replicator.errors import SourceError, TargetError
from tests.fixtures.bootstrapping import assert_equal, run_bootstrap
from tests.fixtures.databases import Database, settings_for

ROOT = (
    "CREATE TABLE p (id int PRIMARY KEY) PARTITION BY RANGE (id);"
    "CREATE TABLE p1 PARTITION OF p FOR VALUES FROM (0) TO (10);"
    "CREATE TABLE p2 PARTITION OF p FOR VALUES FROM (10) TO (20);"
)
VIA_ROOT = "CREATE PUBLICATION mine FOR TABLE p WITH (publish_via_partition_root)"


@pytest.mark.parametrize(
    "change",
    [
        pytest.param("TRUNCATE p1", id="truncated"),
        pytest.param("ALTER TABLE p DETACH PARTITION p1", id="detached"),
        pytest.param("DROP TABLE p1", id="dropped"),
        pytest.param(
            "CREATE TABLE q (id int PRIMARY KEY); INSERT INTO q VALUES (21);"
            "ALTER TABLE p ATTACH PARTITION q FOR VALUES FROM (20) TO (30)",
            id="attached",
        ),
    ],
)
async def test_law_4_what_happens_to_a_leaf_below_a_published_root(
    source: Database, target: Database, change: str
) -> None:
    """Given changes that travel via the root, when a leaf is changed as a whole, then the target follows."""
    source.execute(ROOT + "INSERT INTO p VALUES (1), (11);" + VIA_ROOT)
    target.execute(ROOT + "CREATE TABLE more PARTITION OF p FOR VALUES FROM (20) TO (30)")
    settings = settings_for(source, target, REPLICATOR_SCHEMA="existing", publications="mine", exclude_schemas="hidden")
    await run_bootstrap(settings)
    source.execute(change)
    await run_bootstrap(settings)
    rows = "SELECT id FROM p ORDER BY id"
    assert target.fetch(rows) == source.fetch(rows)


async def test_an_empty_leaf_that_is_new_costs_no_round(source: Database, target: Database) -> None:
    """Given changes that travel via the root, when an empty partition is made, then the table's snapshot stays."""
    source.execute(ROOT + "INSERT INTO p VALUES (1), (11);" + VIA_ROOT)
    target.execute(ROOT)
    settings = settings_for(source, target, REPLICATOR_SCHEMA="existing", publications="mine")
    await run_bootstrap(settings)
    before = target.value("SELECT snapshot_lsn FROM replicator.tables")
    source.execute("CREATE TABLE p3 PARTITION OF p FOR VALUES FROM (20) TO (30)")
    await run_bootstrap(settings)
    assert target.value("SELECT snapshot_lsn FROM replicator.tables") == before


@pytest.mark.parametrize(
    ("publish", "less", "again"),
    [
        pytest.param(
            "FOR TABLE t",
            "SET (publish = 'insert')",
            "SET (publish = 'insert, update, delete, truncate')",
            id="operations",
        ),
        pytest.param(
            "FOR TABLES IN SCHEMA public", "DROP TABLES IN SCHEMA public", "ADD TABLES IN SCHEMA public", id="schema"
        ),
        pytest.param("FOR TABLE t, other", "DROP TABLE t", "ADD TABLE t", id="table"),
    ],
)
async def test_law_4_a_publication_that_sent_less_for_a_while(
    source: Database, target: Database, publish: str, less: str, again: str
) -> None:
    """Given the user's publication, when it leaves a table's updates out for a while, then the table comes again."""
    source.execute("CREATE TABLE t (id int PRIMARY KEY, v text); INSERT INTO t VALUES (1, 'old')")
    source.execute("CREATE TABLE other (id int PRIMARY KEY)")
    source.execute(f"CREATE PUBLICATION mine {publish}", superuser=True)
    settings = settings_for(source, target, publications="mine")
    await run_bootstrap(settings)
    source.execute(f"ALTER PUBLICATION mine {less}", superuser=True)
    source.execute("UPDATE t SET v = 'new'")
    source.execute(f"ALTER PUBLICATION mine {again}", superuser=True)
    await run_bootstrap(settings)
    await assert_equal(settings)


async def test_law_4_a_publication_that_was_gone_for_a_while(source: Database, target: Database) -> None:
    """Given the user's publication, when it is dropped and made again, then all its tables come again."""
    source.execute("CREATE TABLE t (id int PRIMARY KEY, v text); INSERT INTO t VALUES (1, 'old')")
    source.execute("CREATE PUBLICATION mine FOR TABLE t")
    settings = settings_for(source, target, publications="mine")
    await run_bootstrap(settings)
    source.execute("DROP PUBLICATION mine")
    with pytest.raises(SourceError, match="there is no publication mine") as refused:
        await run_bootstrap(settings)
    assert "make it again" in refused.value.hint
    source.execute("UPDATE t SET v = 'new'; CREATE PUBLICATION mine FOR TABLE t")
    await run_bootstrap(settings)
    await assert_equal(settings)
    snapshot = "SELECT snapshot_lsn FROM replicator.tables"
    assert target.value(f"SELECT lsn = ({snapshot}) FROM replicator.progress")


@pytest.mark.parametrize("via_root", [False, True])
async def test_law_4_partitions_that_travel_otherwise_than_before(
    source: Database, target: Database, via_root: bool
) -> None:
    """Given partitions by leaf or by root, when that is altered, then it stops with the remedy, and mixes no rows."""
    source.execute(ROOT + f"INSERT INTO p VALUES (1), (11); {VIA_ROOT}")
    source.execute(f"ALTER PUBLICATION mine SET (publish_via_partition_root = {via_root})")
    settings = settings_for(source, target, publications="mine", exclude_schemas="hidden")
    await run_bootstrap(settings)
    source.execute(
        f"ALTER PUBLICATION mine SET (publish_via_partition_root = {not via_root}); DELETE FROM p WHERE id = 1"
    )
    with pytest.raises(TargetError, match="is not empty on the target") as refused:
        await run_bootstrap(settings)
    assert "Empty it" in refused.value.hint
    target.execute("TRUNCATE p")
    await run_bootstrap(settings)
    assert target.fetch("TABLE p") == [(11,)]
