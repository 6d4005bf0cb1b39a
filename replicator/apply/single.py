"""Writing a row at a time, without a staging table: for tables that are too wide to have one.

What the writer does with sets is done here in the same order, one statement a row: rows go, rows change, rows come.
"""

from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Final

from psycopg import sql
from psycopg.pq.abc import PGresult

from replicator.apply.rows import unchanged_positions
from replicator.apply.statements import Statements
from replicator.apply.values import WireText, parameters
from replicator.model import Key, Row

Values = list[WireText | None]
Run = Callable[[str, sql.Composed, Values, int], Awaitable[PGresult]]
"""Runs a statement for an operation, with its parameters, and raises unless it found so many rows."""


class SingleRows:
    """Statements of one table, each composed once: with 1,600 columns that takes longer than running it."""

    def __init__(self, statements: Statements, run: Run) -> None:
        self._statements = statements
        self._run = run
        self._composed: Final[dict[tuple[str, Sequence[int]], sql.Composed]] = {}

    async def write(
        self, deletes: Iterable[Key], updates: Iterable[tuple[Key, Row]], moves: Iterable[tuple[Key, Row]]
    ) -> None:
        """Delete, move and update rows; each must be there (law 4)."""
        for key in deletes:
            await self._run("delete", self._once("delete", (), self._statements.delete_row), parameters(key), 1)
        moved = [await self._taken(origin, row) for origin, row in moves]
        for key, row in updates:
            await self._update(key, row)
        insert = self._once("insert", (), lambda _: self._statements.insert_row(with_local=True))
        for values in moved:
            await self._run("update", insert, values, 1)

    async def remove_image(self, image: Row, count: int) -> None:
        """For a table without a key: delete so many copies of the row."""
        statement = self._once("image", (count,), lambda _: self._statements.delete_image(count))
        await self._run("delete", statement, parameters(image), count)

    async def _taken(self, origin: Key, row: Row) -> Values:
        """Delete the row of that key, and return its final image, completed by what was not sent and local values."""
        local = self._statements.table.local_positions
        kept = unchanged_positions(row) + local
        statement = self._once("delete", kept, self._statements.delete_row)
        result = await self._run("update", statement, parameters(origin), 1)
        values = parameters(row) + [None] * len(local)
        for n, position in enumerate(kept):
            before = result.get_value(0, n)
            values[position] = None if before is None else WireText(before)
        return values

    async def _update(self, key: Key, row: Row) -> None:
        unchanged = unchanged_positions(row)
        statement = self._once("update", unchanged, self._statements.update_row)
        values = parameters(row)
        changed = [values[position] for position in self._statements.updated_positions(unchanged)]
        await self._run("update", statement, changed + parameters(key), 1)

    def _once(
        self, kind: str, positions: Sequence[int], compose: Callable[[Sequence[int]], sql.Composed]
    ) -> sql.Composed:
        name = kind, positions
        if name not in self._composed:
            self._composed[name] = compose(positions)
        return self._composed[name]
