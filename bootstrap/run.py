"""From nothing, or from any interruption, to tables that are ready to be streamed into.

Everything that is done is recorded on the target in the transaction that did it (law 8), so each run goes on where
the last one ended: tables that are copied stay, the others come again in a round with a snapshot of its own.
"""

import secrets
from collections import Counter
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from uuid import UUID

import structlog

from bootstrap.entries import Plan
from bootstrap.evolve import add, fit_types, look, settle
from bootstrap.existing import may_replicate, silence
from bootstrap.fingerprint import Fingerprint, read_app, read_ours
from bootstrap.jobs import plan_jobs, split_tables
from bootstrap.keys import ANALYZE_STEP, CopiedTables, KeyMaker, analyze_roots, by_table, make_rest
from bootstrap.leaving import forget_left, left_tables, note_left
from bootstrap.names import follow_names
from bootstrap.parallel import run_all
from bootstrap.passing import pass_over
from bootstrap.places import (
    Place,
    empty,
    find_places,
    require_empty,
    require_logged,
    require_places,
    set_logged,
)
from bootstrap.refresh import FOLLOWED_STEP, make_needed, note_rest
from bootstrap.schema import STEP as SCHEMA_STEP
from bootstrap.schema import copy_schema, copy_tables_schema
from bootstrap.snapshot import Keeper, keep_snapshot
from bootstrap.start import begin
from bootstrap.transfer import Listener, Transfer
from bootstrap.trees import detach_partitions
from monitoring.metrics import Metrics
from replicator import control
from replicator.catalog import (
    PublishedTable,
    published_tables,
    read_shapes,
    source_tables,
)
from replicator.config import Settings
from replicator.control import Migration, TableRecord
from replicator.errors import Side, SourceError, TargetError
from replicator.lsn import Lsn, format_lsn
from replicator.model import Phase, SchemaMode, TableName, TableState
from replicator.postgres import Connection, connect, connected, reporting
from replicator.shape import Shape
from replicator.source.replanning import UNPUBLISHED_STEP, adjust_publications, reasons_of
from replicator.source.slot import create_slot
from replicator.source.writes import record_writes

log = structlog.get_logger(__name__)


async def bootstrap(settings: Settings, epoch: UUID, metrics: Metrics) -> Fingerprint:
    """Bring every published table to *ready*, with progress recorded where the stream begins. Does only what is left.

    Returns what it has seen of the source's schema: another one later means that there is something to follow.
    Raises ReplicatorError; after a retryable one, running it again goes on.
    """
    async with (
        connected(settings.source, Side.SOURCE, "worker bootstrap") as source,
        connected(settings.target, Side.TARGET, "worker bootstrap") as target,
    ):
        with reporting(Side.TARGET, "recording the bootstrap"):
            await control.create(target)
            app = await read_app(settings, source, await control.read_migration(target))
            migration, is_new = await begin(settings, epoch, source, target)
            work = Bootstrap(settings, epoch, metrics, source=source, target=target, migration=migration)
            return await work.run(is_new=is_new, app=app)


class Bootstrap:
    """Rounds until nothing is left to copy, then what needs several tables' keys."""

    def __init__(
        self,
        settings: Settings,
        epoch: UUID,
        metrics: Metrics,
        *,
        source: Connection,
        target: Connection,
        migration: Migration,
    ) -> None:
        self._settings = settings
        self._epoch = epoch
        self._metrics = metrics
        self._source = source
        self._target = target
        self._migration = migration
        self._states: dict[TableName, TableState] = {}

    async def run(self, *, is_new: bool, app: str) -> Fingerprint:
        """Do what is left. ``is_new``: there is no progress yet, so the first round makes the main slot.

        ``app`` is the app's part of the source's fingerprint, from before the publications were made.
        """
        plan = None
        if self._migration.owns_publications and not is_new:
            await self._publish()
        seen = Fingerprint(app, await read_ours(self._source, self._migration))
        if is_new:
            await self._round(is_main=True)
        else:
            plan = await self._follow(app)
        while await self._is_unfinished():
            await self._round(is_main=False)
        await pass_over(self._target, self._epoch)
        if plan is not None:
            await note_rest(self._source, self._target, self._epoch, plan)
        if self._migration.phase is Phase.BOOTSTRAP:
            await make_rest(self._target, self._epoch)
        await control.record_step(self._target, FOLLOWED_STEP, {"fingerprint": app})
        if ANALYZE_STEP not in await control.read_steps(self._target):
            await analyze_roots(self._target, self._epoch)
        log.info("all tables are ready", tables=len(self._states))
        return seen

    async def _follow(self, app: str) -> Plan | None:
        """Take over what was changed on the source since the last time; the plan of a new dump, if that was needed."""
        published = await self._published(self._source)
        steps = await control.read_steps(self._target)
        copies = self._settings.schema_mode is SchemaMode.COPY and SCHEMA_STEP in steps
        plan = None
        if copies and steps.get(FOLLOWED_STEP, {}).get("fingerprint") != app:
            await detach_partitions(self._source, self._target, self._epoch)
            plan = await make_needed(self._settings, self._source, self._target, self._epoch)
        deploy = await look(self._source, self._target, published, self._migration.publications)
        if self._settings.schema_mode is SchemaMode.COPY and (deploy.labels or deploy.columns):
            await add(self._target, self._epoch, deploy)
            deploy = await look(self._source, self._target, published, self._migration.publications)
        await settle(self._target, self._epoch, deploy)
        return plan

    async def _publish(self) -> None:
        """Publish what the app has now, before the round that copies what is new; tell once of what cannot be."""
        with reporting(Side.SOURCE, "publishing tables", SourceError):
            tables = await source_tables(self._source, [*self._settings.exclude_schemas, control.SCHEMA])
            adjusted = await adjust_publications(self._source, self._migration.publications, tables, self._settings)
        for event, names in (
            ("new tables are published", adjusted.added),
            ("tables have lost their key: REPLICA IDENTITY FULL from now on", adjusted.made_full),
            ("tables were taken out of the publications, so that the app can go on writing to them", adjusted.removed),
        ):
            if names:
                log.info(event, tables=[str(name) for name in names])
        reasons = reasons_of(adjusted.refused)
        told = (await control.read_steps(self._target)).get(UNPUBLISHED_STEP, {})
        if reasons != told:
            await control.record_step(self._target, UNPUBLISHED_STEP, reasons)
        if new := {name: reason for name, reason in reasons.items() if name not in told}:
            log.warning("tables are not replicated: the cutover will refuse", tables=new)

    async def _known(self, published: Iterable[PublishedTable]) -> dict[TableName, TableRecord]:
        """What is recorded, by published name: a renamed table goes on as before until the target's is renamed too."""
        names = {table.oid: table.table for table in published}
        records = (await control.read_tables(self._target)).values()
        return {names.get(r.source_oid, r.table) if r.state is TableState.READY else r.table: r for r in records}

    async def _is_unfinished(self) -> bool:
        """Whether a table needs a round, once those that are copied already are ready."""
        published = await self._published(self._source)
        if self._settings.schema_mode is SchemaMode.COPY:
            await follow_names(
                self._settings,
                self._source,
                self._target,
                self._epoch,
                published=published,
                publications=self._migration.publications,
            )
        records = await self._known(published)
        await self._forget_vanished(published, records)
        self._show({name: record.state for name, record in records.items()})
        waiting = _needing_round(published, records)
        steps = await control.read_steps(self._target)
        schema_lacks = self._settings.schema_mode is SchemaMode.COPY and SCHEMA_STEP not in steps
        if waiting or schema_lacks:
            return True
        if copied := [t for t in published if records[t.table].state is TableState.COPIED]:
            queue = CopiedTables(copied)
            queue.close()
            await run_all([self._make_keys(queue, published)])
        return False

    async def _forget_vanished(
        self, published: Iterable[PublishedTable], records: Mapping[TableName, TableRecord]
    ) -> None:
        vanished = sorted(set(records) - {table.table for table in published})
        if vanished:
            log.warning("tables are not published any more", tables=[str(name) for name in vanished])
            async with self._target.transaction():
                await control.hold_epoch(self._target, self._epoch)
                await control.remove_tables(self._target, vanished)
                if self._settings.schema_mode is SchemaMode.COPY:
                    await note_left(self._target, vanished)

    # --- a round ------------------------------------------------------------------------------------------------------

    async def _round(self, *, is_main: bool) -> None:
        """Copy, under one snapshot, the tables that are not copied, and make the keys of those that are."""
        await self._prepare_round()
        async with self._snapshot(is_main=is_main) as (lsn, keeper):
            published = await self._published(keeper.connection)
            records = await self._known(published)
            tables = _needing_round(published, records)
            if not is_main and self._settings.schema_mode is SchemaMode.COPY:
                await self._widen(keeper, published)
            log.info("round begins", tables=len(tables), bytes=sum(t.size for t in tables), lsn=format_lsn(lsn))
            with reporting(Side.SOURCE, "reading the shapes of tables", SourceError):
                shapes = await read_shapes(keeper.connection, tables, self._migration.publications)
            await self._record(tables, shapes, records, lsn, is_main=is_main)
            replica = await may_replicate(self._target)
            await self._make_places(keeper, tables, replica=replica)
            copied = CopiedTables(t for t in published if self._states.get(t.table) is TableState.COPIED)
            await run_all([
                self._copy(keeper, tables, copied, replica=replica),
                self._make_keys(copied, published),
            ])  # fmt: skip

    async def _widen(self, keeper: Keeper, published: Sequence[PublishedTable]) -> None:
        """Add what was added on the source since the target's tables were made, as the round's snapshot sees it.

        A column that rewrote its table is why the table comes again.
        """
        deploy = await look(keeper.connection, self._target, published, self._migration.publications)
        if deploy.columns or deploy.labels:
            await make_needed(self._settings, self._source, self._target, self._epoch)
            await add(self._target, self._epoch, deploy)

    async def _prepare_round(self) -> None:
        """Before the snapshot, count writes: the cutover learns of every update that an insert-only copy lacks."""
        published = await self._published(self._source)
        waiting = _needing_round(published, await self._known(published))
        if self._settings.schema_mode is SchemaMode.EXISTING:  # before a slot makes the source wait
            places = await find_places(self._target, waiting)
            require_places(waiting, places)
            require_logged(places.values())
        with reporting(Side.SOURCE, "reading the statistics of tables", SourceError):
            await record_writes(self._source, self._target, waiting)

    @asynccontextmanager
    async def _snapshot(self, *, is_main: bool) -> AsyncIterator[tuple[Lsn, Keeper]]:
        """A new slot's LSN and its snapshot; a temporary slot is gone as soon as the snapshot is kept."""
        name = self._migration.slot if is_main else f"{self._migration.slot}_{secrets.token_hex(4)}"
        replication = await connect(self._settings.source, Side.SOURCE, "worker slot", replication=True)
        try:
            slot = await create_slot(replication, name, temporary=not is_main, lock_timeout=self._settings.slot_timeout)
            async with keep_snapshot(self._settings.source, slot.snapshot) as keeper:
                await replication.close()
                yield slot.lsn, keeper
        finally:
            await replication.close()

    async def _published(self, source: Connection) -> list[PublishedTable]:
        with reporting(Side.SOURCE, "reading the published tables", SourceError):
            return await published_tables(source, self._migration.publications)

    async def _record(
        self,
        tables: Sequence[PublishedTable],
        shapes: Mapping[int, Shape],
        records: Mapping[TableName, TableRecord],
        lsn: Lsn,
        *,
        is_main: bool,
    ) -> None:
        """Record the round's LSN before anything is copied, and empty what an interrupted round has left."""
        known = {name for name, record in records.items() if record.state is not TableState.PENDING}
        known |= await left_tables(self._target)
        begun = [table for table in tables if table.table in known]
        left = list((await find_places(self._target, begun)).values())
        replica = await may_replicate(self._target)
        async with self._target.transaction():
            await control.hold_epoch(self._target, self._epoch)
            await empty(self._target, left, replica=replica)
            await forget_left(self._target, [table.table for table in begun])
            if self._settings.schema_mode is SchemaMode.COPY:
                await fit_types(self._target, tables, records, shapes)
            await control.add_tables(self._target, [_pending(table, lsn, shapes.get(table.oid)) for table in tables])
            if is_main:
                await control.start_progress(self._target, self._epoch, lsn)
        self._show(
            {name: record.state for name, record in records.items()}
            | dict.fromkeys((table.table for table in tables), TableState.PENDING)
        )

    async def _make_places(self, keeper: Keeper, tables: Sequence[PublishedTable], *, replica: bool) -> None:
        """Give every table its place, and make sure that it is whole and empty."""
        if self._settings.schema_mode is SchemaMode.COPY:
            await copy_schema(self._settings, keeper.connection, keeper.snapshot, self._target, self._epoch)
        places = await find_places(self._target, tables)
        absent = [table.table for table in tables if table.table not in places]
        if self._settings.schema_mode is SchemaMode.COPY and absent:
            await copy_tables_schema(
                self._settings, keeper.connection, keeper.snapshot, self._target, self._epoch, tables=absent
            )
            places = await find_places(self._target, tables)
        require_places(tables, places)
        if self._settings.schema_mode is SchemaMode.EXISTING:
            await self._silence(list(places.values()), replica=replica)
        with reporting(Side.TARGET, "looking for rows", TargetError):
            await require_empty(self._target, list(places.values()))
        if self._settings.schema_mode is SchemaMode.COPY:
            await self._set_logged(tables)

    async def _set_logged(self, tables: Sequence[PublishedTable]) -> None:
        with reporting(Side.TARGET, "making tables logged", TargetError):
            async with self._target.transaction():
                await control.hold_epoch(self._target, self._epoch)
                names = await set_logged(self._target, tables)
        if names:
            log.info("made tables logged, as on the source now", tables=[str(name) for name in names])

    async def _silence(self, places: Sequence[Place], *, replica: bool) -> None:
        with reporting(Side.TARGET, "disabling what would fire on applied rows", TargetError):
            async with self._target.transaction():
                await control.hold_epoch(self._target, self._epoch)
                names = await silence(self._target, [place.table for place in places], replica=replica)
        if names:
            log.info("disabled until the cutover", objects=names)

    async def _copy(
        self, keeper: Keeper, tables: Sequence[PublishedTable], copied: CopiedTables, *, replica: bool
    ) -> None:
        jobs = plan_jobs(tables, self._settings.split_bytes, keeper.block_bytes)
        await self._mark_split(sorted(split_tables(jobs)))
        by_name = {table.table: table for table in tables}

        def set_states(state: TableState, names: Sequence[TableName]) -> None:
            self._show(dict.fromkeys(names, state))
            if state is TableState.COPIED:
                copied.add(by_name[name] for name in names)

        transfer = Transfer(
            self._settings,
            self._epoch,
            keeper.snapshot,
            replica=replica,
            freeze=self._settings.schema_mode is SchemaMode.COPY,
            listener=Listener(self._metrics.copy_bytes.inc, set_states),
        )
        stale = await transfer.copy(jobs)
        await keeper.release()
        copied.close()
        if stale:
            log.warning("tables changed during the copy: they come again", tables=[str(name) for name in sorted(stale)])

    async def _mark_split(self, names: Sequence[TableName]) -> None:
        """A table that several transactions copy is *copying* before the first: so the next round empties it."""
        if names:
            async with self._target.transaction():
                await control.hold_epoch(self._target, self._epoch)
                await control.set_table_states(self._target, names, TableState.COPYING)
        self._show(dict.fromkeys(names, TableState.COPYING))

    async def _make_keys(self, copied: CopiedTables, published: Sequence[PublishedTable]) -> None:
        statements = by_table(await control.read_keys(self._target), published)
        maker = KeyMaker(
            self._settings, self._epoch, statements, lambda names: self._show(dict.fromkeys(names, TableState.READY))
        )
        await maker.run(copied)

    def _show(self, states: Mapping[TableName, TableState]) -> None:
        self._states |= states
        self._metrics.set_copy_tables(Counter(self._states.values()))


def _needing_round(
    published: Iterable[PublishedTable], records: Mapping[TableName, TableRecord]
) -> list[PublishedTable]:
    """The tables that are not copied, or are not the ones that were."""
    return [table for table in published if not _is_copied(records.get(table.table), table.oid)]


def _is_copied(record: TableRecord | None, oid: int) -> bool:
    done = (TableState.COPIED, TableState.READY)
    return record is not None and record.source_oid == oid and record.state in done


def _pending(table: PublishedTable, lsn: Lsn, shape: Shape | None) -> TableRecord:
    return TableRecord(table.table, table.oid, TableState.PENDING, table.insert_only, lsn, shape=shape)
