"""Names that break programs which do not quote, and tables as narrow and as wide as they can be, until the cutover."""

from collections.abc import Iterator, Sequence
from itertools import cycle, islice
from typing import Final

from replicator.model import Phase
from tests.fixtures.databases import Database, settings_for
from tests.fixtures.dumps import dumped_schema
from tests.fixtures.worker import WorkerMaker, wait_caught_up, wait_for_phase
from tests.torture.ending import cut_over, differences
from tests.torture.model import literal, quoted
from tests.torture.names import TRICKY

KINDS: Final = 9
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
    """A schema, and one of everything in it, by names of which the first is ``TRICKY[first]``."""

    def __init__(self, first: int) -> None:
        names = list(islice(cycle(TRICKY), first, first + KINDS))
        self._schema, *others = names
        self._names = others
        self.table = quoted(self._schema, others[0])
        self.key, self.label, self.count = (quoted(name) for name in (names[0], names[1], names[2]))

    def statements(self) -> Iterator[str]:
        _, sequence, index, enum, primary, check, foreign, unique = self._names
        mood, counter = quoted(self._schema, enum), quoted(self._schema, sequence)
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
        yield self.insert("copied", ROWS)

    def insert(self, way: str, rows: int) -> str:
        return f"INSERT INTO {self.table} ({self.key}) SELECT '{way}' || n FROM generate_series(1, {rows}) n"

    def changes(self) -> Iterator[str]:
        label = literal(self._names[0])
        yield self.insert("streamed", 1)
        yield f"UPDATE {self.table} SET {self.label} = {label} WHERE {self.key} = 'copied1'"
        yield f"UPDATE {self.table} SET {self.key} = 'moved' WHERE {self.key} = 'copied2'"
        yield f"DELETE FROM {self.table} WHERE {self.key} = 'copied3'"


EVERY: Final[Sequence[Named]] = [Named(first) for first in range(len(TRICKY))]
FEW: Final = EVERY[::9]
"""Those whose changes come by themselves, and so by single statements."""

OTHERS: Final = [named for named in EVERY if named not in FEW]


def run(source: Database, statements: Sequence[str]) -> None:
    """One transaction."""
    source.execute(";".join(statements))


def test_any_name_and_any_number_of_columns_goes_all_the_way(
    source: Database, target: Database, make_worker: WorkerMaker
) -> None:
    """Given odd names of everything, when rows are copied and streamed, and cut over, then both sides are the same."""
    for named in EVERY:
        run(source, list(named.statements()))
    source.execute(f"{WIDE}; INSERT INTO wide SELECT n FROM generate_series(1, 5) n; {NARROW}")
    settings = settings_for(source, target, keyless="full")
    before = dumped_schema(source, settings)
    worker = make_worker(settings)
    worker.start()
    wait_for_phase(target, Phase.STREAMING, worker)

    for named in FEW:
        run(source, list(named.changes()))
        wait_caught_up(source, target, worker)
    run(source, [change for named in OTHERS for change in (*named.changes(), named.insert("more", MANY))])
    run(source, ["INSERT INTO wide VALUES (6, 6)", "UPDATE wide SET c1598 = 7, id = 60 WHERE id = 1"])
    run(source, ["UPDATE wide SET c0 = id, id = -id", "DELETE FROM wide WHERE id = -3"])
    run(source, ["INSERT INTO one VALUES (3)", "UPDATE one SET id = 20 WHERE id = 2", "DELETE FROM one WHERE id = 1"])
    run(source, ["DELETE FROM one_text WHERE ctid = '(0,1)'", "UPDATE one_text SET body = 'b' WHERE ctid = '(0,2)'"])
    run(source, ["INSERT INTO none DEFAULT VALUES", "DELETE FROM none WHERE ctid IN ('(0,1)', '(0,2)')"])
    wait_caught_up(source, target, worker)

    rows, different = differences(source, target)
    assert different is None
    assert rows == len(FEW) * ROWS + len(OTHERS) * (ROWS + MANY) + 5 + 2 + 2 + 2
    assert target.value("SELECT count(*) FROM none") == 2
    assert cut_over(source, target, settings, before) is None
    assert differences(source, target) == (rows, None)
