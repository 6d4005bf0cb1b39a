"""What real servers' catalogs say, from PostgreSQL 15 to 18: published tables, the app's tables, managed schemas."""

import time
from collections.abc import AsyncIterator

import pytest
from psycopg import sql

from replicator.catalog import PublishedTable, SourceTable, managed_schemas, published_tables, source_tables
from replicator.errors import Side, SourceError
from replicator.postgres import Connection, connect
from tests.fixtures.databases import Database

SCHEMA = """
CREATE TABLE a (id int PRIMARY KEY, dropped int, doubled int GENERATED ALWAYS AS (id * 2) STORED, v text);
ALTER TABLE a DROP COLUMN dropped;
CREATE TABLE p (id int, PRIMARY KEY (id)) PARTITION BY RANGE (id);
CREATE TABLE p1 PARTITION OF p FOR VALUES FROM (0) TO (10);
CREATE TABLE p2 PARTITION OF p FOR VALUES FROM (10) TO (20) PARTITION BY RANGE (id);
CREATE TABLE p2a PARTITION OF p2 FOR VALUES FROM (10) TO (15);
INSERT INTO p VALUES (1);
CREATE PUBLICATION leaves FOR TABLE ONLY a, p;
CREATE PUBLICATION rooted FOR TABLE p WITH (publish = 'insert', publish_via_partition_root);
CREATE PUBLICATION low FOR TABLE a (id, v) WHERE (id < 10);
CREATE PUBLICATION high FOR TABLE a (id, v) WHERE (id > 90) WITH (publish = 'insert, update, delete');
"""


@pytest.fixture(params=["source_15", "source", "target"])
def database(request: pytest.FixtureRequest) -> Database:
    """One on each of PostgreSQL 15, 17 and 18."""
    found = request.getfixturevalue(request.param)
    assert isinstance(found, Database)
    return found


@pytest.fixture
async def session(database: Database) -> AsyncIterator[Connection]:
    async with await connect(database.dsn, Side.SOURCE, "test") as connection:
        yield connection


async def published(session: Connection, *names: str) -> dict[str, PublishedTable]:
    return {table.table.name: table for table in await published_tables(session, names)}


async def app_tables(session: Connection, *excluded: str) -> dict[str, SourceTable]:
    return {table.table.name: table for table in await source_tables(session, excluded)}


async def test_given_a_leafwise_publication_each_partition_is_a_table(database: Database, session: Connection) -> None:
    database.execute(SCHEMA)

    tables = await published(session, "leaves")

    assert sorted(tables) == ["a", "p1", "p2a"]
    assert tables["a"].columns == ("id", "v")
    assert tables["a"].row_filter is None
    assert not tables["a"].insert_only
    assert [part.table.name for part in tables["p1"].parts] == ["p1"]
    assert tables["p1"].size > 0


async def test_given_one_publication_via_the_root_it_prevails_over_a_leafwise_one(
    database: Database, session: Connection
) -> None:
    database.execute(SCHEMA)

    assert (await published(session, "rooted"))["p"].insert_only
    table = (await published(session, "leaves", "rooted"))["p"]

    assert [part.table.name for part in table.parts] == ["p1", "p2a"]
    assert not table.insert_only  # operations add up over all publications
    assert sorted(await published(session, "leaves", "rooted")) == ["a", "p"]


async def test_given_two_row_filters_a_row_of_either_is_published(database: Database, session: Connection) -> None:
    database.execute(SCHEMA)

    table = (await published(session, "low", "high"))["a"]

    database.execute("INSERT INTO a SELECT generate_series(1, 100)")
    assert table.row_filter is not None
    query = sql.SQL("SELECT count(*) FROM a WHERE {}").format(sql.SQL(table.row_filter))
    assert database.value(query.as_string()) == 19
    assert table.publishes_truncate  # by one of them


async def test_given_different_column_lists_it_is_refused_as_the_server_would(
    database: Database, session: Connection
) -> None:
    database.execute(SCHEMA + "CREATE PUBLICATION narrow FOR TABLE a (id)")

    with pytest.raises(SourceError, match=r"public\.a has different column lists in low, narrow"):
        await published(session, "low", "narrow")


async def test_given_a_publication_that_does_not_exist_the_error_names_it(session: Connection) -> None:
    with pytest.raises(SourceError, match="there is no publication missing"):
        await published(session, "missing")


async def test_given_tables_of_every_kind_each_has_its_verdict(database: Database, session: Connection) -> None:
    database.execute(
        SCHEMA
        + """
        CREATE TABLE keyless (v text);
        CREATE TABLE indexed (code int NOT NULL CONSTRAINT indexed_code UNIQUE);
        ALTER TABLE indexed REPLICA IDENTITY USING INDEX indexed_code;
        CREATE TABLE candidate (code int NOT NULL CONSTRAINT candidate_code UNIQUE, other int UNIQUE);
        CREATE TABLE deferred (id int PRIMARY KEY DEFERRABLE);
        CREATE TABLE parent (id int PRIMARY KEY);
        CREATE TABLE child () INHERITS (parent);
        CREATE UNLOGGED TABLE scratch (id int PRIMARY KEY);
        CREATE SCHEMA aside CREATE TABLE aside (id int);
        CREATE VIEW v AS SELECT 1; CREATE MATERIALIZED VIEW m AS SELECT 1
        """
    )

    tables = await app_tables(session, "aside")

    assert {name: table.problem for name, table in tables.items() if table.problem} == {
        "keyless": "it has no primary key",
        "candidate": "it has no primary key",
        "deferred": "its primary key is DEFERRABLE",
        "child": "it has no primary key",
    }
    assert tables["candidate"].usable_index == "candidate_code"
    assert tables["indexed"].identity_index == "indexed_code"
    assert [name for name, table in tables.items() if table.unlogged] == ["scratch"]
    assert [name for name, table in tables.items() if table.root == tables["p"].oid] == ["p1", "p2", "p2a"]
    assert [name for name, table in tables.items() if table.partitioned] == ["p", "p2"]
    assert not {"aside", "v", "m"} & set(tables)
    assert all(table.owned for table in tables.values())


async def test_given_an_extensions_table_it_is_not_the_apps(database: Database, session: Connection) -> None:
    # no extension that is at hand everywhere has a table, so a table is made a member of one
    database.execute("CREATE TABLE member (id int); ALTER EXTENSION plpgsql ADD TABLE member", superuser=True)

    assert await app_tables(session) == {}


@pytest.mark.parametrize(
    ("server", "managed", "app"), [("source", ("auth", "supabase_functions"), []), ("target", (), ["users"])]
)
async def test_given_supabases_server_its_schemas_are_managed_and_elsewhere_the_apps_own(
    request: pytest.FixtureRequest, server: str, managed: tuple[str, ...], app: list[str]
) -> None:
    database = request.getfixturevalue(server)
    database.execute("CREATE SCHEMA auth CREATE TABLE users (id int); CREATE SCHEMA supabase_functions", superuser=True)

    async with await connect(database.dsn, Side.SOURCE, "test") as session:
        assert await managed_schemas(session) == managed
        assert list(await app_tables(session)) == app


async def test_given_thousands_of_tables_the_catalog_is_read_in_seconds(source: Database) -> None:
    source.execute(
        """
        DO $$ BEGIN
          FOR n IN 1 .. 2000 LOOP EXECUTE format('CREATE TABLE t%s (id int PRIMARY KEY)', n);
            IF n % 500 = 0 THEN COMMIT; END IF;
          END LOOP;
        END $$
        """
    )
    source.execute("CREATE PUBLICATION everything FOR ALL TABLES", superuser=True)
    async with await connect(source.dsn, Side.SOURCE, "test") as session:
        started = time.monotonic()

        assert len(await published_tables(session, ["everything"])) == len(await source_tables(session, [])) == 2000

        assert time.monotonic() - started < 10  # time-boxed: a query a table would take longer
