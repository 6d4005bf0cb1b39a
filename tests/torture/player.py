"""Playing cases on the source: their schemas, then their transactions, interleaved but in the order of their seeds."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any, Final, Self

import psycopg
from psycopg.pq import TransactionStatus

from tests.fixtures.databases import Database
from tests.torture.model import Case, Role, Statement, Transaction
from tests.torture.transactions import ORIGIN
from tests.torture.types import EXTENSION_SCHEMA, EXTENSIONS

_SETTINGS: Final = """
SET client_encoding = 'UTF8'; SET lock_timeout = '50ms'; SET statement_timeout = '20s'; SET idle_session_timeout = 0;
SET idle_in_transaction_session_timeout = 0; SET default_transaction_isolation = 'read committed';
SELECT set_config(name, '0', false) FROM pg_settings WHERE name = 'transaction_timeout'
"""
"""One thread plays all sessions: who waits for another of them waits for ever."""

_PREPARE: Final = (
    f'CREATE SCHEMA "{EXTENSION_SCHEMA}"; GRANT USAGE ON SCHEMA "{EXTENSION_SCHEMA}" TO PUBLIC;'
    + "".join(f'CREATE EXTENSION {name} SCHEMA "{EXTENSION_SCHEMA}";' for name in EXTENSIONS)
    + f"SELECT pg_replication_origin_create('{ORIGIN}') WHERE pg_replication_origin_oid('{ORIGIN}') IS NULL"
)


class BadCaseError(Exception):
    """The schema of a case could not be made: the generator is wrong, not the product."""


def make_schemas(source: Database, cases: Sequence[Case]) -> None:
    """Make the extensions and what each case begins with. Raises BadCaseError."""
    source.execute(_PREPARE, superuser=True)
    with psycopg.connect(source.dsn, autocommit=True) as connection:
        for case in cases:
            if not case.groups:
                raise BadCaseError(f"seed {case.seed}: no table is left, and a cutover of nothing is refused")
            for statement in (statement for group in case.groups.values() for statement in group.statements):
                try:
                    connection.execute(statement.encode())
                except psycopg.Error as error:
                    raise BadCaseError(f"seed {case.seed}: {error}\n{statement}") from None


@dataclass(slots=True)
class _Running:
    """A transaction that has begun: its session, and how many of its statements were run."""

    transaction: Transaction
    session: psycopg.Connection[Any]
    done: int = 0
    guarded: bool = False


class Player:
    """Plays the statements of cases, one at a time, each transaction in a session of its own while it lasts."""

    def __init__(self, source: Database, cases: Sequence[Case], random: Random) -> None:
        self._source = source
        self._idle: dict[Role, list[psycopg.Connection[Any]]] = {role: [] for role in Role}
        self._running: dict[tuple[int, int], _Running] = {}
        self._script = list(_merged(cases, random))
        self._played = 0
        self.failures: list[str] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for running in self._running.values():
            running.session.close()
        for session in (session for sessions in self._idle.values() for session in sessions):
            session.close()

    @property
    def left(self) -> int:
        """How many statements are still to come."""
        return len(self._script) - self._played

    def step(self) -> None:
        """Run the next statement; an app goes on after an error."""
        case, number = self._script[self._played]
        self._played += 1
        running = self._running.get((case.seed, number))
        if running is None:
            transaction = case.transactions[number]
            running = self._running[case.seed, number] = _Running(transaction, self._session(transaction.role))
        statement = running.transaction.statements[running.done]
        try:
            _run(running.session, statement)
        except psycopg.Error as error:
            self.failures.append(f"seed {case.seed}: {error}: {statement.sql}")
            if running.guarded and running.session.info.transaction_status is TransactionStatus.INERROR:
                running.session.execute("ROLLBACK TO each")
        running.guarded = statement.sql == "SAVEPOINT each"
        running.done += 1
        if running.done == len(running.transaction.statements):
            self._end(self._running.pop((case.seed, number)))

    def settle(self) -> None:
        """End the transactions that are open, as they would have ended later."""
        rest = self._script[self._played :]
        now = [step for step in rest if (step[0].seed, step[1]) in self._running]
        self._script[self._played :] = now + [step for step in rest if (step[0].seed, step[1]) not in self._running]
        for _ in now:
            self.step()

    def _end(self, running: _Running) -> None:
        if running.session.info.transaction_status is not TransactionStatus.IDLE:
            running.session.execute("ROLLBACK")
        self._idle[running.transaction.role].append(running.session)

    def _session(self, role: Role) -> psycopg.Connection[Any]:
        if self._idle[role]:
            return self._idle[role].pop()
        dsn = self._source.dsn if role is Role.APP else self._source.superuser_dsn
        session = psycopg.connect(dsn, autocommit=True)
        session.execute(_SETTINGS)
        return session


def _merged(cases: Sequence[Case], random: Random) -> Iterator[tuple[Case, int]]:
    """The statements of all cases, each case's in its order."""
    orders = [(case, iter(case.order)) for case in cases]
    while orders:
        case, order = random.choice(orders)
        number = next(order, None)
        if number is None:
            orders.remove((case, order))
        else:
            yield case, number


def _run(session: psycopg.Connection[Any], statement: Statement) -> None:
    if statement.rows is None:
        session.execute(statement.sql.encode())
        return
    with session.cursor() as cursor:
        with cursor.copy(f"COPY ({statement.rows}) TO STDOUT".encode()) as rows:
            data = b"".join(bytes(chunk) for chunk in rows)
        with cursor.copy(statement.sql.encode()) as table:
            table.write(data)
