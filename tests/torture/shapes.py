"""Inventing tables that are several: partitioned at one or two levels, inherited; and odd ones."""

from collections.abc import Callable
from dataclasses import replace
from typing import Final

from tests.torture.model import Column, Group, Table, mostly, quoted
from tests.torture.tables import Draft, Inventor, add_key, add_unique, draft, plain, store_outside
from tests.torture.types import INTEGER

_ORDERED: Final = ("integer", "bigint", "numeric", "date", "timestamp", "timestamptz", "smallint")


def partitioned(inventor: Inventor, number: int) -> tuple[Table, Group]:
    """A partitioned table with partitions of one or two levels, made as partitions or attached."""
    made = draft(inventor, inventor.random.choice((0, 1, 1, 2)))
    made.columns = [_uncounted(column) for column in made.columns]
    cut = _cutting_column(made)
    add_key(made, kinds=("primary", "primary", "deferrable", "index"))
    # an index of a partitioned table is no replica identity of its partitions
    made.after = [statement for statement in made.after if "USING INDEX" not in statement]
    strategy, bounds = _bounds(made, cut)
    create = made.create(f" PARTITION BY {strategy} ({quoted(cut.name)})")
    leaves = [leaf for bound in bounds for leaf in _partition(made, bound, cut)]
    _set_identities(made, leaves)
    store_outside(made)
    table, group = made.finish(number, create=create)
    return replace(table, also=tuple(leaves)), group


def _uncounted(column: Column) -> Column:
    """Partitions and children have no identity of their own, before 17."""
    if not column.counts:
        return column
    return replace(column, type=INTEGER, definition="NOT NULL", identity_always=False)


def _cutting_column(made: Draft) -> Column:
    """The column that the partitions are cut by: the key's, where there is one."""
    for column in made.columns:
        if column.name in made.key and column.type.hashable:
            return column
    usable = [c for c in made.columns if c.type.hashable and not c.generated and not made.key]
    if usable:
        return made.random.choice(usable)
    added = Column(made.inventor.names.invent(), INTEGER, "NOT NULL", nullable=False)
    made.columns.insert(0, added)
    if made.key:
        made.key = (*made.key, added.name)
    return added


def _bounds(made: Draft, cut: Column) -> tuple[str, list[str]]:
    values = [cut.type.value(n) for n in range(12)]
    ways = ["HASH", "LIST"] + ["RANGE"] * 2 * (cut.type.sql in _ORDERED)
    match made.random.choice(ways):
        case "HASH":
            return "HASH", [f"FOR VALUES WITH (MODULUS 3, REMAINDER {n})" for n in range(3)]
        case "LIST":
            first, second = ", ".join(values[:5]), ", ".join(values[5:9])
            return "LIST", [f"FOR VALUES IN ({first})", f"FOR VALUES IN ({second})", "DEFAULT"]
        case _:
            ranges = [("MINVALUE", values[4]), (values[4], values[9])]
            return "RANGE", [*(f"FOR VALUES FROM ({a}) TO ({b})" for a, b in ranges), "DEFAULT"]


def _partition(made: Draft, bound: str, cut: Column) -> list[str]:
    """One partition, and those below it; the names of the leaves."""
    inventor, random = made.inventor, made.random
    name = quoted(inventor.schema, inventor.names.invent())
    if mostly(random, 0.25):
        made.after.append(f"CREATE TABLE {name} PARTITION OF {made.sql} {bound} PARTITION BY HASH ({quoted(cut.name)})")
        leaves = [quoted(inventor.schema, inventor.names.invent()) for _ in range(2)]
        for n, leaf in enumerate(leaves):
            made.after.append(f"CREATE TABLE {leaf} PARTITION OF {name} FOR VALUES WITH (MODULUS 2, REMAINDER {n})")
        return leaves
    if mostly(random, 0.4):
        _attach(made, name, bound)
    else:
        made.after.append(f"CREATE TABLE {name} PARTITION OF {made.sql} {bound}")
    return [name]


def _attach(made: Draft, name: str, bound: str) -> None:
    """A table of its own, with its columns in another order and a hole, that becomes a partition."""
    columns = [column.sql for column in made.columns]
    made.random.shuffle(columns)
    made.after.append(f"CREATE TABLE {name} (dropped text, {', '.join(columns)})")
    made.after.append(f"ALTER TABLE {name} DROP COLUMN dropped")
    made.after.append(f"ALTER TABLE {made.sql} ATTACH PARTITION {name} {bound}")


def _set_identities(made: Draft, leaves: list[str]) -> None:
    for leaf in leaves:
        if mostly(made.random, 0.15):
            made.after.append(f"ALTER TABLE {leaf} REPLICA IDENTITY {made.random.choice(('FULL', 'NOTHING'))}")


def inherited(inventor: Inventor, number: int) -> tuple[Table, Group]:
    """A parent and its child, each with or without a key."""
    made = draft(inventor, inventor.random.choice((0, 1)), fewest=1)
    made.columns = [_uncounted(column) for column in made.columns]
    add_key(made, kinds=("primary", "index"))
    add_unique(made)
    store_outside(made)
    parent, group = made.finish(number)
    child = Draft(inventor, inventor.names.invent(), inventor.columns.several(fewest=1, most=3))
    key = f", PRIMARY KEY ({', '.join(map(quoted, made.key))})" if made.key and mostly(inventor.random, 0.6) else ""
    body = ", ".join(column.sql for column in child.columns)
    create = f"CREATE TABLE {child.sql} ({body}{key}) INHERITS ({made.sql})"
    return replace(parent, also=(child.sql,)), Group((*group.statements, create))


def key_only(inventor: Inventor, number: int) -> tuple[Table, Group]:
    """Nothing but a key, so that there is nothing else to update."""
    made = draft(inventor, inventor.random.choice((1, 2)))
    made.columns = [column for column in made.columns if column.name in made.key]
    add_key(made)
    return made.finish(number)


def without_columns(inventor: Inventor, number: int) -> tuple[Table, Group]:
    """No column at all, or only generated ones: rows can be counted, but not told apart."""
    made = Draft(inventor, inventor.names.invent(), [])
    if mostly(inventor.random, 0.5):
        made.columns = [inventor.columns.generated([])]
    return made.finish(number)


def wide(inventor: Inventor, number: int) -> tuple[Table, Group]:
    """Many columns: the row's values and their staging come near the limit of a page, or of columns."""
    made = draft(inventor, 1)
    made.columns += [Column(f"w{n}", INTEGER) for n in range(inventor.random.choice((100, 1580)))]
    add_key(made)
    return made.finish(number)


Shape = Callable[[Inventor, int], tuple[Table, Group]]

SHAPES: Final[tuple[tuple[Shape, float], ...]] = (
    (plain, 10),
    (partitioned, 4),
    (inherited, 2),
    (key_only, 1),
    (without_columns, 0.3),
    (wide, 0.1),
)
