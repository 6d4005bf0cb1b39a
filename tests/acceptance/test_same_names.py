"""What a deploy makes anew under a name that stays: the worker follows, or the cutover tells, never neither."""

import re
from typing import Final

import pytest

from replicator.model import Phase
from tests.fixtures.databases import Database, settings_for
from tests.fixtures.migration import differences
from tests.fixtures.worker import WorkerMaker, run_command, wait_caught_up, wait_for_phase

TABLES: Final = """
CREATE TABLE t1 (id int PRIMARY KEY, v text, n int); CREATE TABLE t2 (id int PRIMARY KEY, v text, n int);
CREATE UNIQUE INDEX by_v ON t1 (v); CREATE INDEX by_n ON t1 (n); CREATE STATISTICS st ON v, n FROM t1;
INSERT INTO t1 SELECT n, 'v' || n, n FROM generate_series(1, 9) n;
CREATE TABLE p (id int, r int, v text, PRIMARY KEY (id, r)) PARTITION BY RANGE (r); CREATE INDEX p_u ON p (v, r);
CREATE TABLE p1 PARTITION OF p FOR VALUES FROM (0) TO (10); CREATE TABLE p2 PARTITION OF p FOR VALUES FROM (10) TO (30)
 PARTITION BY RANGE (r); CREATE TABLE p2a PARTITION OF p2 FOR VALUES FROM (10) TO (20);
INSERT INTO p VALUES (1, 1, 'a'), (2, 12, 'b')
"""
INDEXES: Final = """
SELECT concat_ws(' ', pg_get_indexdef(x.indexrelid), x.indisvalid, i.inhparent::regclass)
  FROM pg_index x JOIN pg_class c ON c.oid = x.indexrelid LEFT JOIN pg_inherits i ON i.inhrelid = c.oid
 WHERE c.relnamespace = 'public'::regnamespace
 UNION ALL
SELECT pg_get_statisticsobjdef(oid) FROM pg_statistic_ext
 ORDER BY 1
"""
COLLATIONS: Final = """
SELECT attrelid::regclass::text, attname, attcollation::regcollation::text FROM pg_attribute
 WHERE attrelid::regclass::text IN ('t1', 'p', 'p1', 'p2', 'p2a') ORDER BY 1, 2
"""


@pytest.mark.parametrize(
    "deploy",
    [
        "DROP INDEX by_v; CREATE UNIQUE INDEX by_v ON t2 (v)",
        "DROP INDEX by_n; CREATE INDEX by_n ON t2 (n)",
        "DROP INDEX by_v, by_n; CREATE UNIQUE INDEX by_v ON t2 (v); CREATE INDEX by_n ON p (id)",
        "DROP STATISTICS st; CREATE STATISTICS st (mcv) ON id, n FROM t1",
        "DROP STATISTICS st; CREATE STATISTICS st ON v, n FROM t2",
        "DROP INDEX p_u; CREATE UNIQUE INDEX p_u ON p (v, r)",
        "DROP INDEX p_u; CREATE INDEX p_u ON t1 (v, n)",
    ],
)
def test_law_4_indexes_and_statistics_that_are_others_under_their_names_are_the_sources_after_the_cutover(
    source: Database, target: Database, make_worker: WorkerMaker, deploy: str
) -> None:
    """Given one that is of another table, or columns, or has partitions' indexes below it, then no other is lost."""
    source.execute(TABLES)
    settings = settings_for(source, target, schema_interval=0.3, recheck_interval=0.5)
    worker = make_worker(settings)
    worker.start()
    wait_for_phase(target, Phase.STREAMING, worker)

    source.execute(deploy)
    source.execute("INSERT INTO t2 VALUES (1, 'x', 1); INSERT INTO p VALUES (3, 3, 'c'), (4, 14, 'd')")
    wait_caught_up(source, target, worker)
    done = run_command(settings, "cutover")

    assert done.returncode == 0, done.stderr
    assert target.fetch(INDEXES) == source.fetch(INDEXES)
    assert differences(source, target) == []


def test_law_4_another_collation_of_a_column_keeps_the_cutover_from_beginning(
    source: Database, target: Database, make_worker: WorkerMaker
) -> None:
    """Given a column of a table, and one that partitions inherit, then the cutover tells statements that work."""
    source.execute(TABLES)
    settings = settings_for(source, target, schema_interval=0.3, recheck_interval=0.5)
    worker = make_worker(settings)
    worker.start()
    wait_for_phase(target, Phase.STREAMING, worker)
    source.execute('ALTER TABLE t1 ALTER v TYPE text COLLATE "POSIX"; ALTER TABLE p ALTER v TYPE text COLLATE "C"')

    refused = run_command(settings, "cutover")

    assert refused.returncode == 1
    told = re.findall(
        r"column public.*? is COLLATE .*? — Run on the target: (ALTER TABLE .*?COLLATE .*?)[.]?$", refused.stderr, re.M
    )
    assert len(told) == 2, refused.stderr
    for statement in told:
        target.execute(statement)
    done = run_command(settings, "cutover")
    assert done.returncode == 0, done.stderr
    assert target.fetch(COLLATIONS) == source.fetch(COLLATIONS)
