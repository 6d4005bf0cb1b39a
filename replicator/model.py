# cython: annotation_typing=False
"""The words that the stages share: rows, relations, changes, transactions, and the tables of the two servers. Compiled.

A *row* is one line of COPY text without its newline: columns separated by tabs, backslash, tab, newline and carriage
return escaped, NULL as ``\\N`` (PostgreSQL documentation, COPY, "Text Format"). Values stay the bytes that the source
printed (law 7). A column whose TOASTed value the source did not send is ``UNCHANGED``, which COPY text never holds.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from typing import NamedTuple

from replicator.lsn import Lsn

Row = bytes
"""One line of COPY text, without the newline."""

Key = bytes
"""The key columns of a row, in key order, as one line of COPY text."""

NULL = rb"\N"
"""A column that is NULL, in a row."""

UNCHANGED = rb"\U"
"""A TOASTed column that an UPDATE left as it was, in a row: pgoutput's kind 'u'."""


FENCE = "replicator_fence"
"""The schema of the cutover's fence on the source, and the name of its triggers on the app's tables: not the app's."""

POSTGRES_EPOCH = 946_684_800
"""2000-01-01 UTC, PostgreSQL's zero of time, in Unix seconds."""


class TableName(NamedTuple):
    """A schema-qualified name, unquoted."""

    schema: str
    name: str

    def __str__(self) -> str:
        return f"{self.schema}.{self.name}"


class ReplicaIdentity(Enum):
    """pg_class.relreplident."""

    DEFAULT = "d"
    NOTHING = "n"
    FULL = "f"
    INDEX = "i"


@dataclass(frozen=True, slots=True)
class RelationColumn:
    """A published column, as a Relation message describes it."""

    name: str
    type_oid: int
    type_modifier: int
    key: bool


@dataclass(frozen=True)
class Relation:
    """A published table as the stream describes it; ``oid`` is the source's."""

    oid: int
    table: TableName
    identity: ReplicaIdentity
    columns: tuple[RelationColumn, ...]


# Millions of what follows are made. Compiled, they are the cheapest objects that Python has; frozen, they would be the
# dearest where they are not compiled.


@dataclass
class RowChange:
    """What happened to one row of ``relation``."""

    relation: Relation


@dataclass
class Insert(RowChange):
    """A new row."""

    new: Row


@dataclass
class Update(RowChange):
    """A changed row.

    ``old`` is None when the identity did not change and is not FULL; else it holds the old identity columns (every
    other column NULL) or, under REPLICA IDENTITY FULL (``old_is_full``), the whole old row.
    """

    old: Row | None
    old_is_full: bool
    new: Row


@dataclass
class Delete(RowChange):
    """A deleted row: its identity columns (every other column NULL), or the whole row if ``old_is_full``."""

    old: Row
    old_is_full: bool


class Truncate(NamedTuple):
    """TRUNCATE of all ``relations`` at once; cascaded ones are listed by the source."""

    relations: tuple[Relation, ...]
    cascade: bool
    restart_identity: bool


class LogicalMessage(NamedTuple):
    """What pg_logical_emit_message() wrote, inside a transaction."""

    prefix: str
    content: bytes


Change = Insert | Update | Delete | Truncate | LogicalMessage


@dataclass
class Transaction:
    """A committed source transaction, or one piece of it.

    A transaction larger than the buffer comes in pieces, in order; all but its last have ``complete`` False and
    ``end_lsn`` 0, since only the Commit message tells it. ``commit_lsn`` is where the commit record starts (Begin's
    final_lsn: what a table's snapshot LSN is compared with), ``end_lsn`` where it ends (what progress becomes).
    ``committed_at`` is PostgreSQL time: microseconds since 2000-01-01 UTC, by the source's clock. ``size`` is bytes
    of rows as they lie in memory, Python's overhead included.
    """

    commit_lsn: Lsn
    end_lsn: Lsn
    committed_at: int
    changes: Sequence[Change]
    size: int
    complete: bool = True


class TableState(Enum):
    """How far a table has come; the order is the order of the steps."""

    PENDING = "pending"
    COPYING = "copying"
    COPIED = "copied"
    READY = "ready"


class Phase(Enum):
    """Where the migration stands, as `status` and the metrics show it."""

    BOOTSTRAP = "bootstrap"
    STREAMING = "streaming"
    CUTOVER = "cutover"
    DONE = "done"


class SchemaMode(Enum):
    """REPLICATOR_SCHEMA: who makes the target's tables."""

    COPY = "copy"
    EXISTING = "existing"


class SpoolMode(Enum):
    """REPLICATOR_SPOOL: whether changes are kept on the target while tables are being copied."""

    AUTO = "auto"
    ALWAYS = "always"
    NEVER = "never"


class KeylessPolicy(Enum):
    """REPLICATOR_KEYLESS: what to do with a table whose updates and deletes could not be replicated."""

    REFUSE = "refuse"
    FULL = "full"
    INSERT_ONLY = "insert-only"
    EXCLUDE = "exclude"
