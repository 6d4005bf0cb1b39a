"""From nothing, or from any interruption, to tables that are ready to be streamed into.

Everything that is done is recorded on the target in the transaction that did it (law 8), so each run goes on where
the last one ended: tables that are copied stay, the others come again in a round with a snapshot of its own.
"""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from uuid import UUID

import structlog

from bootstrap.bodies import rename_views
from bootstrap.fingerprint import Fingerprint, read_app, read_ours
from bootstrap.following import follow, publish
from bootstrap.indexes import rename_indexes
from bootstrap.keys import ANALYZE_STEP, CopiedTables, analyze_roots, make_rest
from bootstrap.leaving import note_left
from bootstrap.making import waited_for
from bootstrap.names import follow_names
from bootstrap.parallel import run_all
from bootstrap.passing import pass_over
from bootstrap.refresh import FOLLOWED_STEP, note_rest
from bootstrap.rounds import Round, make_keys
from bootstrap.schema import STEP as SCHEMA_STEP
from bootstrap.schema import app_schemas
from bootstrap.start import begin
from bootstrap.unlogged import make_unlogged
from bootstrap.work import Copying, Work, needing_round
from monitoring.metrics import Metrics
from replicator import control
from replicator.catalog import PublishedTable
from replicator.config import Settings
from replicator.control import TableRecord
from replicator.errors import Side, TargetError
from replicator.model import Phase, TableName, TableState
from replicator.postgres import connected, reporting

log = structlog.get_logger(__name__)


async def bootstrap(settings: Settings, epoch: UUID, metrics: Metrics, copying: Copying = nullcontext) -> Fingerprint:
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
            work = Work(settings, epoch, metrics, source, target, migration, copying)
            return await Bootstrap(work).run(is_new=is_new, app=app)


class Bootstrap:
    """Rounds until nothing is left to copy, then what needs several tables' keys."""

    def __init__(self, work: Work) -> None:
        self._work = work

    async def run(self, *, is_new: bool, app: str) -> Fingerprint:
        """Do what is left. ``is_new``: there is no progress yet, so the first round makes the main slot.

        ``app`` is the app's part of the source's fingerprint, from before the publications were made.
        """
        plan = None
        if self._work.migration.owns_publications and not is_new:
            await publish(self._work)
        seen = Fingerprint(app, await read_ours(self._work.source, self._work.migration))
        if is_new:
            await Round(self._work).run(is_main=True)
        with self._refusals():
            if not is_new:
                plan = await follow(self._work, app)
            while await self._is_unfinished():
                await Round(self._work).run(is_main=False)
            if plan is not None:
                await make_unlogged(self._work)
        await pass_over(self._work.target, self._work.epoch)
        if self._work.makes_schema:
            schemas = await app_schemas(self._work.source, self._work.settings)
            await rename_views(self._work.source, self._work.target, self._work.epoch, schemas)
            await rename_indexes(self._work.source, self._work.target, self._work.epoch, schemas)
        if plan is not None:
            renews = self._work.migration.phase is not Phase.CUTOVER
            await note_rest(
                self._work.settings, self._work.source, self._work.target, self._work.epoch, plan, renews=renews
            )
        if self._work.migration.phase is Phase.BOOTSTRAP:
            await make_rest(self._work.target, self._work.epoch)
        await control.record_step(self._work.target, FOLLOWED_STEP, {"fingerprint": app})
        if ANALYZE_STEP not in await control.read_steps(self._work.target):
            await analyze_roots(self._work.target, self._work.epoch)
        log.info("all tables are ready", tables=len(self._work.states))
        return seen

    @contextmanager
    def _refusals(self) -> Iterator[None]:
        """What the target refuses is waited for once the stream has begun: before, somebody looks on."""
        try:
            yield
        except TargetError as error:
            if type(error) is not TargetError or self._work.migration.phase is Phase.BOOTSTRAP:
                raise
            raise waited_for(error) from None

    async def _is_unfinished(self) -> bool:
        """Whether a table needs a round, once those that are copied already are ready."""
        published = await self._work.published(self._work.source)
        if self._work.makes_schema:
            await follow_names(
                self._work.settings,
                self._work.source,
                self._work.target,
                self._work.epoch,
                published=published,
                publications=self._work.migration.publications,
            )
        records = await self._work.known(published)
        await self._forget_vanished(published, records)
        self._work.show({name: record.state for name, record in records.items()})
        waiting = needing_round(published, records)
        steps = await control.read_steps(self._work.target)
        schema_lacks = self._work.makes_schema and SCHEMA_STEP not in steps
        if waiting or schema_lacks:
            return True
        if copied := [t for t in published if records[t.table].state is TableState.COPIED]:
            queue = CopiedTables(copied)
            queue.close()
            await run_all([make_keys(self._work, queue, published)])
        return False

    async def _forget_vanished(
        self, published: Iterable[PublishedTable], records: Mapping[TableName, TableRecord]
    ) -> None:
        vanished = sorted(set(records) - {table.table for table in published})
        if vanished:
            log.warning("tables are not published any more", tables=[str(name) for name in vanished])
            async with control.under_epoch(self._work.target, self._work.epoch):
                await control.remove_tables(self._work.target, vanished)
                if self._work.makes_schema:
                    await note_left(self._work.target, vanished)
