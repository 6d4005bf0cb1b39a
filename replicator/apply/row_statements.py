"""A table's prepared statements. Each text is composed once: that takes longer than all else that is done for a row."""

from collections.abc import Callable, Sequence
from typing import Final

from psycopg import sql

from replicator.apply.lines import Rows, grouped
from replicator.apply.pipeline import Statement
from replicator.apply.rows import is_plain, values
from replicator.apply.statements import Statements
from replicator.model import Key, Row

_SINGLE: Final = 4
"""Rows up to which each has a statement of its own; more share one. Measured, of the target's processor: 20 µs a row,
or 100 µs and 7 a row."""

Line = Row | Key


class RowStatements:
    """Makes them for one table: one a row, or one for all rows in which nothing has to be unescaped."""

    def __init__(self, statements: Statements) -> None:
        self._statements = statements
        self.insert = _text(statements.insert_row())
        self._delete = _text(statements.delete_row()) if statements.table.key else b""
        self._updates: dict[Sequence[int], tuple[bytes, Sequence[int]]] = {}
        self._together: dict[tuple[str, Sequence[int]], bytes] = {}

    def inserts(self, rows: Sequence[Row]) -> list[Statement]:
        """They make these rows."""
        singly, together = self._parted(rows)
        # the line of a row without columns is empty, as one of a single empty value is
        found = [Statement(self.insert, values(row) if self._statements.table.columns else []) for row in singly]
        return found + self._shared("insert", (), lambda _: self._statements.insert_lines(), together)

    def deletes(self, keys: Sequence[Key]) -> list[Statement]:
        """They delete the rows of these keys."""
        singly, together = self._parted(keys)
        found = [Statement(self._delete, values(key)) for key in singly]
        return found + self._shared("delete", (), lambda _: self._statements.delete_lines(), together)

    def updates(self, rows: Rows) -> list[Statement] | None:
        """They set what was sent of the rows, but for the key; None where that is nothing."""
        found, settable = list[Statement](), self._statements.table.settable
        for unchanged, group in grouped(rows, first=0).values():
            if len(unchanged) == len(settable):
                return None
            text, positions = self._update(unchanged)
            singly, together = self._parted([row for _, row in group])
            for row in singly:
                sent = values(row)
                found.append(Statement(text, [sent[i] for i in positions]))
            found += self._shared("update", unchanged, self._statements.update_lines, together)
        return found

    def _parted(self, lines: Sequence[Line]) -> tuple[Sequence[Line], Sequence[Line]]:
        """Those that have statements of their own, and those that share one."""
        if len(lines) <= _SINGLE or not self._statements.table.takes_lines:
            return lines, []
        return [line for line in lines if not is_plain(line)], [line for line in lines if is_plain(line)]

    def _shared(
        self,
        operation: str,
        unchanged: Sequence[int],
        compose: Callable[[Sequence[int]], sql.Composed],
        lines: Sequence[Line],
    ) -> list[Statement]:
        if not lines:
            return []
        if (operation, unchanged) not in self._together:
            self._together[operation, unchanged] = _text(compose(unchanged))
        return [Statement(self._together[operation, unchanged], [b"\n".join(lines)], len(lines))]

    def _update(self, unchanged: Sequence[int]) -> tuple[bytes, Sequence[int]]:
        """The statement, and which values of a row are its parameters."""
        if unchanged not in self._updates:
            text = _text(self._statements.update_row(unchanged))
            positions = [*self._statements.updated_positions(unchanged), *(self._statements.table.key or ())]
            self._updates[unchanged] = text, positions
        return self._updates[unchanged]


def _text(statement: sql.Composed) -> bytes:
    return statement.as_string().encode()
