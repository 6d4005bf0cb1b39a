"""Names that break programs which do not quote, and tables as narrow and as wide as they can be, until the cutover.

Some try to inject SQL, commands of psql, or fields of Python's formats; the databases and their owners are called so.
"""

from collections.abc import Iterator, Sequence
from itertools import cycle, islice
from typing import Final

import pytest

from replicator.demo.roles import render_like, supabase_like
from replicator.model import Phase
from tests.fixtures.databases import Database, drop, settings_for
from tests.fixtures.dumps import dumped_schema
from tests.fixtures.servers import AnyServer
from tests.fixtures.waiting import wait_until
from tests.fixtures.worker import WorkerMaker, wait_caught_up, wait_for_phase
from tests.torture.ending import cut_over, differences
from tests.torture.model import literal, quoted
from tests.torture.names import TRICKY

HOSTILE: Final = (
    '"; DROP TABLE public.canary; --',
    "'; DROP TABLE public.canary; --",
    "\\'; DROP TABLE public.canary; --",
    "$$; DROP TABLE public.canary; --",
    "$_$; DROP TABLE public.canary; $_$",
    "*/; DROP TABLE public.canary; /*",
    "\n; DROP TABLE public.canary;\n--",
    "\n\\! exit 1\n",
    "%(name)s %s %%",
    "{name} {} {0!r}",
    ":name :'name'",
    '""',
    'x"."y',
)
NAMES: Final = (*TRICKY, *HOSTILE)
OWNER: Final = """o"; DROP TABLE public.canary; --'%s{}\\"""
KINDS: Final = 14
"""Things in one schema that need different names."""

ROWS: Final = 3
MANY: Final = 50
"""More rows than are applied by single statements."""

WIDE: Final = f"CREATE TABLE wide (id int PRIMARY KEY, {', '.join(f'c{n} smallint' for n in range(1599))})"
NARROW: Final = (
    "CREATE TABLE one (id int PRIMARY KEY); CREATE TABLE one_text (body text); CREATE TABLE none ();"
    "INSERT INTO one VALUES (1), (2); INSERT INTO one_text VALUES ('a'), ('a'), (NULL);"
    "INSERT INTO none DEFAULT VALUES; INSERT INTO none DEFAULT VALUES; INSERT INTO none DEFAULT VALUES"
)


class Named:
    """A schema, and one of everything in it, by names of which the first is ``NAMES[first]``."""

    def __init__(self, first: int) -> None:
        names = list(islice(cycle(NAMES), first, first + KINDS))
        self._schema, *others = names
        self._names = others
        self.table = quoted(self._schema, others[0])
        self.key, self.label, self.count, self.later = (quoted(name) for name in names[:4])
        self.later_table = quoted(self._schema, others[-1])

    def statements(self) -> Iterator[str]:
        _, sequence, index, enum, primary, check, foreign, unique, function, trigger, policy, view, _ = self._names
        mood, counter = quoted(self._schema, enum), quoted(self._schema, sequence)
        fires = quoted(self._schema, function)
        yield f"CREATE SCHEMA {quoted(self._schema)}"
        yield f"CREATE TYPE {mood} AS ENUM ({', '.join(map(literal, self._names))})"
        yield f"CREATE SEQUENCE {counter}"
        yield (
            f"CREATE TABLE {self.table} ({self.key} text CONSTRAINT {quoted(primary)} PRIMARY KEY, "
            f"{self.label} {mood} NOT NULL DEFAULT {literal(enum)}, "
            f"{self.count} int DEFAULT nextval({literal(counter)}) CONSTRAINT {quoted(unique)} UNIQUE, "
            f"CONSTRAINT {quoted(check)} CHECK ({self.key} <> ''), "
            f"CONSTRAINT {quoted(foreign)} FOREIGN KEY ({self.key}) REFERENCES {self.table})"
        )
        yield f"ALTER SEQUENCE {counter} OWNED BY {self.table}.{self.count}"
        yield f"CREATE INDEX {quoted(index)} ON {self.table} ({self.label})"
        yield f"CREATE FUNCTION {fires}() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN new; END'"
        yield f"CREATE TRIGGER {quoted(trigger)} BEFORE UPDATE ON {self.table} FOR EACH ROW EXECUTE FUNCTION {fires}()"
        using = f"USING ({self.key} <> {literal(policy)})"
        yield f"CREATE POLICY {quoted(policy)} ON {self.table} TO {quoted(OWNER)} {using}"
        yield f"ALTER TABLE {self.table} ENABLE ROW LEVEL SECURITY"
        yield f"CREATE VIEW {quoted(self._schema, view)} AS SELECT {self.label} AS {quoted(view)} FROM {self.table}"
        yield f"COMMENT ON TABLE {self.table} IS {literal(check)}"
        yield self.insert("copied", ROWS)

    def deploy(self) -> Iterator[str]:
        """A column and a table more."""
        yield f"ALTER TABLE {self.table} ADD COLUMN {self.later} int DEFAULT 7"
        yield f"CREATE TABLE {self.later_table} ({self.later} int PRIMARY KEY)"

    def take_back(self) -> Iterator[str]:
        yield f"ALTER TABLE {self.table} DROP COLUMN {self.later}"
        yield f"DROP TABLE {self.later_table}"

    def insert(self, way: str, rows: int) -> str:
        return f"INSERT INTO {self.table} ({self.key}) SELECT '{way}' || n FROM generate_series(1, {rows}) n"

    def changes(self) -> Iterator[str]:
        label = literal(self._names[0])
        yield self.insert("streamed", 1)
        yield f"UPDATE {self.table} SET {self.label} = {label} WHERE {self.key} = 'copied1'"
        yield f"UPDATE {self.table} SET {self.key} = 'moved' WHERE {self.key} = 'copied2'"
        yield f"DELETE FROM {self.table} WHERE {self.key} = 'copied3'"


EVERY: Final[Sequence[Named]] = [Named(first) for first in range(0, len(NAMES), 2)]
FEW: Final = EVERY[::5]
"""Those whose changes come by themselves, and so by single statements."""

OTHERS: Final = [named for named in EVERY if named not in FEW]


def tables(database: Database) -> int:
    return int(database.value("SELECT count(*) FROM pg_tables WHERE schemaname !~ '^(pg_|information_|replicator)'"))


def run(source: Database, statements: Sequence[str]) -> None:
    """One transaction."""
    source.execute(";".join(statements))


def owned(database: Database, attributes: str) -> Database:
    """The database handed over to a role of a hostile name."""
    role, server = quoted(OWNER), database.server
    with server.administer() as connection:
        connection.execute(f"CREATE ROLE {role} LOGIN {attributes} PASSWORD '{server.password}'".encode())
        connection.execute(f"ALTER DATABASE {quoted(database.name)} OWNER TO {role}".encode())
    return Database(server, database.name, server.dsn(OWNER, database.name))


def disown(database: Database) -> None:
    drop(database)
    with database.server.administer() as connection:
        connection.execute(f"DROP ROLE {quoted(OWNER)}".encode())


@pytest.fixture
def hostile_source(source_server: AnyServer) -> Iterator[Database]:
    name = f"source {OWNER}"
    database = owned(
        Database(source_server, name, supabase_like(source_server, name)),
        "NOSUPERUSER REPLICATION BYPASSRLS IN ROLE pg_monitor, pg_read_all_data, pg_signal_backend",
    )
    yield database
    disown(database)


@pytest.fixture
def hostile_target(target_server: AnyServer) -> Iterator[Database]:
    name = f"target {OWNER}"
    database = owned(Database(target_server, name, render_like(target_server, name)), "NOSUPERUSER")
    yield database
    disown(database)


def test_any_name_and_any_number_of_columns_goes_all_the_way(
    hostile_source: Database, hostile_target: Database, make_worker: WorkerMaker
) -> None:
    """Given odd names of everything, when rows are copied and streamed, and cut over, then both sides are the same."""
    source, target = hostile_source, hostile_target
    for named in EVERY:
        run(source, [*named.statements(), *(named.deploy() if named in FEW else ())])
    source.execute("CREATE TABLE public.canary (id int PRIMARY KEY)")
    source.execute(f"{WIDE}; INSERT INTO wide SELECT n FROM generate_series(1, 5) n; {NARROW}")
    settings = settings_for(source, target, keyless="full", schema_interval=0.3)
    before = dumped_schema(source, settings)
    for named in FEW:
        run(source, list(named.take_back()))
    worker = make_worker(settings)
    worker.start()
    wait_for_phase(target, Phase.STREAMING, worker)

    for named in FEW:
        run(source, list(named.changes()))
        wait_caught_up(source, target, worker)
    deployed = [statement for named in FEW for statement in named.deploy()]
    run(source, [*deployed, *(f"INSERT INTO {named.later_table} VALUES (1)" for named in FEW)])
    wait_until(lambda: tables(target) == tables(source), what="the new tables are there")
    run(source, [change for named in OTHERS for change in (*named.changes(), named.insert("more", MANY))])
    run(source, ["INSERT INTO wide VALUES (6, 6)", "UPDATE wide SET c1598 = 7, id = 60 WHERE id = 1"])
    run(source, ["UPDATE wide SET c0 = id, id = -id", "DELETE FROM wide WHERE id = -3"])
    run(source, ["INSERT INTO one VALUES (3)", "UPDATE one SET id = 20 WHERE id = 2", "DELETE FROM one WHERE id = 1"])
    run(source, ["DELETE FROM one_text WHERE ctid = '(0,1)'", "UPDATE one_text SET body = 'b' WHERE ctid = '(0,2)'"])
    run(source, ["INSERT INTO none DEFAULT VALUES", "DELETE FROM none WHERE ctid IN ('(0,1)', '(0,2)')"])
    wait_caught_up(source, target, worker)

    rows, different = differences(source, target)
    assert different is None
    assert rows == len(FEW) * (ROWS + 1) + len(OTHERS) * (ROWS + MANY) + 5 + 2 + 2 + 2
    assert target.value("SELECT count(*) FROM none") == 2
    assert cut_over(source, target, settings, before) is None
    assert differences(source, target) == (rows, None)
    assert target.fetch("TABLE public.canary") == []
