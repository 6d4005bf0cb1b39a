"""Sequences: all of them, with the exact values that the source has, read after the last write.

Logical replication does not carry them. ``is_called`` matters as much as the value: a sequence that was never used
must give its first value.
"""

import itertools
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, LiteralString, NamedTuple

from psycopg import sql

from replicator.catalog.query import fetch
from replicator.cutover.sides import on
from replicator.errors import CutoverError, Side
from replicator.model import SchemaMode, TableName
from replicator.postgres import Connection, qualified

_CHUNK: Final = 500
"""Sequences read by one query."""

_SEQUENCES: Final[LiteralString] = """
SELECT c.oid, n.nspname AS schema, c.relname AS name, o.nspname AS owner_schema, t.relname AS owner_table,
       a.attname AS owner_column, coalesce(d.deptype = 'i', false) AS is_identity,
       s.seqmin AS minimum, s.seqmax AS maximum,
       pg_catalog.has_sequence_privilege(c.oid, 'SELECT') AS readable,
       pg_catalog.has_sequence_privilege(c.oid, 'UPDATE') AS settable,
       pg_catalog.format_type(s.seqtypid, NULL) AS type, s.seqstart AS start, s.seqincrement AS increment,
       s.seqcache AS cache, s.seqcycle AS cycles
  FROM pg_catalog.pg_class c
  JOIN pg_catalog.pg_sequence s ON s.seqrelid = c.oid
  JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
  LEFT JOIN pg_catalog.pg_depend d ON d.classid = 'pg_catalog.pg_class'::regclass AND d.objid = c.oid
    AND d.objsubid = 0 AND d.refclassid = 'pg_catalog.pg_class'::regclass AND d.refobjsubid > 0
    AND d.deptype IN ('a', 'i')
  LEFT JOIN pg_catalog.pg_class t ON t.oid = d.refobjid
  LEFT JOIN pg_catalog.pg_namespace o ON o.oid = t.relnamespace
  LEFT JOIN pg_catalog.pg_attribute a ON a.attrelid = d.refobjid AND a.attnum = d.refobjsubid
 WHERE c.relkind = 'S' AND c.relpersistence <> 't'
   AND n.nspname <> 'information_schema' AND NOT starts_with(n.nspname, 'pg_') AND n.nspname <> ALL (%s)
   AND NOT EXISTS (SELECT FROM pg_catalog.pg_depend e
                    WHERE e.classid = 'pg_catalog.pg_class'::regclass AND e.objid = c.oid AND e.deptype = 'e')
 ORDER BY n.nspname, c.relname
"""

_SET: Final[LiteralString] = """
SELECT pg_catalog.setval(v.oid::regclass, v.value, v.called)
  FROM unnest(%s::oid[], %s::bigint[], %s::boolean[]) v(oid, value, called)
"""


class SequenceInfo(NamedTuple):
    """A sequence; the owner's names are None unless a column owns it (serial, identity, OWNED BY).

    A column has one identity at most, beside which it may own others: those that numbered it before.
    """

    oid: int
    schema: str
    name: str
    owner_schema: str | None = None
    owner_table: str | None = None
    owner_column: str | None = None
    is_identity: bool = False
    minimum: int = 1
    maximum: int = 2**63 - 1
    readable: bool = True
    settable: bool = True
    type: str = "bigint"
    start: int = 1
    increment: int = 1
    cache: int = 1
    cycles: bool = False

    @property
    def title(self) -> TableName:
        """Its own name."""
        return TableName(self.schema, self.name)

    @property
    def owner(self) -> TableName | None:
        """The table whose column owns it."""
        if self.owner_schema is None or self.owner_table is None:
            return None
        return TableName(self.owner_schema, self.owner_table)

    @property
    def definition(self) -> tuple[str, int, int, int, int, int, bool]:
        """What decides which values follow."""
        return self.type, self.start, self.increment, self.minimum, self.maximum, self.cache, self.cycles


class Value(NamedTuple):
    """What a sequence gives next: ``last_value`` itself, or the one after it if ``is_called``."""

    last_value: int
    is_called: bool


@dataclass(frozen=True, slots=True)
class Pairing:
    """Which sequence of the target gets which one's value. ``missing`` must be there and is not.

    ``unpaired`` are the target's that number columns of migrated tables, and that none of the source's is the twin of.
    ``aligned``: the target's get the source's definitions as well, unless they are of the user's own making.
    """

    pairs: tuple[tuple[SequenceInfo, SequenceInfo], ...]
    missing: tuple[TableName, ...]
    left_out: tuple[TableName, ...]
    aligned: bool = False
    unpaired: tuple[SequenceInfo, ...] = ()


async def list_sequences(connection: Connection, exclude_schemas: Iterable[str]) -> list[SequenceInfo]:
    """Every sequence that is not the system's, an extension's, temporary, or in ``exclude_schemas``."""
    return await fetch(connection, SequenceInfo, _SEQUENCES, list(exclude_schemas))


def pair(
    source: Iterable[SequenceInfo],
    target: Iterable[SequenceInfo],
    migrated: Collection[TableName],
    mode: SchemaMode,
) -> Pairing:
    """Match by the column that is numbered, else by the owner, else by name.

    Those of tables that are not ``migrated`` are left alone.
    """
    source, target = list(source), list(target)
    twins = _twins(source, target)
    pairs, missing, left_out = [], [], []
    for item in source:
        twin = twins.get(item.oid)
        if item.owner is not None and item.owner not in migrated:
            left_out.append(item.title)
        elif twin is not None:
            pairs.append((item, twin))
        elif item.owner is None and mode is SchemaMode.EXISTING:
            left_out.append(item.title)  # the user's own migrations do without it
        else:
            missing.append(item.title)
    paired = {twin.oid for twin in twins.values()}
    unpaired = [item for item in target if item.owner in migrated and item.oid not in paired]
    aligned = mode is SchemaMode.COPY
    # what a deploy has dropped on the source stays on a target of our making, and gives no values there either
    return Pairing(tuple(pairs), tuple(missing), tuple(left_out), aligned, () if aligned else tuple(unpaired))


def _twins(source: Sequence[SequenceInfo], target: Iterable[SequenceInfo]) -> dict[int, SequenceInfo]:
    """The target's sequence for each of the source's, by its oid, none for two: a column may own several."""
    found: dict[int, SequenceInfo] = {}
    free = {item.oid: item for item in target}
    ways: tuple[Callable[[SequenceInfo], object], ...] = (
        lambda item: _owned_by(item) if item.is_identity else None,
        lambda item: (_owned_by(item), item.title),
        lambda item: _owned_by(item) if item.owner is not None else None,
        lambda item: item.title,
    )
    for way in ways:
        places = {way(item): item for item in reversed(free.values())}
        for item in source:
            place = way(item)
            if item.oid not in found and place is not None and (twin := places.pop(place, None)) is not None:
                found[item.oid] = free.pop(twin.oid)
    return found


def _owned_by(item: SequenceInfo) -> tuple[TableName | None, str | None]:
    return item.owner, item.owner_column


async def read_values(connection: Connection, sequences: Sequence[SequenceInfo]) -> dict[int, Value]:
    """The exact state of each sequence by its oid, a few hundred a query."""
    values: dict[int, Value] = {}
    for start in range(0, len(sequences), _CHUNK):
        query = sql.SQL(" UNION ALL ").join(
            sql.SQL("SELECT {}::bigint, last_value, is_called FROM {}").format(
                sql.Literal(item.oid), qualified(item.title)
            )
            for item in sequences[start : start + _CHUNK]
        )
        rows = await (await connection.execute(query)).fetchall()
        values |= {oid: Value(last_value, is_called) for oid, last_value, is_called in rows}
    return values


async def copy_values(
    source: Connection,
    target: Connection,
    pairs: Sequence[tuple[SequenceInfo, SequenceInfo]],
    known: Mapping[int, Value],
) -> dict[int, Value]:
    """Give the target's sequences the source's values, and return these; ``known`` are those that it has already.

    Raises CutoverError if one does not have its value afterwards.
    """
    with on(Side.SOURCE, "reading sequences"):
        wanted = await read_values(source, [ours for ours, _ in pairs])
    changed = [(theirs, wanted[ours.oid]) for ours, theirs in pairs if wanted[ours.oid] != known.get(ours.oid)]
    if changed:
        with on(Side.TARGET, "setting sequences"):
            await _set_values(target, changed)
    return wanted


async def _set_values(target: Connection, values: Sequence[tuple[SequenceInfo, Value]]) -> None:
    columns = zip(*((item.oid, *value) for item, value in values), strict=True)
    await target.execute(_SET, [list(column) for column in columns])
    found = await read_values(target, [item for item, _ in values])
    if wrong := [item.title for item, value in values if found[item.oid] != value]:
        raise CutoverError(
            f"sequence {titles(wrong)} did not keep its value: something uses it on the target",
            hint="Make sure that nothing uses the target yet, then run `replicator cutover` again.",
            side=Side.TARGET,
        )


async def align(target: Connection, found: Pairing) -> list[int]:
    """Give the target's sequences the definition and the owner that the source's have by now.

    Returns the source's oids of those that lost their value by that.
    """
    altered = []
    if found.aligned:
        with on(Side.TARGET, "altering sequences"):
            for ours, theirs in found.pairs:
                if ours.definition != theirs.definition:
                    await target.execute(_definition(ours, theirs))
                    altered.append(ours.oid)
                if _owned_by(ours) != _owned_by(theirs):
                    await target.execute(_ownership(ours, theirs))
    return altered


def _definition(ours: SequenceInfo, theirs: SequenceInfo) -> sql.Composed:
    type_, *numbers, cycles = ours.definition
    start, increment, minimum, maximum, cache = map(sql.Literal, numbers)
    # the value must lie within the new bounds at once, and is set afterwards
    return sql.SQL(
        "ALTER SEQUENCE {} AS {} START {} RESTART INCREMENT {} MINVALUE {} MAXVALUE {} CACHE {} {}"
    ).format(
        qualified(theirs.title), sql.SQL(type_), start, increment, minimum, maximum, cache,
        sql.SQL("CYCLE" if cycles else "NO CYCLE"),
    )  # fmt: skip


def _ownership(ours: SequenceInfo, theirs: SequenceInfo) -> sql.Composed:
    owner: sql.Composable = sql.SQL("NONE")
    if ours.owner is not None and ours.owner_column is not None:
        owner = sql.SQL("{}.{}").format(qualified(ours.owner), sql.Identifier(ours.owner_column))
    return sql.SQL("ALTER SEQUENCE {} OWNED BY {}").format(qualified(theirs.title), owner)


def out_of_bounds(found: Pairing, values: Mapping[int, Value]) -> list[TableName]:
    """The sequences whose range on the target does not hold the value that the source's has now, and will not."""
    return [
        theirs.title
        for ours, theirs in found.pairs
        if not found.aligned
        and ours.oid in values
        and not theirs.minimum <= values[ours.oid].last_value <= theirs.maximum
    ]


def titles(names: Iterable[TableName], limit: int = 5) -> str:
    """The first few names, and how many more there are."""
    names = list(names)
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(map(str, itertools.islice(names, limit))) + more
