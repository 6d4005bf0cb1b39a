"""What a server's catalog says about tables: read only, one query a question, no query a table.

Source: PostgreSQL documentation, "System Catalogs" and "System Views" (pg_publication_tables).
"""

from dataclasses import dataclass

from replicator.model import ReplicaIdentity, TableName


@dataclass(frozen=True, slots=True)
class Part:
    """A relation that holds rows itself: a plain table or a leaf partition. ``size`` is bytes of its main fork."""

    oid: int
    table: TableName
    size: int


@dataclass(frozen=True, slots=True)
class PublishedTable:
    """A table as its publications send it: the unit of state, of copying and of applying.

    ``parts`` are where its rows lie: itself, or the leaves below a root whose changes travel under the root's name.
    ``columns`` are the published ones that hold a value of their own (generated columns are left out), in attribute
    order. ``row_filter`` is an SQL condition, or None.
    """

    oid: int
    table: TableName
    identity: ReplicaIdentity
    columns: tuple[str, ...]
    row_filter: str | None
    insert_only: bool
    parts: tuple[Part, ...]

    @property
    def size(self) -> int:
        """Bytes of the main forks of all its parts."""
        return sum(part.size for part in self.parts)
