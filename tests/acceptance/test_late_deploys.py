"""A deploy that comes just before the cutover: the worker looks at the source's schema only now and then."""

from typing import Final

from tests.fixtures.databases import Database
from tests.fixtures.worker import WorkerMaker, run_command, start_streaming

BEFORE: Final = """
CREATE TABLE t (id int PRIMARY KEY, v text, n int); INSERT INTO t VALUES (1, 'a', 1); CREATE INDEX t_i ON t (v);
CREATE MATERIALIZED VIEW m AS SELECT id FROM t
"""
DEPLOY: Final = """
DROP INDEX t_i; CREATE INDEX t_i ON t (v, n); CREATE UNIQUE INDEX t_u ON t (n, v); CREATE STATISTICS st ON v, n FROM t;
DROP MATERIALIZED VIEW m; CREATE MATERIALIZED VIEW m AS SELECT id, n FROM t; CREATE VIEW w AS SELECT id FROM t;
CREATE SCHEMA extra; CREATE TYPE extra.e AS ENUM ('a'); CREATE EXTENSION pg_trgm;
CREATE INDEX t_g ON t USING gin (v gin_trgm_ops); CREATE UNLOGGED TABLE cache (id int PRIMARY KEY)
"""
THERE: Final = """
SELECT pg_get_viewdef('m'::regclass), (SELECT array_agg(pg_get_indexdef(indexrelid) ORDER BY indexrelid::regclass::text)
                                         FROM pg_index WHERE indrelid = 't'::regclass),
       to_regclass('w')::text, to_regtype('extra.e')::text, to_regclass('cache')::text,
       (SELECT count(*) FROM pg_statistic_ext), (SELECT count(*) FROM pg_extension WHERE extname = 'pg_trgm')
"""


def test_law_4_the_cutover_waits_until_the_worker_has_followed_the_last_deploy(
    source: Database, target: Database, make_worker: WorkerMaker
) -> None:
    """Given a worker that looks every few seconds, when a deploy and the cutover come between, nothing is missed."""
    source.execute(BEFORE)
    settings, _ = start_streaming(source, target, make_worker, schema_interval=4)

    source.execute(DEPLOY, superuser=True)
    done = run_command(settings, "cutover")

    assert done.returncode == 0, done.stderr
    assert target.fetch(THERE) == source.fetch(THERE)


def test_law_4_a_deploy_that_the_worker_cannot_follow_keeps_the_cutover_from_beginning(
    source: Database, target: Database, make_worker: WorkerMaker
) -> None:
    """Given a sequence that the target refuses, so that the worker waits, then the cutover says so."""
    source.execute(BEFORE)
    settings, _ = start_streaming(source, target, make_worker)

    target.execute("CREATE TABLE s (id int)")
    source.execute("CREATE SEQUENCE s; DROP MATERIALIZED VIEW m; CREATE MATERIALIZED VIEW m AS SELECT id, n FROM t")
    refused = run_command(settings, "cutover")

    assert refused.returncode == 1
    assert "has not followed" in refused.stderr
    target.execute("DROP TABLE s")
    done = run_command(settings, "cutover")
    assert done.returncode == 0, done.stderr
    assert target.fetch(THERE) == source.fetch(THERE)
