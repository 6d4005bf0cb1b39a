"""Rows that are written while no publication sends their table, in one transaction that no look at the source sees."""

from typing import Final

import pytest

from tests.fixtures.databases import Database
from tests.fixtures.migration import differences
from tests.fixtures.waiting import wait_until
from tests.fixtures.worker import WorkerMaker, run_command, start_streaming, wait_caught_up

PARTITIONED: Final = """
CREATE TABLE p (id int PRIMARY KEY, v text) PARTITION BY RANGE (id);
CREATE TABLE p1 PARTITION OF p FOR VALUES FROM (0) TO (10); CREATE TABLE p2 PARTITION OF p FOR VALUES FROM (10) TO (20);
INSERT INTO p VALUES (1, 'x'), (11, 'y')
"""
DETACHED: Final = """
ALTER TABLE p DETACH PARTITION p1; INSERT INTO p1 VALUES (2, 'q'); UPDATE p1 SET v = 'r' WHERE id = 1;
ALTER TABLE p ATTACH PARTITION p1 FOR VALUES FROM (0) TO (10)
"""
APART: Final = """
CREATE SCHEMA app; CREATE SCHEMA other; CREATE TABLE app.t (id int PRIMARY KEY, v text); INSERT INTO app.t VALUES (1)
"""
ELSEWHERE: Final = (
    "ALTER TABLE app.t SET SCHEMA other; INSERT INTO other.t VALUES (2); ALTER TABLE other.t SET SCHEMA app"
)
UNLOGGED: Final = "ALTER TABLE {0} SET UNLOGGED; INSERT INTO {0} VALUES (2); ALTER TABLE {0} SET LOGGED"
ALL: Final = "FOR ALL TABLES"


ALL_AS_ONE: Final = f"{ALL} WITH (publish_via_partition_root)"
AS_ONE: Final = "FOR TABLE p WITH (publish_via_partition_root)"
SCHEMA: Final = "FOR TABLES IN SCHEMA app"


@pytest.mark.parametrize(
    ("publication", "tables", "transaction"),
    [
        pytest.param("", PARTITIONED, DETACHED, id="partition"),
        pytest.param(ALL_AS_ONE, PARTITIONED, DETACHED, id="partition of all as one"),
        pytest.param(AS_ONE, PARTITIONED, DETACHED, id="partition of one"),
        pytest.param(SCHEMA, APART, ELSEWHERE, id="schema"),
        pytest.param(SCHEMA, APART, UNLOGGED.format("app.t"), id="schema, unlogged"),
        pytest.param(ALL, APART, UNLOGGED.format("app.t"), id="all, unlogged"),
        pytest.param("", PARTITIONED, UNLOGGED.format("p1"), id="partition, unlogged"),
        pytest.param(AS_ONE, PARTITIONED, UNLOGGED.format("p1"), id="partition of one, unlogged"),
    ],
)
def test_law_4_what_is_written_while_a_table_is_not_published_comes_again(
    source: Database, target: Database, make_worker: WorkerMaker, publication: str, tables: str, transaction: str
) -> None:
    """Given a table that leaves and comes back, written to meanwhile, then its rows are those of the source."""
    source.execute(tables)
    if publication:
        source.execute(f"CREATE PUBLICATION mine {publication}", superuser=True)
    settings, worker = start_streaming(source, target, make_worker, publications="mine" if publication else "")

    source.execute(transaction)
    wait_caught_up(source, target, worker)
    wait_until(lambda: differences(source, target) == [], what="equal sides")
    done = run_command(settings, "cutover")

    assert done.returncode == 0, done.stderr
    assert differences(source, target) == []
