"""Keys of every kind, and tables without one."""

from typing import Final

from tests.acceptance.cases.case import Case
from tests.torture.types import KEYS

# --- values -----------------------------------------------------------------------------------------------------------

EQUAL: Final = {
    "numeric": ("1.0", "1.00", "2"),
    "double precision": ("0", "-0", "2"),
    "interval": ("1 mon", "30 days", "2 days"),
    "jsonb": ("[1.0]", "[1.00]", "[2]"),
    "numeric[]": ("{1.0,2}", "{1.00,2.0}", "{2}"),
    "numrange": ("[1.0,2)", "[1.00,2.0)", "[2,3)"),
    "citext": ("Key", "kEY", "other"),
}
"""Types with two values that are equal but print differently, and a third one."""


def of_type(number: int, kind: str, values: list[str]) -> Case:
    """A key of this type; ``values`` are five different ones, as expressions."""
    one, two, three, four, five = (f"({value})::{kind}" for value in values)
    t = f"of_type_{number}"
    return Case(
        f"a key of type {kind}",
        f"CREATE TABLE {t} (v int, k {kind} PRIMARY KEY); INSERT INTO {t} VALUES (1, {one}), (2, {two}), (3, {three})",
        (
            f"UPDATE {t} SET v = 10 WHERE k = {one}",
            f"DELETE FROM {t} WHERE k = {two}",
            f"UPDATE {t} SET k = {four} WHERE k = {three}; INSERT INTO {t} VALUES (5, {five})",
            f"UPDATE {t} SET v = 40 WHERE k = {four}; UPDATE {t} SET k = {three} WHERE k = {five}",
        ),
    )


def equal(number: int, kind: str, values: tuple[str, ...], collation: str = "") -> Case:
    """A key whose first two values are equal but print differently."""
    one, same, other = (f"'{value}'::{kind}" for value in values)
    t = f"equal_{number}"
    return Case(
        f"keys of {kind}{collation} that are equal but print differently",
        f"CREATE TABLE {t} (k {kind}{collation} PRIMARY KEY, v int); INSERT INTO {t} VALUES ({one}, 1), ({other}, 2)",
        (
            f"UPDATE {t} SET v = 10 WHERE k = {same}",
            f"UPDATE {t} SET k = {same} WHERE k = {one}",
            f"UPDATE {t} SET v = 11 WHERE k = {one}",
            f"DELETE FROM {t} WHERE k = {one}; INSERT INTO {t} VALUES ({one}, 12)",
            f"UPDATE {t} SET k = {same} WHERE k = {one}; UPDATE {t} SET v = 13 WHERE k = {same}",
            f"DELETE FROM {t} WHERE k = {other}; INSERT INTO {t} VALUES ({other}, 3); DELETE FROM {t} WHERE k = {same}",
            f"INSERT INTO {t} VALUES ({one}, 14); UPDATE {t} SET k = {same}, v = 15 WHERE k = {one}",
        ),
    )


TYPES: Final = [of_type(number, kind.sql, [kind.value(n) for n in (1, 2, 3, 4, 5)]) for number, kind in enumerate(KEYS)]
EQUALS: Final = [equal(number, kind, values) for number, (kind, values) in enumerate(EQUAL.items())]

# --- keys -------------------------------------------------------------------------------------------------------------

COMPOSITE: Final = Case(
    "a composite key in another order than its columns",
    "CREATE TABLE composite (a int, v text, b text, c int, PRIMARY KEY (c, b, a));"
    "INSERT INTO composite SELECT a, 'v', b, c FROM generate_series(1, 3) a, generate_series(1, 3) c,"
    " unnest(ARRAY['x', 'y']) b",
    (
        "UPDATE composite SET v = 'one of a pair' WHERE (a, b, c) = (1, 'x', 2)",
        "DELETE FROM composite WHERE (a, b, c) = (3, 'y', 1)",
        "UPDATE composite SET a = c, c = a + 10 WHERE (a, b, c) = (2, 'x', 3)",
        "UPDATE composite SET c = 20 WHERE b = 'y' AND c = 2; UPDATE composite SET v = 'moved' WHERE c = 20",
    ),
)
INCLUDED: Final = Case(
    "a key whose index includes other columns",
    "CREATE TABLE included (id int, v text, n int, PRIMARY KEY (id) INCLUDE (v)); INSERT INTO included VALUES (1, 'a'),"
    " (2, 'b')",
    ("UPDATE included SET v = 'c', n = 5 WHERE id = 1", "DELETE FROM included WHERE id = 2"),
)
SWAPPED: Final = Case(
    "keys swapped inside one transaction",
    "CREATE TABLE swapped (id int PRIMARY KEY, v text); INSERT INTO swapped VALUES (1, 'a'), (2, 'b'), (3, 'c')",
    (
        "UPDATE swapped SET id = 0 WHERE id = 1; UPDATE swapped SET id = 1 WHERE id = 2;"
        "UPDATE swapped SET id = 2 WHERE id = 0",
        "DELETE FROM swapped WHERE id = 3; UPDATE swapped SET id = 3 WHERE id = 2; INSERT INTO swapped VALUES (2, 'd')",
        "UPDATE swapped SET id = -id; UPDATE swapped SET id = 4 + id",
    ),
)
DEFERRABLE_KEY: Final = Case(
    "deferrable keys swapped by one statement, and for a while the same",
    "CREATE TABLE deferrable_key (id int PRIMARY KEY DEFERRABLE, v text);"
    "CREATE TABLE deferred_key (id int PRIMARY KEY DEFERRABLE INITIALLY DEFERRED, v text);"
    "INSERT INTO deferrable_key VALUES (1, 'a'), (2, 'b'), (3, 'c'); INSERT INTO deferred_key TABLE deferrable_key",
    (
        "UPDATE deferrable_key SET id = 3 - id WHERE id < 3; UPDATE deferred_key SET id = 3 - id WHERE id < 3",
        "UPDATE deferrable_key SET id = id + 1, v = v || 'x'",
        "UPDATE deferred_key SET id = 3 WHERE id = 1; UPDATE deferred_key SET id = 1 WHERE v = 'c'",
        "INSERT INTO deferred_key VALUES (2, 'new'); DELETE FROM deferred_key WHERE v = 'a'",
    ),
    "INSERT INTO deferrable_key VALUES (10, 'x')",
)
GENERATED_KEY: Final = Case(
    "a primary key over a stored generated column",
    "CREATE TABLE computed (n int, k int GENERATED ALWAYS AS (n * 2) STORED PRIMARY KEY, v text);"
    "INSERT INTO computed VALUES (1, DEFAULT, 'a'), (2, DEFAULT, 'b')",
    (
        "UPDATE computed SET v = 'c' WHERE k = 2",
        "UPDATE computed SET n = 9 WHERE k = 4; INSERT INTO computed VALUES (2, DEFAULT, NULL)",
        "DELETE FROM computed WHERE n = 1",
    ),
)

# --- secondary constraints --------------------------------------------------------------------------------------------


def swapped_values(name: str, constraint: str, *, at_once: bool = False) -> Case:
    """Unique values that change hands inside one transaction; ``at_once``: by one statement, too."""
    t = "unique_" + name.replace(" ", "_")
    changes = [
        f"UPDATE {t} SET u = 9 WHERE id = 1; UPDATE {t} SET u = 1 WHERE id = 2; UPDATE {t} SET u = 2 WHERE id = 1",
        f"UPDATE {t} SET u = NULL WHERE id = 3; UPDATE {t} SET u = 3, v = 'x' WHERE id = 4;"
        f"UPDATE {t} SET u = 4 WHERE id = 3",
        f"DELETE FROM {t} WHERE id = 1; INSERT INTO {t} VALUES (6, 2, 'e'); UPDATE {t} SET id = 1 WHERE id = 2",
    ]
    if at_once:
        changes += [f"UPDATE {t} SET u = 7 - u WHERE u BETWEEN 3 AND 4", f"UPDATE {t} SET u = u + 1"]
    return Case(
        f"{name} swapped inside one transaction",
        f"CREATE TABLE {t} (id int PRIMARY KEY, u int, v text); {constraint.format(t=t)};"
        f"INSERT INTO {t} VALUES (1, 1, 'a'), (2, 2, 'b'), (3, 3, 'c'), (4, 4, 'd')",
        tuple(changes),
    )


UNIQUE: Final = [
    swapped_values("values", "ALTER TABLE {t} ADD UNIQUE (u)"),
    swapped_values("deferrable values", "ALTER TABLE {t} ADD UNIQUE (u) DEFERRABLE", at_once=True),
    swapped_values("deferred values", "ALTER TABLE {t} ADD UNIQUE (u) DEFERRABLE INITIALLY DEFERRED", at_once=True),
    swapped_values("values without nulls", "ALTER TABLE {t} ADD UNIQUE NULLS NOT DISTINCT (u)"),
    swapped_values("expressions", "CREATE UNIQUE INDEX ON {t} (('#' || u::text))"),
    swapped_values("some values", "CREATE UNIQUE INDEX ON {t} (u) WHERE v <> 'nobody'"),
    swapped_values("excluded values", "ALTER TABLE {t} ADD EXCLUDE (u WITH =)"),
    swapped_values("deferrable excluded values", "ALTER TABLE {t} ADD EXCLUDE (u WITH =) DEFERRABLE", at_once=True),
    swapped_values("ranges", "ALTER TABLE {t} ADD EXCLUDE USING gist (int4range(u, u, '[]') WITH &&) WHERE (u > 0)"),
]

# --- replica identities -----------------------------------------------------------------------------------------------

IDENTITY_INDEX: Final = Case(
    "a replica identity index beside the primary key, both swapped",
    "CREATE TABLE identity_index (id int PRIMARY KEY, v text, code text NOT NULL, part int NOT NULL);"
    "CREATE UNIQUE INDEX identity_codes ON identity_index (part, code);"
    "ALTER TABLE identity_index REPLICA IDENTITY USING INDEX identity_codes;"
    "INSERT INTO identity_index SELECT n, 'v', 'c' || n, n % 2 FROM generate_series(1, 6) n",
    (
        "UPDATE identity_index SET v = 'w' WHERE id = 1; UPDATE identity_index SET id = 0 WHERE id = 2;"
        "UPDATE identity_index SET id = 2 WHERE id = 1; UPDATE identity_index SET id = 1 WHERE id = 0",
        "UPDATE identity_index SET code = 'x' WHERE id = 4; UPDATE identity_index SET code = 'c4' WHERE id = 6;"
        "UPDATE identity_index SET code = 'c6', v = 'swapped' WHERE code = 'x'",
        "DELETE FROM identity_index WHERE id = 5; INSERT INTO identity_index VALUES (5, 'again', 'c5', 1)",
    ),
)
IDENTITY_FULL: Final = Case(
    "replica identity full, with keys of several kinds and without",
    "CREATE TABLE full_key (v text, id int PRIMARY KEY, n numeric); ALTER TABLE full_key REPLICA IDENTITY FULL;"
    "CREATE TABLE full_unique (v text, code text NOT NULL UNIQUE, n int UNIQUE);"
    "ALTER TABLE full_unique REPLICA IDENTITY FULL;"
    "INSERT INTO full_key SELECT 'v', n, n FROM generate_series(1, 5) n;"
    "INSERT INTO full_unique SELECT 'v', n, n FROM generate_series(1, 5) n",
    (
        "UPDATE full_key SET n = 1.00 WHERE id = 1; UPDATE full_unique SET v = 'w' WHERE n = 1",
        "UPDATE full_key SET id = 0 WHERE id = 1; UPDATE full_key SET id = 1 WHERE id = 2;"
        "UPDATE full_key SET id = 2 WHERE id = 0",
        "UPDATE full_unique SET n = NULL WHERE n = 2; UPDATE full_unique SET n = 2 WHERE n = 3",
        "DELETE FROM full_key WHERE id > 3; DELETE FROM full_unique WHERE code > '4'",
    ),
)
IDENTITY_NOTHING: Final = Case(
    "replica identity nothing",
    "CREATE TABLE nothing (id int PRIMARY KEY, v text); ALTER TABLE nothing REPLICA IDENTITY NOTHING;"
    "INSERT INTO nothing VALUES (1, 'a'), (2, 'b')",
    (
        "UPDATE nothing SET v = 'c' WHERE id = 1",
        "DELETE FROM nothing WHERE id = 2; INSERT INTO nothing VALUES (2, 'd')",
    ),
)

# --- no key -----------------------------------------------------------------------------------------------------------

KEYLESS: Final = Case(
    "no key: duplicates, NULLs, and columns without an equality operator",
    "CREATE TABLE loose (a int, doc json, place point, v text);"
    "INSERT INTO loose SELECT 1, '{\"a\": 1}', '(0,-0)', NULL FROM generate_series(1, 4);"
    "INSERT INTO loose VALUES (NULL, NULL, NULL, NULL), (NULL, NULL, NULL, NULL), (2, '[]', NULL, '')",
    (
        "DELETE FROM loose WHERE ctid = (SELECT min(ctid) FROM loose WHERE a = 1)",
        "UPDATE loose SET v = 'one' WHERE ctid = (SELECT min(ctid) FROM loose WHERE a = 1);"
        "DELETE FROM loose WHERE ctid = (SELECT min(ctid) FROM loose WHERE a IS NULL)",
        "UPDATE loose SET place = '(0,0)' WHERE ctid = (SELECT max(ctid) FROM loose WHERE a = 1)",
        "INSERT INTO loose SELECT * FROM loose; DELETE FROM loose WHERE ctid = (SELECT min(ctid) FROM loose)",
    ),
)
CHILDREN: Final = Case(
    "inheritance parents, children with and without keys, one of two parents",
    "CREATE TABLE parent (id int PRIMARY KEY, v text); CREATE TABLE other_parent (other int);"
    "INSERT INTO other_parent VALUES (1);"
    "CREATE TABLE child (more int) INHERITS (parent); CREATE TABLE keyed_child (PRIMARY KEY (id)) INHERITS (parent);"
    "CREATE TABLE of_both () INHERITS (child, other_parent);"
    "INSERT INTO parent SELECT n, 'p' FROM generate_series(1, 3) n; INSERT INTO child VALUES (1, 'c', 1), (1, 'c', 1);"
    "INSERT INTO keyed_child VALUES (1, 'k'), (2, 'k'); INSERT INTO of_both VALUES (1, 'b', 1, 1), (4, NULL, 2, 2)",
    (
        "UPDATE parent SET v = v || '!' WHERE id = 1",
        "DELETE FROM ONLY parent WHERE id = 2; UPDATE child SET more = 7",
        "DELETE FROM parent WHERE id = 1 AND v LIKE 'b%' OR id = 3;"
        "INSERT INTO of_both VALUES (5, 'x', 5, 5); UPDATE other_parent SET other = 9",
    ),
)
KEYLESS_TREE: Final = Case(
    "a partitioned table without a key, its rows moving between partitions",
    "CREATE TABLE keyless_tree (at int, v text) PARTITION BY RANGE (at);"
    "CREATE TABLE keyless_tree_1 PARTITION OF keyless_tree FOR VALUES FROM (0) TO (10);"
    "CREATE TABLE keyless_tree_2 PARTITION OF keyless_tree DEFAULT;"
    "INSERT INTO keyless_tree SELECT n % 4 * 5, 'v' FROM generate_series(1, 12) n",
    (
        "UPDATE keyless_tree SET v = 'w' WHERE at = 5",
        "UPDATE keyless_tree SET at = 15 WHERE ctid = (SELECT min(ctid) FROM keyless_tree_1 WHERE at = 0)"
        " AND tableoid = 'keyless_tree_1'::regclass; DELETE FROM keyless_tree WHERE at = 10",
        "INSERT INTO keyless_tree VALUES (100, 'new'), (1, 'new'); UPDATE keyless_tree SET at = at + 1",
    ),
)

CASES: Final = (
    *TYPES,
    *EQUALS,
    COMPOSITE,
    INCLUDED,
    SWAPPED,
    DEFERRABLE_KEY,
    GENERATED_KEY,
    *UNIQUE,
    IDENTITY_INDEX,
    IDENTITY_FULL,
    IDENTITY_NOTHING,
    KEYLESS,
    CHILDREN,
    KEYLESS_TREE,
)

# --- where the server has ICU -----------------------------------------------------------------------------------------

COLLATION: Final = (
    "CREATE COLLATION public.ignoring (provider = icu, locale = 'und-u-ks-level1', deterministic = false)"
)
NONDETERMINISTIC: Final = (
    equal(100, "text", ("Kéy", "kEY", "other"), " COLLATE ignoring"),
    equal(101, "varchar(9)", ("Kéy", "kEY", "other"), " COLLATE ignoring"),
    swapped_values(
        "collated values", "ALTER TABLE {t} ALTER u TYPE text COLLATE ignoring; ALTER TABLE {t} ADD UNIQUE (u)"
    ),
)
