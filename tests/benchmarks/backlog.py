"""A backlog: what the app does while no worker runs, so that the slot holds all of it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from psycopg import sql

from tests.fixtures.databases import Database

_WAL_END: Final = "SELECT pg_current_wal_insert_lsn()::text"
_END_TABLE: Final = "CREATE TABLE backlog_end (id bigint PRIMARY KEY)"
_END_REACHED: Final = "SELECT true FROM backlog_end WHERE id = 1"

Work = Callable[[Database], None]
"""Something that is done to the source."""


@dataclass(frozen=True, slots=True)
class Backlog:
    """Tables, and what happens to them; a row in a table of its own, written last, tells that a consumer is done."""

    name: str
    title: str
    fill: Work
    changes: Work
    settings: Mapping[str, Any] = field(default_factory=dict)
    """Of replicator, where they are not the defaults."""

    arrived: str = _END_REACHED

    def start(self, source: Database) -> None:
        """Make the tables as their owner, with the rows that the migration begins with."""
        source.execute(_END_TABLE)
        self.fill(source)
        source.execute("VACUUM ANALYZE", superuser=True)

    def grow(self, source: Database) -> tuple[int, str]:
        """Make all the changes. Returns the bytes of WAL that they took, and the LSN before the last of them."""
        began = source.value(_WAL_END)
        self.changes(source)
        last = source.value(_WAL_END)
        source.execute("INSERT INTO backlog_end VALUES (1)")
        return int(source.value("SELECT %s::pg_lsn - %s::pg_lsn", [last, began])), last


def statements(*composed: sql.SQL | sql.Composed, superuser: bool = False) -> Work:
    """Run SQL, each statement in a session of its own; the superuser is free of the owner's statement_timeout."""

    def work(source: Database) -> None:
        for statement in composed:
            source.execute(statement.as_string(), superuser=superuser)

    return work
