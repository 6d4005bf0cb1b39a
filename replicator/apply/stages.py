"""The staging tables of a session: few at a time, because each costs every commit a millisecond and three locks.

They are emptied at each commit, used or not, and an app may have thousands of tables.
"""

from typing import Final

from psycopg import sql

from replicator.apply.statements import Statements

_KEPT: Final = 50
"""Staging tables that are left for the next transaction, besides those that the last one used: with more of these,
each would be dropped just before it is needed again."""


class Stages:
    """Which staging tables there are, in the order of their last use, and whether rows may be in them now."""

    def __init__(self, filled: dict[str, bool] | None = None) -> None:
        self._filled = filled or {}
        self._used: set[str] = set()

    def prepare(self, statements: Statements) -> sql.Composed | None:
        """What has to be run before a table's stage is filled; None if it is there, and empty."""
        filled = self._filled.pop(statements.stage, None)
        self._filled[statements.stage] = True
        if filled is None:
            return statements.create_stage()
        return statements.clear_stage() if filled else None

    def copy(self) -> "Stages":
        """As they are now, to go back to with a savepoint."""
        return Stages(dict(self._filled))

    def back_to(self, before: "Stages") -> None:
        """A savepoint was rolled back."""
        self._filled = before._filled

    def committed(self) -> None:
        """All are empty now."""
        self._used = {name for name, filled in self._filled.items() if filled}
        self._filled = dict.fromkeys(self._filled, False)

    def thin_out(self) -> sql.Composed | None:
        """Forget those that were not used for the longest time; the statement that drops them, if there are any."""
        names = [name for name, filled in self._filled.items() if not filled and name not in self._used][
            : max(0, len(self._filled) - _KEPT)
        ]
        for name in names:
            del self._filled[name]
        tables = sql.SQL(", ").join(sql.Identifier("pg_temp", name) for name in names)
        return sql.SQL("DROP TABLE {}").format(tables) if names else None
