# cython: annotation_typing=False
"""What pgoutput says besides changes. Changes and relations are the words of ``replicator.model`` themselves.

Source: PostgreSQL documentation, "Logical Replication Message Formats", protocol version 2, streaming off.
Times are PostgreSQL's: microseconds since 2000-01-01 UTC, by the source's clock. Compiled.
"""

from dataclasses import dataclass
from typing import NamedTuple

from replicator.lsn import Lsn
from replicator.model import Delete, Insert, Relation, Truncate, Update


@dataclass
class Begin:
    """A transaction begins; it is committed already. ``commit_lsn`` is where its commit record starts."""

    commit_lsn: Lsn
    committed_at: int
    xid: int


@dataclass
class Commit:
    """A transaction ends. ``end_lsn`` is where its commit record ends: what progress becomes."""

    commit_lsn: Lsn
    end_lsn: Lsn
    committed_at: int


class Origin(NamedTuple):
    """The transaction came to the source by replication, from the origin of that name."""

    commit_lsn: Lsn
    name: str


class TypeName(NamedTuple):
    """The name of a type that is not built in."""

    oid: int
    schema: str
    name: str


class Emitted(NamedTuple):
    """What pg_logical_emit_message() wrote; not ``transactional``: sent at once, outside any transaction."""

    transactional: bool
    lsn: Lsn
    prefix: str
    content: bytes


Message = Begin | Commit | Origin | TypeName | Emitted | Relation | Insert | Update | Delete | Truncate
