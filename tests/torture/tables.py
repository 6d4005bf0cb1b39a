"""Inventing plain tables: their key, replica identity, constraints, and holes where columns were dropped."""

from dataclasses import dataclass, field, replace
from random import Random
from typing import Final

from tests.torture.columns import Columns
from tests.torture.model import Column, Group, Table, mostly, quoted
from tests.torture.names import Names
from tests.torture.types import INTEGER, RANGES

_INT4RANGE: Final = next(type_ for type_ in RANGES if type_.sql == "int4range")


@dataclass(slots=True)
class Inventor:
    """What all inventions of one case share."""

    random: Random
    schema: str
    names: Names
    columns: Columns


@dataclass(slots=True)
class Draft:
    """A table on its way: the statements that make it are added one by one."""

    inventor: Inventor
    name: str
    columns: list[Column]
    key: tuple[str, ...] = ()
    deferrable: bool = False
    upsertable: bool = False
    constraints: list[str] = field(default_factory=list)
    before: list[str] = field(default_factory=list)
    after: list[str] = field(default_factory=list)

    @property
    def random(self) -> Random:
        return self.inventor.random

    @property
    def sql(self) -> str:
        return quoted(self.inventor.schema, self.name)

    def create(self, end: str = "") -> str:
        """The CREATE TABLE statement."""
        body = ", ".join([*(column.sql for column in self.columns), *self.constraints])
        return f"CREATE TABLE {self.sql} ({body}){end}"

    def finish(self, number: int, *, create: str | None = None) -> tuple[Table, Group]:
        """The table, with all statements that make it."""
        table = Table(
            group=number,
            schema=self.inventor.schema,
            name=self.name,
            columns=tuple(self.columns),
            key=self.key,
            upsertable=self.upsertable,
            deferrable=self.deferrable,
            lax=any("DEFERRABLE" in constraint for constraint in self.constraints),
        )
        return table, Group((*self.before, create or self.create(), *self.after))


def draft(inventor: Inventor, key_columns: int | None = None, *, fewest: int = 0) -> Draft:
    """A table with a key of so many columns (default: any number, none included) and others beside it."""
    random = inventor.random
    count = random.choice((0, 1, 1, 1, 2, 3)) if key_columns is None else key_columns
    keys = [inventor.columns.key() for _ in range(count)]
    if count == 1 and key_columns is None and mostly(random, 0.2):
        keys = [replace(inventor.columns.serial())]
    columns = [*keys, *inventor.columns.several(fewest=max(fewest, not keys))]
    random.shuffle(columns)
    made = Draft(inventor, inventor.names.invent(), columns, tuple(column.name for column in keys))
    return made


def plain(inventor: Inventor, number: int) -> tuple[Table, Group]:
    """A table that is neither partitioned nor inherited."""
    made = draft(inventor)
    add_key(made)
    add_unique(made)
    add_exclusion(made)
    hole = mostly(made.random, 0.3)
    if hole:
        made.columns.insert(made.random.randrange(len(made.columns) + 1), Column("dropped", INTEGER, "DEFAULT 3"))
    create = made.create()
    if hole:
        made.columns = [column for column in made.columns if column.name != "dropped"]
        made.after.insert(0, f"ALTER TABLE {made.sql} DROP COLUMN dropped")
    store_outside(made)
    if mostly(made.random, 0.15):
        late = replace(made.inventor.columns.any(), definition="", nullable=True)
        made.columns.append(late)
        default = f" DEFAULT {late.type.value(3)}" if late.type.numbered else ""
        made.after.append(f"ALTER TABLE {made.sql} ADD COLUMN {quoted(late.name)} {late.type.sql}{default}")
    return made.finish(number, create=create)


def add_key(made: Draft, *, kinds: tuple[str, ...] = ()) -> None:
    """Give it a primary key or another replica identity, of one of these kinds (default: any)."""
    random = made.random
    key = ", ".join(map(quoted, made.key))
    alter = f"ALTER TABLE {made.sql}"
    if not made.key:
        if mostly(random, 0.5):
            made.after.append(f"{alter} REPLICA IDENTITY {random.choice(('FULL', 'NOTHING', 'DEFAULT'))}")
        return
    kind = random.choice(kinds or ("primary", "primary", "primary", "deferrable", "index", "include"))
    made.upsertable = kind != "deferrable"
    made.deferrable = kind == "deferrable"
    others = [quoted(column.name) for column in made.columns if column.name not in made.key]
    match kind:
        case "deferrable":
            made.constraints.append(
                f"PRIMARY KEY ({key}) DEFERRABLE INITIALLY {random.choice(('DEFERRED', 'IMMEDIATE'))}"
            )
        case "index":
            index = made.inventor.names.invent()
            made.after.append(f"CREATE UNIQUE INDEX {quoted(index)} ON {made.sql} ({key})")
            made.after.append(f"{alter} REPLICA IDENTITY USING INDEX {quoted(index)}")
        case "include" if others:
            made.constraints.append(f"PRIMARY KEY ({key}) INCLUDE ({random.choice(others)})")
        case _:
            made.constraints.append(f"PRIMARY KEY ({key})")
    if kind != "index" and mostly(random, 0.25):
        made.after.append(f"{alter} REPLICA IDENTITY {random.choice(('FULL', 'FULL', 'NOTHING'))}")


def add_unique(made: Draft) -> None:
    """Perhaps a second unique constraint or index, whose values the app will exchange."""
    random = made.random
    if not mostly(random, 0.45):
        return
    twin = made.inventor.columns.nullable_twin()
    made.columns.append(twin)
    name, index = quoted(twin.name), quoted(made.inventor.names.invent())
    match random.choice(("unique", "deferrable", "partial", "expression", "nulls")):
        case "unique":
            made.constraints.append(f"UNIQUE ({name})")
        case "deferrable":
            made.constraints.append(f"UNIQUE ({name}) DEFERRABLE")
        case "partial":
            made.after.append(f"CREATE UNIQUE INDEX {index} ON {made.sql} ({name}) WHERE {name} IS NOT NULL")
        case "expression":
            made.after.append(f"CREATE UNIQUE INDEX {index} ON {made.sql} ((ROW({name}) IS NULL), {name})")
        case _:
            made.constraints.append(f"UNIQUE NULLS NOT DISTINCT ({name})")


def add_exclusion(made: Draft) -> None:
    """Perhaps a range that no two rows may share."""
    if mostly(made.random, 0.15):
        apart = Column(made.inventor.names.invent(), replace(_INT4RANGE, values=("'empty'",)))
        made.columns.append(apart)
        deferrable = made.random.choice(("", " DEFERRABLE INITIALLY DEFERRED"))
        made.constraints.append(f"EXCLUDE USING gist ({quoted(apart.name)} WITH &&){deferrable}")


def store_outside(made: Draft) -> None:
    """Let long values of some columns be stored outside the row, uncompressed."""
    for column in made.columns:
        if column.type.sql == "text" and not column.generated and mostly(made.random, 0.6):
            made.after.append(f"ALTER TABLE {made.sql} ALTER COLUMN {quoted(column.name)} SET STORAGE EXTERNAL")
