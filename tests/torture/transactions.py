"""Inventing transactions: statements of several tables, savepoints, ends of every kind, and their interleaving."""

from collections.abc import Iterator, Sequence
from random import Random
from typing import Final

from tests.torture.deploys import Deploys
from tests.torture.model import Role, Statement, Table, Transaction, literal, mostly
from tests.torture.statements import Writer

ORIGIN: Final = "torture"
"""The replication origin as which a superuser writes at times."""

_OPEN_AT_ONCE: Final = 3


class Transactions:
    """Invents the transactions of one case; ``seed`` makes the names of prepared ones its own.

    With ``deploys``, which share the ``tables``, some change the schema.
    """

    def __init__(self, random: Random, seed: int, tables: list[Table], deploys: Deploys | None = None) -> None:
        self._random = random
        self._seed = seed
        self._tables = tables
        self._deploys = deploys
        self._prepared = 0

    @property
    def _strict(self) -> list[Table]:
        """Tables whose rows are held together by nothing that session_replication_role turns off."""
        referred = {table.refers_to for table in self._tables}
        return [t for t in self._tables if not (t.lax or t.refers_to or t.sql in referred)]

    def first(self) -> Transaction:
        """Rows for most tables."""
        fills = [
            Writer(self._random, table).fill(self._random.choice((3, 10, 25)))
            for table in self._tables
            if mostly(self._random, 0.8)
        ]
        return Transaction((Statement("BEGIN"), *_guarded(fills), Statement("COMMIT")))

    def any(self) -> Transaction:
        """A transaction of any kind."""
        if self._deploys is not None and mostly(self._random, 0.25):
            return self._deploying(self._deploys)
        if self._strict and mostly(self._random, 0.05):
            return self._posing()
        statements = list(self._statements(self._tables, self._random.randint(1, 6)))
        if mostly(self._random, 0.2):
            statements = self._with_savepoint(statements)
        elif mostly(self._random, 0.6):
            statements = list(_guarded(statements))
        if len(statements) == 1 and mostly(self._random, 0.5):
            return Transaction(tuple(statements))
        return Transaction((Statement("BEGIN"), *statements, *self._end()))

    def large(self) -> Transaction:
        """More than the worker's smallest buffer holds."""
        table = max(self._tables, key=lambda table: sum(bool(column.type.large) for column in table.writable))
        return Transaction(
            (Statement("BEGIN"), *_guarded([Writer(self._random, table).fill(150)] * 2), Statement("COMMIT"))
        )

    def _deploying(self, deploys: Deploys) -> Transaction:
        """A change of the schema, alone or among changes of rows, some of which need it; it may be rolled back."""
        if mostly(self._random, 0.5):
            return Transaction((deploys.any(),))
        former = list(self._tables)
        before = list(self._statements(self._tables, self._random.randint(0, 2)))
        between = [deploys.any() for _ in range(self._random.choice((1, 1, 2)))]
        after = list(self._statements(self._tables, self._random.randint(0, 2)))
        end = self._end()
        if any(statement.sql.startswith("ROLLBACK") for statement in end):
            self._tables[:] = former
        return Transaction((Statement("BEGIN"), *_guarded([*before, *between, *after]), *end))

    def _statements(self, among: Sequence[Table], count: int) -> Iterator[Statement]:
        # a few tables at a time: so changes of the same rows meet in one transaction
        tables = self._random.sample(among, min(len(among), 2))
        for _ in range(count):
            yield (
                self._odd()
                if mostly(self._random, 0.1)
                else Writer(self._random, self._random.choice(tables)).statement()
            )

    def _odd(self) -> Statement:
        """TRUNCATE, or a message of another program."""
        if mostly(self._random, 0.6):
            content = self._random.choice(("", "nonce", "ünï\n"))
            flag = self._random.choice(("true", "false"))
            return Statement(f"SELECT pg_logical_emit_message({flag}, 'other', {literal(content)})")
        tables = self._random.sample(self._tables, min(len(self._tables), self._random.choice((1, 1, 2, 3))))
        names = ", ".join(self._random.choice((table.sql, *table.also)) for table in tables)
        options = self._random.choice(("", "", " RESTART IDENTITY", " CASCADE", " RESTART IDENTITY CASCADE"))
        return Statement(f"TRUNCATE {names}{options}", frozenset(table.group for table in tables))

    def _end(self) -> list[Statement]:
        match self._random.choices(("commit", "rollback", "prepare", "forget"), (10, 1.5, 1, 0.3))[0]:
            case "commit":
                return [Statement("COMMIT")]
            case "rollback":
                return [Statement("ROLLBACK")]
            case end:
                self._prepared += 1
                name = literal(f"torture {self._seed} {self._prepared}")
                last = "COMMIT" if end == "prepare" else "ROLLBACK"
                return [Statement(f"PREPARE TRANSACTION {name}"), Statement(f"{last} PREPARED {name}")]

    def _with_savepoint(self, statements: list[Statement]) -> list[Statement]:
        """Some statements in a subtransaction, or in one within it, which is rolled back or not."""
        first = self._random.randrange(len(statements))
        last = self._random.randint(first, len(statements))
        inner = statements[first:last]
        if inner and mostly(self._random, 0.4):
            inner = [Statement("SAVEPOINT b"), *inner, Statement("ROLLBACK TO b"), *self._statements(self._tables, 1)]
        end = self._random.choice(("ROLLBACK TO a", "RELEASE a", "ROLLBACK TO a"))
        return [*statements[:first], Statement("SAVEPOINT a"), *inner, Statement(end), *statements[last:]]

    def _posing(self) -> Transaction:
        """Written under session_replication_role = replica, perhaps as another origin, where that breaks nothing."""
        begin = [Statement("BEGIN"), Statement("SET LOCAL session_replication_role = replica")]
        before, after = [], []
        if mostly(self._random, 0.5):
            before = [Statement(f"SELECT pg_replication_origin_session_setup({literal(ORIGIN)})")]
            after = [Statement("SELECT pg_replication_origin_session_reset()")]
        writes = list(_guarded(list(self._statements(self._strict, 2))))
        return Transaction((*before, *begin, *writes, Statement("COMMIT"), *after), Role.SUPERUSER)


def _guarded(statements: Sequence[Statement]) -> Iterator[Statement]:
    """Each in a savepoint of its own, so that one that fails takes no other with it."""
    for statement in statements:
        yield Statement("SAVEPOINT each")
        yield statement
        yield Statement("RELEASE each")


def interleaved(random: Random, transactions: Sequence[Transaction]) -> tuple[int, ...]:
    """An order of their statements.

    The first stands alone; of the others a few are open at once, and commit in another order than they began.
    """
    left = {number: len(transaction.statements) for number, transaction in enumerate(transactions)}
    first, *waiting = left
    order = [first] * left[first]
    running: list[int] = []
    while waiting or running:
        if waiting and (not running or (len(running) < _OPEN_AT_ONCE and mostly(random, 0.15))):
            running.append(waiting.pop(0))
        number = running[-1] if mostly(random, 0.7) else random.choice(running)
        order.append(number)
        left[number] -= 1
        if not left[number]:
            running.remove(number)
    return tuple(order)
