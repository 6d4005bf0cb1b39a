"""What must hold before the source is fenced. Everything that stands in the way is named at once, with its remedy."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Final, LiteralString

from bootstrap.evolve import look
from bootstrap.refresh import FOLLOWED_STEP, refresh_deferred
from bootstrap.schema import app_schemas, dump_app
from replicator import control
from replicator.catalog import (
    PublishedTable,
    SourceTable,
    count_large_objects,
    managed_schemas,
    published_tables,
    read_shapes,
    source_tables,
)
from replicator.config import Settings
from replicator.control import Deferred, Migration, TableRecord
from replicator.cutover import schema
from replicator.cutover.differences import WAIT, differences
from replicator.cutover.followed import await_followed
from replicator.cutover.obstacle import Obstacle, ObstructedError
from replicator.cutover.schema import Failure
from replicator.cutover.sequences import (
    Pairing,
    Value,
    list_sequences,
    out_of_bounds,
    pair,
    read_values,
    titles,
)
from replicator.cutover.sides import on
from replicator.cutover.unsent import look_at_unsent
from replicator.errors import Side
from replicator.model import SchemaMode, TableName, TableState
from replicator.postgres import Connection
from replicator.source.fence import FencedTable, tables_to_fence
from replicator.source.publication import plan

_NO_PRIVILEGE: Final[LiteralString] = """
SELECT NOT (pg_catalog.has_database_privilege(pg_catalog.current_database(), 'CREATE')
            OR EXISTS (SELECT FROM pg_catalog.pg_namespace
                        WHERE nspname = 'replicator_fence' AND pg_catalog.pg_has_role(nspowner, 'USAGE')))
"""
_STANDBY: Final[LiteralString] = "SELECT pg_catalog.pg_is_in_recovery()"
_SUBSCRIBED: Final[LiteralString] = """
SELECT EXISTS (SELECT FROM pg_catalog.pg_subscription s JOIN pg_catalog.pg_database d ON d.oid = s.subdbid
                WHERE s.subenabled AND d.datname = pg_catalog.current_database())
"""


@dataclass(slots=True)
class Survey:
    """What a cutover has to deal with.

    ``omitted`` are the deferred statements that are not run, by kind, schema and name; ``left_out`` is what the target
    will lack; ``definitions`` is a hash of the source's schema as it was when all this was found.
    """

    published: list[PublishedTable] = field(default_factory=list)
    fenced: tuple[FencedTable, ...] = ()
    sequences: Pairing = field(default_factory=lambda: Pairing((), (), ()))
    deferred: list[Deferred] = field(default_factory=list)
    omitted: list[list[str | None]] = field(default_factory=list)
    obstacles: list[Obstacle] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)
    definitions: str = ""

    def require_clear(self) -> None:
        """Raise ObstructedError with everything that stands in the way, if anything does."""
        if self.obstacles:
            raise ObstructedError(self.obstacles)


async def survey(
    settings: Settings, migration: Migration, source: Connection, target: Connection, *, omit_failing: bool
) -> Survey:
    """Look at both sides and rehearse what the target has to take. Fences nothing and changes nothing."""
    followed = await await_followed(settings, migration, source, target)
    found = await inventory(settings, migration, source, target)
    found.definitions = followed.definitions
    if not followed.is_followed:
        found.obstacles.append(Obstacle("the worker has not followed the app's last deploy yet", WAIT, Side.OURS))
    with on(Side.SOURCE, "looking at the source"):
        await _look_at_server(found, source)
    await _look_at_schema(found, settings, migration, source, target)
    with on(Side.TARGET, "rehearsing what the target lacks"):
        found.deferred = await control.read_deferred(target)
        failures = await schema.rehearse(target, schema.window(found.deferred))
    unsent = await look_at_unsent(migration, found.published, source, target)
    refused = [*unsent, *map(_refused, failures)]
    if omit_failing:
        found.omitted = [[f.item.kind, f.item.schema, f.item.name] for f in failures]
        found.left_out.extend(obstacle.message for obstacle in refused)
    else:
        found.obstacles.extend(refused)
    return found


async def _look_at_schema(
    found: Survey, settings: Settings, migration: Migration, source: Connection, target: Connection
) -> None:
    """Hold the target's tables against the source's as they are now, and renew what waits for the window."""
    deploy = await look(settings, source, target, found.published, migration.publications)
    with on(Side.TARGET, "reading the control tables"):
        unmade = await control.read_keys(target)
        renews = settings.schema_mode is SchemaMode.COPY and FOLLOWED_STEP in await control.read_steps(target)
    oids = {item.table.oid: item.table.table for item in deploy.changed if not deploy.may_settle(item)}
    oids |= {oid: column.table for column in deploy.columns for oid in column.units}
    by_remedy: dict[str, list[TableName]] = {}
    for oid, table in oids.items():
        remedy = "; ".join(deploy.remedies(oid)) or "Change it on the target as on the source"
        by_remedy.setdefault(remedy, []).append(table)  # partitions change with the table above them
    for remedy, tables in by_remedy.items():
        found.obstacles.append(Obstacle(f"{titles(tables)} has another shape on the source", remedy, Side.TARGET))
    found.obstacles.extend(
        Obstacle(
            f"column {column.name} of {column.table} is generated on the source only", column.replacement(), Side.TARGET
        )
        for column in deploy.held
    )
    if deploy.labels:
        remedy = "; ".join(statement for label in deploy.labels for statement in label.statements())
        found.obstacles.append(Obstacle("enums of the target lack values", remedy, Side.TARGET))
    if unmade:
        names = ", ".join(f"{item.kind.lower()} {item.schema}.{item.name}" for item in unmade)
        found.obstacles.append(Obstacle(f"{names} is not made yet", WAIT, Side.TARGET))
    if settings.schema_mode is SchemaMode.COPY:
        with on(Side.SOURCE, "comparing the schema of both sides"):
            schemas = await app_schemas(source, settings)
            # values that are still to be renamed may look as if they were sorted otherwise
            sorts = not deploy.labels
            found.obstacles.extend(await differences(source, target, schemas, found.published, sorts=sorts))
    if renews:
        plan = await dump_app(settings, source, None)
        with on(Side.TARGET, "renewing what waits for the cutover"):
            await refresh_deferred(settings, source, target, plan)


async def inventory(settings: Settings, migration: Migration, source: Connection, target: Connection) -> Survey:
    """List the tables and sequences as they are now, and what is wrong with them."""
    found = Survey()
    with on(Side.TARGET, "reading the control tables"):
        records = await control.read_tables(target)
    with on(Side.SOURCE, "listing tables"):
        await _look_at_tables(found, settings, migration, source, records)
        await _look_at_unseen(found, migration, source, records)
    await _look_at_sequences(found, settings, source, target)
    return found


def migrated(published: Iterable[PublishedTable]) -> set[int]:
    """The oids of the published tables, and of the relations in which their rows lie."""
    return {oid for table in published for oid in (table.oid, *(part.oid for part in table.parts))}


async def _look_at_server(found: Survey, source: Connection) -> None:
    checks = (
        (_STANDBY, "the source is a standby, which takes no fence", "Give the primary in SOURCE_DATABASE_URL"),
        (
            _SUBSCRIBED,
            "an enabled subscription on the source would write through the fence",
            "ALTER SUBSCRIPTION … DISABLE on the source",
        ),
        (
            _NO_PRIVILEGE,
            "our role may not create the fence's schema on the source",
            "GRANT CREATE ON DATABASE … to the role of SOURCE_DATABASE_URL",
        ),
    )
    for query, message, remedy in checks:
        row = await (await source.execute(query)).fetchone()
        if row and row[0]:
            found.obstacles.append(Obstacle(message, remedy))


async def _look_at_tables(
    found: Survey,
    settings: Settings,
    migration: Migration,
    source: Connection,
    records: Mapping[TableName, TableRecord],
) -> None:
    found.published = await published_tables(source, migration.publications)
    found.obstacles.extend(compare_tables(found.published, records))
    app = await source_tables(source, [*settings.exclude_schemas, control.SCHEMA])
    _look_outside(found, settings, app, chosen=not migration.owns_publications)
    if await count_large_objects(source):
        found.left_out.append("large objects")
    found.fenced = await tables_to_fence(source, migrated(found.published))
    if foreign := [item.table for item in found.fenced if not item.owned]:
        found.obstacles.append(
            Obstacle(
                f"our role does not own {titles(foreign)}, so that it cannot be fenced",
                "Connect as the owner of the tables, or GRANT its role to ours",
            )
        )


async def _look_at_unseen(
    found: Survey, migration: Migration, source: Connection, records: Mapping[TableName, TableRecord]
) -> None:
    """Tell the tables whose rows changed in a way that no stream shows, and that the worker has not copied again."""
    copied = {record.source_oid: record.shape for record in records.values()}
    shapes = await read_shapes(source, found.published, migration.publications)
    unseen = [
        table.table
        for table in found.published
        if (shape := copied.get(table.oid)) is not None and shape.must_come_again(shapes[table.oid])
    ]
    if unseen:
        found.obstacles.append(
            Obstacle(
                f"rows of {titles(unseen)} changed unseen by the stream: a partition was truncated, attached or "
                "detached, the table was rewritten, or its publication was altered",
                "Wait until `replicator run` has copied it again",
            )
        )


def _look_outside(found: Survey, settings: Settings, app: list[SourceTable], *, chosen: bool) -> None:
    """Tell what was left out by choice, as all is that ``chosen`` publications leave out, from what is new."""
    known = migrated(found.published)
    excluded = {item.oid for item in plan(app, settings).excluded}
    new = []
    for item in app:
        if item.partitioned or item.oid in known or (item.root in known and not item.unlogged):
            continue
        if chosen or item.unlogged or item.oid in excluded or item.root in excluded:
            found.left_out.append(f"table {item.table}")
        else:
            new.append(item.table)
    if new:
        found.obstacles.append(_created_since(new))


def compare_tables(published: Iterable[PublishedTable], records: Mapping[TableName, TableRecord]) -> list[Obstacle]:
    """Hold what the publications send now against what was copied. Pure."""
    published = list(published)
    obstacles = []
    unknown = [
        item.table for item in published if item.table not in records or records[item.table].source_oid != item.oid
    ]
    unready = [name for name, record in records.items() if record.state is not TableState.READY]
    gone = sorted(set(records) - {item.table for item in published})
    if unknown:
        obstacles.append(_created_since(unknown))
    if unready:
        obstacles.append(
            Obstacle(f"{titles(unready)} is not copied yet", "Wait until `replicator status` says so", Side.OURS)
        )
    if gone:
        obstacles.append(
            Obstacle(
                f"{titles(gone)} was copied but is not published any more: it was dropped, renamed or removed",
                "Put it back, or wait until `replicator run` has taken note of it",
            )
        )
    if not published:
        obstacles.append(Obstacle("no table is published", "Run `replicator check`"))
    return obstacles


def _created_since(tables: Iterable[TableName]) -> Obstacle:
    return Obstacle(
        f"{titles(tables)} was created on the source since the copy began",
        "Wait until `replicator run` has copied it, or give it a primary key, or drop it on the source",
    )


async def _look_at_sequences(found: Survey, settings: Settings, source: Connection, target: Connection) -> None:
    with on(Side.SOURCE, "listing sequences"):
        ours = await list_sequences(source, [*settings.exclude_schemas, *await managed_schemas(source)])
    with on(Side.TARGET, "listing sequences"):
        theirs = await list_sequences(target, [control.SCHEMA])
    found.sequences = pair(ours, theirs, {item.table for item in found.fenced}, settings.schema_mode)
    found.left_out.extend(f"sequence {name}" for name in found.sequences.left_out)
    with on(Side.SOURCE, "reading sequences"):
        values = await read_values(source, [item for item, _ in found.sequences.pairs if item.readable])
    found.obstacles.extend(compare_sequences(found.sequences, values))


def compare_sequences(found: Pairing, values: Mapping[int, Value]) -> list[Obstacle]:
    """What would keep sequences from getting their values. Pure."""
    problems = (
        (
            [ours.title for ours, _ in found.pairs if not ours.readable],
            Obstacle("our role may not read sequence {} on the source", "GRANT SELECT on it"),
        ),
        (
            [theirs.title for _, theirs in found.pairs if not (theirs.settable and theirs.readable)],
            Obstacle("our role may not set sequence {} on the target", "Connect as its owner", Side.TARGET),
        ),
        (
            found.missing,
            Obstacle(
                "the target lacks sequence {}",
                "Create it on the target; that of an identity column comes with ALTER COLUMN … ADD GENERATED",
                Side.TARGET,
            ),
        ),
        (
            [item.title for item in found.unpaired],
            Obstacle(
                "no sequence of the source tells where {} of the target has to go on",
                "Let the column that owns it take its default from a sequence that both sides have, "
                "or drop it there (ALTER COLUMN … DROP IDENTITY, DROP DEFAULT)",
                Side.TARGET,
            ),
        ),
        (
            out_of_bounds(found, values),
            Obstacle(
                "the value of sequence {} is beyond its range on the target", "ALTER SEQUENCE it there", Side.TARGET
            ),
        ),
    )
    return [replace(obstacle, message=obstacle.message.format(titles(names))) for names, obstacle in problems if names]


def _refused(failure: Failure) -> Obstacle:
    remedy = f"{failure.remedy.capitalize()}, or use --omit-failing"
    return Obstacle(f"the target refuses the {failure}", remedy, Side.TARGET)
