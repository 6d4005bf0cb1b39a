"""Deploys of functions and views, and of columns and checks that call functions by names without a schema."""

from typing import Final

import psycopg
import pytest

from tests.acceptance.cases.shapes import FUNCTIONS
from tests.fixtures.databases import Database
from tests.fixtures.migration import differences
from tests.fixtures.waiting import wait_until
from tests.fixtures.worker import WorkerMaker, run_command, start_streaming, wait_caught_up


def test_columns_and_checks_by_functions_come_by_themselves(
    source: Database, target: Database, make_worker: WorkerMaker
) -> None:
    """Given such functions, when a deploy adds a column, a default and a check by them, then the target has them."""
    source.execute(FUNCTIONS)
    source.execute("CREATE TABLE words (id int PRIMARY KEY, word text); INSERT INTO words VALUES (1, 'a')")
    settings, worker = start_streaming(source, target, make_worker, confirm_delay=0)

    source.execute("ALTER TABLE words ADD CONSTRAINT fine CHECK (is_fine(word)), ADD code text DEFAULT next_code()")
    source.execute("INSERT INTO words VALUES (2, 'b')")
    source.execute("ALTER TABLE words ADD loud text GENERATED ALWAYS AS (shouted(word)) STORED")
    source.execute("INSERT INTO words VALUES (3, 'c')")

    wait_caught_up(source, target, worker, timeout=30)
    wait_until(lambda: differences(source, target) == [], what="equal sides")
    assert "waiting until" not in worker.log
    done = run_command(settings, "cutover")
    assert done.returncode == 0, done.stderr
    target.execute("INSERT INTO words VALUES (4, 'd')")
    assert target.fetch("SELECT code LIKE 'code-%', loud FROM words WHERE id = 4") == [(True, "Dforbidden")]
    with pytest.raises(psycopg.errors.CheckViolation):
        target.execute("INSERT INTO words VALUES (5, 'forbidden')")


PROGRAMS: Final = """
CREATE TABLE words (id int PRIMARY KEY, word text, n int);
INSERT INTO words VALUES (1, 'a', 1);
CREATE FUNCTION price(n int, times int DEFAULT 2) RETURNS int LANGUAGE sql STABLE RETURN n * times;
CREATE FUNCTION marked() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN NEW.word := 'old'; RETURN NEW; END $$;
CREATE TRIGGER marked BEFORE INSERT ON words FOR EACH ROW EXECUTE FUNCTION marked();
CREATE PROCEDURE clean() LANGUAGE sql AS 'DELETE FROM words WHERE id < 0';
CREATE FUNCTION kind(words) RETURNS text LANGUAGE sql AS $$ SELECT 'old' $$;
CREATE VIEW short AS SELECT id, word FROM words WHERE length(word) < 2;
CREATE VIEW shorter AS SELECT id FROM short;
CREATE MATERIALIZED VIEW totals AS SELECT count(*) AS n FROM words; CREATE UNIQUE INDEX totals_n ON totals (n);
CREATE DOMAIN grade AS int CHECK (VALUE < 10); CREATE TABLE graded (id int PRIMARY KEY, grade grade);
CREATE TYPE pair AS (a int);
"""
REPLACED: Final = """
CREATE OR REPLACE FUNCTION price(n int, times int DEFAULT 3) RETURNS int LANGUAGE sql STABLE RETURN n * times + 1;
CREATE OR REPLACE FUNCTION marked() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER SET search_path = '' AS $$
  BEGIN NEW.word := E'new\\';\n-- Name: x; Type: TABLE; Schema: public; Owner: -\n'; RETURN NEW; END $$;
CREATE OR REPLACE PROCEDURE clean() LANGUAGE sql AS 'DELETE FROM words WHERE id < 1';
CREATE FUNCTION added() RETURNS int LANGUAGE sql RETURN 7;
CREATE OR REPLACE VIEW short WITH (security_barrier=true) AS
  SELECT id, word, n AS "New %s {}" FROM words WHERE length(word) < 3;
CREATE OR REPLACE VIEW shorter AS SELECT id, "New %s {}" FROM short;
CREATE VIEW shortest AS SELECT "New %s {}" FROM short;
DROP MATERIALIZED VIEW totals;
CREATE MATERIALIZED VIEW totals AS SELECT count(*) AS n, max(id) AS id FROM words;
CREATE INDEX totals_id ON totals (id);
CREATE MATERIALIZED VIEW others AS SELECT id FROM words; CREATE INDEX others_id ON others (id);
ALTER DOMAIN grade DROP CONSTRAINT grade_check; ALTER DOMAIN grade ADD CONSTRAINT grade_new CHECK (VALUE < 20);
ALTER DOMAIN grade SET DEFAULT 5; ALTER DOMAIN grade SET NOT NULL;
"""
MADE: Final = """
SELECT pg_get_functiondef(oid) FROM pg_proc WHERE pronamespace = 'public'::regnamespace
 UNION ALL
SELECT concat_ws(' ', oid::regclass, relkind, reloptions,
                 regexp_replace(pg_get_viewdef(oid), '(words|short)[.]', '', 'g')) FROM pg_class
 WHERE relkind IN ('v', 'm') AND relnamespace = 'public'::regnamespace
 UNION ALL
SELECT pg_get_indexdef(indexrelid) FROM pg_index WHERE indrelid::regclass::text IN ('totals', 'others')
 UNION ALL
SELECT concat_ws(' ', typname, typnotnull, typdefault, (SELECT string_agg(pg_get_constraintdef(oid), ' ')
                                                          FROM pg_constraint WHERE contypid = t.oid AND contype = 'c'))
  FROM pg_type t WHERE typtype = 'd' AND typnamespace = 'public'::regnamespace
 ORDER BY 1
"""


@pytest.mark.parametrize("version", ["source", "source_15"])
def test_law_4_what_a_deploy_has_replaced_is_the_sources_after_the_cutover(
    request: pytest.FixtureRequest, version: str, target: Database, make_worker: WorkerMaker
) -> None:
    """Given functions, procedures, views and domains that were there before, then the app finds the new ones."""
    source: Database = request.getfixturevalue(version)
    source.execute(PROGRAMS)
    settings, _ = start_streaming(source, target, make_worker, confirm_delay=0)
    assert target.fetch(MADE) == source.fetch(MADE)

    source.execute(REPLACED)
    source.execute("INSERT INTO graded VALUES (1, 3), (2, DEFAULT); REFRESH MATERIALIZED VIEW others")
    wait_until(lambda: target.value("SELECT to_regclass('others_id') IS NOT NULL"), what="the new view")
    done = run_command(settings, "cutover")

    assert done.returncode == 0, done.stderr
    assert target.fetch(MADE) == source.fetch(MADE)
    assert target.fetch("SELECT n, id FROM totals") == [(1, 1)]
    target.execute("INSERT INTO words VALUES (2, 'x', 0)")
    assert target.value("SELECT word LIKE 'new%' FROM words WHERE id = 2")


def test_what_cannot_be_replaced_keeps_the_cutover_from_beginning(
    source: Database, target: Database, make_worker: WorkerMaker
) -> None:
    """Given a function of another result and a view that lost a column, each is named; a type's attributes follow."""
    source.execute(PROGRAMS)
    settings, _ = start_streaming(source, target, make_worker, confirm_delay=0)

    source.execute(
        "DROP FUNCTION kind(words); CREATE FUNCTION kind(words) RETURNS int LANGUAGE sql AS 'SELECT 1';"
        "DROP VIEW shorter; CREATE VIEW shorter AS SELECT word FROM short; ALTER TYPE pair ADD ATTRIBUTE b text"
    )
    refused = run_command(settings, "cutover")

    assert refused.returncode == 1
    for name in ("function public.kind(public.words)", "view public.shorter"):
        assert name in refused.stderr
    assert "drop it on the target: the cutover makes it then" in refused.stderr.lower()
    target.execute("DROP FUNCTION kind(words); DROP VIEW shorter")
    done = run_command(settings, "cutover")
    assert done.returncode == 0, done.stderr
    assert target.fetch(MADE) == source.fetch(MADE)


def test_what_needs_the_new_tables_of_its_own_deploy_comes_with_them(
    source: Database, target: Database, make_worker: WorkerMaker
) -> None:
    """Given functions of new tables and columns, unlogged tables of logged ones and the other way round, then all come.

    A function is there before the cutover, if it can be made by then: a view may call it.
    """
    source.execute("CREATE TABLE words (id int PRIMARY KEY, word text)")
    settings, worker = start_streaming(source, target, make_worker, confirm_delay=0)

    source.execute("""
        CREATE TABLE tags (id int PRIMARY KEY, tag text); INSERT INTO tags VALUES (1, 'a');
        CREATE FUNCTION all_tags() RETURNS SETOF tags LANGUAGE sql AS 'SELECT * FROM tags';
        CREATE FUNCTION tag_of(tags) RETURNS text LANGUAGE sql RETURN $1.tag;
        CREATE PROCEDURE forget(n int) LANGUAGE sql BEGIN ATOMIC DELETE FROM tags WHERE id = n; END;
        CREATE VIEW known_tags AS SELECT tag FROM all_tags();
        CREATE UNLOGGED TABLE seen (at int) INHERITS (tags);
        CREATE UNLOGGED TABLE base (a int); CREATE TABLE above (id int PRIMARY KEY) INHERITS (base);
        INSERT INTO above VALUES (1, 2);
        ALTER TABLE words ADD weight int;
        CREATE FUNCTION weights() RETURNS SETOF int LANGUAGE sql BEGIN ATOMIC SELECT weight FROM words; END;
        INSERT INTO words VALUES (1, 'a', 7)
    """)
    wait_caught_up(source, target, worker)
    wait_until(lambda: target.value("SELECT to_regclass('known_tags') IS NOT NULL"), what="the view")

    assert target.fetch("SELECT * FROM known_tags") == [("a",)]
    assert target.fetch("SELECT * FROM weights()") == [(7,)]
    assert "waiting until" not in worker.log
    done = run_command(settings, "cutover")
    assert done.returncode == 0, done.stderr
    assert target.fetch(MADE) == source.fetch(MADE)
    assert target.value("SELECT count(*) FROM pg_class WHERE relname IN ('seen', 'base') AND relpersistence = 'u'") == 2
    assert differences(source, target) == []
