"""A schema of the user's own (REPLICATOR_SCHEMA=existing): silencing what would fire on applied rows."""

from collections.abc import Iterable
from typing import Final, LiteralString, NamedTuple

import psycopg
from psycopg import sql
from psycopg.rows import class_row

from replicator import control
from replicator.model import TableName
from replicator.postgres import Connection

_FIRING: Final[LiteralString] = """
WITH RECURSIVE wanted AS (
  SELECT c.oid FROM unnest(%(schemas)s::text[], %(names)s::text[]) w(schema, name)
    JOIN pg_catalog.pg_namespace n ON n.nspname = w.schema
    JOIN pg_catalog.pg_class c ON c.relnamespace = n.oid AND c.relname = w.name),
relations AS (
  SELECT oid FROM wanted
  UNION SELECT t.relid::oid FROM wanted w CROSS JOIN LATERAL pg_catalog.pg_partition_tree(w.oid) t),
keys AS (
  SELECT c.oid, c.conparentid FROM pg_catalog.pg_constraint c
   WHERE c.contype = 'f' AND NOT %(replica)s AND (c.conrelid IN (TABLE relations) OR c.confrelid IN (TABLE relations))
  UNION SELECT c.oid, c.conparentid FROM keys k JOIN pg_catalog.pg_constraint c ON c.oid = k.conparentid)
SELECT 'FK CONSTRAINT' AS kind, n.nspname AS schema, r.relname AS table, c.conname AS name, r.relkind = 'p' AS root,
       '' AS enabled, pg_catalog.pg_get_constraintdef(c.oid) AS definition
  FROM keys k JOIN pg_catalog.pg_constraint c ON c.oid = k.oid
  JOIN pg_catalog.pg_class r ON r.oid = c.conrelid JOIN pg_catalog.pg_namespace n ON n.oid = r.relnamespace
 WHERE c.conparentid = 0
UNION ALL
SELECT 'TRIGGER', n.nspname, r.relname, t.tgname, false, t.tgenabled::text, ''
  FROM pg_catalog.pg_trigger t
  JOIN pg_catalog.pg_class r ON r.oid = t.tgrelid JOIN pg_catalog.pg_namespace n ON n.oid = r.relnamespace
 WHERE NOT t.tgisinternal AND NOT %(replica)s AND t.tgenabled::text IN ('O', 'A') AND t.tgrelid IN (TABLE relations)
UNION ALL
SELECT 'RULE', n.nspname, r.relname, w.rulename, false, w.ev_enabled::text, ''
  FROM pg_catalog.pg_rewrite w
  JOIN pg_catalog.pg_class r ON r.oid = w.ev_class JOIN pg_catalog.pg_namespace n ON n.oid = r.relnamespace
 WHERE w.ev_type <> '1' AND w.ev_enabled::text = ANY (%(rules)s) AND w.ev_class IN (TABLE relations)
UNION ALL
SELECT 'ROW SECURITY', n.nspname, r.relname, '', false, '', ''
  FROM pg_catalog.pg_class r JOIN pg_catalog.pg_namespace n ON n.oid = r.relnamespace
 WHERE r.relrowsecurity AND r.relforcerowsecurity AND r.oid IN (TABLE relations)
 ORDER BY 1, 2, 3, 4
"""
"""What fires on applied rows or hides them, in a session of the given replication role.

With the role ``replica`` a trigger that fires is one that the user has marked for that (ENABLE REPLICA or ALWAYS), so
it may. A rule never may: it would rewrite the statements of small batches, and not what large ones bring by COPY.
"""

_ENABLE: Final = {"O": "ENABLE", "A": "ENABLE ALWAYS", "R": "ENABLE REPLICA"}


class _Firing(NamedTuple):
    kind: str
    schema: str
    table: str
    name: str
    root: bool
    enabled: str
    definition: str

    def off(self) -> sql.Composed:
        """The statement that drops or disables it."""
        name = sql.Identifier(self.name or "-")
        match self.kind:
            case "FK CONSTRAINT":
                return self._alter(sql.SQL("DROP CONSTRAINT {}").format(name))
            case "ROW SECURITY":
                return self._alter(sql.SQL("NO FORCE ROW LEVEL SECURITY"))
            case _:
                return self._alter(sql.SQL("DISABLE {} {}").format(sql.SQL(self.kind), name))

    def on(self) -> sql.Composed:
        """The statement that brings it back as it was, in pg_dump's form."""
        name = sql.Identifier(self.name or "-")
        match self.kind:
            case "FK CONSTRAINT":
                return self._alter(sql.SQL("ADD CONSTRAINT {} {}").format(name, sql.SQL(self.definition)))
            case "ROW SECURITY":
                return self._alter(sql.SQL("FORCE ROW LEVEL SECURITY"))
            case _:
                enable = sql.SQL(_ENABLE[self.enabled])
                return self._alter(sql.SQL("{} {} {}").format(enable, sql.SQL(self.kind), name))

    def _alter(self, action: sql.Composable) -> sql.Composed:
        only = sql.SQL("" if self.root else "ONLY ")
        return sql.SQL("ALTER TABLE {}{} {};").format(only, sql.Identifier(self.schema, self.table), action)


async def silence(target: Connection, tables: Iterable[TableName], *, replica: bool) -> list[str]:
    """Drop or disable what would fire on applied rows, recorded for the cutover, within the caller's transaction.

    Under session_replication_role=replica (``replica``) foreign keys and ordinary triggers do not fire anyway; the
    triggers that do are meant to.
    """
    names = list(tables)
    parameters = {
        "schemas": [table.schema for table in names],
        "names": [table.name for table in names],
        "replica": replica,
        "rules": ["A", "R"] if replica else ["O", "A"],
    }
    await target.execute("SET LOCAL search_path = ''")  # so that definitions name tables with their schemas
    cursor = await target.cursor(row_factory=class_row(_Firing)).execute(_FIRING, parameters)
    found = await cursor.fetchall()
    for item in found:
        await target.execute(item.off())
    start = await control.next_position(target)
    await control.add_deferred(
        target,
        [
            control.Deferred(
                position, item.kind, item.schema, f"{item.table} {item.name}".strip(), item.on().as_string()
            )
            for position, item in enumerate(found, start)
        ],
    )
    return [f"{item.kind.lower()} {item.schema}.{item.table} {item.name}".strip() for item in found]


async def may_replicate(target: Connection) -> bool:
    """Whether the role may set session_replication_role: tried, since grants of it (15+) come in several ways."""
    try:
        async with target.transaction(force_rollback=True):
            await target.execute("SET LOCAL session_replication_role = replica")
    except psycopg.errors.InsufficientPrivilege:
        return False
    return True
