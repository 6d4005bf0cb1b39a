"""Foreign keys in two steps: NOT VALID while the app waits, validated when the target is open. Pure.

A partitioned table takes no NOT VALID foreign key before PostgreSQL 18: there each leaf gets it first, and the root
when all of them are validated, so that it finds nothing left to check (documentation: ALTER TABLE).
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from replicator.model import TableName
from replicator.postgres import qualified

NOT_VALID_ON_ROOTS_SINCE: Final = 180_000

_NAME: Final = r'(?:"(?:[^"]|"")+"|[^\W\d][\w$]*)'
_STATEMENT: Final = re.compile(
    rf"ALTER TABLE (?:ONLY )?(?P<table>{_NAME}\.{_NAME})\s+ADD CONSTRAINT (?P<name>{_NAME})"
    r" (?P<definition>FOREIGN KEY .*?)(?P<rest>\s+NOT VALID|\s+NOT ENFORCED(?:\s+NOT VALID)?)?\s*;?\s*",
    re.DOTALL,
)


@dataclass(frozen=True, slots=True)
class ForeignKey:
    """A foreign key as its statement spells it; ``checked``: the source guarantees it, so the target must too."""

    table: str
    name: str
    definition: str
    checked: bool

    @property
    def unquoted_name(self) -> str:
        """The constraint's name as the catalog has it."""
        return self.name[1:-1].replace('""', '"') if self.name.startswith('"') else self.name

    def add_unchecked(self) -> str:
        """Add it to the table, and where PostgreSQL 18 has a partitioned one, to all below."""
        return f"ALTER TABLE {self.table} ADD CONSTRAINT {self.name} {self.definition} NOT VALID"

    def add_unchecked_to(self, leaves: Sequence[TableName]) -> str:
        """Add it to each leaf of a partitioned table."""
        return ";\n".join(
            f"ALTER TABLE ONLY {_quoted(leaf)} ADD CONSTRAINT {self.name} {self.definition} NOT VALID"
            for leaf in leaves
        )

    def add(self) -> str:
        """Add it to a partitioned table whose leaves have it already, validated."""
        return f"ALTER TABLE {self.table} ADD CONSTRAINT {self.name} {self.definition}"

    def validate(self, table: str | None = None) -> str:
        """Check the rows that were there before, while others write."""
        return f"ALTER TABLE {table or self.table} VALIDATE CONSTRAINT {self.name}"


def parse_foreign_key(statement: str) -> ForeignKey | None:
    """Read what pg_dump writes for a foreign key, or None if the statement is something else."""
    match = _STATEMENT.fullmatch(statement.strip())
    if match is None:
        return None
    return ForeignKey(match["table"], match["name"], match["definition"], match["rest"] is None)


def _quoted(table: TableName) -> str:
    return qualified(table).as_string()
