"""What belongs to a table: triggers, foreign keys, views, rules, policies: none may act on applied rows."""

from collections.abc import Sequence
from dataclasses import replace

from tests.torture.model import Column, ColumnType, Group, Table, mostly, quoted
from tests.torture.tables import Inventor, add_key, draft
from tests.torture.types import INTEGER, TEXT


def belongings(inventor: Inventor, table: Table) -> list[str]:
    """Statements that add some of them to a table."""
    random = inventor.random
    ways = [(_audited, 0.2), (_stamped, 0.2), (_ruled, 0.05), (_secured, 0.15), (_indexed, 0.3)]
    if not table.secured:
        ways.append((_viewed, 0.2))
    return [statement for way, chance in ways if mostly(random, chance) for statement in way(inventor, table)]


def _trigger(inventor: Inventor, table: Table, body: str, when: str) -> list[str]:
    function = quoted(inventor.schema, inventor.names.invent())
    trigger = quoted(inventor.names.invent())
    return [
        f"CREATE FUNCTION {function}() RETURNS trigger LANGUAGE plpgsql AS $body$BEGIN {body} END$body$",
        f"CREATE TRIGGER {trigger} {when} ON {table.sql} FOR EACH ROW EXECUTE FUNCTION {function}()",
    ]


def _audited(inventor: Inventor, table: Table) -> list[str]:
    """Every change leaves a row in a table without a key."""
    audit = quoted(inventor.schema, inventor.names.invent())
    body = f"INSERT INTO {audit} VALUES (TG_OP, NEW::text); RETURN NULL;"
    when = inventor.random.choice(("AFTER INSERT", "AFTER INSERT OR UPDATE"))
    return [f"CREATE TABLE {audit} (operation text, image text)", *_trigger(inventor, table, body, when)]


def _stamped(inventor: Inventor, table: Table) -> list[str]:
    """A column counts the row's updates."""
    stamp = quoted(inventor.names.invent())
    body = f"NEW.{stamp} := coalesce(OLD.{stamp}, 0) + 1; RETURN NEW;"
    return [f"ALTER TABLE {table.sql} ADD COLUMN {stamp} integer", *_trigger(inventor, table, body, "BEFORE UPDATE")]


def _viewed(inventor: Inventor, table: Table) -> list[str]:
    view, copy = (quoted(inventor.schema, inventor.names.invent()) for _ in range(2))
    return [
        f"CREATE VIEW {view} AS SELECT * FROM {table.sql}",
        f"CREATE MATERIALIZED VIEW {copy} AS SELECT count(*) AS rows FROM {view}",
    ]


def _ruled(inventor: Inventor, table: Table) -> list[str]:
    log = quoted(inventor.schema, inventor.names.invent())
    return [
        f"CREATE TABLE {log} (at integer PRIMARY KEY GENERATED ALWAYS AS IDENTITY, what text)",
        f"CREATE RULE noted AS ON DELETE TO {table.sql} DO ALSO INSERT INTO {log} (what) VALUES ('gone')",
    ]


def _secured(inventor: Inventor, table: Table) -> list[str]:
    """Policies, which bind the owner too where nothing is read on the owner's behalf: no view, no foreign key."""
    statements = [
        f"ALTER TABLE {table.sql} ENABLE ROW LEVEL SECURITY",
        f"CREATE POLICY everything ON {table.sql} USING (true) WITH CHECK (true)",
    ]
    return [*statements, f"ALTER TABLE {table.sql} FORCE ROW LEVEL SECURITY"] if table.secured else statements


def _indexed(inventor: Inventor, table: Table) -> list[str]:
    numbers = [column for column in table.columns if column.type.sql in (INTEGER.sql, TEXT.sql)]
    if not numbers:
        return []
    column = inventor.random.choice(numbers)
    way = "hash" if column.type.sql == TEXT.sql else "btree"
    return [f"CREATE INDEX ON {table.sql} USING {way} ({quoted(column.name)}) WHERE {quoted(column.name)} IS NOT NULL"]


def referring(inventor: Inventor, number: int, tables: Sequence[Table]) -> tuple[Table, Group] | None:
    """A table whose rows belong to those of another one, and change with them."""
    parents = [
        t
        for t in tables
        # a subquery that finds nothing would slip a NULL past a domain that allows none
        if len(t.key) == 1 and t.upsertable and not (t.also or t.secured) and t.column(t.key[0]).type.nullable
    ]
    if not parents:
        return None
    parent = inventor.random.choice(parents)
    (key,) = parent.key
    made = draft(inventor, 1)
    add_key(made)
    name = inventor.names.invent()
    made.columns.append(Column(name, _reference(parent, key)))
    deleted = inventor.random.choice(("CASCADE", "SET NULL", "NO ACTION DEFERRABLE INITIALLY DEFERRED"))
    made.after.append(
        f"ALTER TABLE {made.sql} ADD FOREIGN KEY ({quoted(name)}) REFERENCES {parent.sql} ({quoted(key)})"
        f" ON UPDATE CASCADE ON DELETE {deleted}"
    )
    table, group = made.finish(number)
    return replace(table, refers_to=parent.sql), group


def _reference(parent: Table, key: str) -> ColumnType:
    """Values that some row of the parent has."""
    choices = tuple(
        f'(SELECT x.{quoted(key)} FROM {parent.sql} x ORDER BY (x.*)::text COLLATE "C" OFFSET {n} LIMIT 1)'
        for n in range(3)
    )
    type_ = parent.column(key).type
    return replace(type_, sql=type_.sql.replace("serial", "integer"), values=choices, numbered=None, large=())
