"""Changes that only a new copy of their table can bring: the errors tell the statement that asks for one."""

from typing import Final

from psycopg import sql

from replicator.errors import ApplyError
from replicator.model import Relation, TableName

_COPY_AGAIN: Final = sql.SQL("UPDATE replicator.tables SET state = 'copying' WHERE schema = {} AND name = {}")


def copy_again(table: TableName) -> str:
    """What an operator does, and what follows."""
    statement = _COPY_AGAIN.format(*map(sql.Literal, table)).as_string()
    return f"Run on the target: {statement}; the table is copied again, and the worker goes on by itself then."


def incomplete(relation: Relation) -> ApplyError:
    """An insert that lacks a value.

    An update has moved the row into the publication's row filter, and nobody sends what lies out of line and did not
    change. PostgreSQL's own subscriptions store NULL then (source: ``slot_store_data``).
    """
    return ApplyError(
        f"an update moved a row of {relation.table} into the publication's row filter: its large values did not come",
        hint=copy_again(relation.table),
    )
