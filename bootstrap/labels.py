"""Values of enums on both sides: what the target lacks or names otherwise, and the statements that mend it.

A row holds the object id of a value, so rows have the new name as soon as a value is renamed, and the stream tells
nothing of it. Source: PostgreSQL documentation, "System Catalogs" (pg_enum), ALTER TYPE.
"""

from collections.abc import Container, Iterator, Mapping, Sequence
from typing import Final, LiteralString, NamedTuple

from psycopg import sql
from psycopg.rows import class_row

from replicator.model import TableName
from replicator.postgres import Connection

_ENUMS: Final[LiteralString] = """
SELECT n.nspname AS schema, t.typname AS name,
       pg_catalog.array_agg(e.enumlabel ORDER BY e.enumsortorder)::text[] AS labels,
       pg_catalog.array_agg(e.oid::bigint ORDER BY e.enumsortorder) AS oids
  FROM pg_catalog.pg_enum e
  JOIN pg_catalog.pg_type t ON t.oid = e.enumtypid JOIN pg_catalog.pg_namespace n ON n.oid = t.typnamespace
 WHERE n.nspname = ANY (%s)
 GROUP BY n.nspname, t.typname
 ORDER BY n.nspname, t.typname
"""

FormerLabels = Mapping[int, Container[str]]
"""The names that values of the source had when rows were copied, by object id."""


class Label(NamedTuple):
    """A value that an enum of the target lacks, and the value that it comes after, or before."""

    schema: str
    name: str
    label: str
    after: str | None
    before: str | None

    def statements(self) -> Iterator[str]:
        """What adds it to the target."""
        statement = sql.SQL("ALTER TYPE {} ADD VALUE IF NOT EXISTS {}").format(
            sql.Identifier(self.schema, self.name), sql.Literal(self.label)
        )
        if self.after is not None:
            statement += sql.SQL(" AFTER {}").format(sql.Literal(self.after))
        elif self.before is not None:
            statement += sql.SQL(" BEFORE {}").format(sql.Literal(self.before))
        yield statement.as_string()


class Relabelling(NamedTuple):
    """Values of one enum that have other names on the source by now, by their old ones."""

    schema: str
    name: str
    labels: Mapping[str, str]

    def statements(self) -> Iterator[str]:
        """What renames them on the target; to be run in one transaction, since names may be exchanged."""
        before, after = list(self.labels), list(self.labels.values())
        between = [f"replicator_{n}" for n in range(len(before))] if set(before) & set(after) else before
        for old, new in (*zip(before, between, strict=True), *zip(between, after, strict=True)):
            if old != new:
                names = sql.Identifier(self.schema, self.name), sql.Literal(old), sql.Literal(new)
                yield sql.SQL("ALTER TYPE {} RENAME VALUE {} TO {}").format(*names).as_string()


class Enum(NamedTuple):
    """An enum with its values in their order, and their object ids."""

    schema: str
    name: str
    labels: list[str]
    oids: list[int]


async def different_labels(
    source: Connection, target: Connection, schemas: Sequence[str], former: FormerLabels
) -> list[Relabelling | Label]:
    """What the target's enums lack in these schemas, renamed values first; a type that is not there is none of them."""
    theirs = {TableName(enum.schema, enum.name): enum.labels for enum in await _read_enums(target, schemas)}
    return [
        difference
        for enum in await _read_enums(source, schemas)
        if (labels := theirs.get(TableName(enum.schema, enum.name))) is not None
        for difference in different_labels_of(enum, labels, former)
    ]


async def disordered(source: Connection, target: Connection, schemas: Sequence[str]) -> list[TableName]:
    """The enums of both sides in these schemas whose values have another order, by which rows are sorted."""
    theirs = {TableName(enum.schema, enum.name): enum.labels for enum in await _read_enums(target, schemas)}
    return [
        TableName(enum.schema, enum.name)
        for enum in await _read_enums(source, schemas)
        if (labels := theirs.get(TableName(enum.schema, enum.name))) is not None
        and [label for label in enum.labels if label in labels] != [label for label in labels if label in enum.labels]
    ]


async def _read_enums(connection: Connection, schemas: Sequence[str]) -> list[Enum]:
    cursor = await connection.cursor(row_factory=class_row(Enum)).execute(_ENUMS, [list(schemas)])
    return await cursor.fetchall()


def different_labels_of(enum: Enum, theirs: Sequence[str], former: FormerLabels) -> Iterator[Relabelling | Label]:
    """The same for one enum of the source, whose values on the target are ``theirs``. Pure."""
    renamed = _renamed(enum, theirs, former)
    if renamed:
        yield Relabelling(enum.schema, enum.name, renamed)
    known = {renamed.get(label, label) for label in theirs}
    for place, label in enumerate(enum.labels):
        if label not in known:
            after = enum.labels[place - 1] if place else None
            before = next((other for other in enum.labels if other in known), None)
            yield Label(enum.schema, enum.name, label, after, before)
            known.add(label)


def _renamed(enum: Enum, theirs: Sequence[str], former: FormerLabels) -> dict[str, str]:
    """A name that the target has already is given only to a value that takes it over from another one.

    Where names were exchanged, the order of the values tells whether the target has followed.
    """
    found: dict[str, str] = {}
    for oid, label in zip(enum.oids, enum.labels, strict=True):
        old = next((name for name in theirs if name in former.get(oid, ())), label)
        if old != label:
            found[old] = label
    while taken := [old for old, label in found.items() if label in theirs and label not in found]:
        for old in taken:
            del found[old]
    common = [label for label in theirs if label in enum.labels]
    follows = common == [label for label in enum.labels if label in theirs]
    return {} if follows and all(label in theirs for label in found.values()) else found
