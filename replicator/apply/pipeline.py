"""Statements by the thousand in one round trip, each prepared once.

The driver's own pipelines send each statement by itself and take it through a cursor: measured, a batch of one row took
0.7 ms with them, 0.5 of it on the processor; with this 0.3.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from itertools import count
from typing import Final, NamedTuple, TypeVar

import psycopg
from psycopg import pq
from psycopg.abc import PQGen
from psycopg.pq.abc import PGconn, PGresult
from psycopg.waiting import READY_R, WAIT_R, WAIT_RW

from replicator.postgres import Connection


class Statement(NamedTuple):
    """SQL with PostgreSQL's own placeholders ($1 …), its parameters as text, and the number of rows it is to change."""

    query: bytes
    values: Sequence[bytes | None]
    rows: int = 1


_AT_ONCE: Final = 1000
_BYTES_AT_ONCE: Final = 1024 * 1024
"""Statements in one round trip: the event loop gets its turn between them, and the driver holds copies of their values
until they are sent."""

_PREPARED: Final = 1000
"""Statements that stay prepared: tables may be many, and each has some."""


class Pipeline:
    """Begins transactions on a connection that is used otherwise between them. There is one a session."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._names: dict[bytes, bytes] = {}
        """By statement, in the order of their last use."""
        self._numbers = count()

    async def begin(self, statements: Sequence[Statement]) -> list[int]:
        """Begin a transaction and run them in it. Tells how many rows each has changed.

        Raises psycopg.Error for the first that fails; then the transaction can only be rolled back.
        """
        try:
            return await self._run(statements)
        except psycopg.errors.InvalidSqlStatementName:
            # after a DROP or a ROLLBACK, the driver deallocates all that the session has prepared
            self._names.clear()
            await self._connection.execute("ROLLBACK")
            return await self._run(statements)

    async def repeat(self, query: bytes, rows: Iterable[Sequence[bytes | None]]) -> int:
        """Run a statement with the values of each row, in the transaction that is open. Tells how many rows it changed.

        The server works on one part of the rows while the next one is sent. Raises psycopg.Error for the first that
        fails; then the transaction can only be rolled back.
        """
        async with self._connection.lock:
            return await self._connection.wait(self._repeat(query, rows))

    def _repeat(self, query: bytes, rows: Iterable[Sequence[bytes | None]]) -> PQGen[int]:
        connection, answers = self._connection.pgconn, list[PGresult]()
        connection.enter_pipeline_mode()
        # the statement without a name lasts until the next one: nobody has to know whether the session still has it
        connection.send_prepare(b"", query)
        connection.pipeline_sync()
        for part in _pieces(rows, _length):
            for values in part:
                connection.send_query_prepared(b"", values)
            connection.pipeline_sync()
            yield from _flushed(connection)
            answers += yield from _answers(connection)
            if _failed(answers):
                break
        if connection.status == pq.ConnStatus.OK:
            answers += yield from _answers(connection)
        if connection.status == pq.ConnStatus.OK:
            connection.exit_pipeline_mode()
        if (failed := _failed(answers)) is not None:
            raise psycopg.errors.error_from_result(failed)
        return sum(answer.command_tuples or 0 for answer in answers)

    async def _run(self, statements: Sequence[Statement]) -> list[int]:
        changed = list[int]()
        async with self._connection.lock:
            for piece in _pieces([Statement(b"BEGIN", ()), *statements], _length_of):
                changed += await self._connection.wait(self._exchange(piece))
        return changed[1:]

    def _exchange(self, statements: Sequence[Statement]) -> PQGen[list[int]]:
        connection, changed = self._connection.pgconn, list[int]()
        connection.enter_pipeline_mode()
        awaited = self._send(statements, changed)
        connection.pipeline_sync()
        yield from _flushed(connection)
        results = yield from _answers(connection)
        if connection.status == pq.ConnStatus.OK:
            connection.exit_pipeline_mode()
        for succeeded, result in zip(awaited, results, strict=False):
            if result.status == pq.ExecStatus.FATAL_ERROR:
                raise psycopg.errors.error_from_result(result)
            succeeded(result)
        return changed

    def _send(self, statements: Sequence[Statement], changed: list[int]) -> list[Callable[[PGresult], None]]:
        """Put all into libpq's buffer. Returns what to do with each answer that tells success."""
        connection, awaited, new = self._connection.pgconn, list[Callable[[PGresult], None]](), dict[bytes, bytes]()
        for query, values, _ in statements:
            name = new.get(query) or self._names.pop(query, None)
            if name is None:
                name = new[query] = b"replicator_%d" % next(self._numbers)
                connection.send_prepare(name, query)
                awaited.append(partial(self._keep, query, name))
            elif query not in new:
                self._names[query] = name
            connection.send_query_prepared(name, values)
            awaited.append(lambda result: changed.append(result.command_tuples or 0))
        for query in list(self._names)[: max(0, len(self._names) + len(new) - _PREPARED)]:
            connection.send_query_params(b"DEALLOCATE " + self._names[query], None)
            awaited.append(partial(self._forget, query))
        return awaited

    def _keep(self, query: bytes, name: bytes, _: PGresult) -> None:
        self._names[query] = name

    def _forget(self, query: bytes, _: PGresult) -> None:
        del self._names[query]


T = TypeVar("T")


def _pieces(items: Iterable[T], length: Callable[[T], int]) -> Iterator[list[T]]:
    """What goes in one round trip each."""
    piece, size = list[T](), 0
    for item in items:
        piece.append(item)
        size += length(item)
        if len(piece) == _AT_ONCE or size > _BYTES_AT_ONCE:
            yield piece
            piece, size = [], 0
    if piece:
        yield piece


def _length(values: Sequence[bytes | None]) -> int:
    return sum([len(value) for value in values if value])


def _length_of(statement: Statement) -> int:
    return _length(statement.values)


def _failed(results: Iterable[PGresult]) -> PGresult | None:
    return next((result for result in results if result.status == pq.ExecStatus.FATAL_ERROR), None)


def _flushed(connection: PGconn) -> PQGen[None]:
    """Send what is in the buffer; the server may have to be heard meanwhile."""
    while connection.flush():
        if (yield WAIT_RW) & READY_R:
            connection.consume_input()


def _answers(connection: PGconn) -> PQGen[list[PGresult]]:
    """The answers up to the next end of a round trip, or of the connection."""
    results: list[PGresult] = []
    try:
        while True:
            while connection.is_busy():
                yield WAIT_R
                connection.consume_input()
            result = connection.get_result()
            if result is None:
                _require_alive(connection)
            elif result.status == pq.ExecStatus.PIPELINE_SYNC:
                return results
            else:
                results.append(result)
    except psycopg.OperationalError:
        # the server may have told why before it went
        if not any(result.status == pq.ExecStatus.FATAL_ERROR for result in results):
            raise
        return results


def _require_alive(connection: PGconn) -> None:
    """There would be nothing but None for ever."""
    if connection.status != pq.ConnStatus.OK:
        raise psycopg.OperationalError(connection.get_error_message())
