"""Large values that an update does not touch, and that the source therefore does not send."""

from typing import Final

from tests.acceptance.cases.case import Case, large


def _columns(t: str, key: str = "id int PRIMARY KEY") -> str:
    """A table with two large columns, of which one is never compressed."""
    return (
        f"CREATE TABLE {t} ({key}, n int, big text, other text, size int GENERATED ALWAYS AS (length(big)) STORED);"
        f"ALTER TABLE {t} ALTER other SET STORAGE EXTERNAL"
    )


def _rows(t: str, count: int = 6) -> str:
    values = f"v, v, {large(7)} || v, {large(11)} || v"
    return f"INSERT INTO {t} (id, n, big, other) SELECT {values} FROM generate_series(1, {count}) v"


def _new(t: str, number: int) -> str:
    return f"INSERT INTO {t} (id, n, big, other) VALUES ({number}, 0, {large(13)} || {number}, {large(17)})"


UNCHANGED: Final = Case(
    "large values that stay, one, both, or first one and then the other",
    f"{_columns('kept')}; {_rows('kept')}",
    (
        "UPDATE kept SET n = 10 WHERE id = 1",
        f"UPDATE kept SET big = {large(19)} WHERE id = 2",
        "UPDATE kept SET other = 'short' WHERE id = 3",
        f"UPDATE kept SET big = {large(23)} WHERE id = 4; UPDATE kept SET other = {large(29)} WHERE id = 4;"
        "UPDATE kept SET n = 40 WHERE id = 4",
        "UPDATE kept SET big = NULL WHERE id = 5; UPDATE kept SET n = 50 WHERE id = 5",
        f"DELETE FROM kept WHERE id = 6; {_new('kept', 6)}; UPDATE kept SET n = 60 WHERE id = 6",
    ),
)
AFTER_INSERT: Final = Case(
    "large values that stay after an insert of the same row in the same batch",
    f"{_columns('inserted')}; {_rows('inserted', 1)}",
    (
        f"{_new('inserted', 10)}; UPDATE inserted SET n = 1 WHERE id = 10",
        f"{_new('inserted', 11)}; UPDATE inserted SET id = 12 WHERE id = 11; UPDATE inserted SET n = 2 WHERE id = 12",
        f"{_new('inserted', 13)}; UPDATE inserted SET other = 'short' WHERE id = 13;"
        "UPDATE inserted SET id = 14 WHERE id = 13; UPDATE inserted SET id = 13 WHERE id = 10",
    ),
)
AFTER_KEY: Final = Case(
    "large values that stay while the key changes, and after that",
    f"{_columns('moved')}; {_rows('moved')}",
    (
        "UPDATE moved SET id = 10 WHERE id = 1",
        "UPDATE moved SET id = 20, n = 5 WHERE id = 2; UPDATE moved SET n = 6 WHERE id = 20",
        "UPDATE moved SET n = 7 WHERE id = 3; UPDATE moved SET id = 0 WHERE id = 3;"
        "UPDATE moved SET id = 3 WHERE id = 4; UPDATE moved SET id = 4, other = 'short' WHERE id = 0",
        "DELETE FROM moved WHERE id = 5; UPDATE moved SET id = 5 WHERE id = 6",
    ),
)
SWAPPED: Final = Case(
    "large values that stay while unique values are swapped",
    f"{_columns('traded')}; CREATE UNIQUE INDEX ON traded (n); {_rows('traded')}",
    (
        "UPDATE traded SET n = 0 WHERE id = 1; UPDATE traded SET n = 1 WHERE id = 2;"
        "UPDATE traded SET n = 2 WHERE id = 1",
        "UPDATE traded SET n = -1 WHERE id = 3; UPDATE traded SET id = 30, n = 3 WHERE id = 4;"
        f"UPDATE traded SET n = 4 WHERE id = 3; {_new('traded', 50)}",
    ),
)
FULL: Final = Case(
    "large values that stay under replica identity full, with a key and without",
    f"{_columns('whole')}; ALTER TABLE whole REPLICA IDENTITY FULL; {_rows('whole')};"
    f"{_columns('whole_loose', 'id int')}; ALTER TABLE whole_loose REPLICA IDENTITY FULL; {_rows('whole_loose', 2)};"
    f"{_rows('whole_loose', 2)}",
    (
        "UPDATE whole SET n = 10 WHERE id = 1; UPDATE whole SET id = 20 WHERE id = 2;"
        "UPDATE whole SET n = 21 WHERE id = 20",
        f"{_new('whole', 7)}; UPDATE whole SET n = 70 WHERE id = 7; UPDATE whole SET other = NULL WHERE id = 3",
        "UPDATE whole_loose SET n = 10 WHERE ctid = (SELECT min(ctid) FROM whole_loose WHERE id = 1)",
        f"{_new('whole_loose', 7)}; UPDATE whole_loose SET n = n + 1; UPDATE whole_loose SET id = 8 WHERE id = 7",
        "DELETE FROM whole_loose WHERE ctid = (SELECT max(ctid) FROM whole_loose WHERE id = 2);"
        "UPDATE whole_loose SET n = 0 WHERE id = 2",
    ),
)
PARTITIONED: Final = Case(
    "large values that stay in a partitioned table, in their partition and moving to another",
    "CREATE TABLE cut (id int, n int, big text, other text, PRIMARY KEY (id, n)) PARTITION BY RANGE (n);"
    "ALTER TABLE cut ALTER other SET STORAGE EXTERNAL;"
    "CREATE TABLE cut_low PARTITION OF cut FOR VALUES FROM (0) TO (100);"
    "CREATE TABLE cut_high PARTITION OF cut FOR VALUES FROM (100) TO (200) PARTITION BY HASH (id);"
    "CREATE TABLE cut_high_0 PARTITION OF cut_high FOR VALUES WITH (MODULUS 2, REMAINDER 0);"
    "CREATE TABLE cut_high_1 PARTITION OF cut_high FOR VALUES WITH (MODULUS 2, REMAINDER 1);"
    f"{_rows('cut')}",
    (
        "UPDATE cut SET other = 'short' WHERE id = 1; UPDATE cut SET n = 50 WHERE id = 1",
        "UPDATE cut SET n = 150 WHERE id = 2; UPDATE cut SET other = 'short' WHERE id = 2",
        "UPDATE cut SET n = 160 WHERE id = 3; UPDATE cut SET n = 60 WHERE id = 3; UPDATE cut SET n = 61 WHERE id = 3",
        "UPDATE cut SET id = id + 100, n = 170 WHERE id IN (4, 5); UPDATE cut SET big = NULL WHERE id = 104",
        f"{_new('cut', 7)}; UPDATE cut SET n = 180 WHERE id = 7; UPDATE cut SET id = 8 WHERE id = 7",
    ),
)
KEYS: Final = Case(
    "keys that are kept out of line themselves, as primary key and as identity index",
    "CREATE TABLE long_key (k text PRIMARY KEY, n int, big text); ALTER TABLE long_key ALTER k SET STORAGE EXTERNAL;"
    "CREATE TABLE long_code (id int PRIMARY KEY, code text NOT NULL UNIQUE, n int, big text);"
    "ALTER TABLE long_code ALTER code SET STORAGE EXTERNAL;"
    "ALTER TABLE long_code REPLICA IDENTITY USING INDEX long_code_code_key;"
    f"INSERT INTO long_key SELECT left({large(7)}, 2400) || v, v, {large(11)} || v FROM generate_series(1, 4) v;"
    "INSERT INTO long_code SELECT n, k, n, big FROM long_key",
    (
        "UPDATE long_key SET n = 10 WHERE n = 1; UPDATE long_code SET n = 10 WHERE n = 1",
        "UPDATE long_key SET k = k || 'x' WHERE n = 2; UPDATE long_key SET n = 20 WHERE n = 2;"
        "UPDATE long_code SET code = code || 'x' WHERE n = 2; UPDATE long_code SET id = 20 WHERE n = 2",
        "DELETE FROM long_key WHERE n = 3; DELETE FROM long_code WHERE n = 3",
        f"INSERT INTO long_key VALUES (left({large(13)}, 2400), 5, {large(17)}); UPDATE long_key SET n = 6 WHERE n = 5;"
        "UPDATE long_key SET big = 'short' WHERE n = 6",
    ),
)
OF_OTHER_TYPES: Final = Case(
    "large values of other types that stay",
    "CREATE TABLE documents (id int PRIMARY KEY, n int, j jsonb, b bytea, a text[], t tsvector);"
    f"INSERT INTO documents SELECT v, v, jsonb_build_object('k', {large(7)}), {large(11)}::bytea,"
    f" ARRAY[{large(13)}, NULL], to_tsvector('simple', {large(17)}) FROM generate_series(1, 3) v",
    (
        "UPDATE documents SET n = 10 WHERE id = 1",
        "UPDATE documents SET j = j || '{\"more\": 1}' WHERE id = 2; UPDATE documents SET id = 20 WHERE id = 2",
        "UPDATE documents SET a = a || 'more'::text; UPDATE documents SET n = n + 1",
    ),
)

CASES: Final = (UNCHANGED, AFTER_INSERT, AFTER_KEY, SWAPPED, FULL, PARTITIONED, KEYS, OF_OTHER_TYPES)
VIA_ROOT: Final = (UNCHANGED, AFTER_KEY, PARTITIONED)
