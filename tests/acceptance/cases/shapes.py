"""Tables of every shape: trees of partitions, columns that the server fills, and what belongs to a table."""

from typing import Final

from tests.acceptance.cases.case import Case

FUNCTIONS: Final = """
CREATE FUNCTION public.prefix() RETURNS text LANGUAGE sql STABLE AS $$ SELECT 'code-' $$;
CREATE FUNCTION public.next_code() RETURNS text LANGUAGE plpgsql AS
  $$ BEGIN RETURN prefix() || nextval('codes'); END $$;
CREATE SEQUENCE public.codes;
CREATE FUNCTION public.forbidden() RETURNS text LANGUAGE sql IMMUTABLE AS $$ SELECT 'forbidden' $$;
CREATE FUNCTION public.is_fine(text) RETURNS boolean LANGUAGE plpgsql IMMUTABLE AS
  $$ BEGIN RETURN $1 <> forbidden(); END $$;
CREATE FUNCTION public.shouted(text) RETURNS text LANGUAGE plpgsql IMMUTABLE AS
  $$ BEGIN RETURN upper($1) || forbidden(); END $$
"""
"""Functions that name others without their schema, as an app's do."""

TREE: Final = Case(
    "a tree of partitions: by list, range and hash, with defaults; rows moving through it",
    "CREATE TABLE tree (region text, at int, id int, v text, PRIMARY KEY (region, at, id)) PARTITION BY LIST (region);"
    "CREATE TABLE tree_eu PARTITION OF tree FOR VALUES IN ('eu', 'uk') PARTITION BY RANGE (at);"
    "CREATE TABLE tree_eu_1 PARTITION OF tree_eu FOR VALUES FROM (MINVALUE) TO (10) PARTITION BY HASH (id);"
    "CREATE TABLE tree_eu_1_0 PARTITION OF tree_eu_1 FOR VALUES WITH (MODULUS 2, REMAINDER 0);"
    "CREATE TABLE tree_eu_1_1 PARTITION OF tree_eu_1 FOR VALUES WITH (MODULUS 2, REMAINDER 1);"
    "CREATE TABLE tree_eu_2 PARTITION OF tree_eu FOR VALUES FROM (10) TO (20);"
    "CREATE TABLE tree_eu_rest PARTITION OF tree_eu DEFAULT;"
    "CREATE TABLE tree_us PARTITION OF tree FOR VALUES IN ('us', NULL);"
    "CREATE TABLE tree_rest PARTITION OF tree DEFAULT PARTITION BY RANGE (at, id);"
    "CREATE TABLE tree_rest_1 PARTITION OF tree_rest FOR VALUES FROM (0, 0) TO (10, 5);"
    "CREATE TABLE tree_rest_2 PARTITION OF tree_rest DEFAULT;"
    "INSERT INTO tree SELECT r, n, 100 * o + n, 'v'"
    " FROM unnest(ARRAY['eu', 'uk', 'us', 'jp']) WITH ORDINALITY r(r, o), generate_series(1, 25) n",
    (
        "UPDATE tree SET v = 'w' WHERE id % 3 = 0",
        "UPDATE tree SET at = at + 10 WHERE id % 5 = 0; UPDATE tree SET region = 'us' WHERE id = 407;"
        "UPDATE tree SET v = 'moved' WHERE id = 407",
        "UPDATE tree SET region = 'jp' WHERE id = 308; DELETE FROM tree WHERE at = 9;"
        "UPDATE tree SET region = 'eu', at = 15 WHERE id = 308",
        "INSERT INTO tree SELECT 'uk', n, n, 'new' FROM generate_series(1000, 1010) n; UPDATE tree SET at = -at",
    ),
    "INSERT INTO tree VALUES ('eu', 5000, 1, 'x'), ('nowhere', 5, 5, 'x')",
)
ODD_TREE: Final = Case(
    "partitions whose columns lie in another order than their root's, with holes",
    "CREATE TABLE odd (id int, gone text, v text, n int, PRIMARY KEY (id)) PARTITION BY RANGE (id);"
    "ALTER TABLE odd DROP gone; CREATE TABLE odd_1 (n int, v text, hole int, id int NOT NULL);"
    "ALTER TABLE odd_1 DROP hole; ALTER TABLE odd ATTACH PARTITION odd_1 FOR VALUES FROM (0) TO (10);"
    "CREATE TABLE odd_2 PARTITION OF odd FOR VALUES FROM (10) TO (20);"
    "INSERT INTO odd SELECT v, 'v' || v, v FROM generate_series(1, 15) v",
    (
        "UPDATE odd SET v = 'w', n = 0 WHERE id < 5; DELETE FROM odd WHERE id = 3",
        "UPDATE odd SET id = id + 10 WHERE id = 9; INSERT INTO odd VALUES (3, 'again', 3)",
    ),
)
HOLES: Final = Case(
    "columns dropped in the past, first, last and in between, others added with a frozen default",
    "CREATE TABLE holes (a int, id int PRIMARY KEY, b text, v text, c int);"
    "INSERT INTO holes SELECT n, n, 'b', 'v', n FROM generate_series(1, 4) n;"
    "ALTER TABLE holes DROP a, DROP c, ADD d int DEFAULT 7, ADD e text; INSERT INTO holes VALUES (5, 'b', 'v', 1, 'e');"
    "ALTER TABLE holes DROP b, ADD b jsonb DEFAULT '{}', ADD a int GENERATED ALWAYS AS (id + 1) STORED",
    (
        "UPDATE holes SET v = 'w' WHERE id = 1; UPDATE holes SET b = '[1]', d = NULL WHERE id = 2",
        "DELETE FROM holes WHERE id = 3; INSERT INTO holes (id, v) VALUES (3, 'new');"
        "UPDATE holes SET id = 9 WHERE id = 4",
    ),
)
GENERATED: Final = Case(
    "stored generated columns, also in an index and of what was not sent",
    "CREATE TABLE stored (id int PRIMARY KEY, first text, total int GENERATED ALWAYS AS (length(first) + n) STORED,"
    " n int, CHECK (total < 1000000)); CREATE UNIQUE INDEX ON stored ((total * 100 + id));"
    "INSERT INTO stored VALUES (1, 'a', DEFAULT, 1), (2, repeat('large', 10000), DEFAULT, 2), (3, NULL, DEFAULT, 3)",
    (
        "UPDATE stored SET n = 20 WHERE id = 2; UPDATE stored SET first = 'x' WHERE id = 3",
        "INSERT INTO stored (id, first, n) VALUES (4, 'new', 4); UPDATE stored SET id = 5 WHERE id = 4",
    ),
)
IDENTITIES: Final = Case(
    "identity columns, ALWAYS and BY DEFAULT, as keys and beside them",
    "CREATE TABLE always (id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, v text);"
    "CREATE TABLE by_default (id bigint GENERATED BY DEFAULT AS IDENTITY (START 10 INCREMENT 5) PRIMARY KEY, v text);"
    "CREATE TABLE beside (id int PRIMARY KEY, n int GENERATED ALWAYS AS IDENTITY, v text, u int UNIQUE);"
    "INSERT INTO always (v) VALUES ('a'), ('b'), ('c'); INSERT INTO by_default (v) VALUES ('a'), ('b');"
    "INSERT INTO beside (id, v, u) VALUES (1, 'a', 1), (2, 'b', 2), (3, 'c', 3)",
    (
        "UPDATE always SET v = 'x' WHERE id = 1; UPDATE by_default SET id = 7 WHERE id = 10",
        "INSERT INTO always OVERRIDING SYSTEM VALUE VALUES (100, 'h'); UPDATE always SET id = DEFAULT WHERE id = 2;"
        "INSERT INTO always (v) VALUES ('d')",
        "UPDATE beside SET v = 'y' WHERE id = 1; UPDATE beside SET n = DEFAULT WHERE id = 2;"
        "DELETE FROM beside WHERE id = 3",
        "UPDATE beside SET u = 9 WHERE id = 1; UPDATE beside SET u = 1 WHERE id = 2;"
        "UPDATE beside SET u = 2 WHERE id = 1",
    ),
    "INSERT INTO always (v) VALUES ('after'); INSERT INTO by_default (v) VALUES ('after');"
    "INSERT INTO beside (id, v) VALUES (50, 'after')",
)
FUNCTIONAL: Final = Case(
    "defaults, checks and generated columns by functions that name others without their schema",
    "CREATE TABLE functional (id int PRIMARY KEY, code text NOT NULL DEFAULT next_code(),"
    " word text CHECK (is_fine(word)), loud text GENERATED ALWAYS AS (shouted(word)) STORED);"
    "ALTER TABLE functional ADD CONSTRAINT later CHECK (is_fine(lower(word))) NOT VALID;"
    "CREATE DOMAIN fine AS text CHECK (is_fine(VALUE)); CREATE TABLE of_domain (id int PRIMARY KEY, v fine);"
    "INSERT INTO functional (id, word) VALUES (1, 'a'), (2, 'b'); INSERT INTO of_domain VALUES (1, 'a')",
    (
        "INSERT INTO functional (id, word) VALUES (3, 'c'); UPDATE functional SET word = 'b' WHERE id = 1",
        "DELETE FROM functional WHERE id = 2; UPDATE functional SET id = 2 WHERE id = 1;"
        "INSERT INTO of_domain VALUES (2, 'b')",
        "UPDATE of_domain SET v = 'c'",
    ),
    "INSERT INTO functional (id, word) VALUES (50, 'a'), (51, 'b'); INSERT INTO of_domain VALUES (50, 'c')",
)
SECURED: Final = Case(
    "row-level security, enabled and forced",
    "CREATE TABLE enabled (id int PRIMARY KEY, owner name, v text); ALTER TABLE enabled ENABLE ROW LEVEL SECURITY;"
    "CREATE TABLE forced (id int PRIMARY KEY, owner name, v text); ALTER TABLE forced ENABLE ROW LEVEL SECURITY;"
    "ALTER TABLE forced FORCE ROW LEVEL SECURITY; CREATE POLICY own ON forced USING (owner = current_user);"
    "INSERT INTO enabled SELECT n, 'somebody', 'v' FROM generate_series(1, 4) n; INSERT INTO forced TABLE enabled",
    (
        "UPDATE enabled SET v = 'w' WHERE id = 1; UPDATE forced SET v = 'w' WHERE id = 1",
        "DELETE FROM enabled WHERE id = 2; DELETE FROM forced WHERE id = 2; INSERT INTO forced VALUES (7, 'else', 'v')",
    ),
)
INDEXED: Final = Case(
    "unique indexes over expressions and over some of the rows, their values changing hands",
    "CREATE TABLE people (id int PRIMARY KEY, email text, tenant int, active boolean, at tstzrange);"
    "CREATE UNIQUE INDEX ON people (tenant, lower(email)) INCLUDE (active);"
    "CREATE UNIQUE INDEX ON people (tenant) WHERE active; CREATE INDEX ON people USING brin (tenant);"
    "CREATE INDEX ON people USING gist (at); CREATE INDEX ON people USING hash (email);"
    "INSERT INTO people SELECT n, 'P' || n, n % 3, n < 3, NULL FROM generate_series(1, 6) n",
    (
        "UPDATE people SET active = false WHERE id = 1; UPDATE people SET active = true WHERE id = 4;"
        "UPDATE people SET email = 'p1' WHERE id = 1",
        "UPDATE people SET email = 'tmp' WHERE id = 2; UPDATE people SET email = 'p2', tenant = 2 WHERE id = 5;"
        "UPDATE people SET email = 'P5' WHERE id = 2",
        "DELETE FROM people WHERE id = 4; UPDATE people SET active = true WHERE id = 1",
    ),
)
CASES: Final = (TREE, ODD_TREE, HOLES, GENERATED, IDENTITIES, FUNCTIONAL, SECURED, INDEXED)
VIA_ROOT: Final = (TREE, ODD_TREE)

# --- PostgreSQL 18 ----------------------------------------------------------------------------------------------------

VIRTUAL: Final = Case(
    "virtual generated columns",
    "CREATE TABLE virtual (id int PRIMARY KEY, n int, twice int GENERATED ALWAYS AS (n * 2), v text,"
    " length int GENERATED ALWAYS AS (length(v)) STORED);"
    "CREATE TABLE virtual_tree (id int PRIMARY KEY, n int, twice int GENERATED ALWAYS AS (n * 2) VIRTUAL)"
    " PARTITION BY RANGE (id); CREATE TABLE virtual_leaf PARTITION OF virtual_tree DEFAULT;"
    "INSERT INTO virtual (id, n, v) VALUES (1, 1, 'a'), (2, 2, 'b'), (3, 3, NULL);"
    "INSERT INTO virtual_tree SELECT n, n FROM generate_series(1, 5) n",
    (
        "UPDATE virtual SET n = 10 WHERE id = 1; UPDATE virtual SET v = 'longer' WHERE id = 2",
        "DELETE FROM virtual WHERE id = 3; INSERT INTO virtual (id, n) VALUES (3, 30);"
        "UPDATE virtual SET id = 4 WHERE id = 1",
        "UPDATE virtual_tree SET n = -n; DELETE FROM virtual_tree WHERE twice = -6",
    ),
)
TEMPORAL: Final = Case(
    "a key without overlaps",
    "CREATE TABLE periods (room int4range, during daterange, v text, PRIMARY KEY (room, during WITHOUT OVERLAPS));"
    "CREATE TABLE temporal (id int PRIMARY KEY, room int4range, during daterange, UNIQUE (room, during"
    " WITHOUT OVERLAPS));"
    "INSERT INTO temporal VALUES (1, '[1,2)', '[2020-01-01,2020-02-01)'), (2, '[1,2)', '[2020-02-01,2020-03-01)')",
    (
        "UPDATE temporal SET during = '[2021-01-01,2021-02-01)' WHERE id = 1;"
        "UPDATE temporal SET during = '[2020-01-10,2020-03-01)' WHERE id = 2;"
        "UPDATE temporal SET during = '[2020-01-01,2020-01-10)' WHERE id = 1",
        "INSERT INTO periods VALUES ('[1,2)', '[2020-01-01,2020-02-01)', 'v')",
        "UPDATE periods SET v = 'w', during = '[2020-01-01,2020-01-03)'",
        "INSERT INTO periods SELECT room, daterange(upper(during), '2020-02-01'), 'x' FROM periods",
    ),
)
SINCE_18: Final = (VIRTUAL, TEMPORAL)
