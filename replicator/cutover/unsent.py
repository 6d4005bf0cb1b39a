"""What happened to published tables, though their publications do not send it: found by statistics and by files."""

from collections.abc import Iterable, Sequence

from replicator import control
from replicator.catalog import PublishedTable, read_shapes
from replicator.control import Migration
from replicator.cutover.obstacle import Obstacle
from replicator.cutover.sequences import titles
from replicator.cutover.sides import on
from replicator.errors import Side
from replicator.model import TableName
from replicator.postgres import Connection
from replicator.source.writes import STEP as INSERT_ONLY
from replicator.source.writes import written_since


async def look_at_unsent(
    migration: Migration, published: Sequence[PublishedTable], source: Connection, target: Connection
) -> list[Obstacle]:
    """Find the tables whose rows on the target are others for that. ``--omit-failing`` accepts the difference."""
    found = []
    if changed := await _written_otherwise(published, source, target):
        found.append(
            Obstacle(
                f"{titles(changed)} is replicated for inserts only, but was updated or deleted from since its copy",
                "Give it a primary key and start the migration again with REPLICATOR_KEYLESS=full, "
                "or accept the difference with --omit-failing",
            )
        )
    if emptied := await _emptied(migration, published, source, target):
        found.append(
            Obstacle(
                f"{titles(emptied)} was truncated or rewritten since its copy, and TRUNCATE is not published",
                "ALTER PUBLICATION … SET (publish = 'insert, update, delete, truncate'): it is copied again then; "
                "or accept the difference with --omit-failing",
            )
        )
    return found


async def _written_otherwise(
    published: Iterable[PublishedTable], source: Connection, target: Connection
) -> list[TableName]:
    """The insert-only tables that were written to otherwise."""
    with on(Side.TARGET, "reading the recorded steps"):
        recorded = (await control.read_steps(target)).get(INSERT_ONLY)
    with on(Side.SOURCE, "reading the statistics of tables"):
        return await written_since(source, recorded, published)


async def _emptied(
    migration: Migration, published: Iterable[PublishedTable], source: Connection, target: Connection
) -> list[TableName]:
    """The tables without published TRUNCATE that have another file than the one that was copied."""
    candidates = [table for table in published if not table.publishes_truncate]
    if not candidates:
        return []
    with on(Side.TARGET, "reading the control tables"):
        records = {record.source_oid: record.shape for record in (await control.read_tables(target)).values()}
    with on(Side.SOURCE, "reading the shapes of tables"):
        now = await read_shapes(source, candidates, migration.publications)
    return [
        table.table
        for table in candidates
        if (before := records.get(table.oid)) is not None and before.rewritten(now[table.oid])
    ]
