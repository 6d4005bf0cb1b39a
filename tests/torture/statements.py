"""Inventing the statements of an app. Rows are named by their place in the table's order, so that a script without
values of its own finds rows to change, and finds the same ones when it is played again."""

from collections.abc import Callable
from dataclasses import dataclass
from random import Random
from typing import Final

from tests.torture.columns import NUMBERS
from tests.torture.model import Column, Statement, Table, mostly, quoted

_FREE: Final = 9000
"""A number that no row has: the way station of an exchange."""


@dataclass(slots=True)
class Writer:
    """Invents statements on one table."""

    random: Random
    table: Table

    def statement(self) -> Statement:
        """Any statement."""
        ways: list[tuple[Callable[[], Statement], float]] = [
            (self.insert, 6),
            (self.copy, 1.5),
            (self.update, 6),
            (self.delete, 2.5),
            (self.touch, 1),
            (self.subtransactions, 0.5),
        ]
        if self.table.key:
            ways += [(self.change_key, 2), (self.exchange, 2), (self.again, 1)]
        if self.table.upsertable and not self.table.deferrable:
            ways += [(self.upsert, 2), (self.merge, 1)]
        return self.random.choices([way for way, _ in ways], [weight for _, weight in ways])[0]()

    # --- rows that come -----------------------------------------------------------------------------------------------

    def insert(self, most: int = 4) -> Statement:
        """A few rows."""
        columns = self._written()
        if not columns:
            return self._on(f"INSERT INTO {self.table.sql} DEFAULT VALUES")
        return self._on(self._insert(columns, self.random.randint(1, most)))

    def fill(self, rows: int) -> Statement:
        """Many rows; those whose key is taken already are left out."""
        if not self._written():
            return self._on(f"INSERT INTO {self.table.sql} SELECT FROM generate_series(1, {rows})")
        return self._on(self._insert(self._written(), rows) + " ON CONFLICT DO NOTHING")

    def copy(self) -> Statement:
        """A few rows by COPY."""
        columns = self.table.writable
        if not columns:
            return self.insert()
        rows = " UNION ALL ".join(
            f"SELECT {', '.join(self._value(c) for c in columns)}" for _ in range(self.random.randint(1, 5))
        )
        # an INSERT would give each literal the type of its column; here nothing else does
        typed = ", ".join(f"NULL::{_cast(c)}" for c in columns)
        return Statement(
            f"COPY {self.table.sql} ({_names(columns)}) FROM STDIN",
            frozenset([self.table.group]),
            f"SELECT {typed} WHERE false UNION ALL {rows}",
        )

    def upsert(self) -> Statement:
        """INSERT … ON CONFLICT."""
        others = self._settable()
        action = "DO NOTHING"
        if others and mostly(self.random, 0.8):
            column = self.random.choice(others)
            taken = self.random.choice((f"EXCLUDED.{quoted(column.name)}", self._value(column)))
            action = f"DO UPDATE SET {quoted(column.name)} = {taken}"
        key = ", ".join(map(quoted, self.table.key))
        return self._on(f"{self._insert(self._written(), 1)} ON CONFLICT ({key}) {action}")

    def merge(self) -> Statement:
        """MERGE: updates, deletes or inserts."""
        columns = [column for column in self.table.writable if not column.identity_always]
        if {column.name for column in columns}.isdisjoint(self.table.key) or len(columns) > 100:
            return self.upsert()
        values = ", ".join(f"({self._value(column)})::{_cast(column)}" for column in columns)
        matches = " AND ".join(f"t.{quoted(name)} = s.{quoted(name)}" for name in self.table.key)
        settable = self._settable() or columns
        chosen = quoted(self.random.choice(settable).name)
        then = self.random.choice(("DELETE", f"UPDATE SET {chosen} = s.{chosen}"))
        return self._on(
            f"MERGE INTO {self.table.sql} t USING (SELECT {values}) s ({_names(columns)}) ON {matches}"
            f" WHEN MATCHED THEN {then} WHEN NOT MATCHED THEN INSERT ({_names(columns)})"
            f" VALUES ({', '.join(f's.{quoted(column.name)}' for column in columns)})"
        )

    # --- rows that change ---------------------------------------------------------------------------------------------

    def update(self) -> Statement:
        """Some columns of a few rows; values that are stored elsewhere often stay as they are."""
        columns = self._settable()
        if not columns:
            return self.change_key() if self.table.key else self.insert()
        chosen = self.random.sample(columns, min(len(columns), self.random.randint(1, 3)))
        changes = ", ".join(f"{quoted(column.name)} = {self._value(column)}" for column in chosen)
        return self._on(f"UPDATE {self._relation()} SET {changes} WHERE {self._rows()}")

    def touch(self) -> Statement:
        """An update that changes nothing."""
        columns = [column for column in self.table.writable if not column.identity_always]
        if not columns:
            return self.insert()
        name = quoted(self.random.choice(columns).name)
        return self._on(f"UPDATE {self._relation()} SET {name} = {name} WHERE {self._rows()}")

    def change_key(self) -> Statement:
        """Another key for one row."""
        columns = [self.table.column(name) for name in self.table.key]
        columns = [column for column in columns if not column.identity_always]
        if not columns:
            return self.insert()
        column = self.random.choice(columns)
        return self._on(
            f"UPDATE {self.table.sql} SET {quoted(column.name)} = {self._value(column)} WHERE {self._rows(most=1)}"
        )

    def exchange(self) -> Statement:
        """Two rows exchange a value of their key, or another one that may be unique."""
        columns = [c for c in self.table.writable if c.type.numbered is not None and not c.identity_always]
        if not columns:
            return self.insert()
        keys = [column for column in columns if column.name in self.table.key]
        column = self.random.choice(keys if keys and mostly(self.random, 0.6) else columns)
        name, table, free = quoted(column.name), self.table.sql, column.type.value(_FREE)
        way_station = (
            ""
            if self.table.deferrable
            else f"""
          UPDATE {table} SET {name} = {free} WHERE (tableoid, ctid) = (_a.tableoid, _a.ctid)
            RETURNING tableoid, ctid INTO _table, _place;"""
        )
        return self._on(f"""DO $do$
        #variable_conflict use_column
        DECLARE _a record; _b record; _table oid; _place tid;
        BEGIN
          SELECT tableoid, ctid, {name} AS v INTO _a FROM {table} x {_ORDER} OFFSET {self._place()} LIMIT 1;
          SELECT tableoid, ctid, {name} AS v INTO _b FROM {table} x {_ORDER} OFFSET {self._place()} LIMIT 1;
          IF _a.ctid IS NULL OR _b.ctid IS NULL OR (_a.tableoid, _a.ctid) = (_b.tableoid, _b.ctid) THEN RETURN; END IF;
          _table := _a.tableoid; _place := _a.ctid;{way_station}
          UPDATE {table} SET {name} = _a.v WHERE (tableoid, ctid) = (_b.tableoid, _b.ctid);
          UPDATE {table} SET {name} = _b.v WHERE (tableoid, ctid) = (_table, _place);
        END $do$""")

    def again(self) -> Statement:
        """A row goes and comes again, changed or not, in one transaction."""
        columns = self.table.writable
        kept = ", ".join(
            self._value(c) if c.name not in self.table.key and mostly(self.random, 0.3) else f"_a.{quoted(c.name)}"
            for c in columns
        )
        return self._on(f"""DO $do$
        DECLARE _a record;
        BEGIN
          DELETE FROM {self.table.sql} WHERE {self._rows(most=1)} RETURNING * INTO _a;
          IF FOUND THEN
            INSERT INTO {self.table.sql} ({_names(columns)}) OVERRIDING SYSTEM VALUE VALUES ({kept});
          END IF;
        END $do$""")

    def delete(self) -> Statement:
        """A few rows, or all."""
        where = "" if mostly(self.random, 0.05) else f" WHERE {self._rows()}"
        return self._on(f"DELETE FROM {self._relation()}{where}")

    def subtransactions(self) -> Statement:
        """Many subtransactions, some of which come to nothing."""
        inner = self.random.choice((self.update, self.delete, self.insert))().sql
        return self._on(f"""DO $do$
        BEGIN
          FOR i IN 1..{self.random.choice((5, 30, 200))} LOOP
            BEGIN
              {inner};
              IF i % 3 = 0 THEN RAISE EXCEPTION 'no'; END IF;
            EXCEPTION WHEN OTHERS THEN NULL;
            END;
          END LOOP;
        END $do$""")

    # --- parts --------------------------------------------------------------------------------------------------------

    def _on(self, sql: str) -> Statement:
        return Statement(sql, frozenset([self.table.group]))

    def _relation(self) -> str:
        """The table, or at times one of its partitions or children."""
        if self.table.also and mostly(self.random, 0.2):
            return self.random.choice(self.table.also)
        return self.table.sql

    def _place(self) -> int:
        return self.random.choice((0, 0, 1, 2, 3, 5, 8, 13))

    def _rows(self, most: int = 3) -> str:
        """A condition that some rows meet."""
        limit = self.random.randint(1, most) if mostly(self.random, 0.95) or most == 1 else 1000
        return (
            f"(tableoid, ctid) IN (SELECT tableoid, ctid FROM {self.table.sql} x {_ORDER}"
            f" OFFSET {self._place()} LIMIT {limit})"
        )

    def _written(self) -> list[Column]:
        """What an INSERT names: numbers that the server gives may be left to it."""
        return [c for c in self.table.writable if not c.counts or mostly(self.random, 0.3)]

    def _settable(self) -> list[Column]:
        return [c for c in self.table.writable if c.name not in self.table.key and not c.identity_always]

    def _insert(self, columns: list[Column], rows: int) -> str:
        if not columns:
            return f"INSERT INTO {self.table.sql} DEFAULT VALUES"
        values = ", ".join(f"({', '.join(self._value(column) for column in columns)})" for _ in range(rows))
        overriding = " OVERRIDING SYSTEM VALUE" if any(column.identity_always for column in columns) else ""
        return f"INSERT INTO {self.table.sql} ({_names(columns)}){overriding} VALUES {values}"

    def _value(self, column: Column) -> str:
        """A value: in a key mostly one of a few, so that rows meet again."""
        type_, random = column.type, self.random
        if column.nullable and type_.nullable and mostly(random, 0.15):
            return "NULL"
        if type_.large and mostly(random, 0.3):
            return random.choice(type_.large)
        if type_.numbered is not None and (not type_.values or mostly(random, 0.7)):
            return type_.value(random.choice(NUMBERS))
        return random.choice(type_.values)


_ORDER: Final = 'ORDER BY (x.*)::text COLLATE "C", tableoid::regclass::text'


def _names(columns: list[Column]) -> str:
    return ", ".join(quoted(column.name) for column in columns)


def _cast(column: Column) -> str:
    return column.type.sql.replace("serial", "integer").partition(" COLLATE ")[0]
