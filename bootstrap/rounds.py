"""Rounds: copying, under one snapshot, the tables that are not copied, and making the keys of those that are."""

import secrets
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager

import structlog

from bootstrap.attributes import different_identities, looser_columns
from bootstrap.columns import read_target_columns
from bootstrap.evolve import add, look
from bootstrap.existing import may_replicate, silence
from bootstrap.indexes import leave_names
from bootstrap.jobs import plan_jobs, split_tables
from bootstrap.keys import CopiedTables, KeyMaker, by_table
from bootstrap.leaving import forget_left, left_tables
from bootstrap.lost_keys import lost_keys
from bootstrap.parallel import run_all
from bootstrap.places import (
    Place,
    empty,
    find_places,
    require_empty,
    require_logged,
    require_places,
    set_logged,
)
from bootstrap.refresh import make_needed
from bootstrap.retyping import fit_types
from bootstrap.roots import fit_trees
from bootstrap.schema import app_schemas, copy_schema, copy_tables_schema
from bootstrap.snapshot import Keeper, keep_snapshot
from bootstrap.trees import with_relatives
from bootstrap.types import STEP as TYPES_STEP
from bootstrap.types import note_types
from bootstrap.unlogged import new_unlogged_tables
from bootstrap.work import Work, needing_round
from replicator import control
from replicator.catalog import PublishedTable, read_shapes
from replicator.control import TableRecord
from replicator.errors import Side, SourceError, TargetError
from replicator.lsn import Lsn, format_lsn
from replicator.model import Phase, TableName, TableState
from replicator.postgres import connect, reporting
from replicator.shape import Shape
from replicator.source.slot import create_slot
from replicator.source.writes import record_writes

log = structlog.get_logger(__name__)


class Round:
    """A set of tables and one snapshot. It ends with their keys, or leaves what it could not copy to another one."""

    def __init__(self, work: Work) -> None:
        self._work = work

    async def run(self, *, is_main: bool) -> None:
        """Copy, under one snapshot, the tables that are not copied, and make the keys of those that are."""
        await self._prepare_round()
        async with self._snapshot(is_main=is_main) as (lsn, keeper):
            published = await self._work.published(keeper.connection)
            records = await self._work.known(published)
            tables = needing_round(published, records)
            if not is_main and self._work.makes_schema:
                await self._widen(keeper, published)
            log.info("round begins", tables=len(tables), bytes=sum(t.size for t in tables), lsn=format_lsn(lsn))
            with reporting(Side.SOURCE, "reading the shapes of tables", SourceError):
                shapes = await read_shapes(keeper.connection, tables, self._work.migration.publications)
            await self._record(tables, shapes, records, lsn, is_main=is_main)
            replica = await may_replicate(self._work.target)
            await self._make_places(keeper, tables, replica=replica)
            copied = CopiedTables(t for t in published if self._work.states.get(t.table) is TableState.COPIED)
            async with self._work.copying():
                await run_all([
                    self._copy(keeper, tables, copied, replica=replica),
                    make_keys(self._work, copied, published),
                ])  # fmt: skip

    async def _widen(self, keeper: Keeper, published: Sequence[PublishedTable]) -> None:
        """Add what was added on the source since the target's tables were made, as the round's snapshot sees it.

        A column that rewrote its table is why the table comes again.
        """
        deploy = await look(
            self._work.settings, keeper.connection, self._work.target, published, self._work.migration.publications
        )
        if deploy.columns or deploy.labels:
            await make_needed(self._work.settings, self._work.source, self._work.target, self._work.epoch)
            await add(self._work.target, self._work.epoch, deploy)

    async def _prepare_round(self) -> None:
        """Before the snapshot, note the types' names, and count writes: the cutover learns of all that copies lack."""
        published = await self._work.published(self._work.source)
        waiting = needing_round(published, await self._work.known(published))
        if self._work.makes_schema:
            if TYPES_STEP not in await control.read_steps(self._work.target):
                schemas = await app_schemas(self._work.source, self._work.settings)
                await note_types(self._work.source, self._work.target, schemas)
        else:  # before a slot makes the source wait
            places = await find_places(self._work.target, waiting)
            require_places(waiting, places)
            require_logged(places.values())
        with reporting(Side.SOURCE, "reading the statistics of tables", SourceError):
            await record_writes(self._work.source, self._work.target, waiting)

    @asynccontextmanager
    async def _snapshot(self, *, is_main: bool) -> AsyncIterator[tuple[Lsn, Keeper]]:
        """A new slot's LSN and its snapshot; a temporary slot is gone as soon as the snapshot is kept."""
        name = self._work.migration.slot if is_main else f"{self._work.migration.slot}_{secrets.token_hex(4)}"
        replication = await connect(self._work.settings.source, Side.SOURCE, "worker slot", replication=True)
        try:
            slot = await create_slot(
                replication, name, temporary=not is_main, lock_timeout=self._work.settings.slot_timeout
            )
            async with keep_snapshot(self._work.settings.source, slot.snapshot) as keeper:
                await replication.close()
                yield slot.lsn, keeper
        finally:
            await replication.close()

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
        known |= await left_tables(self._work.target)
        begun = [table for table in tables if table.table in known]
        left = list((await find_places(self._work.target, begun)).values())
        there = await read_target_columns(self._work.target, [table.table for table in tables])
        replica = await may_replicate(self._work.target)
        with reporting(Side.SOURCE, "looking at the source's keys", SourceError):
            lifted, looser = await self._lifted() if begun and self._work.makes_schema else ({}, {})
        async with control.under_epoch(self._work.target, self._work.epoch):
            await empty(self._work.target, left, replica=replica)
            await forget_left(self._work.target, [table.table for table in begun])
            for statement in (statement for table in begun for statement in lifted.get(table.table, ())):
                await self._work.target.execute(statement.encode())  # rows that come again may contradict what is there
            if self._work.makes_schema:
                await fit_types(self._work.target, tables, records, shapes, looser)
            await control.add_tables(
                self._work.target,
                [
                    _pending(t, lsn, shapes[t.oid].on(there.get(t.table, ())) if t.oid in shapes else None)
                    for t in tables
                ],
            )
            if is_main:
                await control.start_progress(self._work.target, self._work.epoch, lsn)
        self._work.show(
            {name: record.state for name, record in records.items()}
            | dict.fromkeys((table.table for table in tables), TableState.PENDING)
        )

    async def _lifted(self) -> tuple[dict[TableName, list[str]], dict[TableName, list[str]]]:
        """By table, what makes keys and identities those of the source, and the columns that may be NULL there."""
        source, target = self._work.source, self._work.target
        schemas = await app_schemas(source, self._work.settings)
        lost, identities = await lost_keys(source, target), await different_identities(source, target, schemas)
        statements = {table: [*lost.get(table, ()), *identities.get(table, ())] for table in {*lost, *identities}}
        return statements, await looser_columns(source, target, schemas)

    async def _make_places(self, keeper: Keeper, tables: Sequence[PublishedTable], *, replica: bool) -> None:
        """Give every table its place, and make sure that it is whole and empty."""
        if self._work.makes_schema:
            await copy_schema(
                self._work.settings, keeper.connection, keeper.snapshot, self._work.target, self._work.epoch
            )
        places = await find_places(self._work.target, tables)
        absent = [table.table for table in tables if table.table not in places]
        if self._work.makes_schema and absent:
            await copy_tables_schema(
                self._work.settings,
                keeper.connection,
                keeper.snapshot,
                self._work.target,
                self._work.epoch,
                tables=await with_relatives(keeper.connection, self._work.target, absent)
                | await new_unlogged_tables(self._work, keeper.connection),
            )
            places = await find_places(self._work.target, tables)
        if self._work.makes_schema:
            await fit_trees(keeper.connection, self._work.target, self._work.epoch, tables)
        require_places(tables, places)
        if not self._work.makes_schema:
            await self._silence(list(places.values()), replica=replica)
        with reporting(Side.TARGET, "looking for rows", TargetError):
            await require_empty(self._work.target, list(places.values()))
        if self._work.makes_schema:
            await self._set_logged(tables)

    async def _set_logged(self, tables: Sequence[PublishedTable]) -> None:
        with reporting(Side.TARGET, "making tables logged", TargetError):
            async with control.under_epoch(self._work.target, self._work.epoch):
                names = await set_logged(self._work.target, tables)
        if names:
            log.info("made tables logged, as on the source now", tables=[str(name) for name in names])

    async def _silence(self, places: Sequence[Place], *, replica: bool) -> None:
        with reporting(Side.TARGET, "disabling what would fire on applied rows", TargetError):
            async with control.under_epoch(self._work.target, self._work.epoch):
                names = await silence(self._work.target, [place.table for place in places], replica=replica)
        if names:
            log.info("disabled until the cutover", objects=names)

    async def _copy(
        self, keeper: Keeper, tables: Sequence[PublishedTable], copied: CopiedTables, *, replica: bool
    ) -> None:
        jobs = plan_jobs(tables, self._work.settings.split_bytes, keeper.block_bytes)
        await self._mark_split(sorted(split_tables(jobs)))
        by_name = {table.table: table for table in tables}

        def set_states(state: TableState, names: Sequence[TableName]) -> None:
            self._work.show(dict.fromkeys(names, state))
            if state is TableState.COPIED:
                copied.add(by_name[name] for name in names)

        from bootstrap.transfer import Listener, Transfer  # noqa: PLC0415  # asyncpg: a restart copies nothing

        transfer = Transfer(
            self._work.settings,
            self._work.epoch,
            keeper.snapshot,
            replica=replica,
            freeze=self._work.makes_schema,
            listener=Listener(self._work.metrics.copy_bytes.inc, set_states),
        )
        stale = await transfer.copy(jobs)
        await keeper.release()
        copied.close()
        if stale:
            log.warning("tables changed during the copy: they come again", tables=[str(name) for name in sorted(stale)])

    async def _mark_split(self, names: Sequence[TableName]) -> None:
        """A table that several transactions copy is *copying* before the first: so the next round empties it."""
        if names:
            async with control.under_epoch(self._work.target, self._work.epoch):
                await control.set_table_states(self._work.target, names, TableState.COPYING)
        self._work.show(dict.fromkeys(names, TableState.COPYING))


def _pending(table: PublishedTable, lsn: Lsn, shape: Shape | None) -> TableRecord:
    return TableRecord(table.table, table.oid, TableState.PENDING, table.insert_only, lsn, shape=shape)


async def make_keys(work: Work, copied: CopiedTables, published: Sequence[PublishedTable]) -> None:
    """Make the keys of tables as they are copied, until there will be no more of them."""
    if work.makes_schema and work.migration.phase is not Phase.BOOTSTRAP:
        schemas = await app_schemas(work.source, work.settings)
        waiting = [table for table in published if work.states.get(table.table) is not TableState.READY]
        parts = {name for table in waiting for name in (table.table, *(part.table for part in table.parts))}
        await leave_names(work.source, work.target, work.epoch, schemas, parts)
    statements = by_table(await control.read_keys(work.target), published)
    maker = KeyMaker(
        work.settings, work.epoch, statements, lambda names: work.show(dict.fromkeys(names, TableState.READY))
    )
    await maker.run(copied)
