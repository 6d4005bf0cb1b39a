"""The statements that had to wait for the cutover: rehearsed beforehand, run in the window, finished afterwards."""

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, LiteralString, NamedTuple

import psycopg

from bootstrap.entries import REFRESH
from replicator import control
from replicator.catalog.query import fetch
from replicator.control import Deferred
from replicator.cutover.foreign_keys import NOT_VALID_ON_ROOTS_SINCE, ForeignKey, parse_foreign_key
from replicator.errors import CutoverError, Side
from replicator.model import TableName
from replicator.postgres import Connection, describe, qualified

AFTERWARDS: Final = ("COMMENT", "SECURITY LABEL")
"""Kinds that nobody waits for, and that may be about something that is made afterwards."""

_GROUP: Final = 100
"""Statements that share a round trip and a transaction."""

_TRIES: Final = 20
_PAUSE: Final = 0.5
"""Of the rehearsal: how often, and after how many seconds, while the worker has the tables."""

_NOT_NOW: Final = (
    psycopg.errors.LockNotAvailable,
    psycopg.errors.DeadlockDetected,
    psycopg.errors.QueryCanceled,
)

# below deadlock_timeout: the worker, which waits behind us, is never the victim
_BRIEF: Final[LiteralString] = "SET LOCAL lock_timeout = '300ms'; SET LOCAL search_path = ''"
_BETWEEN_BATCHES: Final[LiteralString] = """
DO $$ BEGIN
  FOR n IN 1..2000 LOOP
    EXIT WHEN NOT EXISTS (SELECT FROM pg_catalog.pg_stat_activity
                           WHERE application_name = 'replicator worker apply' AND xact_start IS NOT NULL
                             AND datname = pg_catalog.current_database());
    PERFORM pg_catalog.pg_sleep(0.002), pg_catalog.pg_stat_clear_snapshot();
  END LOOP;
END $$
"""
"""Wait for the end of the batch that the worker applies, in a loop on the server: the next one comes at once."""

_QUALIFIED: Final[LiteralString] = "SET LOCAL search_path = ''"
_DEFAULT: Final[LiteralString] = "SET LOCAL search_path TO DEFAULT"

_SHAPES: Final[LiteralString] = """
SELECT t.name, n.nspname AS schema, c.relname AS leaf
  FROM unnest(%s::text[]) t(name)
  JOIN pg_catalog.pg_class r ON r.oid = pg_catalog.to_regclass(t.name) AND r.relkind = 'p'
  LEFT JOIN LATERAL pg_catalog.pg_partition_tree(r.oid) p ON p.isleaf
  LEFT JOIN pg_catalog.pg_class c ON c.oid = p.relid
  LEFT JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
 ORDER BY t.name, n.nspname, c.relname
"""

_REMEDIES: Final[Mapping[str, str]] = {
    "42704": "create it on the target",
    "42883": "create the function on the target",
    "3F000": "create the schema on the target",
    "42P01": "create the table on the target",
    "42501": "let the owner of it run it, or grant the right to our role",
    "42710": "drop it on the target if it is not wanted",
    "42P13": "drop it on the target: the cutover makes it then",
    "42P16": "drop it on the target: the cutover makes it then",
}


@dataclass(frozen=True, slots=True)
class Failure:
    """A statement that the target refuses, why, and what would help."""

    item: Deferred
    reason: str
    remedy: str

    def __str__(self) -> str:
        return f"{title(self.item)}: {self.reason}"


class _Leaf(NamedTuple):
    name: str
    schema: str | None
    leaf: str | None


def title(item: Deferred) -> str:
    """What a statement makes, for people."""
    return f"{item.kind.lower()} {item.schema}.{item.name}" if item.schema else f"{item.kind.lower()} {item.name}"


def window(items: Iterable[Deferred]) -> list[Deferred]:
    """Those that must be there before the app may write."""
    return [item for item in items if not item.done and item.kind not in (*AFTERWARDS, REFRESH)]


def foreign_keys(items: Iterable[Deferred]) -> dict[int, ForeignKey]:
    """The foreign keys among the statements, by position."""
    found = ((item.position, parse_foreign_key(item.statement)) for item in items)
    return {position: key for position, key in found if key is not None}


async def leaves_of(target: Connection, keys: Iterable[ForeignKey]) -> dict[str, list[TableName]]:
    """The leaves of those tables that take no NOT VALID foreign key themselves."""
    if target.info.server_version >= NOT_VALID_ON_ROOTS_SINCE:
        return {}
    leaves: dict[str, list[TableName]] = {}
    for row in await fetch(target, _Leaf, _SHAPES, list({key.table for key in keys})):
        known = leaves.setdefault(row.name, [])
        if row.schema is not None and row.leaf is not None:
            known.append(TableName(row.schema, row.leaf))
    return leaves


async def prepared_statements(target: Connection, items: Sequence[Deferred]) -> dict[int, str]:
    """What to run for each statement, by position: foreign keys do not check their rows yet."""
    keys = foreign_keys(items)
    leaves = await leaves_of(target, keys.values())
    return {item.position: _statement(item, keys.get(item.position), leaves) for item in items}


def _statement(item: Deferred, key: ForeignKey | None, leaves: Mapping[str, Sequence[TableName]]) -> str:
    if key is None:
        statement = item.statement.rstrip().removesuffix(";")
        # a check looks at the rows that are there, maybe by a function that relies on the application's search_path
        return f"{_DEFAULT}; {statement}; {_QUALIFIED}" if item.kind == "CHECK CONSTRAINT" else statement
    if key.table in leaves:
        return key.add_unchecked_to(leaves[key.table])
    return key.add_unchecked() if key.checked else item.statement.rstrip().removesuffix(";")


# --- the rehearsal ----------------------------------------------------------------------------------------------------


async def rehearse(target: Connection, items: Sequence[Deferred]) -> list[Failure]:
    """Run the statements in a transaction that is rolled back, and return those that the target refuses.

    Raises CutoverError when the tables' locks were not to be had.
    """
    statements = await prepared_statements(target, items)
    for attempt in range(_TRIES):
        if attempt:
            await asyncio.sleep(_PAUSE)
        try:
            return await _rehearse_once(target, items, statements)
        except _NOT_NOW:
            continue
    raise CutoverError(
        "the rehearsal could not lock the target's tables",
        hint="End other sessions on the target, or wait until the worker has caught up, and try again.",
        side=Side.TARGET,
    )


async def _rehearse_once(target: Connection, items: Sequence[Deferred], statements: Mapping[int, str]) -> list[Failure]:
    async with target.transaction(force_rollback=True):
        await target.execute(_BRIEF)
        return await _failures(target, items, statements, first=[_BETWEEN_BATCHES])


async def _failures(
    target: Connection, items: Sequence[Deferred], statements: Mapping[int, str], first: Sequence[str] = ()
) -> list[Failure]:
    """Try all at once, then each half of what was refused.

    One by one, a round trip each, the worker would take a table that comes later before it waits for one of ours.
    """
    error = await _refusal(target, [*first, *(statements[item.position] for item in items)])
    if error is None:
        return []
    if len(items) == 1:
        return [_failure(items[0], error)]
    half = len(items) // 2
    return [*await _failures(target, items[:half], statements), *await _failures(target, items[half:], statements)]


async def _refusal(target: Connection, statements: Iterable[str]) -> psycopg.DatabaseError | None:
    """What the target objects to these; None if they ran."""
    script = "\n;\n".join(["SAVEPOINT rehearsal", *statements, "RELEASE SAVEPOINT rehearsal"])
    try:
        await target.execute(script.encode())
    except _NOT_NOW:
        raise
    except psycopg.DatabaseError as error:
        if error.sqlstate is None:  # the connection is lost
            raise
        await target.execute("ROLLBACK TO SAVEPOINT rehearsal")
        return error
    return None


def _failure(item: Deferred, error: psycopg.Error) -> Failure:
    remedy = _REMEDIES.get(error.sqlstate or "", "make it possible on the target")
    return Failure(item, describe(error), remedy)


# --- in the window ----------------------------------------------------------------------------------------------------


async def run(target: Connection, items: Sequence[Deferred], *, omit_failing: bool) -> list[Failure]:
    """Run the statements and record each in the transaction that ran it (law 8); return what was left out.

    Raises CutoverError at the first that the target refuses, unless ``omit_failing``; what ran before it stays.
    """
    statements = await prepared_statements(target, items)
    failures: list[Failure] = []
    for start in range(0, len(items), _GROUP):
        group = items[start : start + _GROUP]
        try:
            await _run_group(target, group, statements)
        except psycopg.DatabaseError as error:
            if error.sqlstate is None:
                raise
            failures += await _run_singly(target, group, statements, omit_failing=omit_failing)
    return failures


async def _run_group(target: Connection, group: Sequence[Deferred], statements: Mapping[int, str]) -> None:
    async with target.transaction():
        script = "\n;\n".join([_QUALIFIED, *(statements[item.position] for item in group)])
        await target.execute(script.encode())
        await control.mark_deferred(target, [item.position for item in group])


async def _run_singly(
    target: Connection, group: Sequence[Deferred], statements: Mapping[int, str], *, omit_failing: bool
) -> list[Failure]:
    failures: list[Failure] = []
    for item in group:
        try:
            await _run_group(target, [item], statements)
        except psycopg.DatabaseError as error:
            if error.sqlstate is None:
                raise
            failure = _failure(item, error)
            if not omit_failing:
                raise CutoverError(
                    f"the target refuses the {failure}",
                    hint=f"{failure.remedy.capitalize()}, or use --omit-failing; then run `replicator cutover` again.",
                    side=Side.TARGET,
                ) from None
            failures.append(failure)
    return failures


def table_text(table: TableName) -> str:
    """A table's name as SQL text."""
    return qualified(table).as_string()
