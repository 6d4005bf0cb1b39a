"""What a set of publications sends, merged over them as the server merges it.

Source: PostgreSQL documentation, "System Views" (pg_publication_tables); the merging is pgoutput's.
"""

from collections import defaultdict
from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, LiteralString, NamedTuple

from replicator.catalog.query import fetch
from replicator.errors import SourceError
from replicator.model import ReplicaIdentity, TableName
from replicator.postgres import Connection

COLUMN_LISTS_SINCE: Final = 150_000
"""The server version that brought column lists and row filters to publications."""

GENERATED_SINCE: Final = 180_000
"""The server version that can publish generated columns; earlier ones only list them in pg_publication_tables."""


@dataclass(frozen=True, slots=True)
class Part:
    """A relation that holds rows itself: a plain table or a leaf partition.

    ``size`` is bytes with its TOASTed values, ``main_size`` those of its main fork: what has a place by ctid.
    """

    oid: int
    table: TableName
    size: int
    main_size: int


@dataclass(frozen=True, slots=True)
class PublishedTable:
    """A table as its publications send it: the unit of state, of copying and of applying.

    ``parts`` are where its rows lie: itself, or the leaves below a root whose changes travel under the root's name.
    ``columns`` are the published ones that hold a value of their own (generated columns are left out), in attribute
    order. ``row_filter`` is an SQL condition, or None. ``insert_only``: updates and deletes are not both published, or
    not of all rows.
    """

    oid: int
    table: TableName
    identity: ReplicaIdentity
    columns: tuple[str, ...]
    row_filter: str | None
    insert_only: bool
    parts: tuple[Part, ...]
    publishes_truncate: bool = True

    @property
    def size(self) -> int:
        """Bytes of all its parts with their TOASTed values."""
        return sum(part.size for part in self.parts)


_PUBLICATIONS: Final[LiteralString] = """
SELECT pubname AS name, pubupdate AS updates, pubdelete AS deletes, pubtruncate AS truncates, pubinsert AS inserts
  FROM pg_catalog.pg_publication
 WHERE pubname = ANY (%s)
"""

_ENTRIES: Final[LiteralString] = """
SELECT c.oid, n.nspname AS schema, c.relname AS name, c.relreplident AS identity, p.pubname AS publication,
       p.attnames AS columns, p.rowfilter AS row_filter
  FROM pg_catalog.pg_publication_tables p
  JOIN pg_catalog.pg_namespace n ON n.nspname = p.schemaname
  JOIN pg_catalog.pg_class c ON c.relnamespace = n.oid AND c.relname = p.tablename
 WHERE p.pubname = ANY (%s)
 ORDER BY n.nspname, c.relname, p.pubname
"""

_ENTRIES_14: Final[LiteralString] = """
SELECT c.oid, n.nspname AS schema, c.relname AS name, c.relreplident AS identity, p.pubname AS publication,
       NULL::name[] AS columns, NULL::text AS row_filter
  FROM pg_catalog.pg_publication_tables p
  JOIN pg_catalog.pg_namespace n ON n.nspname = p.schemaname
  JOIN pg_catalog.pg_class c ON c.relnamespace = n.oid AND c.relname = p.tablename
 WHERE p.pubname = ANY (%s)
 ORDER BY n.nspname, c.relname, p.pubname
"""

_COLUMNS: Final[LiteralString] = """
SELECT attrelid AS oid, attname AS name, attgenerated <> '' AS generated
  FROM pg_catalog.pg_attribute
 WHERE attrelid = ANY (%s) AND attnum > 0 AND NOT attisdropped
 ORDER BY attrelid, attnum
"""

# a partition that is unlogged or foreign sends nothing, so it is no part; pg_partition_tree() would lock them all until
# the end of the transaction, which for a round's snapshot is the end of the copy
_PARTS: Final[LiteralString] = """
WITH RECURSIVE r(oid, place, relid) AS (
  SELECT u.oid, u.place, u.oid FROM unnest(%s::oid[]) WITH ORDINALITY u(oid, place)
  UNION ALL
  SELECT r.oid, r.place, i.inhrelid
    FROM r JOIN pg_catalog.pg_class p ON p.oid = r.relid AND p.relkind = 'p'
    JOIN pg_catalog.pg_inherits i ON i.inhparent = r.relid AND NOT i.inhdetachpending)
SELECT r.oid AS root, c.oid, n.nspname AS schema, c.relname AS name, c.relkind IN ('r', 'f') AS leaf,
       c.relkind = 'r' AND c.relpersistence = 'p' AS sends,
       CASE c.relkind WHEN 'r' THEN coalesce(pg_catalog.pg_table_size(c.oid), 0) ELSE 0 END AS size,
       CASE c.relkind WHEN 'r' THEN coalesce(pg_catalog.pg_relation_size(c.oid), 0) ELSE 0 END AS main_size
  FROM r
  JOIN pg_catalog.pg_class c ON c.oid = r.relid
  JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
 ORDER BY r.place, n.nspname, c.relname
"""


class Publication(NamedTuple):
    """What a publication sends."""

    name: str
    updates: bool
    deletes: bool
    truncates: bool
    inserts: bool = True


class Entry(NamedTuple):
    """A table of one publication, as pg_publication_tables lists it; ``columns`` None: all of them."""

    oid: int
    schema: str
    name: str
    identity: str
    publication: str
    columns: list[str] | None
    row_filter: str | None


class Column(NamedTuple):
    """A column; a ``generated`` one holds no value of its own."""

    oid: int
    name: str
    generated: bool


class Relation(NamedTuple):
    """A relation of the partition tree below ``root``, the root included; ``sends``: its changes can be published."""

    root: int
    oid: int
    schema: str
    name: str
    leaf: bool
    sends: bool
    size: int
    main_size: int


async def published_tables(connection: Connection, publications: Sequence[str]) -> list[PublishedTable]:
    """Every table that a stream of these publications sends, merged as the server merges them, in name order.

    Raises SourceError when a publication does not exist, or when together they send a table's changes so that updates
    would miss their rows, so that the server itself refuses, or with generated columns.
    """
    names = list(publications)
    known = await fetch(connection, Publication, _PUBLICATIONS, names)
    if missing := sorted(set(names) - {publication.name for publication in known}):
        raise SourceError(
            f"there is no publication {', '.join(missing)}",
            hint="Make it, or correct REPLICATOR_PUBLICATIONS, or unset that: replicator then makes its own. If it was "
            "dropped while a migration is under way, make it again: its tables are copied anew.",
        )
    entries = await fetch(
        connection,
        Entry,
        _ENTRIES if connection.info.server_version >= COLUMN_LISTS_SINCE else _ENTRIES_14,
        names,
    )
    oids = list(dict.fromkeys(entry.oid for entry in entries))
    columns: dict[int, list[str]] = defaultdict(list)
    generated = set()
    for column in await fetch(connection, Column, _COLUMNS, oids):
        if column.generated:
            generated.add((column.oid, column.name))
        else:
            columns[column.oid].append(column.name)
    if connection.info.server_version >= GENERATED_SINCE:
        _refuse_generated(entries, generated)
    relations = await fetch(connection, Relation, _PARTS, oids)
    return merge_entries({publication.name: publication for publication in known}, entries, columns, relations)


def _refuse_generated(entries: Iterable[Entry], generated: Container[tuple[int, str]]) -> None:
    for entry in entries:
        if sent := [name for name in entry.columns or () if (entry.oid, name) in generated]:
            raise SourceError(
                f"publication {entry.publication} sends the generated column {sent[0]} of "
                f"{TableName(entry.schema, entry.name)}, which the target computes itself",
                hint="Take it out of the publication's column list, or run ALTER PUBLICATION … SET "
                "(publish_generated_columns = none).",
            )


def merge_entries(
    publications: Mapping[str, Publication],
    entries: Iterable[Entry],
    columns: Mapping[int, Sequence[str]],
    relations: Iterable[Relation],
) -> list[PublishedTable]:
    """Merge the publications' entries into tables, as the server's output plugin does.

    A change travels under the topmost published root; operations add up over all publications, row filters and column
    lists only over those that publish that root. A table without relations was dropped since it was listed.
    """
    trees: dict[int, list[Relation]] = defaultdict(list)
    for relation in relations:
        trees[relation.root].append(relation)
    own: dict[int, list[Entry]] = defaultdict(list)
    for entry in entries:
        own[entry.oid].append(entry)
    below = {relation.oid for tree in trees.values() for relation in tree if relation.oid != relation.root}
    return [
        _published(
            table,
            [(e, publications[e.publication]) for relation in trees[oid] for e in own.get(relation.oid, [])],
            columns.get(oid, ()),
            trees[oid],
        )
        for oid, table in own.items()
        if oid in trees and oid not in below
    ]


def _published(
    entries: Sequence[Entry],
    sent: Sequence[tuple[Entry, Publication]],
    columns: Sequence[str],
    tree: Sequence[Relation],
) -> PublishedTable:
    """One table from its own ``entries``, and from all that are ``sent`` under its name with their publications."""
    first = entries[0]
    table = TableName(first.schema, first.name)
    publications = [publication for _, publication in sent]
    listed = {entry.columns and frozenset(entry.columns) for entry in entries}
    if len(listed) > 1:
        # the server itself refuses to stream such a table
        raise SourceError(
            f"table {table} has different column lists in {', '.join(entry.publication for entry in entries)}",
            hint="Give the table the same column list in each of REPLICATOR_PUBLICATIONS.",
        )
    if not any(publication.inserts for publication in publications):
        raise SourceError(
            f"inserts into table {table} are not published",
            hint="ALTER PUBLICATION … SET (publish = …) with insert, or take the table out of the publication.",
        )
    inserted, updated, deleted = (
        _merged([(e.oid == first.oid, e.row_filter) for e, publication in sent if getattr(publication, operation)])
        for operation in ("inserts", "updates", "deletes")
    )
    if not (_within(updated, inserted) and _within(deleted, inserted)):
        raise SourceError(
            f"updates or deletes of rows of table {table} are published whose inserts are not",
            hint="Give the table the same WHERE in each of REPLICATOR_PUBLICATIONS, or publish the same operations.",
        )
    return PublishedTable(
        oid=first.oid,
        table=table,
        identity=ReplicaIdentity(first.identity),
        columns=tuple(name for name in columns if first.columns is None or name in first.columns),
        row_filter=" OR ".join(inserted) if inserted else None,
        insert_only=not (any(p.updates for p in publications) and any(p.deletes for p in publications))
        or not (_within(inserted, updated) and _within(inserted, deleted)),
        parts=tuple(Part(r.oid, TableName(r.schema, r.name), r.size, r.main_size) for r in tree if r.leaf and r.sends),
        publishes_truncate=any(p.truncates for p in publications),
    )


_Filters = tuple[str, ...] | None
"""Conditions of which a row must meet one; None: there are none."""


def _merged(filters: Iterable[tuple[bool, str | None]]) -> _Filters:
    """As the server merges row filters over what publishes one operation: those of a root count, if any is its own."""
    found = list(filters)
    texts = [text for own, text in found if own] or [None for _ in found]
    return None if None in texts else tuple(dict.fromkeys(text for text in texts if text))


def _within(few: _Filters, many: _Filters) -> bool:
    """Whether what meets ``few`` certainly meets ``many``."""
    return many is None or (few is not None and set(few) <= set(many))
