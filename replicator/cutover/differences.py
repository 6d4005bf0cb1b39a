"""What of the app's schema is another on the target than on the source, and must not be so after the switch."""

from collections.abc import Sequence
from typing import Final

from bootstrap.attributes import different_expressions, different_identities
from bootstrap.deviations import deviations
from bootstrap.indexes import lacking_indexes, renamed_indexes
from bootstrap.labels import disordered
from bootstrap.types import redefined_types, renamed_types
from replicator.catalog import PublishedTable
from replicator.cutover.obstacle import Obstacle
from replicator.errors import Side
from replicator.postgres import Connection

WAIT: Final = "Wait for the worker, or look at its log for the reason"
_WAIT_FOR_NAME: Final = f"{WAIT}: what has that name on the target already must be dropped or renamed there"
_MAKE_ANEW: Final = (
    "Make it anew on the target as on the source: rename the old one, CREATE it, ALTER TABLE … ALTER COLUMN … TYPE … "
    "USING …::text::…; then UPDATE replicator.tables SET state = 'copying' WHERE … its tables, whose rows may have "
    "been rounded or cut, and start `replicator run` again"
)
_SORT: Final = (
    "Make a type with the values in the source's order on the target, give it to the columns with ALTER TABLE … "
    "ALTER COLUMN … TYPE … USING …::text::…, and let it take over the name"
)


async def differences(
    source: Connection,
    target: Connection,
    schemas: Sequence[str],
    published: Sequence[PublishedTable],
    *,
    sorts: bool,
) -> list[Obstacle]:
    """Each with its remedy. ``sorts``: whether enums are to have their values in the same order by now."""
    return [
        *await _columns(source, target, schemas),
        *await _indexes(source, target, schemas, published),
        *await _types(source, target, schemas, sorts=sorts),
    ]


async def _columns(source: Connection, target: Connection, schemas: Sequence[str]) -> list[Obstacle]:
    found = [
        Obstacle(f"{table} computes a column otherwise than the source", "; ".join(statements), Side.TARGET)
        for table, statements in (await different_expressions(source, target, schemas)).items()
    ]
    found += [
        Obstacle(f"{table} numbers a column otherwise than the source", "; ".join(statements), Side.TARGET)
        for table, statements in (await different_identities(source, target, schemas)).items()
    ]
    found += [
        Obstacle(
            f"{item.kind} {item.name} is {item.source} on the source, {item.target} on the target",
            item.remedy,
            Side.TARGET,
        )
        for item in await deviations(source, target, schemas)
    ]
    return found


async def _indexes(
    source: Connection, target: Connection, schemas: Sequence[str], published: Sequence[PublishedTable]
) -> list[Obstacle]:
    tables = sorted({name for item in published for name in (item.table, *(part.table for part in item.parts))})
    found = [
        Obstacle(f"index {old} is called {new} on the source", _WAIT_FOR_NAME, Side.TARGET)
        for old, new in (await renamed_indexes(source, target, schemas)).items()
    ]
    found += [
        Obstacle(f"{table} has no index on the target like {name}", f"{WAIT}; or run there: {statement}", Side.TARGET)
        for name, (table, statement) in (await lacking_indexes(source, target, tables)).items()
    ]
    return found


async def _types(source: Connection, target: Connection, schemas: Sequence[str], *, sorts: bool) -> list[Obstacle]:
    found = [
        Obstacle(f"type {name} is another one on the source", _MAKE_ANEW, Side.TARGET)
        for name in await redefined_types(source, target, schemas)
    ]
    found += [
        Obstacle(f"type {old} is called {new} on the source", WAIT, Side.TARGET)
        for old, new in (await renamed_types(source, target, schemas)).items()
    ]
    if sorts:
        found += [
            Obstacle(f"enum {name} sorts its values otherwise than on the source", _SORT, Side.TARGET)
            for name in await disordered(source, target, schemas)
        ]
    return found
