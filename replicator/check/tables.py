"""Checks of the app's tables on the source: what can be published, and what will not be moved."""

from collections.abc import Sequence
from typing import Final, LiteralString

from replicator.catalog import PublishedTable, SourceTable, published_tables
from replicator.check.context import Source
from replicator.check.finding import Finding, blocked, from_error, listed, warning
from replicator.errors import ReplicatorError, Side
from replicator.model import KeylessPolicy, SchemaMode, TableName
from replicator.source.publication import plan, probe_publications
from replicator.source.publication_plan import PublicationPlan

_POLICIES = "set REPLICATOR_KEYLESS to full, insert-only or exclude"

_FOREIGN_KEYS: Final[LiteralString] = """
SELECT c.conname || ' of ' || c.conrelid::pg_catalog.regclass || ' to ' || c.confrelid::pg_catalog.regclass
  FROM pg_catalog.pg_constraint c
  JOIN pg_catalog.pg_class t ON t.oid = c.conrelid
  JOIN pg_catalog.pg_class f ON f.oid = c.confrelid
  JOIN pg_catalog.pg_namespace n ON n.oid = t.relnamespace
  JOIN pg_catalog.pg_namespace m ON m.oid = f.relnamespace
 WHERE c.contype = 'f' AND c.conparentid = 0 AND n.nspname = ANY (%s) AND m.nspname <> ALL (%s)
 ORDER BY 1
"""

_UPDATED_PUBLICATIONS: Final[LiteralString] = """
SELECT pubname FROM pg_catalog.pg_publication WHERE pubname = ANY (%s) AND (pubupdate OR pubdelete)
"""


async def identities(source: Source) -> list[Finding]:
    """Tables whose updates and deletes could not be replicated, by REPLICATOR_KEYLESS or as they are published."""
    if not source.settings.publications:
        return keyless_verdict(plan(source.tables, source.settings), source.settings.keyless)
    cursor = await source.connection.execute(_UPDATED_PUBLICATIONS, [list(source.settings.publications)])
    names = [name for (name,) in await cursor.fetchall()]
    published = await published_tables(source.connection, names)
    parts = {part.table for table in published for part in table.parts}
    return published_verdict([table for table in source.tables if table.table in parts])


def keyless_verdict(planned: PublicationPlan, policy: KeylessPolicy) -> list[Finding]:
    """One finding a refused table; one for all that the policy treats otherwise."""
    found = [
        blocked(
            Side.SOURCE,
            f"updates and deletes of {item.table.table} could not be replicated: {item.reason}",
            f"{item.remedy}; or {_POLICIES}.",
        )
        for item in planned.refused
    ]
    foreign = [table.table for table in planned.make_full if not table.owned]
    if foreign:
        found.append(
            blocked(
                Side.SOURCE,
                f"the role may not set REPLICA IDENTITY FULL on {listed(foreign)}",
                "Connect as the tables' owner, or set REPLICATOR_KEYLESS to insert-only or exclude.",
            )
        )
    refused = {item.table.oid for item in planned.refused}
    if tables := [item.table.table for item in planned.keyless if item.table.oid not in refused]:
        found += _policy_findings(tables, policy)
    return found


def _policy_findings(tables: Sequence[TableName], policy: KeylessPolicy) -> list[Finding]:
    consequences = {
        KeylessPolicy.FULL: "REPLICA IDENTITY FULL will be set (more WAL for each update) on",
        KeylessPolicy.INSERT_ONLY: "only inserts and truncates will be replicated for",
        KeylessPolicy.EXCLUDE: "no row will be moved of",
    }
    consequence = consequences.get(policy)
    if consequence is None:
        return []
    remedy = f"This is what REPLICATOR_KEYLESS={policy.value} asks for; add primary keys to avoid it."
    return [warning(Side.SOURCE, f"{consequence} {listed(tables)}", remedy)]


def published_verdict(tables: Sequence[SourceTable]) -> list[Finding]:
    """Tables that existing publications publish with updates or deletes; ``problem`` says which cannot be."""
    return [
        blocked(
            Side.SOURCE,
            f"{table.table} is published for updates or deletes, but {table.problem}: the app's own would fail",
            "Add a primary key, or publish the table only for inserts.",
        )
        for table in tables
        if table.problem
    ]


async def publishing(source: Source) -> list[Finding]:
    """Whether the publications exist, or the role may make them."""
    settings = source.settings
    try:
        if settings.publications:
            published = await published_tables(source.connection, settings.publications)
            strays = stray_verdict([table.table for table in published], source.schemas, settings.schema_mode)
            return [*strays, *unsent_verdict(published, source.tables)]
        if not source.under_way:
            await probe_publications(source.connection, plan(source.tables, settings), settings)
    except ReplicatorError as error:
        return [from_error(error)]
    return []


def stray_verdict(tables: Sequence[TableName], schemas: Sequence[str], mode: SchemaMode) -> list[Finding]:
    """Published tables that nobody will make on the target."""
    strays = [table for table in tables if table.schema not in schemas]
    if not strays or mode is SchemaMode.EXISTING:
        return []
    return [
        blocked(
            Side.SOURCE,
            f"REPLICATOR_PUBLICATIONS publish tables of schemas that are not copied: {listed(strays)}",
            "Use publications without them, or make the tables on the target and set REPLICATOR_SCHEMA=existing.",
        )
    ]


def unsent_verdict(published: Sequence[PublishedTable], app: Sequence[SourceTable]) -> list[Finding]:
    """What the user's publications leave out: their choice, but nobody may overlook it."""
    sent = {oid for table in published for oid in (table.oid, *(part.oid for part in table.parts))}
    left_out = [
        table.table
        for table in app
        if not (table.partitioned or table.unlogged or table.oid in sent or table.root in sent)
    ]
    consequences = (
        (left_out, "no row will be moved of", "Add them to a publication if their rows matter."),
        (
            [table.table for table in published if table.insert_only],
            "updates or deletes are not published, or not of all rows, of",
            "Publish them too; the cutover refuses once such a row was updated or deleted.",
        ),
        (
            [table.table for table in published if not table.publishes_truncate],
            "TRUNCATE is not published of",
            "Publish it too; the cutover refuses once such a table was truncated.",
        ),
    )
    return [warning(Side.SOURCE, f"{what} {listed(tables)}", remedy) for tables, what, remedy in consequences if tables]


async def unlogged(source: Source) -> list[Finding]:
    """Tables of which nothing is in the WAL."""
    tables = [table.table for table in source.tables if table.unlogged]
    if not tables:
        return []
    return [
        warning(
            Side.SOURCE,
            f"rows of unlogged tables are not moved: {listed(tables)}",
            "ALTER TABLE … SET LOGGED if their rows matter.",
        )
    ]


async def foreign_keys(source: Source) -> list[Finding]:
    """Foreign keys into schemas that stay behind, which the cutover makes where the target has what they refer to."""
    parameters = [list(source.schemas), list(source.schemas)]
    cursor = await source.connection.execute(_FOREIGN_KEYS, parameters)
    keys = [key for (key,) in await cursor.fetchall()]
    if not keys:
        return []
    return [
        warning(
            Side.SOURCE,
            f"foreign keys into schemas that are not moved can only be made if the target has these tables: "
            f"{listed(keys)}",
            "Make what they refer to on the target before the cutover; else it refuses, unless the keys are dropped or "
            "`replicator cutover --omit-failing` leaves them out.",
        )
    ]
