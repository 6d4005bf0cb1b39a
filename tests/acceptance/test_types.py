"""Every type with its edge values arrives exactly: copied, inserted and updated, through one migration.

All types are columns of one table, so that one migration carries them all. Its first rows are copied; others come
through the stream, once a few at a time (single statements) and once many at once (staging tables).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import psycopg
import pytest

from replicator.model import Phase
from tests.fixtures.databases import Database, drop, new_source, new_target, settings_for
from tests.fixtures.migration import differences
from tests.fixtures.shared import Shared
from tests.fixtures.worker import WorkerMaker, wait_caught_up, wait_for_phase
from tests.torture import types
from tests.torture.model import ColumnType, quoted
from tests.torture.user_types import UserTypes

OWN_SCHEMA: Final = "app's own"
IN_OWN_SCHEMA: Final = quoted(OWN_SCHEMA).replace("'", "''")
EXTENSIONS_SCHEMA: Final = quoted(types.EXTENSION_SCHEMA)
FAMILIES: Final[Mapping[str, Sequence[ColumnType]]] = {
    "numbers": types.NUMBERS,
    "texts": types.TEXTS,
    "times": types.TIMES,
    "documents": types.DOCUMENTS,
    "places": types.PLACES,
    "system": types.SYSTEM,
    "arrays": types.ARRAYS,
    "ranges": types.RANGES,
    "extensions": types.extension_types(EXTENSIONS_SCHEMA),
    "user's own": UserTypes(OWN_SCHEMA).column_types,
    "references to the user's own": [
        ColumnType("regclass", ("'public.searched'", "'public.\"Some numbers\"'")),
        ColumnType("regtype", (f"'{IN_OWN_SCHEMA}.\"Mood\"'", "'public.searched[]'")),
        ColumnType("regprocedure", (f"'{IN_OWN_SCHEMA}.valid(integer)'",)),
        ColumnType("regnamespace", (f"'{IN_OWN_SCHEMA}'",)),
    ],
}
COLUMNS: Final = [(f"c{n}", type_) for n, type_ in enumerate(type_ for family in FAMILIES.values() for type_ in family)]
VALUES: Final = max(len(type_.values) for _, type_ in COLUMNS)
"""Of the type that has most."""

COPIED, INSERTED, UPDATED, MANY_INSERTED, MANY_UPDATED = (1000 * n for n in range(1, 6))
"""Where the ids of rows begin, by how their values arrive; those that are updated are copied before."""

SURROUNDINGS: Final = {
    "extra_float_digits": ("0", "-15"),
    "DateStyle": ("SQL, DMY", "German"),
    "IntervalStyle": ("iso_8601", "sql_standard"),
    "TimeZone": ("Asia/Kolkata", "America/St_Johns"),
    "bytea_output": ("escape", "escape"),
}
"""What the source's database says, and what its role says there, which overrules it."""

AS_IT_IS: Final = (
    "SET extra_float_digits = 3; SET DateStyle = ISO; SET IntervalStyle = postgres; SET TimeZone = UTC;"
    "SET bytea_output = hex; SET search_path = pg_catalog"
)
"""Settings that show every difference between two values."""

SEARCHED: Final = f"""
CREATE TABLE searched (
  id int PRIMARY KEY, body text, place {EXTENSIONS_SCHEMA}.ltree, notes {EXTENSIONS_SCHEMA}.hstore
);
CREATE INDEX by_likeness ON searched USING gin (body {EXTENSIONS_SCHEMA}.gin_trgm_ops);
CREATE INDEX by_place ON searched USING gist (place {EXTENSIONS_SCHEMA}.gist_ltree_ops);
CREATE INDEX by_notes ON searched USING gin (notes {EXTENSIONS_SCHEMA}.gin_hstore_ops);
CREATE TABLE filler (id int PRIMARY KEY); CREATE SEQUENCE "Some numbers"
"""
MANY: Final = "INSERT INTO filler SELECT generate_series(1, 50)"
"""Makes a transaction too large for single statements."""


@dataclass(frozen=True, slots=True)
class Migrated:
    """Both sides after the migration's stream has carried everything."""

    source: Database
    target: Database


@pytest.fixture(scope="module")
def migrated(shared: Shared) -> Migrated:
    """One table with a column of every type, copied and streamed; and smaller ones beside it."""
    source, target = shared.source, shared.target
    worker = shared.make_worker()
    make_tables(source)
    for first in (COPIED, UPDATED, MANY_UPDATED):
        run(source, inserts(first))
    surround(source)
    worker.start()
    shared.wait_streaming()
    for statements in (
        inserts(INSERTED),
        updates(UPDATED),
        [*inserts(MANY_INSERTED), *updates(MANY_UPDATED), MANY],
    ):
        run(source, statements)
        wait_caught_up(source, target, worker)
    return Migrated(source, target)


def make_tables(source: Database) -> None:
    source.execute(
        f"CREATE SCHEMA {EXTENSIONS_SCHEMA}; GRANT USAGE ON SCHEMA {EXTENSIONS_SCHEMA} TO PUBLIC;"
        + ";".join(f"CREATE EXTENSION {name} SCHEMA {EXTENSIONS_SCHEMA}" for name in (*types.EXTENSIONS, "pg_trgm")),
        superuser=True,
    )
    own = UserTypes(OWN_SCHEMA)
    columns = ", ".join(f"{name} {type_.sql}" for name, type_ in COLUMNS)
    source.execute(
        f"CREATE SCHEMA {quoted(OWN_SCHEMA)}; {'; '.join(own.statements)};"
        f"{SEARCHED}; CREATE TABLE everything (id int PRIMARY KEY, {columns})"
    )


def surround(source: Database) -> None:
    for name, (of_database, of_role) in SURROUNDINGS.items():
        source.execute(
            f"ALTER DATABASE {source.name} SET {name} = '{of_database}';"
            f"ALTER ROLE postgres IN DATABASE {source.name} SET {name} = '{of_role}'",
            superuser=True,
        )


def row(n: int) -> list[str]:
    """The ``n``-th row's values; the last one is NULL wherever it may be."""
    return [
        "NULL" if n % (VALUES + 1) == VALUES and type_.nullable else type_.values[n % (VALUES + 1) % len(type_.values)]
        for _, type_ in COLUMNS
    ]


def inserts(first: int) -> list[str]:
    return [f"INSERT INTO everything VALUES ({first + n}, {', '.join(row(n))})" for n in range(VALUES + 1)]


def updates(first: int) -> list[str]:
    """Each row gets the values of the next one."""
    names = ", ".join(name for name, _ in COLUMNS)
    return [
        f"UPDATE everything SET ({names}) = ROW({', '.join(row(n + 1))}) WHERE id = {first + n}"
        for n in range(VALUES + 1)
    ]


def run(database: Database, statements: Sequence[str]) -> None:
    """One transaction, under settings by which the values mean what they say."""
    database.execute("; ".join(["SET DateStyle = 'ISO, MDY'", *statements]))


def printed(database: Database) -> dict[int, tuple[bytes | None, ...]]:
    """The rows by id, each value as the server prints it."""
    with psycopg.connect(database.superuser_dsn, autocommit=True) as connection:
        connection.execute(AS_IT_IS)
        cursor = connection.execute("TABLE public.everything")
        result = cursor.pgresult
        assert result is not None
        width = range(1, len(COLUMNS) + 1)
        return {
            int(result.get_value(n, 0) or 0): tuple(result.get_value(n, column) for column in width)
            for n in range(result.ntuples)
        }


@pytest.mark.parametrize("family", FAMILIES)
def test_each_value_of_each_type_arrives_whichever_way_it_goes(migrated: Migrated, family: str) -> None:
    """Given a source that prints otherwise, when rows are copied, inserted and updated, then both sides are equal."""
    ours, theirs = printed(migrated.source), printed(migrated.target)
    places = [n for n, (_, type_) in enumerate(COLUMNS) if type_ in FAMILIES[family]]

    assert len(ours) == 5 * (VALUES + 1)
    assert ours.keys() == theirs.keys()
    different = [
        (COLUMNS[n][1].sql, id_, ours[id_][n], theirs[id_][n])
        for id_ in ours
        for n in places
        if ours[id_][n] != theirs[id_][n]
    ]
    assert different == []


def test_indexes_by_operators_of_extensions_are_there(migrated: Migrated) -> None:
    """Given indexes by pg_trgm, ltree and hstore, when all tables are ready, then the target has them, and valid."""
    found = migrated.target.fetch("SELECT indexrelid::regclass::text, indisvalid FROM pg_index")

    assert {("by_likeness", True), ("by_place", True), ("by_notes", True)} <= set(found)


# --- types that not every server has: both sides are databases of one that has them -----------------------------------

XML: Final = (
    "CREATE DOMAIN page AS xml CHECK (VALUE IS DOCUMENT); CREATE TABLE t (id int PRIMARY KEY, v xml, w xml[], p page)",
    """(%s, '<a b="&lt;">é<!-- c --><?pi x?></a>', ARRAY['x &amp; y'::xml, NULL, ''], '<?xml version="1.1"?><p/>')""",
    """(%s, XMLPARSE(CONTENT E'only <b>text</b> \\\\ or \\n none'), '{}', '<!DOCTYPE p><p/>')""",
)
VECTORS: Final = (
    "CREATE TABLE t (id int PRIMARY KEY, v vector(3), w halfvec(3), p sparsevec(9));"
    "CREATE INDEX by_nearness ON t USING hnsw (v vector_l2_ops)",
    "(%s, '[0.1,-0,3.4028235e38]', '[0.1,-0,65504]', '{1:0.1,9:-2}/9')",
    "(%s, '[1e-45,1.17549435e-38,0.30000001]', '[5.9604645e-08,1,2]', '{}/9')",
)


def require_xml(source: Database, _: Database) -> None:
    try:
        source.fetch("SELECT '<a/>'::xml")
    except psycopg.errors.FeatureNotSupported:
        pytest.skip("this server was built without libxml")


def require_vectors(*databases: Database) -> None:
    if not databases[0].fetch("SELECT FROM pg_available_extensions WHERE name = 'vector'"):
        pytest.skip("pgvector is not installed on this server")
    for database in databases:
        database.execute("CREATE EXTENSION vector", superuser=True)


@pytest.mark.parametrize(
    ("server", "require", "case"),
    [("source_server", require_xml, XML), ("target_server", require_vectors, VECTORS)],
    ids=["xml", "pgvector"],
)
def test_values_of_types_that_some_servers_have_arrive(
    request: pytest.FixtureRequest,
    make_worker: WorkerMaker,
    server: str,
    require: Callable[[Database, Database], None],
    case: tuple[str, str, str],
) -> None:
    """Given a server that has the type, when rows are copied, inserted and updated, then both sides are equal."""
    source, target = new_source(request.getfixturevalue(server)), new_target(request.getfixturevalue(server))
    request.addfinalizer(lambda: drop(source))
    request.addfinalizer(lambda: drop(target))
    require(source, target)
    schema, one, another = case
    source.execute(schema)
    source.execute(f"INSERT INTO t VALUES {one % 1}, {another % 2}; INSERT INTO t VALUES (3)")
    surround(source)
    worker = make_worker(settings_for(source, target))
    worker.start()
    wait_for_phase(target, Phase.STREAMING, worker)

    source.execute(f"INSERT INTO t VALUES {another % 11}, {one % 12}")
    source.execute("UPDATE t SET (v, w, p) = (SELECT v, w, p FROM t WHERE id = 1) WHERE id IN (2, 3)")
    wait_caught_up(source, target, worker)
    source.execute(
        "UPDATE t SET (v, w, p) = (SELECT v, w, p FROM t WHERE id = 11) WHERE id IN (1, 3, 12);"
        "INSERT INTO t SELECT n, v, w, p FROM t, generate_series(21, 70) n WHERE id = 2"
    )
    wait_caught_up(source, target, worker)

    assert source.value("SELECT count(*) FROM t WHERE v IS NOT NULL AND w IS NOT NULL AND p IS NOT NULL") == 55
    assert differences(source, target) == []
