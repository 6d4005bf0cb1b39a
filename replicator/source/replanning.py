"""Our own publications while the app goes on deploying: new tables come in, and what a table may not stay in is left.

A table that loses its key while it is published would make the app's own UPDATEs fail (law 5): it gets what
REPLICATOR_KEYLESS says, as if it had been so from the beginning. One that gains a key is published whole.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, LiteralString, NamedTuple

import psycopg
import structlog
from psycopg import sql

from replicator.catalog import SourceTable
from replicator.config import Settings
from replicator.model import TableName
from replicator.postgres import Connection
from replicator.source.publication import PATIENT, former_identities, listed, make_full, plan, translated
from replicator.source.publication_plan import Keyless, PublicationPlan

log = structlog.get_logger(__name__)

UNPUBLISHED_STEP: Final = "unpublished"
"""The step whose detail names the app's tables that could not be published later on, with the reasons."""

_LISTED: Final[LiteralString] = """
SELECT r.prrelid, p.pubname::text
  FROM pg_catalog.pg_publication_rel r JOIN pg_catalog.pg_publication p ON p.oid = r.prpubid
 WHERE p.pubname = ANY (%s)
"""


@dataclass(slots=True)
class Adjusted:
    """The tables that were changed. ``refused`` are in no publication: the app goes on, and the cutover names them."""

    added: list[TableName] = field(default_factory=list)
    made_full: list[TableName] = field(default_factory=list)
    removed: list[TableName] = field(default_factory=list)
    refused: list[Keyless] = field(default_factory=list)


class _Unit(NamedTuple):
    """The changes of a table with its partitions, which belong together; ``add`` and ``drop`` with the publication."""

    add: list[tuple[str, SourceTable]]
    drop: list[tuple[str, SourceTable]]
    full: list[SourceTable]


async def adjust_publications(
    connection: Connection, names: Sequence[str], tables: Sequence[SourceTable], settings: Settings
) -> Adjusted:
    """Make our publications what they would be if they were made now.

    A table whose owner is another role counts as refused. Raises TransientError when other sessions hold the tables.
    """
    found: dict[int, set[str]] = defaultdict(set)
    for oid, name in await (await connection.execute(_LISTED, [list(names)])).fetchall():
        found[oid].add(name)
    planned = plan(tables, settings)
    result = Adjusted(refused=planned.refused)
    for unit in _units(names, tables, planned, found):
        try:
            async with connection.transaction():
                await connection.execute(PATIENT)
                await _adjust(connection, names[0], unit)
        except psycopg.errors.InsufficientPrivilege:
            result.refused += [Keyless(table, "our role may not publish it") for _, table in unit.add]
        except psycopg.errors.UndefinedTable:
            continue
        except psycopg.Error as error:
            raise translated(error, f"publishing {_first(unit).table}") from None
        else:
            result.added += [table.table for _, table in unit.add]
            result.made_full += [table.table for table in unit.full]
            result.removed += [table.table for _, table in unit.drop if table not in [t for _, t in unit.add]]
    return result


def _units(
    names: Sequence[str], tables: Sequence[SourceTable], planned: PublicationPlan, found: Mapping[int, set[str]]
) -> Iterator[_Unit]:
    """What to change, one unit a root or plain table."""
    wanted = {
        table.oid: name
        for name, contents in zip(names, (planned.complete, planned.insert_only), strict=False)
        for table in contents
    }
    full = {table.oid for table in planned.make_full}
    units: dict[int, _Unit] = defaultdict(lambda: _Unit([], [], []))
    for table in tables:
        unit, there = units[table.root or table.oid], found.get(table.oid, set())
        name = wanted.get(table.oid)
        if name is not None and name not in there:
            unit.add.append((name, table))
        # a partition that was published by itself, and is by its root now, may stay: its changes went out all the time
        if name is not None or table.root not in wanted:
            unit.drop.extend((other, table) for other in sorted(there - {name}))
        if table.oid in full:
            unit.full.append(table)
    return (unit for unit in units.values() if any(unit))


async def _adjust(connection: Connection, publication: str, unit: _Unit) -> None:
    for statement, changes in (("ADD TABLE", unit.add), ("DROP TABLE", unit.drop)):
        for name, table in changes:
            alter = sql.SQL("ALTER PUBLICATION {} {} {}")
            await connection.execute(alter.format(sql.Identifier(name), sql.SQL(statement), listed(table)))
    if unit.full:
        await make_full(connection, publication, unit.full, await former_identities(connection, [publication]))


def _first(unit: _Unit) -> SourceTable:
    return next(iter([*unit.full, *(table for _, table in (*unit.add, *unit.drop))]))


def reasons_of(refused: Iterable[Keyless]) -> dict[str, str]:
    """Why tables are in no publication, by name."""
    return {str(item.table.table): item.reason for item in refused}
