"""Whether a table's updates and deletes can be replicated: pure verdicts on its replica identity (law 5).

A published table without a usable replica identity makes the app's own UPDATE and DELETE fail. PostgreSQL
documentation: "Logical Replication, Publication" (replica identity), ALTER TABLE ("REPLICA IDENTITY").
"""

from collections.abc import Sequence
from typing import Final, NamedTuple

from replicator.model import ReplicaIdentity

GENERATED_IDENTITY_REFUSED_SINCE: Final = 180_000
"""The server version that counts unpublished generated columns as part of a FULL identity, and refuses updates."""


class UniqueIndex(NamedTuple):
    """A unique index of the table with oid ``table``, as far as it matters to a replica identity.

    ``chosen``: REPLICA IDENTITY USING INDEX has named it. ``immediate`` is false for a DEFERRABLE constraint;
    ``nullable`` and ``generated`` speak of any of its key columns.
    """

    table: int
    name: str
    primary: bool = False
    chosen: bool = False
    valid: bool = True
    immediate: bool = True
    partial: bool = False
    expression: bool = False
    nullable: bool = False
    generated: bool = False


def index_problem(index: UniqueIndex) -> str | None:
    """Why an index cannot be a replica identity, or None: valid, immediate, whole, not null, none generated."""
    reasons = (
        (not index.valid, "is not valid"),
        (not index.immediate, "is DEFERRABLE"),
        (index.partial, "is partial"),
        (index.expression, "has an expression"),
        (index.nullable, "has a column that may be NULL"),
        (index.generated, "has a generated column"),
    )
    return next((reason for applies, reason in reasons if applies), None)


def full_problem(generated: bool, server_version: int) -> str | None:
    """Why REPLICA IDENTITY FULL would make the app's updates fail, or None."""
    if generated and server_version >= GENERATED_IDENTITY_REFUSED_SINCE:
        return "it has a generated column, which PostgreSQL 18 refuses under REPLICA IDENTITY FULL"
    return None


def identity_problem(
    identity: ReplicaIdentity, indexes: Sequence[UniqueIndex], generated: bool, server_version: int
) -> str | None:
    """Why updates and deletes of a published table would fail or lack their key, or None.

    ``generated`` is whether the table has generated columns, ``server_version`` like 170004.
    """
    if identity is ReplicaIdentity.NOTHING:
        return "its replica identity is NOTHING"
    if identity is ReplicaIdentity.FULL:
        return full_problem(generated, server_version)
    primary = identity is ReplicaIdentity.DEFAULT
    name = "primary key" if primary else "replica identity index"
    index = next((index for index in indexes if (index.primary if primary else index.chosen)), None)
    if index is None:
        return "it has no primary key" if primary else "its replica identity index is gone"
    problem = index_problem(index)
    return problem and f"its {name} {problem}"


def usable_index(indexes: Sequence[UniqueIndex]) -> str | None:
    """An index that REPLICA IDENTITY USING INDEX could name, the primary key first."""
    usable = sorted((index for index in indexes if index_problem(index) is None), key=lambda i: (not i.primary, i.name))
    return usable[0].name if usable else None


def has_usable_primary_key(indexes: Sequence[UniqueIndex]) -> bool:
    """Whether the primary key alone is a usable identity: a future partition gets it, and nothing else of its root."""
    return any(index.primary and index_problem(index) is None for index in indexes)
