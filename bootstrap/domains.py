"""Domains whose demands the app's deploys have changed since the target got them.

What a domain demands waits for the cutover: rows from before may be on their way, which it would refuse.
Source: PostgreSQL documentation, "System Catalogs" (pg_type, pg_constraint), ALTER DOMAIN, ALTER TYPE.
"""

from collections.abc import Iterator, Sequence
from typing import Final, LiteralString, NamedTuple

from psycopg import sql

from bootstrap.entries import Entry
from replicator.catalog.query import RowT, fetch
from replicator.model import TableName
from replicator.postgres import Connection, qualified

_DOMAINS: Final[LiteralString] = """
SELECT n.nspname AS schema, t.typname AS name, t.typnotnull AS required,
       pg_catalog.pg_get_expr(t.typdefaultbin, 0) AS value,
       ARRAY (SELECT ARRAY[k.conname::text, pg_catalog.pg_get_constraintdef(k.oid)] FROM pg_catalog.pg_constraint k
               WHERE k.contypid = t.oid AND k.contype = 'c' ORDER BY k.conname) AS checks
  FROM pg_catalog.pg_type t JOIN pg_catalog.pg_namespace n ON n.oid = t.typnamespace
 WHERE t.typtype = 'd' AND n.nspname = ANY (%s)
 ORDER BY t.oid
"""


class _Domain(NamedTuple):
    schema: str
    name: str
    required: bool
    value: str | None
    checks: list[tuple[str, str]]

    def actions_after(self, their: "_Domain") -> Iterator[sql.Composable]:
        """What makes the target's like this one; what it does not demand any more goes first."""
        ours, theirs = (dict(domain.checks) for domain in (self, their))
        for name, text in theirs.items():
            if ours.get(name) != text:
                yield sql.SQL("DROP CONSTRAINT {}").format(sql.Identifier(name))
        for name, text in ours.items():
            if theirs.get(name) != text:
                yield sql.SQL("ADD CONSTRAINT {} {}").format(sql.Identifier(name), sql.SQL(text))
        if self.required != their.required:
            yield sql.SQL("SET NOT NULL" if self.required else "DROP NOT NULL")
        if self.value != their.value:
            yield sql.SQL("DROP DEFAULT" if self.value is None else f"SET DEFAULT {self.value}")


async def different_domains(source: Connection, target: Connection, schemas: Sequence[str]) -> list[Entry]:
    """What the cutover has to change on the domains that both sides have in these schemas."""
    theirs = {(domain.schema, domain.name): domain for domain in await _read(target, _Domain, _DOMAINS, schemas)}
    alter = sql.SQL("ALTER DOMAIN {} {};")
    return [
        Entry(
            "DOMAIN",
            ours.schema,
            f"{ours.name}: {action.as_string()}",
            alter.format(qualified(TableName(ours.schema, ours.name)), action).as_string(),
        )
        for ours in await _read(source, _Domain, _DOMAINS, schemas)
        if (their := theirs.get((ours.schema, ours.name))) is not None
        for action in ours.actions_after(their)
    ]


async def _read(connection: Connection, row: type[RowT], query: LiteralString, schemas: Sequence[str]) -> list[RowT]:
    """With names that say their schema, whatever the session's search_path is."""
    async with connection.transaction():
        await connection.execute("SET LOCAL search_path = ''")
        return await fetch(connection, row, query, schemas)
