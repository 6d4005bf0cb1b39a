"""The preflight: connect to each side once, then run every check that the connections allow."""

from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from typing import Final, TypeVar

import psycopg

from replicator.check import outside, tables, values
from replicator.check import pair as between
from replicator.check import source as on_source
from replicator.check import target as on_target
from replicator.check.context import Pair, Source, Target, read_source, read_target
from replicator.check.finding import Finding, Severity, from_error
from replicator.check.places import places
from replicator.check.rights import rights
from replicator.config import Settings
from replicator.errors import ReplicatorError, Side
from replicator.postgres import Connection, connect, describe, translate

SOURCE_CHECKS: Final[Sequence[Callable[[Source], Awaitable[list[Finding]]]]] = (
    on_source.server,
    on_source.replication_connection,
    on_source.our_schema,
    outside.event_triggers,
    tables.identities,
    tables.publishing,
    rights,
    tables.unlogged,
    tables.foreign_keys,
    outside.casts,
    outside.settings,
    outside.extension_rows,
)
TARGET_CHECKS: Final[Sequence[Callable[[Target], Awaitable[list[Finding]]]]] = (
    on_target.server,
    on_target.replica_mode,
    on_target.row_security,
)
PAIR_CHECKS: Final[Sequence[Callable[[Pair], Awaitable[list[Finding]]]]] = (
    between.versions,
    values.encodings,
    values.xml,
    values.references,
    between.extensions,
    between.foreign_tables,
    between.emptiness,
    between.programs,
    between.copy_connections,
    places,
)

_SubjectT = TypeVar("_SubjectT")


async def check(settings: Settings) -> list[Finding]:
    """Everything that stands in the way of a migration, or that its operator should know. Changes nothing.

    Each password is tried once; what needs a connection that failed is left out.
    """
    findings: list[Finding] = []
    async with AsyncExitStack() as stack:
        target = source = None
        if connection := await _connect(stack, settings.target, Side.TARGET, findings):
            target = await _read(read_target(settings, connection), Side.TARGET, findings)
        if connection := await _connect(stack, settings.source, Side.SOURCE, findings):
            source = await _read(read_source(settings, connection, target), Side.SOURCE, findings)
        if source is not None:
            await _run(SOURCE_CHECKS, source, Side.SOURCE, findings)
        if target is not None:
            await _run(TARGET_CHECKS, target, Side.TARGET, findings)
        if source is not None and target is not None:
            findings += await _compare(Pair(source, target))
    return findings


async def _compare(pair: Pair) -> list[Finding]:
    findings: list[Finding] = []
    await _run((between.same_database,), pair, Side.CONFIGURATION, findings)
    if not findings:
        await _run(PAIR_CHECKS, pair, Side.OURS, findings)
    return findings


async def _connect(stack: AsyncExitStack, dsn: str, side: Side, findings: list[Finding]) -> Connection | None:
    try:
        connection = await connect(dsn, side, "check")
    except ReplicatorError as error:
        findings.append(from_error(error))
        return None
    stack.push_async_callback(connection.close)
    return connection


async def _read(subject: Awaitable[_SubjectT], side: Side, findings: list[Finding]) -> _SubjectT | None:
    try:
        return await subject
    except psycopg.Error as error:
        findings.append(from_error(translate(error, side, "reading the catalog")))
        return None


async def _run(
    checks: Sequence[Callable[[_SubjectT], Awaitable[list[Finding]]]],
    subject: _SubjectT,
    side: Side,
    findings: list[Finding],
) -> None:
    for one in checks:
        try:
            findings += await one(subject)
        except psycopg.Error as error:
            # an exception means that the check could not run; the others still tell what they find
            message = f"check {getattr(one, '__name__', '')!r} could not run: {describe(error)}"
            passing = translate(error, side, message).retryable
            findings.append(Finding(Severity.BLOCKED, side, message, "See the server's log.", passing))
