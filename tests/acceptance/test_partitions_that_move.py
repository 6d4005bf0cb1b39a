"""Partitions that are attached, detached and dropped while the worker streams: both trees stay the same."""

from difflib import unified_diff

from tests.fixtures.databases import Database
from tests.fixtures.dumps import dumped_schema
from tests.fixtures.migration import differences
from tests.fixtures.waiting import wait_until
from tests.fixtures.worker import WorkerMaker, run_command, start_streaming, wait_caught_up

SCHEMA = """
CREATE TABLE parts (id int PRIMARY KEY, v text) PARTITION BY RANGE (id);
CREATE INDEX ON parts (v);
CREATE TABLE parts_1 PARTITION OF parts FOR VALUES FROM (0) TO (10);
CREATE TABLE parts_2 PARTITION OF parts FOR VALUES FROM (10) TO (20);
CREATE TABLE parts_3 PARTITION OF parts FOR VALUES FROM (20) TO (40) PARTITION BY RANGE (id);
CREATE TABLE parts_3_a PARTITION OF parts_3 FOR VALUES FROM (20) TO (30);
CREATE TABLE parts_3_b PARTITION OF parts_3 FOR VALUES FROM (30) TO (40);
CREATE TABLE parts_4 PARTITION OF parts FOR VALUES FROM (40) TO (50);
CREATE TABLE alone (id int PRIMARY KEY, v text);
INSERT INTO parts SELECT n, 'v' || n FROM generate_series(1, 49) n; INSERT INTO alone VALUES (55, 'a'), (7, 'wrong')
"""


def test_partitions_are_attached_detached_and_dropped_while_rows_change(
    source: Database, target: Database, make_worker: WorkerMaker
) -> None:
    """Given a partitioned table that streams, when its tree changes, then the target's does, and no row is lost."""
    source.execute(SCHEMA)
    settings, worker = start_streaming(source, target, make_worker, confirm_delay=0)

    source.execute("UPDATE parts SET v = 'x' WHERE id % 7 = 0; ALTER TABLE parts DETACH PARTITION parts_1")
    source.execute("INSERT INTO parts_1 VALUES (100, 'no place in the tree'); UPDATE parts_1 SET v = 'y' WHERE id = 3")
    source.execute(
        "DELETE FROM alone WHERE id = 7; ALTER TABLE parts ATTACH PARTITION alone FOR VALUES FROM (50) TO (60)"
    )
    source.execute("UPDATE parts SET id = 56 WHERE id = 12; UPDATE parts SET v = 'z' WHERE id > 50")
    source.execute("DROP TABLE parts_2; CREATE TABLE parts_2_new PARTITION OF parts FOR VALUES FROM (10) TO (20)")
    source.execute("ALTER TABLE parts DETACH PARTITION parts_3; ALTER TABLE parts_3 DETACH PARTITION parts_3_b")
    source.execute("INSERT INTO parts VALUES (13, 'new'); UPDATE parts_3_b SET v = 'w'; UPDATE parts_3 SET v = 'w'")
    source.execute("ALTER TABLE parts DETACH PARTITION parts_4; DROP TABLE parts_4")

    wait_caught_up(source, target, worker)
    wait_until(lambda: differences(source, target) == [], what="equal sides")
    done = run_command(settings, "cutover")
    assert done.returncode == 0, done.stderr
    assert run_command(settings, "cleanup").returncode == 0
    stays = target.value("SELECT count(*) FROM parts_2 WHERE id <> 12")  # 12 left it: perhaps after the target's detach
    assert stays == 9, "what was dropped on the source stays, out of the tree"
    target.execute("DROP TABLE parts_2, parts_4")
    assert "\n".join(unified_diff(dumped_schema(source, settings), dumped_schema(target, settings), n=1)) == ""


WIDEN = "ALTER TABLE parts DETACH PARTITION {0}; ALTER TABLE parts ATTACH PARTITION {0} FOR VALUES FROM ({1}) TO ({2})"


def test_law_4_a_partition_gets_the_bounds_that_it_has_on_the_source(
    source: Database, target: Database, make_worker: WorkerMaker
) -> None:
    """Given a leaf and a branch that get other bounds, and rows within them, then the target's have the same."""
    source.execute(SCHEMA)
    settings, worker = start_streaming(source, target, make_worker, confirm_delay=0)

    source.execute(WIDEN.format("parts_4", 40, 100))
    source.execute("INSERT INTO parts VALUES (90, 'x'); UPDATE parts SET v = 'y' WHERE id = 45")
    source.execute("DELETE FROM parts WHERE id = 39")
    source.execute(WIDEN.format("parts_3", 20, 39))
    source.execute("UPDATE parts SET v = 'z' WHERE id = 22; DELETE FROM parts WHERE id = 23")
    wait_caught_up(source, target, worker)
    done = run_command(settings, "cutover")

    assert done.returncode == 0, done.stderr
    assert differences(source, target) == []
    assert run_command(settings, "cleanup").returncode == 0
    assert "\n".join(unified_diff(dumped_schema(source, settings), dumped_schema(target, settings), n=1)) == ""
