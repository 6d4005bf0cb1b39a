"""The words of the torture test: columns, tables, and a case, which is a schema and what an app does to it.

A case is invented from its seed alone, and is plain SQL: it can be printed, played again, and made smaller.
"""

from collections.abc import Collection
from dataclasses import dataclass, replace
from enum import Enum
from random import Random
from typing import Final, Self


def quoted(*names: str) -> str:
    """A qualified, quoted identifier."""
    return ".".join('"' + name.replace('"', '""') + '"' for name in names)


def literal(text: str) -> str:
    """Text as an SQL literal that can be printed on one line."""
    escaped = text.replace("\\", "\\\\").replace("'", "''")
    for plain, printed in (("\n", r"\n"), ("\r", r"\r"), ("\t", r"\t"), ("\b", r"\b"), ("\f", r"\f"), ("\v", r"\x0b")):
        escaped = escaped.replace(plain, printed)
    return f"E'{escaped}'" if "\\" in escaped else f"'{escaped}'"


@dataclass(frozen=True, slots=True)
class ColumnType:
    """A type with values at its edges, all as SQL expressions.

    ``numbered`` gives a value of its own for each whole number in place of ``{n}``: such a type may be a key.
    ``large`` are values that are TOASTed. ``hashable``: it may cut a table into hash partitions.
    """

    sql: str
    values: tuple[str, ...]
    numbered: str | None = None
    large: tuple[str, ...] = ()
    hashable: bool = False
    nullable: bool = True

    def value(self, n: int) -> str:
        """The value of number ``n``."""
        assert self.numbered is not None
        return self.numbered.replace("{n}", str(n))


@dataclass(frozen=True, slots=True)
class Column:
    """A column. ``definition`` is what follows its type. ``generated``: nobody may write it."""

    name: str
    type: ColumnType
    definition: str = ""
    nullable: bool = True
    generated: bool = False
    identity_always: bool = False

    @property
    def counts(self) -> bool:
        """Whether the server numbers its values."""
        return self.type.sql == "serial" or "IDENTITY" in self.definition

    @property
    def sql(self) -> str:
        return f"{quoted(self.name)} {self.type.sql} {self.definition}".strip()


@dataclass(frozen=True, slots=True)
class Table:
    """A table as its app sees it: ``key`` may be empty; ``upsertable`` if ON CONFLICT may name the key.

    ``group`` is the part of the schema that it is in. ``also`` are relations below it that may be written directly.
    ``lax``: it has a deferrable constraint, which is not enforced under session_replication_role = replica, as foreign
    keys are not: ``refers_to`` is the table that it has one to. ``secured``: policies bind its owner too.
    """

    group: int
    schema: str
    name: str
    columns: tuple[Column, ...]
    key: tuple[str, ...] = ()
    upsertable: bool = False
    deferrable: bool = False
    lax: bool = False
    refers_to: str | None = None
    secured: bool = False
    also: tuple[str, ...] = ()

    @property
    def sql(self) -> str:
        return quoted(self.schema, self.name)

    @property
    def writable(self) -> list[Column]:
        return [column for column in self.columns if not column.generated]

    def column(self, name: str) -> Column:
        return next(column for column in self.columns if column.name == name)


@dataclass(frozen=True, slots=True)
class Statement:
    """One statement on the tables of some groups; with ``rows``, that query's output is COPYed into ``sql``."""

    sql: str
    groups: frozenset[int] = frozenset()
    rows: str | None = None

    def __str__(self) -> str:
        if self.rows is None:
            return f"{self.sql};"
        return f"\\copy ({self.rows}) to '/tmp/rows'\n\\copy {self.sql.removeprefix('COPY ')} from '/tmp/rows'"


FIRST: Final = 0


class Role(Enum):
    """Who runs a transaction: the app, or a superuser who may pose as another replica or origin."""

    APP = "app"
    SUPERUSER = "superuser"


@dataclass(frozen=True, slots=True)
class Transaction:
    """Statements from BEGIN to the last one, its end included."""

    statements: tuple[Statement, ...]
    role: Role = Role.APP

    @property
    def groups(self) -> frozenset[int]:
        return frozenset().union(*(statement.groups for statement in self.statements))


@dataclass(frozen=True, slots=True)
class Group:
    """Statements that make one table with all that belongs to it; other groups may build on it."""

    statements: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Case:
    """What one seed invents. ``order`` names a transaction, by its number, once for each of its statements.

    Transaction ``FIRST`` stands alone before the others.
    """

    seed: int
    groups: dict[int, Group]
    transactions: dict[int, Transaction]
    order: tuple[int, ...]

    def without_transactions(self, numbers: Collection[int]) -> Self:
        """The same case, but some transactions never happen."""
        return replace(
            self,
            transactions={n: t for n, t in self.transactions.items() if n not in numbers},
            order=tuple(n for n in self.order if n not in numbers),
        )

    def without_statements(self, number: int, places: Collection[int]) -> Self:
        """The same case, but one transaction lacks the statements at these places."""
        old = self.transactions[number]
        kept = replace(old, statements=tuple(s for n, s in enumerate(old.statements) if n not in places))
        seen, order = 0, []
        for each in self.order:
            if each != number or seen not in places:
                order.append(each)
            seen += each == number
        return replace(self, transactions=self.transactions | {number: kept}, order=tuple(order))

    def without_groups(self, numbers: Collection[int]) -> Self:
        """The same case without some tables; what also touches them is left out."""
        touched = {n for n, t in self.transactions.items() if t.groups.intersection(numbers)}
        kept = {n: group for n, group in self.groups.items() if n not in numbers}
        return replace(self.without_transactions(touched), groups=kept)


def mostly(random: Random, chance: float) -> bool:
    """True with that probability."""
    return random.random() < chance
