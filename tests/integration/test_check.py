"""`replicator check` on real servers: each obstacle gives its one finding, with side and remedy (issue, point 9)."""

from collections.abc import Iterator
from typing import Any
from uuid import UUID

import psycopg
import pytest
from psycopg import sql
from psycopg.conninfo import make_conninfo

from replicator import control
from replicator.check import Finding, Severity, blocking, check
from replicator.check.rights import Rights, rights_verdict
from replicator.control import Migration
from replicator.errors import Side
from replicator.postgres import connect
from tests.fixtures.databases import Database, settings_for
from tests.fixtures.servers import SOURCE_MAJOR, ServerMaker

KEYLESS = "CREATE TABLE keyless (v text)"


async def findings(source: Database | str, target: Database | str, **changes: Any) -> list[Finding]:
    return await check(settings_for(source, target, **changes))


async def only_finding(source: Database | str, target: Database | str, **changes: Any) -> Finding:
    (finding,) = await findings(source, target, **changes)
    assert finding.remedy
    assert "\n" not in finding.message + finding.remedy
    return finding


async def blocked_by(source: Database | str, target: Database | str, **changes: Any) -> Finding:
    """The one finding that blocks, warnings aside."""
    (finding,) = [item for item in await findings(source, target, **changes) if blocking([item])]
    assert finding.remedy
    return finding


@pytest.fixture
def stranger(source: Database) -> Iterator[str]:
    """The source's URL for a role that may publish but lacks REPLICATION."""
    name = sql.Identifier("stranger")
    with source.server.administer(source.name) as connection:
        connection.execute(
            sql.SQL("CREATE ROLE {} LOGIN PASSWORD {}").format(name, sql.Literal(source.server.password))
        )
        connection.execute(sql.SQL("GRANT CREATE ON DATABASE {} TO {}").format(sql.Identifier(source.name), name))
        yield source.server.dsn("stranger", source.name)
        connection.execute(sql.SQL("DROP OWNED BY {}; DROP ROLE {}").format(name, name))


async def test_given_two_sound_servers_there_is_nothing_to_say(source: Database, target: Database) -> None:
    source.execute("CREATE TABLE t (id int PRIMARY KEY); CREATE SCHEMA s CREATE TABLE u (id int PRIMARY KEY)")
    before = source.fetch("SELECT oid FROM pg_class ORDER BY oid")

    assert await findings(source, target) == []

    assert source.fetch("SELECT oid FROM pg_class ORDER BY oid") == before
    assert source.value("SELECT count(*) FROM pg_publication") == 0


async def test_given_an_older_source_there_is_nothing_to_say_either(source_15: Database, target: Database) -> None:
    source_15.execute("CREATE TABLE t (id int PRIMARY KEY)")

    assert await findings(source_15, target) == []


@pytest.mark.parametrize("side", [Side.SOURCE, Side.TARGET])
async def test_given_a_wrong_password_there_is_one_finding_for_that_side(
    source: Database, target: Database, side: Side
) -> None:
    dsns = {Side.SOURCE: source.dsn, Side.TARGET: target.dsn}
    dsns[side] = make_conninfo(dsns[side], password="not-the-one")

    finding = await only_finding(dsns[Side.SOURCE], dsns[Side.TARGET])

    assert finding.side is side
    assert "password authentication failed" in finding.message
    assert "not-the-one" not in finding.message


async def test_given_a_host_that_does_not_resolve_it_is_named(source: Database, target: Database) -> None:
    finding = await only_finding(make_conninfo(source.dsn, host="no-such-host.invalid"), target)

    assert "no-such-host.invalid" in finding.message
    assert finding.side is Side.SOURCE


async def test_given_foreign_tables_their_servers_must_be_on_the_target(source: Database, target: Database) -> None:
    server = "CREATE FOREIGN DATA WRAPPER elsewhere; CREATE SERVER far FOREIGN DATA WRAPPER elsewhere"
    source.execute(f"{server}; CREATE FOREIGN TABLE public.distant (id int) SERVER far", superuser=True)

    finding = await only_finding(source, target)

    assert blocking([finding])
    assert finding.message == "foreign tables need servers that are not here: public.distant"
    assert "CREATE SERVER far" in finding.remedy
    target.execute(server, superuser=True)
    assert await findings(source, target) == []


@pytest.mark.parametrize("side", [Side.SOURCE, Side.TARGET])
async def test_given_a_server_that_is_away_the_remedy_is_the_operators(
    source: Database, target: Database, side: Side
) -> None:
    """Given a command, which does not try again as a worker does, then it does not say that it will."""
    away = "postgresql://nobody@127.0.0.1:1/nothing"

    found = await findings(away, target) if side is Side.SOURCE else await findings(source, away)

    assert [(item.side, item.remedy) for item in found] == [
        (side, "Run the command again; check that the server runs and can be reached from here.")
    ]


async def test_given_a_role_without_replication_the_remedy_is_the_attribute(
    source: Database, target: Database, stranger: str
) -> None:
    finding = await blocked_by(stranger, target)

    assert finding.side is Side.SOURCE
    assert "REPLICATION" in finding.remedy


async def test_given_a_low_wal_level_and_no_slot_each_is_named(target: Database, make_server: ServerMaker) -> None:
    server = make_server(SOURCE_MAJOR, wal_level="replica", max_replication_slots="0")

    found = await findings(server.superuser_dsn(), target)

    assert [item.message for item in found if blocking([item])] == [
        "wal_level is replica, not logical",
        "all replication slots are in use",
    ]


async def test_given_both_urls_for_one_database_nothing_else_is_compared(source: Database) -> None:
    source.execute("CREATE TABLE t (id int PRIMARY KEY)")
    finding = await only_finding(source, make_conninfo(source.dsn, host="localhost"))

    assert finding.side is Side.CONFIGURATION
    assert finding.message == "both URLs lead to the same database"


async def test_given_a_target_that_is_not_empty_its_tables_are_named(source: Database, target: Database) -> None:
    source.execute("CREATE TABLE t (id int PRIMARY KEY)")
    target.execute("CREATE TABLE other (id int)")

    finding = await only_finding(source, target)

    assert finding.side is Side.TARGET
    assert "public.other" in finding.message
    assert "REPLICATOR_SCHEMA" in finding.remedy


async def test_given_our_own_migration_under_way_the_target_need_not_be_empty(
    source: Database, target: Database
) -> None:
    source.execute("CREATE TABLE t (id int PRIMARY KEY)")
    target.execute("CREATE TABLE t (id int PRIMARY KEY)")
    async with await connect(target.dsn, Side.TARGET, "test") as connection:
        await control.create(connection)
        await control.start_migration(connection, Migration(UUID(int=1), "s", ("p",), True, {}, "1", 1, "d"))

    assert await findings(source, target) == []


async def test_given_an_extension_that_the_app_uses_and_the_target_lacks_it_is_blocked(
    source: Database, target: Database
) -> None:
    # a member that the app's table uses, of an extension that no server has
    source.execute("CREATE DOMAIN public.special AS text", superuser=True)
    source.execute("UPDATE pg_extension SET extname = 'unheard_of' WHERE extname = 'plpgsql'", superuser=True)
    source.execute("ALTER EXTENSION unheard_of ADD DOMAIN special", superuser=True)
    assert [item.severity for item in await findings(source, target)] == [Severity.WARNING]

    source.execute("CREATE TABLE t (id int PRIMARY KEY, v special)")

    finding = await only_finding(source, target)
    assert finding.severity is Severity.BLOCKED
    assert finding.side is Side.TARGET
    assert "unheard_of" in finding.message


@pytest.mark.parametrize(
    ("keyless", "severity", "words"),
    [
        ("refuse", Severity.BLOCKED, "could not be replicated: it has no primary key"),
        ("full", Severity.WARNING, "REPLICA IDENTITY FULL will be set"),
        ("insert-only", Severity.WARNING, "only inserts and truncates"),
        ("exclude", Severity.WARNING, "no row will be moved"),
    ],
)
async def test_given_a_table_without_identity_the_finding_says_what_the_policy_does(
    source: Database, target: Database, keyless: str, severity: Severity, words: str
) -> None:
    source.execute(KEYLESS)

    finding = await only_finding(source, target, keyless=keyless)

    assert finding.severity is severity
    assert words in finding.message
    assert "public.keyless" in finding.message
    assert "primary key" in finding.remedy


async def test_given_a_publication_that_breaks_the_apps_updates_it_is_blocked(
    source: Database, target: Database
) -> None:
    source.execute(KEYLESS + "; CREATE PUBLICATION bare FOR TABLE keyless")

    finding = await only_finding(source, target, publications="bare")

    assert blocking([finding])
    assert "the app's own would fail" in finding.message


async def test_given_a_publication_that_does_not_exist_it_is_blocked(source: Database, target: Database) -> None:
    finding = await blocked_by(source, target, publications="missing")

    assert finding.message == "there is no publication missing"


async def test_given_a_role_that_may_not_read_the_published_tables_they_are_named(
    source: Database, target: Database
) -> None:
    source.execute("CREATE TABLE theirs (id int PRIMARY KEY); CREATE PUBLICATION chosen FOR TABLE theirs")
    role = f"reader_of_{source.name}"
    source.execute(f"CREATE ROLE {role} LOGIN REPLICATION PASSWORD 'secret'", superuser=True)
    try:
        found = await findings(make_conninfo(source.dsn, user=role, password="secret"), target, publications="chosen")
    finally:
        source.execute(f"DROP ROLE {role}", superuser=True)

    assert [f.message for f in found if blocking([f])] == ["the role may not read public.theirs"]
    assert any("does not own public.theirs: the cutover cannot close them" in f.message for f in found)


def test_given_row_level_security_on_the_source_its_tables_are_named() -> None:
    hidden = Rights("public", "theirs", readable=True, hidden=True, owned=True)

    (finding,) = rights_verdict([hidden], chosen=False)

    assert blocking([finding])
    assert finding.message == "row-level security would keep rows from the copy of public.theirs"


async def test_given_tables_of_another_owner_publishing_is_probed_and_blocked(
    source: Database, target: Database
) -> None:
    source.execute("CREATE TABLE foreign_property (id int PRIMARY KEY)", superuser=True)

    finding = await only_finding(source, target)

    assert finding.side is Side.SOURCE
    assert "foreign_property" in finding.message


async def test_given_what_will_not_be_moved_each_kind_is_a_warning(source: Database, target: Database) -> None:
    source.execute(
        "CREATE SCHEMA auth CREATE TABLE users (id int PRIMARY KEY); GRANT ALL ON SCHEMA auth TO postgres;"
        "GRANT ALL ON auth.users TO postgres",
        superuser=True,
    )
    source.execute(
        "CREATE TABLE t (id int PRIMARY KEY REFERENCES auth.users);"
        "CREATE UNLOGGED TABLE scratch (id int); SELECT lo_create(0)"
    )

    found = await findings(source, target)

    assert {item.severity for item in found} == {Severity.WARNING}
    assert [item.message.split(":")[0] for item in found] == [
        "1 large objects are not moved",
        "rows of unlogged tables are not moved",
        "foreign keys into schemas that are not moved can only be made if the target has these tables",
    ]
    assert "--omit-failing" in found[-1].remedy


async def test_given_what_lies_in_no_schema_of_the_app_each_is_a_warning(source: Database, target: Database) -> None:
    """Given a cast, a setting of the database and rows in an extension's table, then each is told: none is moved."""
    source.execute(
        "CREATE TYPE mood AS ENUM ('sad'); CREATE CAST (varchar AS mood) WITH INOUT AS IMPLICIT;"
        "CREATE TABLE t (id int PRIMARY KEY, m mood);"
        "CREATE TABLE kept (id int PRIMARY KEY); INSERT INTO kept VALUES (1)"
    )
    source.execute(
        f"ALTER DATABASE {source.name} SET \"app.secret\" = 'hidden'; CREATE EXTENSION hstore;"
        "ALTER EXTENSION hstore ADD TABLE kept; GRANT SELECT ON kept TO PUBLIC;"
        "UPDATE pg_extension SET extconfig = ARRAY['kept'::regclass::oid], extcondition = '{WHERE id > 0}'"
        " WHERE extname = 'hstore'",
        superuser=True,
    )

    found = [item for item in await findings(source, target) if item.severity is Severity.WARNING]

    assert [item.message for item in found] == [
        "casts are not moved, and the app's statements may need them",
        "settings of the database are not moved: app.secret",
        "rows of public.kept are not moved: the table belongs to extension hstore",
    ]
    assert "CREATE CAST (character varying AS public.mood) WITH INOUT AS IMPLICIT" in found[0].remedy
    source.execute("UPDATE kept SET id = 0")
    assert len([item for item in await findings(source, target) if "kept" in item.message]) == 0


async def test_given_a_target_role_without_rights_each_is_named(source: Database, target: Database) -> None:
    revoked = sql.SQL("ALTER DATABASE {0} OWNER TO CURRENT_USER; REVOKE ALL ON DATABASE {0} FROM PUBLIC, app").format(
        sql.Identifier(target.name)
    )
    target.execute(
        revoked.as_string() + f"; GRANT CONNECT ON DATABASE {target.name} TO app",
        superuser=True,
    )

    found = await findings(source, target)

    assert [(item.severity, item.side) for item in found] == [(Severity.BLOCKED, Side.TARGET)] * 2
    assert "create schemas" in found[0].message
    assert "temporary tables" in found[1].message


async def test_given_an_encoding_that_cannot_hold_every_text_it_is_blocked(source: Database, target: Database) -> None:
    name = target.name + "_latin"
    with target.server.administer() as connection:
        connection.execute(f"CREATE DATABASE {name} OWNER app ENCODING 'LATIN1' TEMPLATE template0 LOCALE 'C'".encode())
        try:
            finding = await only_finding(source, target.server.dsn("app", name))
        finally:
            connection.execute(f"DROP DATABASE {name} WITH (FORCE)".encode())

    assert blocking([finding])
    assert "encoding is LATIN1" in finding.message


async def test_given_xml_on_the_source_a_server_without_it_is_blocked(source: Database, target: Database) -> None:
    if target.value("SELECT count(*) FROM pg_config WHERE setting LIKE '%--with-libxml%'", superuser=True):
        pytest.skip("the target's server was built with libxml")
    source.execute("CREATE DOMAIN page AS xml; CREATE TABLE t (id int PRIMARY KEY, v xml, w xml[], p page, q text)")

    finding = await only_finding(source, target)

    assert blocking([finding])
    assert finding.message.endswith("which columns have: public.t.p, public.t.v, public.t.w")


async def test_given_values_that_name_objects_it_says_what_they_need(source: Database, target: Database) -> None:
    source.execute("CREATE TABLE t (id int PRIMARY KEY, kind regclass, owners regrole[], n oid)")

    finding = await only_finding(source, target)

    assert not blocking([finding])
    assert finding.message.endswith("only where these are: public.t.kind, public.t.owners")


async def test_given_a_schema_of_the_users_own_every_column_needs_its_place(source: Database, target: Database) -> None:
    source.execute("CREATE TABLE t (id int PRIMARY KEY, v text); CREATE TABLE gone (id int PRIMARY KEY)")
    target.execute("CREATE TABLE t (extra int, id int PRIMARY KEY)")

    found = await findings(source, target, REPLICATOR_SCHEMA="existing")

    assert [item.message for item in found if blocking([item])] == [
        "published tables are missing: public.gone",
        "table public.t has no column for v",
    ]


async def test_given_a_schema_of_the_users_own_its_tables_must_be_empty(source: Database, target: Database) -> None:
    for database in (source, target):
        database.execute("CREATE TABLE t (id int PRIMARY KEY); INSERT INTO t VALUES (1)")

    finding = await blocked_by(source, target, REPLICATOR_SCHEMA="existing")

    assert finding.message == "table public.t is not empty on the target"


async def test_given_a_schema_of_the_users_own_the_right_to_replica_mode_is_probed(
    source: Database, target: Database
) -> None:
    finding = await only_finding(source, target, REPLICATOR_SCHEMA="existing")
    assert finding.severity is Severity.WARNING
    assert "session_replication_role" in finding.message

    assert await findings(source, target.superuser_dsn, REPLICATOR_SCHEMA="existing") == []

    target.execute("""
        CREATE TABLE t (id int PRIMARY KEY);
        CREATE FUNCTION watch() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END';
        CREATE TRIGGER meant AFTER INSERT ON t FOR EACH ROW EXECUTE FUNCTION watch();
        ALTER TABLE t ENABLE REPLICA TRIGGER meant;
        CREATE TRIGGER ordinary AFTER INSERT ON t FOR EACH ROW EXECUTE FUNCTION watch();
    """)
    finding = await only_finding(source, target.superuser_dsn, REPLICATOR_SCHEMA="existing")
    assert finding.severity is Severity.WARNING
    assert finding.message.endswith("fire on copied and applied rows: meant of public.t")


async def test_given_row_level_security_that_applies_to_the_role_its_tables_are_named(
    source: Database, target: Database
) -> None:
    target.execute("CREATE TABLE own (id int); ALTER TABLE own ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY")
    target.execute("CREATE TABLE theirs (id int); ALTER TABLE theirs ENABLE ROW LEVEL SECURITY", superuser=True)

    found = await findings(source, target, REPLICATOR_SCHEMA="existing")

    assert "row-level security applies to the role on public.theirs" in [f.message for f in found if blocking([f])]


async def test_given_no_pg_dump_that_is_new_enough_it_is_blocked(
    source: Database, target: Database, tmp_path: Any
) -> None:
    finding = await only_finding(source, target, pg_bin=str(tmp_path))

    assert finding.side is Side.CONFIGURATION
    assert "pg_dump" in finding.message


async def test_given_an_open_prepared_transaction_it_is_a_warning(source: Database, target: Database) -> None:
    with psycopg.connect(source.dsn, autocommit=True) as connection:
        connection.execute("BEGIN; CREATE TABLE t (id int PRIMARY KEY); PREPARE TRANSACTION 'waiting'")
        try:
            finding = await only_finding(source, target)
        finally:
            connection.execute("ROLLBACK PREPARED 'waiting'")

    assert "1 prepared transactions" in finding.message


async def test_given_control_tables_of_another_role_it_is_a_finding_and_the_source_is_still_checked(
    source: Database, target: Database
) -> None:
    source.execute(KEYLESS)
    async with await connect(target.superuser_dsn, Side.TARGET, "test") as connection:
        await control.create(connection)

    found = await findings(source, target)

    assert [(item.severity, item.side) for item in found] == [
        (Severity.BLOCKED, Side.TARGET),
        (Severity.BLOCKED, Side.SOURCE),
    ]
    assert "permission denied" in found[0].message


async def test_given_a_schema_of_the_app_with_our_name_it_is_not_left_out_silently(
    source: Database, target: Database
) -> None:
    source.execute("CREATE SCHEMA replicator CREATE TABLE accounts (id int PRIMARY KEY)")

    finding = await blocked_by(source, target)

    assert (finding.side, "replicator.accounts" in finding.message) == (Side.SOURCE, True)
    source.execute("ALTER SCHEMA replicator RENAME TO theirs")
    assert await findings(source, target) == []


async def test_given_an_event_trigger_that_the_fence_would_fire_it_is_told(source: Database, target: Database) -> None:
    """Given event triggers of the app, then that one is named which our own statements call."""
    source.execute("CREATE FUNCTION log_it() RETURNS event_trigger LANGUAGE plpgsql AS 'BEGIN END'")
    source.execute(
        "CREATE EVENT TRIGGER log_views ON ddl_command_end WHEN TAG IN ('CREATE VIEW') EXECUTE FUNCTION log_it();"
        "CREATE EVENT TRIGGER log_functions ON ddl_command_end WHEN TAG IN ('CREATE FUNCTION')"
        " EXECUTE FUNCTION log_it()",
        superuser=True,
    )
    try:
        finding = await only_finding(source, target)
    finally:
        source.execute("DROP EVENT TRIGGER log_functions; DROP EVENT TRIGGER log_views", superuser=True)

    assert finding.severity is Severity.WARNING
    assert "ALTER EVENT TRIGGER log_functions DISABLE;" in finding.remedy
    assert "log_views" not in finding.message
