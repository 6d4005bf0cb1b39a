"""Checks of what our role may do with the app's tables on the source: read them, and fence them at the cutover.

Publications of ours need the tables' owner already; a role that uses existing ones may have no rights at all.
"""

from collections.abc import Sequence
from typing import Final, LiteralString, NamedTuple

from replicator.catalog import published_tables
from replicator.catalog.query import fetch
from replicator.check.context import Source
from replicator.check.finding import Finding, blocked, listed, warning
from replicator.errors import ReplicatorError, Side
from replicator.model import SchemaMode, TableName

_RIGHTS: Final[LiteralString] = """
SELECT n.nspname AS schema, c.relname AS name,
       pg_catalog.has_schema_privilege(n.oid, 'USAGE') AND pg_catalog.has_table_privilege(c.oid, 'SELECT') AS readable,
       pg_catalog.row_security_active(c.oid) AS hidden,
       pg_catalog.pg_has_role(c.relowner, 'USAGE') AS owned
  FROM pg_catalog.pg_class c
  JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
 WHERE c.oid = ANY (%s)
 ORDER BY 1, 2
"""


class Rights(NamedTuple):
    """What our role may do with a table; ``hidden``: row level security would keep rows from it."""

    schema: str
    name: str
    readable: bool
    hidden: bool
    owned: bool


async def rights(source: Source) -> list[Finding]:
    """Whether the copy can read the tables, and the cutover fence them."""
    publications = source.settings.publications
    oids = [table.oid for table in source.tables]
    if publications and source.settings.schema_mode is SchemaMode.EXISTING:
        # nothing else is dumped or copied
        try:
            published = await published_tables(source.connection, publications)
        except ReplicatorError:
            return []  # `publishing` tells
        oids = [oid for table in published for oid in (table.oid, *(part.oid for part in table.parts))]
    found = await fetch(source.connection, Rights, _RIGHTS, oids)
    return rights_verdict(found, chosen=bool(publications))


def rights_verdict(tables: Sequence[Rights], *, chosen: bool) -> list[Finding]:
    """``chosen``: the publications are the user's, so it is nowhere else told who owns the tables."""

    def names(some: Sequence[Rights]) -> str:
        return listed([TableName(table.schema, table.name) for table in some])

    found = []
    if unreadable := [table for table in tables if not table.readable]:
        found.append(
            blocked(
                Side.SOURCE,
                f"the role may not read {names(unreadable)}",
                "GRANT USAGE on the schema and SELECT on the tables to the role, or connect as their owner.",
            )
        )
    if hidden := [table for table in tables if table.readable and table.hidden]:
        found.append(
            blocked(
                Side.SOURCE,
                f"row-level security would keep rows from the copy of {names(hidden)}",
                "Connect as the tables' owner, or as a role with BYPASSRLS.",
            )
        )
    if foreign := [table for table in tables if chosen and not table.owned]:
        found.append(
            warning(
                Side.SOURCE,
                f"the role does not own {names(foreign)}: the cutover cannot close them for writes, and will refuse",
                "Connect as the owner of the tables, or GRANT its role to ours, before the cutover.",
            )
        )
    return found
