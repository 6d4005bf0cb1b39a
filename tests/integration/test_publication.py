"""Our publications on real servers. Law 5: whatever is published, the app's own updates go on working."""

from collections.abc import AsyncIterator
from contextlib import nullcontext

import psycopg
import pytest

from replicator.catalog import managed_schemas, published_tables, source_tables
from replicator.config import Settings
from replicator.errors import Side, SourceError, TransientError
from replicator.model import KeylessPolicy, SchemaMode
from replicator.postgres import Connection, connect
from replicator.source.publication import create_publications, drop_publications, plan, probe_publications
from tests.fixtures.databases import Database, settings_for

SCHEMA = """
CREATE TABLE keyed (id int PRIMARY KEY, v text);
CREATE TABLE keyless (v text);
CREATE TABLE silent (id int PRIMARY KEY, v text);
ALTER TABLE silent REPLICA IDENTITY NOTHING;
CREATE TABLE indexed (code int NOT NULL CONSTRAINT indexed_code UNIQUE, v text);
ALTER TABLE indexed REPLICA IDENTITY USING INDEX indexed_code;
CREATE TABLE deferred (id int PRIMARY KEY DEFERRABLE, v text);
CREATE TABLE computed (n int, v text, k int GENERATED ALWAYS AS (n * 2) STORED PRIMARY KEY);
CREATE TABLE parent (id int PRIMARY KEY, v text);
CREATE TABLE child () INHERITS (parent);
CREATE TABLE events (at int, v text) PARTITION BY RANGE (at);
CREATE TABLE events_1 PARTITION OF events FOR VALUES FROM (0) TO (10);
CREATE TABLE orders (id int PRIMARY KEY, v text) PARTITION BY RANGE (id);
CREATE TABLE orders_1 PARTITION OF orders FOR VALUES FROM (0) TO (10);
CREATE UNLOGGED TABLE scratch (v text);
"""
FUTURE = """
CREATE TABLE events_2 PARTITION OF events FOR VALUES FROM (10) TO (20);
CREATE TABLE orders_2 PARTITION OF orders FOR VALUES FROM (10) TO (20);
INSERT INTO events VALUES (11, 'a'); INSERT INTO orders VALUES (11, 'a')
"""
TABLES = [
    "keyed",
    "keyless",
    "silent",
    "indexed",
    "deferred",
    "computed",
    "parent",
    "child",
    "events",
    "orders",
    "scratch",
]
KEYLESS = {"keyless", "silent", "deferred", "computed", "child", "events"}


def fill(database: Database) -> Database:
    rows = (f"INSERT INTO {name} VALUES (1{'' if name in ('keyless', 'scratch') else ', 2'})" for name in TABLES)
    database.execute(SCHEMA + ";".join(rows))
    return database


@pytest.fixture
def app(source: Database) -> Database:
    return fill(source)


@pytest.fixture(params=["source", "source_15", "source_18"])
def any_app(request: pytest.FixtureRequest) -> Database:
    return fill(request.getfixturevalue(request.param))


@pytest.fixture
async def session(app: Database) -> AsyncIterator[Connection]:
    async with await connect(app.dsn, Side.SOURCE, "test") as connection:
        yield connection


def settings(app: Database, keyless: KeylessPolicy, mode: SchemaMode = SchemaMode.COPY) -> Settings:
    return settings_for(app, app, REPLICATOR_SCHEMA=mode, keyless=keyless)


def update_everything(app: Database) -> None:
    """What the app does all the time; raises when a publication stands in its way."""
    app.execute(";".join(f"UPDATE {name} SET v = v || 'x'; DELETE FROM {name} WHERE v = ''" for name in TABLES))


def identities(app: Database) -> dict[str, str]:
    return dict(
        app.fetch("SELECT relname, relreplident::text FROM pg_class WHERE relnamespace = 'public'::regnamespace")
    )


async def create(session: Connection, chosen: Settings) -> tuple[str, ...]:
    return await create_publications(session, "replicator_test", await source_tables(session, []), chosen)


@pytest.mark.parametrize("mode", SchemaMode)
@pytest.mark.parametrize("policy", KeylessPolicy)
async def test_given_any_policy_the_apps_updates_go_on_working(
    any_app: Database, policy: KeylessPolicy, mode: SchemaMode
) -> None:
    async with await connect(any_app.dsn, Side.SOURCE, "test") as session:
        # changes would have to travel under a keyless root; since 18, FULL would not do for a generated column
        full_will_not_do = mode is SchemaMode.EXISTING or session.info.server_version >= 180_000
        refused = policy is KeylessPolicy.REFUSE or (policy is KeylessPolicy.FULL and full_will_not_do)
        with pytest.raises(SourceError, match="could not be replicated") if refused else nullcontext():
            await create(session, settings(any_app, policy, mode))

    update_everything(any_app)
    any_app.execute(FUTURE)
    update_everything(any_app)


def test_given_a_bare_publication_for_all_tables_the_apps_updates_fail(app: Database) -> None:
    """The control: without this the tests of law 5 would prove nothing."""
    app.execute("CREATE PUBLICATION bare FOR ALL TABLES", superuser=True)

    with pytest.raises(psycopg.Error, match="does not have a replica identity"):
        update_everything(app)


async def test_given_full_every_table_is_published_with_all_operations(app: Database, session: Connection) -> None:
    names = await create(session, settings(app, KeylessPolicy.FULL))

    published = {table.table.name: table for table in await published_tables(session, names)}
    assert set(published) == (set(TABLES) - {"scratch", "events", "orders"}) | {"events_1", "orders_1"}
    assert not any(table.insert_only for table in published.values())
    assert {name for name, identity in identities(app).items() if identity == "f"} == (KEYLESS - {"events"}) | {
        "events_1"
    }


async def test_given_insert_only_keyless_tables_are_published_for_inserts_and_truncate(
    app: Database, session: Connection
) -> None:
    names = await create(session, settings(app, KeylessPolicy.INSERT_ONLY))

    assert names == ("replicator_test", "replicator_test_inserts")
    published = await published_tables(session, names)
    assert {table.table.name for table in published if table.insert_only} == (KEYLESS - {"events"}) | {"events_1"}
    assert all(table.publishes_truncate for table in published)


async def test_given_exclude_keyless_tables_are_not_published(app: Database, session: Connection) -> None:
    names = await create(session, settings(app, KeylessPolicy.EXCLUDE))

    published = await published_tables(session, names)
    assert {table.table.name for table in published} == {"keyed", "indexed", "parent", "orders_1"}


async def test_given_an_existing_schema_changes_travel_under_the_root(app: Database, session: Connection) -> None:
    names = await create(session, settings(app, KeylessPolicy.EXCLUDE, SchemaMode.EXISTING))

    published = {table.table.name: table for table in await published_tables(session, names)}
    assert [part.table.name for part in published["orders"].parts] == ["orders_1"]
    assert "orders_1" not in published


async def test_given_publications_of_an_interrupted_run_they_are_kept(app: Database, session: Connection) -> None:
    chosen = settings(app, KeylessPolicy.FULL)
    names = await create(session, chosen)

    assert await create(session, chosen) == names


async def test_given_a_policy_changed_halfway_it_is_not_guessed(app: Database, session: Connection) -> None:
    await create(session, settings(app, KeylessPolicy.FULL))

    with pytest.raises(SourceError, match="not all of the publications"):
        await create(session, settings(app, KeylessPolicy.INSERT_ONLY))


async def test_given_identities_made_full_dropping_the_publications_puts_them_back(
    app: Database, session: Connection
) -> None:
    app.execute("DROP INDEX IF EXISTS none; CREATE TABLE lost (code int NOT NULL CONSTRAINT lost_code UNIQUE)")
    app.execute("ALTER TABLE lost REPLICA IDENTITY USING INDEX lost_code; ALTER TABLE lost DROP CONSTRAINT lost_code")
    before = identities(app)
    names = await create(session, settings(app, KeylessPolicy.FULL))
    app.execute("DROP TABLE deferred; ALTER TABLE silent REPLICA IDENTITY DEFAULT")

    await drop_publications(session, names)
    await drop_publications(session, names)

    assert app.value("SELECT count(*) FROM pg_publication") == 0
    del before["deferred"], before["deferred_pkey"]
    assert identities(app) == before | {"silent": "d", "lost": "n"}


async def test_given_a_table_held_by_the_app_nothing_is_made_and_the_app_is_not_blocked_for_long(
    app: Database, session: Connection
) -> None:
    with psycopg.connect(app.dsn) as busy:
        busy.execute("SELECT FROM keyless")

        with pytest.raises(TransientError):
            await create(session, settings(app, KeylessPolicy.FULL))

    assert app.value("SELECT count(*) FROM pg_publication") == 0
    assert "f" not in identities(app).values()


async def test_given_a_table_of_another_owner_the_probe_says_so_and_leaves_nothing(
    app: Database, session: Connection
) -> None:
    chosen = settings(app, KeylessPolicy.FULL)
    await probe_publications(session, plan(await source_tables(session, []), chosen), chosen)
    app.execute("CREATE TABLE foreign_property (id int PRIMARY KEY)", superuser=True)

    with pytest.raises(SourceError, match="foreign_property") as caught:
        await probe_publications(session, plan(await source_tables(session, []), chosen), chosen)

    assert "owner" in caught.value.hint
    assert app.value("SELECT count(*) FROM pg_publication") == 0


async def test_given_no_tables_there_is_an_empty_publication(source: Database) -> None:
    async with await connect(source.dsn, Side.SOURCE, "test") as session:
        names = await create(session, settings(source, KeylessPolicy.REFUSE))

        assert await published_tables(session, names) == []
        assert await managed_schemas(session) == ()
