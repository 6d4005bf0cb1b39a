"""A table's statements for single rows, with their parameters. Each text is composed once: that takes longer than all
else that is done for a row."""

from collections.abc import Iterable, Sequence

from psycopg import sql

from replicator.apply.pipeline import Statement
from replicator.apply.rows import unchanged_positions
from replicator.apply.statements import Statements
from replicator.apply.values import parameters
from replicator.model import Key, Row


class RowStatements:
    """Makes them for one table."""

    def __init__(self, statements: Statements) -> None:
        self._statements = statements
        self._insert = _text(statements.insert_row())
        self._delete = _text(statements.delete_row()) if statements.table.key else b""
        self._updates: dict[Sequence[int], tuple[bytes, Sequence[int]]] = {}

    def inserts(self, rows: Iterable[Row]) -> list[Statement]:
        """One a row."""
        # the line of a row without columns is empty, as one of a single empty value is
        return [(self._insert, parameters(row) if self._statements.table.columns else []) for row in rows]

    def deletes(self, keys: Iterable[Key]) -> list[Statement]:
        """One a key."""
        return [(self._delete, parameters(key)) for key in keys]

    def update(self, key: Key, row: Row) -> Statement | None:
        """Sets what was sent of the row, but for the key; None if that is nothing."""
        text, positions = self._update(unchanged_positions(row))
        values = parameters(row)
        return (text, [*(values[i] for i in positions), *parameters(key)]) if positions else None

    def _update(self, unchanged: Sequence[int]) -> tuple[bytes, Sequence[int]]:
        if unchanged not in self._updates:
            text = _text(self._statements.update_row(unchanged))
            self._updates[unchanged] = text, self._statements.updated_positions(unchanged)
        return self._updates[unchanged]


def _text(statement: sql.Composed) -> bytes:
    return statement.as_string().encode()
