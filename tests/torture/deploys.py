"""Inventing deploys: what an app changes in the schema of its tables while they are migrated."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final, NamedTuple

from tests.torture.columns import NUMBERS
from tests.torture.model import Column, ColumnType, Statement, Table, literal, mostly, quoted
from tests.torture.statements import Writer
from tests.torture.tables import Inventor, add_key, draft
from tests.torture.types import BUILT_IN


class Deploy(NamedTuple):
    """A statement that changes a table's schema, and the table as it is then; None if it is gone."""

    sql: str
    table: Table | None


_BY_NAME: Final = {type_.sql: type_ for type_ in BUILT_IN}
_WIDER: Final = {
    "smallint": ("integer", "bigint", "numeric", "text"),
    "integer": ("bigint", "numeric", "text"),
    "bigint": ("numeric", "text"),
    "numeric(12,4)": ("numeric",),
    "real": ("double precision",),
    "varchar(5)": ("varchar", "text"),
    "varchar": ("text",),
    "timestamp(0)": ("timestamp",),
    "date": ("timestamp",),
    "json": ("jsonb", "text"),
    "jsonb": ("text",),
}
"""Types that a column may get instead of its own: with the same bytes, with other ones, or by another meaning."""

_ADDED_DEFAULTS: Final = ("random()::numeric", "clock_timestamp()::text", "gen_random_uuid()::text")
_ANEW: Final = "anew"
_LABELS: Final = ("later", "much later", "O'Neil", "l\\ast")


@dataclass(frozen=True, slots=True)
class Deploys:
    """Changes the tables of one case; ``tables`` are as they will be when everything that was invented has run."""

    inventor: Inventor
    tables: list[Table]

    def any(self) -> Statement:
        """A change of some table, or a table more or less."""
        random = self.inventor.random
        ways: tuple[tuple[Callable[[Table], Deploy | None], float], ...] = (
            (self._add_column, 5),
            (self._drop_column, 3),
            (self._rename_column, 2),
            (self._exchange_names, 0.7),
            (self._name_again, 1.5),
            (self._recompute, 1),
            (self._retype, 3),
            (self._rename, 1),
            (self._drop_key, 2),
            (self._add_key, 2),
            (self._identify, 2),
            (self._add_index, 2),
            (self._drop_index, 2),
            (self._constrain, 2),
            (self._rewrite, 1),
            (self._detach, 1),
            (self._replace_partition, 1),
            (self._add_label, 1),
            (self._rename_label, 0.7),
            (self._make_enum_anew, 0.7),
            (self._drop, 0.7),
            (self._drop_and_make_again, 0.7),
        )
        while True:
            if mostly(random, 0.08):
                return self._create()
            place = random.randrange(len(self.tables))
            table = self.tables[place]
            way = random.choices([way for way, _ in ways], [weight for _, weight in ways])[0]
            made = way(table)
            if made is None or (made.table is None and len(self.tables) == 1):
                continue
            self.tables[place : place + 1] = [made.table] if made.table else []
            return Statement(made.sql, frozenset([table.group]))

    # --- tables -------------------------------------------------------------------------------------------------------

    def _create(self) -> Statement:
        """A new table, with rows."""
        made = draft(self.inventor)
        add_key(made)
        # no group: nothing that the case began with has it
        table, group = made.finish(1000 + len(self.tables))
        self.tables.append(table)
        fill = Writer(self.inventor.random, table).fill(5).sql
        return Statement("; ".join((*group.statements, fill)), frozenset([table.group]))

    def _is_alone(self, table: Table) -> bool:
        """Whether no other table's values come from it."""
        return all(other.refers_to != table.sql for other in self.tables)

    def _drop(self, table: Table) -> Deploy | None:
        return Deploy(f"DROP TABLE {table.sql}", None) if self._is_alone(table) else None

    def _drop_and_make_again(self, table: Table) -> Deploy | None:
        """Another table under the name of one that goes."""
        if not self._is_alone(table) or table.also:
            return None
        made = draft(self.inventor)
        made.name = table.name
        add_key(made)
        new, group = made.finish(table.group)
        return Deploy("; ".join((f"DROP TABLE {table.sql}", *group.statements)), new)

    def _rename(self, table: Table) -> Deploy | None:
        if not self._is_alone(table):
            return None
        name = self.inventor.names.invent()
        return Deploy(f"ALTER TABLE {table.sql} RENAME TO {quoted(name)}", replace(table, name=name))

    def _rewrite(self, table: Table) -> Deploy:
        """Rows that move to another file, and stay as they are."""
        return Deploy(f"VACUUM FULL {table.sql}", table)

    # --- partitions ---------------------------------------------------------------------------------------------------

    def _detach(self, table: Table) -> Deploy | None:
        if not table.also:
            return None
        leaf = self.inventor.random.choice(table.also)
        rest = tuple(other for other in table.also if other != leaf)
        return Deploy(f"ALTER TABLE {table.sql} DETACH PARTITION {leaf}", replace(table, also=rest))

    def _replace_partition(self, table: Table) -> Deploy | None:
        """A leaf is detached, and what has its bounds then is itself, changed meanwhile, or another, empty table."""
        if not table.also:
            return None
        leaf = self.inventor.random.choice(table.also)
        body, new = self.inventor.random.choice(
            (
                ("", leaf),
                (f"DELETE FROM {leaf};", leaf),
                (f"TRUNCATE {leaf};", leaf),
                (f'CREATE TABLE {leaf[:-1]} new" (LIKE {leaf} INCLUDING ALL);', f'{leaf[:-1]} new"'),
            )
        )
        statement = f"""DO $do$
        DECLARE _bound text; _root text;
        BEGIN
          SELECT pg_get_expr(c.relpartbound, c.oid), i.inhparent::regclass::text INTO STRICT _bound, _root
            FROM pg_class c JOIN pg_inherits i ON i.inhrelid = c.oid
           WHERE c.oid = {_regclass(leaf)} AND c.relispartition;
          EXECUTE 'ALTER TABLE ' || _root || ' DETACH PARTITION {_inside(leaf)}';
          {body}
          EXECUTE 'ALTER TABLE ' || _root || ' ATTACH PARTITION {_inside(new)} ' || _bound;
        END $do$"""
        return Deploy(statement, replace(table, also=tuple(new if other == leaf else other for other in table.also)))

    # --- columns ------------------------------------------------------------------------------------------------------

    def _add_column(self, table: Table) -> Deploy:
        random = self.inventor.random
        kind = random.choice(("any", "any", "serial", "generated", "volatile"))
        if kind == "volatile":
            default = random.choice(_ADDED_DEFAULTS)
            type_ = default.rpartition("::")[2]
            column = Column(self.inventor.names.invent(), _BY_NAME[type_])
            return self._with(table, column, f"DEFAULT {default}")
        if kind == "serial":
            return self._with(table, self.inventor.columns.serial())
        if kind == "generated":
            return self._with(table, self.inventor.columns.generated(table.columns))
        return self._with(table, self.inventor.columns.any())

    def _with(self, table: Table, column: Column, default: str = "") -> Deploy:
        if column.definition == "NOT NULL":
            default = f"DEFAULT {column.type.values[0]}"
        statement = f"ALTER TABLE {table.sql} ADD COLUMN {column.sql} {default}".strip()
        return Deploy(statement, replace(table, columns=(*table.columns, column)))

    def _drop_column(self, table: Table) -> Deploy | None:
        column = self._other(table)
        if column is None:
            return None
        rest = tuple(other for other in table.columns if other.name != column.name)
        return Deploy(f"ALTER TABLE {table.sql} DROP COLUMN {quoted(column.name)}", replace(table, columns=rest))

    def _other(self, table: Table) -> Column | None:
        """A column that is not of the key."""
        others = [column for column in table.columns if column.name not in table.key]
        return self.inventor.random.choice(others) if others else None

    def _rename_column(self, table: Table) -> Deploy | None:
        if not table.columns:
            return None
        column = self.inventor.random.choice(table.columns)
        if column.name in table.key and not self._is_alone(table):
            return None
        name = self.inventor.names.invent()
        return Deploy(
            f"ALTER TABLE {table.sql} RENAME COLUMN {quoted(column.name)} TO {quoted(name)}",
            _renamed(table, {column.name: name}),
        )

    def _exchange_names(self, table: Table) -> Deploy | None:
        """Two columns of one type get each other's name."""
        others = [column for column in table.columns if column.name not in table.key and not column.generated]
        pairs = [(a, b) for a in others for b in others if a.type.sql == b.type.sql and a.name < b.name]
        if not pairs:
            return None
        first, second = self.inventor.random.choice(pairs)
        rename = f"ALTER TABLE {table.sql} RENAME COLUMN"
        a, b = quoted(first.name), quoted(second.name)
        statement = f"{rename} {a} TO on_the_way; {rename} {b} TO {a}; {rename} on_the_way TO {b}"
        return Deploy(statement, _renamed(table, {first.name: second.name, second.name: first.name}))

    def _name_again(self, table: Table) -> Deploy | None:
        """A new column, or a computed one, under the name of one that goes, or that is called otherwise from now on."""
        column = self._other(table)
        if column is None:
            return None
        rest = tuple(other for other in table.columns if other.name != column.name)
        if mostly(self.inventor.random, 0.3):
            new = replace(self.inventor.columns.generated(rest), name=column.name)
        else:
            new = replace(self.inventor.columns.any(), name=column.name, definition="", nullable=True)
        alter, name = f"ALTER TABLE {table.sql}", quoted(column.name)
        add = f"ADD COLUMN {new.sql}"
        if mostly(self.inventor.random, 0.5):
            statement = f"{alter} DROP COLUMN {name}, {add}"
        else:
            other = replace(column, name=self.inventor.names.invent())
            rest = (*rest, other)
            statement = f"{alter} RENAME COLUMN {name} TO {quoted(other.name)}; {alter} {add}"
        return Deploy(statement, replace(table, columns=(*rest, new)))

    def _recompute(self, table: Table) -> Deploy | None:
        """Another value in every row, unseen by the stream: the type stays what it is."""
        usable = [c for c in table.columns if c.name not in table.key and c.nullable and not c.generated]
        if not usable:
            return None
        column = self.inventor.random.choice(usable)
        name, type_ = quoted(column.name), column.type.sql.partition(" COLLATE ")[0]
        value = f"({self._value(column.type)})::{type_}"
        return Deploy(f"ALTER TABLE {table.sql} ALTER COLUMN {name} TYPE {column.type.sql} USING {value}", table)

    def _retype(self, table: Table) -> Deploy | None:
        usable = [column for column in table.columns if column.type.sql in _WIDER and not column.counts]
        if not usable:
            return None
        column = self.inventor.random.choice(usable)
        if column.name in table.key and not self._is_alone(table):
            return None
        type_ = self.inventor.random.choice(_WIDER[column.type.sql])
        name = quoted(column.name)
        # a default of the old type stays in the way
        statement = (
            f"ALTER TABLE {table.sql} ALTER COLUMN {name} DROP DEFAULT,"
            f" ALTER COLUMN {name} TYPE {type_} USING {name}::{type_}"
        )
        other = replace(column, type=replace(_BY_NAME[type_], large=()), definition="")
        columns = tuple(other if each.name == column.name else each for each in table.columns)
        return Deploy(statement, replace(table, columns=columns))

    def _constrain(self, table: Table) -> Deploy | None:
        column = self._other(table)
        if column is None:
            return None
        name = quoted(column.name)
        action = self.inventor.random.choice(
            (
                f"ALTER COLUMN {name} SET NOT NULL",
                f"ALTER COLUMN {name} DROP NOT NULL",
                f"ALTER COLUMN {name} DROP DEFAULT",
                f"ALTER COLUMN {name} SET DEFAULT {self._value(column.type)}",
                f"ADD CHECK ({name} IS NOT NULL OR true)",
                f"ALTER COLUMN {name} SET STORAGE EXTERNAL",
            )
        )
        return Deploy(f"ALTER TABLE {table.sql} {action}", table)

    def _value(self, type_: ColumnType) -> str:
        if type_.numbered is not None:
            return type_.value(self.inventor.random.choice(NUMBERS))
        return self.inventor.random.choice(type_.values)

    def _add_label(self, table: Table) -> Deploy | None:
        """A value more for the enum of the schema; all its columns may have it from now on."""
        random = self.inventor.random
        label = literal(random.choice(_LABELS))
        place = random.choice(("", " BEFORE 'a'", " AFTER 'B'"))
        columns = tuple(
            replace(column, type=replace(column.type, values=(*column.type.values, label)))
            if column.type.sql == self._enum
            else column
            for column in table.columns
        )
        statement = f"ALTER TYPE {self._enum} ADD VALUE IF NOT EXISTS {label}{place}"
        return Deploy(statement, replace(table, columns=columns))

    def _rename_label(self, table: Table) -> Deploy | None:
        """Another name for a value: rows have it at once. What other tables write by the old name fails."""
        columns = [column for column in table.columns if column.type.sql == self._enum]
        if not columns:
            return None
        old, new = self.inventor.random.choice(columns[0].type.values), literal(self.inventor.random.choice(_LABELS))
        renamed = tuple(
            replace(column, type=replace(column.type, values=tuple(new if v == old else v for v in column.type.values)))
            if column.type.sql == self._enum
            else column
            for column in table.columns
        )
        return Deploy(f"ALTER TYPE {self._enum} RENAME VALUE {old} TO {new}", replace(table, columns=renamed))

    def _make_enum_anew(self, table: Table) -> Deploy | None:
        """Another type of the same name and values for one table; others keep the former, by a name of its own."""
        changes = [
            f"ALTER COLUMN {name} DROP DEFAULT, ALTER COLUMN {name} TYPE {_ANEW} USING {name}::text::{_ANEW}"
            for column in table.columns
            if column.type.sql == self._enum and (name := quoted(column.name))
        ]
        if not changes:
            return None
        former = quoted(self.inventor.names.invent())
        schema, name = quoted(self.inventor.schema), quoted("Mood")
        statement = f"""DO $do$
        DECLARE _labels text;
        BEGIN
          SELECT string_agg(quote_literal(enumlabel), ',' ORDER BY enumsortorder) INTO STRICT _labels
            FROM pg_enum WHERE enumtypid = '{_inside(self._enum)}'::regtype;
          EXECUTE 'CREATE TYPE {_ANEW} AS ENUM (' || _labels || ')';
          ALTER TABLE {table.sql} {", ".join(changes)};
          ALTER TYPE {self._enum} RENAME TO {former};
          ALTER TYPE {_ANEW} RENAME TO {name};
          ALTER TYPE {name} SET SCHEMA {schema};
        END $do$"""
        return Deploy(statement, table)

    @property
    def _enum(self) -> str:
        return quoted(self.inventor.schema, "Mood")

    # --- keys ---------------------------------------------------------------------------------------------------------

    def _drop_key(self, table: Table) -> Deploy | None:
        if not table.key:
            return None
        statement = _with_found(
            f"SELECT conname INTO STRICT _name FROM pg_constraint WHERE conrelid = {_regclass(table.sql)}"
            " AND contype = 'p'",
            f"ALTER TABLE {table.sql} DROP CONSTRAINT ",
        )
        return Deploy(statement, replace(table, upsertable=False))

    def _add_key(self, table: Table) -> Deploy | None:
        usable = [c for c in table.columns if c.type.numbered is not None and not c.generated]
        if not usable:
            return None
        random = self.inventor.random
        chosen = random.sample(usable, min(len(usable), random.choice((1, 1, 2))))
        names = table.key if table.key and mostly(random, 0.5) else tuple(column.name for column in chosen)
        columns = ", ".join(map(quoted, names))
        kind = random.choice(("PRIMARY KEY", "PRIMARY KEY", "UNIQUE"))
        deferrable = random.choice(("", "", " DEFERRABLE INITIALLY DEFERRED"))
        after = table
        if kind == "PRIMARY KEY" and not table.key:
            after = replace(table, key=names, deferrable=bool(deferrable))
        if deferrable:
            after = replace(after, lax=True)
        return Deploy(f"ALTER TABLE {table.sql} ADD {kind} ({columns}){deferrable}", after)

    def _identify(self, table: Table) -> Deploy:
        identity = self.inventor.random.choice(("FULL", "DEFAULT", "NOTHING", "USING INDEX "))
        alter = f"ALTER TABLE {table.sql} REPLICA IDENTITY {identity}"
        if not identity.endswith(" "):
            return Deploy(alter, table)
        find = (
            "SELECT c.relname INTO STRICT _name FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid"
            f" WHERE i.indrelid = {_regclass(table.sql)} AND i.indisunique ORDER BY c.relname LIMIT 1"
        )
        return Deploy(_with_found(find, alter), table)

    def _add_index(self, table: Table) -> Deploy | None:
        usable = [c for c in table.columns if c.type.numbered is not None]
        if not usable:
            return None
        random = self.inventor.random
        name = quoted(random.choice(usable).name)
        where = random.choice(("", "", f" WHERE {name} IS NOT NULL"))
        unique = random.choice(("", "UNIQUE "))
        return Deploy(f"CREATE {unique}INDEX ON {table.sql} ({name}){where}", table)

    def _drop_index(self, table: Table) -> Deploy:
        statement = f"""DO $do$
        DECLARE _found record;
        BEGIN
          SELECT i.indexrelid::regclass::text AS index, k.conname INTO STRICT _found
            FROM pg_index i LEFT JOIN pg_constraint k ON k.conindid = i.indexrelid AND k.conrelid = i.indrelid
           WHERE i.indrelid = {_regclass(table.sql)} AND NOT i.indisprimary
           ORDER BY i.indexrelid LIMIT 1;
          IF _found.conname IS NULL THEN
            EXECUTE 'DROP INDEX ' || _found.index;
          ELSE
            EXECUTE '{_inside(f"ALTER TABLE {table.sql} DROP CONSTRAINT ")}' || quote_ident(_found.conname);
          END IF;
        END $do$"""
        return Deploy(statement, table)


def _renamed(table: Table, names: dict[str, str]) -> Table:
    columns = tuple(replace(column, name=names.get(column.name, column.name)) for column in table.columns)
    return replace(table, columns=columns, key=tuple(names.get(name, name) for name in table.key))


def _inside(sql: str) -> str:
    """As part of a string literal."""
    return sql.replace("'", "''")


def _regclass(table: str) -> str:
    return f"'{_inside(table)}'::regclass"


def _with_found(find: str, action: str) -> str:
    """Find the name of something, and do something to it."""
    return f"""DO $do$
    DECLARE _name text;
    BEGIN
      {find};
      EXECUTE '{_inside(action)}' || quote_ident(_name);
    END $do$"""
