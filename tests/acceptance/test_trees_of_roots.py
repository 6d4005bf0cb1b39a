"""Partitioned tables that are published as one, and whose trees the app changes while the worker streams."""

from difflib import unified_diff
from typing import Final

import pytest

from tests.fixtures.databases import Database
from tests.fixtures.dumps import dumped_schema
from tests.fixtures.migration import differences
from tests.fixtures.waiting import wait_until
from tests.fixtures.worker import WorkerMaker, run_command, start_streaming, wait_caught_up

TREE: Final = """
CREATE TABLE parts (id int PRIMARY KEY, v text) PARTITION BY RANGE (id);
CREATE INDEX ON parts (v);
CREATE TABLE parts_1 PARTITION OF parts FOR VALUES FROM (0) TO (10);
CREATE TABLE parts_2 PARTITION OF parts FOR VALUES FROM (10) TO (20) PARTITION BY RANGE (id);
CREATE TABLE parts_2_a PARTITION OF parts_2 FOR VALUES FROM (10) TO (15);
CREATE TABLE parts_2_b PARTITION OF parts_2 FOR VALUES FROM (15) TO (20);
CREATE TABLE parts_rest PARTITION OF parts DEFAULT;
INSERT INTO parts SELECT n, 'v' || n FROM generate_series(1, 39) n
"""
CASES: Final = {
    "rows out of the default partition": [
        "ALTER TABLE parts DETACH PARTITION parts_rest",
        "CREATE TABLE parts_3 PARTITION OF parts FOR VALUES FROM (20) TO (30)",
        "INSERT INTO parts SELECT * FROM parts_rest WHERE id < 30; DELETE FROM parts_rest WHERE id < 30",
        "ALTER TABLE parts ATTACH PARTITION parts_rest DEFAULT; UPDATE parts SET v = 'x' WHERE id IN (25, 35)",
    ],
    "rows deleted before": [
        "DELETE FROM parts WHERE id BETWEEN 20 AND 29;"
        "CREATE TABLE parts_3 PARTITION OF parts FOR VALUES FROM (20) TO (30)",
        "INSERT INTO parts VALUES (22, 'again'); UPDATE parts SET v = 'x' WHERE id = 35",
    ],
    "a partition in two": [
        "ALTER TABLE parts DETACH PARTITION parts_1;"
        "CREATE TABLE parts_0 PARTITION OF parts FOR VALUES FROM (0) TO (5);"
        "CREATE TABLE parts_5 PARTITION OF parts FOR VALUES FROM (5) TO (10);"
        "INSERT INTO parts SELECT * FROM parts_1; DROP TABLE parts_1",
        "UPDATE parts SET v = 'x' WHERE id IN (3, 7)",
    ],
    "other bounds": [
        "DELETE FROM parts WHERE id BETWEEN 20 AND 24; ALTER TABLE parts DETACH PARTITION parts_2;"
        "ALTER TABLE parts ATTACH PARTITION parts_2 FOR VALUES FROM (10) TO (25);"
        "CREATE TABLE parts_2_c PARTITION OF parts_2 FOR VALUES FROM (20) TO (25)",
        "INSERT INTO parts VALUES (23, 'new'); UPDATE parts SET v = 'x' WHERE id = 12",
    ],
    "another name": [
        "ALTER TABLE parts_2 RENAME TO second; ALTER TABLE parts_2_a RENAME TO second_a",
        "UPDATE parts SET v = 'x' WHERE id IN (12, 17)",
    ],
    "a table attached": [
        "CREATE TABLE own (id int PRIMARY KEY, v text); INSERT INTO own VALUES (55, 'own'), (56, 'own')",
        "UPDATE own SET v = 'changed' WHERE id = 56",
        "ALTER TABLE parts ATTACH PARTITION own FOR VALUES FROM (50) TO (60)",
        "UPDATE parts SET v = 'x' WHERE id = 55; INSERT INTO parts VALUES (57, 'new')",
    ],
    "a partition detached": [
        "ALTER TABLE parts DETACH PARTITION parts_1",
        "UPDATE parts_1 SET v = 'x' WHERE id = 3; INSERT INTO parts_1 VALUES (100, 'far')",
        "CREATE TABLE parts_1_new PARTITION OF parts FOR VALUES FROM (0) TO (10); INSERT INTO parts VALUES (4, 'new')",
    ],
}


@pytest.mark.parametrize("at_once", [True, False], ids=["at once", "one by one"])
@pytest.mark.parametrize("transactions", CASES.values(), ids=CASES.keys())
def test_law_4_a_tree_that_is_published_as_one_becomes_the_sources(
    source: Database, target: Database, make_worker: WorkerMaker, transactions: list[str], *, at_once: bool
) -> None:
    """Given rows that the stream does not tell to have moved, then both sides have the same, without anybody's help."""
    source.execute("CREATE PUBLICATION mine FOR ALL TABLES WITH (publish_via_partition_root)", superuser=True)
    source.execute(TREE)
    settings, worker = start_streaming(source, target, make_worker, publications="mine", confirm_delay=0)

    for statements in transactions:
        source.execute(statements)
        if not at_once:
            wait_caught_up(source, target, worker)
    wait_caught_up(source, target, worker)
    wait_until(lambda: differences(source, target) == [], what="equal sides")
    done = run_command(settings, "cutover")

    assert done.returncode == 0, done.stderr
    assert "waiting until" not in worker.log
    assert not ("come again" in worker.log and transactions is CASES["another name"])
    assert run_command(settings, "cleanup").returncode == 0
    source.execute("DROP PUBLICATION mine", superuser=True)
    for table in dropped_tables(source, target):
        target.execute(f"DROP TABLE {table}")
    assert "\n".join(unified_diff(dumped_schema(source, settings), dumped_schema(target, settings), n=1)) == ""


@pytest.mark.parametrize("partition", [True, False], ids=["with a new partition", "alone"])
def test_changes_of_a_root_come_under_both_of_its_names(
    source: Database, target: Database, make_worker: WorkerMaker, *, partition: bool
) -> None:
    """Given a root that was renamed while its changes were on their way, then they arrive, and so do later ones."""
    source.execute("CREATE PUBLICATION mine FOR ALL TABLES WITH (publish_via_partition_root)", superuser=True)
    source.execute(TREE)
    settings, worker = start_streaming(source, target, make_worker, publications="mine", confirm_delay=0)

    worker.kill()
    source.execute("UPDATE parts SET v = 'before' WHERE id < 9")
    source.execute("ALTER TABLE parts RENAME TO whole")
    if partition:
        source.execute("CREATE TABLE whole_5 PARTITION OF whole FOR VALUES FROM (50) TO (60)")
    source.execute("INSERT INTO whole VALUES (55, 'new'); UPDATE whole SET v = 'after' WHERE id = 3")
    worker.start()

    wait_until(lambda: "waiting until" in worker.log, what="a pause")
    remedy = target.value("SELECT error->>'hint' FROM replicator.migration")
    assert (
        remedy
        == 'Run on the target: ALTER TABLE "public"."parts" RENAME TO "whole"; the worker goes on by itself then.'
    )
    assert target.value("SELECT count(*) FROM parts WHERE v = 'before'") == 8
    target.execute("ALTER TABLE parts RENAME TO whole")
    wait_caught_up(source, target, worker)
    wait_until(lambda: differences(source, target) == [], what="equal sides")
    done = run_command(settings, "cutover")

    assert done.returncode == 0, done.stderr
    assert target.value("SELECT count(*) FROM whole WHERE v IN ('before', 'new', 'after')") == 9
    assert bool(target.value("SELECT to_regclass('whole_5')")) is partition


def dropped_tables(source: Database, target: Database) -> set[str]:
    """What only the target has: tables that were dropped on the source stay there, out of the tree."""
    tables = "SELECT oid::regclass::text FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relkind = 'r'"
    return {name for (name,) in target.fetch(f"{tables} AND NOT relispartition")} - {
        name for (name,) in source.fetch(tables)
    }
