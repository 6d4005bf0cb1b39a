"""Law 5 while the app deploys: a table that loses its key while it is published goes on taking the app's updates."""

import psycopg
import pytest

from replicator.errors import Side
from replicator.model import KeylessPolicy, TableName, TableState
from replicator.postgres import connect
from replicator.source.publication import drop_publications
from tests.fixtures.bootstrapping import assert_equal, read_records, run_bootstrap
from tests.fixtures.databases import Database, settings_for

SCHEMA = """
CREATE TABLE plain (id int CONSTRAINT plain_key PRIMARY KEY, v text);
CREATE TABLE indexed (id int PRIMARY KEY, code int NOT NULL CONSTRAINT indexed_code UNIQUE, v text);
ALTER TABLE indexed REPLICA IDENTITY USING INDEX indexed_code;
CREATE TABLE silenced (id int PRIMARY KEY, v text);
CREATE TABLE cut (id int CONSTRAINT cut_key PRIMARY KEY, v text) PARTITION BY RANGE (id);
CREATE TABLE cut_1 PARTITION OF cut FOR VALUES FROM (0) TO (10);
CREATE TABLE leafy (id int PRIMARY KEY, v text) PARTITION BY RANGE (id);
CREATE TABLE leafy_1 PARTITION OF leafy FOR VALUES FROM (0) TO (10);
CREATE TABLE loose (id int, v text);
INSERT INTO plain VALUES (1, 'a'), (2, 'b'); INSERT INTO indexed VALUES (1, 1, 'a'); INSERT INTO silenced TABLE plain;
INSERT INTO cut TABLE plain; INSERT INTO leafy TABLE plain; INSERT INTO loose TABLE plain
"""
LOSE = """
ALTER TABLE plain DROP CONSTRAINT plain_key; ALTER TABLE indexed DROP CONSTRAINT indexed_code;
ALTER TABLE silenced REPLICA IDENTITY NOTHING; ALTER TABLE cut DROP CONSTRAINT cut_key;
ALTER TABLE leafy_1 REPLICA IDENTITY NOTHING
"""
REGAIN = """
ALTER TABLE plain ADD CONSTRAINT plain_key PRIMARY KEY (id); ALTER TABLE indexed REPLICA IDENTITY DEFAULT;
ALTER TABLE silenced REPLICA IDENTITY DEFAULT; ALTER TABLE cut ADD CONSTRAINT cut_key PRIMARY KEY (id);
ALTER TABLE leafy_1 REPLICA IDENTITY DEFAULT; ALTER TABLE loose ADD PRIMARY KEY (id)
"""
TABLES = ("plain", "indexed", "silenced", "cut", "leafy")
PUBLISHED = """
SELECT p.pubname, c.relname FROM pg_publication_rel r JOIN pg_publication p ON p.oid = r.prpubid
  JOIN pg_class c ON c.oid = r.prrelid ORDER BY 1, 2
"""


def update_all(source: Database) -> None:
    """What the app does all the time; raises where a publication stands in its way."""
    source.execute(";".join(f"UPDATE {name} SET v = v || 'x'; DELETE FROM {name} WHERE v = ''" for name in TABLES))


def published(source: Database) -> dict[str, set[str]]:
    """The tables of each publication; without our prefix, '' or '_inserts'."""
    found: dict[str, set[str]] = {}
    for publication, table in source.fetch(PUBLISHED):
        found.setdefault("inserts" if publication.endswith("_inserts") else "complete", set()).add(table)
    return found


@pytest.mark.parametrize(
    ("policy", "after"),
    [
        (KeylessPolicy.FULL, {"complete": {"plain", "indexed", "silenced", "cut_1", "leafy", "loose"}}),
        (KeylessPolicy.EXCLUDE, {}),
        (KeylessPolicy.INSERT_ONLY, {"inserts": {*TABLES, "loose"}}),
    ],
)
async def test_law_5_a_published_table_that_loses_its_key_takes_the_apps_updates_again(
    source: Database, target: Database, policy: KeylessPolicy, after: dict[str, set[str]]
) -> None:
    """Given every policy, when keys and identities go, then the worker plans anew; when they come back, again."""
    source.execute(SCHEMA)
    settings = settings_for(source, target, keyless=policy)
    await run_bootstrap(settings)
    before = published(source)
    source.execute(LOSE)
    with pytest.raises(psycopg.errors.ObjectNotInPrerequisiteState, match="replica identity"):
        update_all(source)

    await run_bootstrap(settings)
    update_all(source)

    assert published(source) == after
    source.execute("CREATE TABLE cut_2 PARTITION OF cut FOR VALUES FROM (10) TO (20); INSERT INTO cut VALUES (11, 'c')")
    source.execute("UPDATE cut SET v = 'd' WHERE id = 11")  # a partition that comes later must not be drawn in
    source.execute(REGAIN)

    await run_bootstrap(settings)
    update_all(source)
    if policy is not KeylessPolicy.FULL:
        # FULL stays where it was made so: nothing would be gained by changing it under the app's feet
        assert published(source) == {"complete": before["complete"] | {"loose"}}
    records = await read_records(settings)
    assert {record.state for record in records.values()} == {TableState.READY}
    assert not any(record.insert_only for record in records.values())


async def test_law_5_under_refuse_the_table_is_left_out_and_told_and_comes_back_with_its_key(
    source: Database, target: Database
) -> None:
    """Given REPLICATOR_KEYLESS=refuse, when a key goes, then its table is let go; with a key, it is copied anew."""
    source.execute(SCHEMA + "; ALTER TABLE loose ADD PRIMARY KEY (id)")
    settings = settings_for(source, target)
    await run_bootstrap(settings)
    source.execute(LOSE)

    await run_bootstrap(settings)

    update_all(source)
    assert published(source) == {"complete": {"loose"}}
    assert set(await read_records(settings)) == {TableName("public", "loose")}
    told = target.value("SELECT detail FROM replicator.steps WHERE name = 'unpublished'")
    assert told["public.plain"] == "it has no primary key"
    assert set(told) == {f"public.{name}" for name in TABLES}

    source.execute(REGAIN.replace("ALTER TABLE loose ADD PRIMARY KEY (id)", "INSERT INTO plain VALUES (3, 'new')"))
    await run_bootstrap(settings)

    assert published(source) == {"complete": {*TABLES, "loose"}}
    assert target.value("SELECT detail FROM replicator.steps WHERE name = 'unpublished'") == {}
    await assert_equal(settings)


async def test_what_the_identities_were_survives_a_second_loss(source: Database, target: Database) -> None:
    """Given a table made FULL twice, when the publications are dropped, then its first identity comes back."""
    source.execute("CREATE TABLE t (id int CONSTRAINT t_key PRIMARY KEY, v text)")
    settings = settings_for(source, target, keyless="full")
    await run_bootstrap(settings)
    for _ in range(2):
        source.execute("ALTER TABLE t DROP CONSTRAINT t_key, REPLICA IDENTITY DEFAULT")
        await run_bootstrap(settings)
        assert source.value("SELECT relreplident::text FROM pg_class WHERE relname = 't'") == "f"
        source.execute("ALTER TABLE t ADD CONSTRAINT t_key PRIMARY KEY (id)")
    names = [name for (name,) in source.fetch("SELECT pubname FROM pg_publication")]

    async with await connect(source.dsn, Side.SOURCE, "test") as session:
        await drop_publications(session, names)

    assert source.value("SELECT relreplident::text FROM pg_class WHERE relname = 't'") == "d"
