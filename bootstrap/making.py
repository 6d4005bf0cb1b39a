"""Running a dump's statements on the target, and naming the one that was refused."""

from collections.abc import Container, Iterable
from typing import Final, LiteralString

import psycopg
from psycopg import sql

from bootstrap.entries import Entry
from replicator.errors import ReplicatorError, SchemaMismatchError, Side, TargetError
from replicator.postgres import Connection, translate

_SETTINGS: Final[LiteralString] = """
SET LOCAL search_path = ''; SET LOCAL check_function_bodies = off; SET LOCAL standard_conforming_strings = on;
SET LOCAL client_min_messages = warning; SET LOCAL default_table_access_method = heap; SET LOCAL default_tablespace = ''
"""
"""What a dump relies on, for as long as the transaction lasts: the session keeps the application's search_path."""

_THEN_START: Final = "then start again"

_EXISTS: Final = frozenset({"42P07", "42710", "42723", "42P06"})
_LACKS: Final = frozenset({"3F000", "42P01", "42704", "42883", "42703"})
_FORBIDDEN: Final = "42501"


async def make_entries(target: Connection, entries: Iterable[Entry], may_wait: Container[str] = ()) -> list[Entry]:
    """Run entries within the caller's transaction: together, and one by one only to find out which was refused.

    Returns those of the kinds that ``may_wait`` which need what is not there yet. Raises TargetError that names the
    object and the remedy, or a retryable error.
    """
    entries = list(entries)
    await target.execute(_SETTINGS)
    try:
        async with target.transaction():
            await target.execute("\n".join(entry.sql for entry in entries).encode())
    except psycopg.Error as error:
        if error.sqlstate is None:
            raise translate(error, Side.TARGET, "making the schema") from None
        return [entry for entry in entries if not await _make_one(target, entry, waits=entry.kind in may_wait)]
    return []


async def _make_one(target: Connection, entry: Entry, *, waits: bool) -> bool:
    """Whether it is made: False if it ``waits`` for what it needs."""
    try:
        async with target.transaction():
            await target.execute(entry.sql.encode())
    except psycopg.Error as error:
        if waits and error.sqlstate in _LACKS:
            return False
        raise _refusal(error, entry) from None
    return True


def _refusal(error: psycopg.Error, entry: Entry) -> ReplicatorError:
    failure = translate(error, Side.TARGET, f"making {entry}", otherwise=TargetError)
    if error.sqlstate in _EXISTS:
        failure.hint = (
            f"Drop or rename what has that name on the target; {_THEN_START}; before anything was copied, empty the "
            "target database instead, or set REPLICATOR_SCHEMA=existing if its schema is yours."
        )
    elif error.sqlstate in _LACKS:
        failure.hint = (
            "Make what it needs on the target, or drop it from the source, or move it to a schema that "
            f"REPLICATOR_EXCLUDE_SCHEMAS names; {_THEN_START}."
        )
    elif error.sqlstate == _FORBIDDEN:
        failure.hint = f"Give the role of TARGET_DATABASE_URL the right to do that; {_THEN_START}."
    elif isinstance(failure, TargetError):
        failure.hint = f"Remove the reason on the target; {_THEN_START}: what is made already is kept."
    return failure


def refused(error: psycopg.Error, doing: str, *statements: str) -> ReplicatorError:
    """What a worker that streams waits with, where the operator may run statements that the target refused it."""
    failure = translate(error, Side.TARGET, doing, otherwise=SchemaMismatchError)
    if isinstance(failure, SchemaMismatchError):
        failure.hint = f"Run on the target: {'; '.join(statements)}; the worker goes on by itself then."
    return failure


def waited_for(error: TargetError) -> SchemaMismatchError:
    """A refusal as a worker that streams has it: it waits, and tries again by itself."""
    hint, _, _ = error.hint.partition(_THEN_START)
    return SchemaMismatchError(
        error.message, hint=error.hint if hint == error.hint else f"{hint}the worker goes on by itself then."
    )


async def make_schema(target: Connection, name: str) -> None:
    """Make a schema unless it is there: CREATE SCHEMA IF NOT EXISTS would need the right to make one even then."""
    cursor = await target.execute("SELECT FROM pg_catalog.pg_namespace WHERE nspname = %s", [name])
    if await cursor.fetchone() is None:
        await target.execute(sql.SQL("CREATE SCHEMA {}").format(sql.Identifier(name)))
