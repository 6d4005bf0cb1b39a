"""One session of the worker: from the lease and a connection to whatever ends it.

It goes on from what the control tables say, and any error ends it whole. The next one reads progress anew (law 1), so
a lost answer, a restart or a failover needs no case of its own. Only an error that waits for the operator ends the
stream alone: the session tries again at a slow pace, while its pulse shows that it lives and how the lag grows.
"""

import asyncio
import contextlib
import re
import time
from collections.abc import AsyncIterator, Coroutine, Sequence
from typing import Any, Final

import psycopg
import structlog

from bootstrap import fingerprint
from bootstrap.evolve import Deploy, look
from bootstrap.keys import make_rest
from bootstrap.lost_keys import lost_keys_above
from bootstrap.run import bootstrap
from monitoring.health import Health
from monitoring.metrics import Metrics
from replicator import control
from replicator.apply.target import Target
from replicator.catalog import published_tables
from replicator.config import Settings
from replicator.control import Migration
from replicator.errors import (
    ApplyError,
    DivergenceError,
    ReplicatorError,
    SchemaMismatchError,
    Side,
    SourceError,
    TargetError,
)
from replicator.flow import Flow
from replicator.incoming import Incoming
from replicator.lag import LagTracker
from replicator.lease import Lease
from replicator.lsn import INVALID, Lsn, format_lsn
from replicator.model import Phase, TableName
from replicator.postgres import Connection, connected, reporting, translate
from replicator.pulse import Counters, Pulse
from replicator.source.slot import read_wal_end
from replicator.spool.run import Spooling

log = structlog.get_logger(__name__)

_REFUSALS: Final = [
    kind.__name__
    for kind in (psycopg.errors.CheckViolation, psycopg.errors.UniqueViolation, psycopg.errors.ExclusionViolation)
]
"""What a key or CHECK that only the target has may say; deferrable ones say it at the commit."""


class Session:
    """Bootstraps, then streams, with a beating pulse beside it."""

    def __init__(
        self, settings: Settings, metrics: Metrics, health: Health, *, lag: LagTracker, lease: Lease, source: Connection
    ) -> None:
        self._settings = settings
        self._metrics = metrics
        self._lease = lease
        self._source = source
        self._counters = Counters()
        self._finished = asyncio.Event()
        self._health = health
        self._pulse = Pulse(lease, source, metrics, health, self._counters, self._finished, lag)
        self._incoming = Incoming(settings, lease, source, self._pulse)
        self._spooling = Spooling(settings, lease, source, self._incoming, metrics, self._counters, lag)
        self._refused = INVALID
        self._known_at = INVALID
        self._seen: fingerprint.Fingerprint | None = None
        self._followed: object = None

    async def run(self, *, stream: bool) -> None:
        """Work until the migration is done, or, with ``stream`` False, bootstrapped. Keeps an error for `status`."""
        try:
            await _first_of(self._work(stream=stream), self._pulse.run(self._settings.status_interval))
        except psycopg.Error as error:
            raise translate(error, Side.TARGET, "working on the migration") from None
        except ReplicatorError as error:
            await self._record(error)
            raise

    async def _work(self, *, stream: bool) -> None:
        while not self._finished.is_set():
            try:
                self._known_at = await self._wal_end()
                await self._spooling.beside(self._bootstrap())
                if not stream:
                    return await self._recovered()
                await self._stream_until_finished()
            except ReplicatorError as error:
                if self._incoming.may_go_on_after(error):
                    continue
                if not (error.waits_for_operator and stream and await self._is_beyond_bootstrap()):
                    raise
                if not await self._may_follow(error):
                    await self._wait(error)

    async def _bootstrap(self) -> None:
        self._seen = await bootstrap(self._settings, self._lease.epoch, self._metrics, self._spooling.window.open)

    async def _may_follow(self, error: ReplicatorError) -> bool:
        """Whether the bootstrap can make the target fit; if not, the error tells the statements that do."""
        deploy = await self._look()
        # a missing place may come with what a look at the columns does not tell, a table's new name: tried once
        if self._followed != (error.what, deploy.columns, deploy.labels) and (
            deploy.is_due() or isinstance(error, SchemaMismatchError)
        ):
            self._followed = (error.what, deploy.columns, deploy.labels)
            return True
        sent = error.sent if isinstance(error, SchemaMismatchError) else None
        oid = None if sent is None else sent.oid
        if (sent or isinstance(error, ApplyError)) and (remedies := deploy.remedies(oid, sent)):
            error.hint = _to_run(remedies)
        is_refused = isinstance(error, DivergenceError) or any(name in error.message for name in _REFUSALS)
        if is_refused and (remedies := await self._lost_keys(error)):
            error.hint = _to_run(remedies)
        return False

    async def _lost_keys(self, error: ReplicatorError) -> list[str]:
        """What drops the keys and CHECKs that the source has no more from the table of an error."""
        async with connected(self._settings.target, Side.TARGET, "worker schema") as target:
            with reporting(Side.SOURCE, "comparing the keys of both sides", SourceError):
                found = await lost_keys_above(self._source, target)
        return [statement for table, drops in found.items() if _names(error, table) for statement in drops]

    async def _look(self) -> Deploy:
        migration = await control.read_migration(self._lease.connection)
        async with connected(self._settings.target, Side.TARGET, "worker schema") as target:
            with reporting(Side.SOURCE, "comparing the tables of both sides", SourceError):
                published = await published_tables(self._source, migration.publications if migration else ())
                publications = migration.publications if migration else ()
                return await look(self._settings, self._source, target, published, publications)

    async def _is_beyond_bootstrap(self) -> bool:
        """Before the first stream, an error is a mistake of the set-up, and somebody looks on."""
        migration = await control.read_migration(self._lease.connection)
        return migration is not None and migration.phase is not Phase.BOOTSTRAP

    async def _wait(self, error: ReplicatorError) -> None:
        """Say once what is needed (law 4), and let time pass before the next attempt. The stream is closed."""
        self._metrics.count_error(error)
        await self._record(error)
        if self._health.waits_for != error.what:
            if isinstance(error, DivergenceError):
                self._metrics.divergences.inc()
            log.error("waiting until the target takes the change", reason=error.message, remedy=error.hint)
        self._health.waits_for = error.what
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._finished.wait(), self._settings.recheck_interval)

    async def _record(self, error: ReplicatorError) -> None:
        with contextlib.suppress(psycopg.Error):
            await control.record_error(self._lease.connection, _told(error))

    async def _recovered(self) -> None:
        await control.record_error(self._lease.connection, None)
        if self._health.waits_for is not None:
            log.info("the target takes the change: going on")
        self._health.waits_for = None

    async def _stream_until_finished(self) -> None:
        migration = await control.read_migration(self._lease.connection)
        if migration is None:
            raise ReplicatorError("no migration is recorded after the bootstrap")
        if migration.phase is Phase.BOOTSTRAP:
            await control.set_phase(self._lease.connection, Phase.STREAMING)
        if await self._spooling.is_used():
            await self._drain()
        async with self._flow(migration) as flow:
            watch = self._watch(migration, max(flow.progress, self._refused))
            try:
                await _first_of(flow.run(self._settings.status_interval), self._finished.wait(), watch)
            finally:
                self._refused = flow.taken

    async def _watch(self, migration: Migration, place: Lsn) -> None:
        """Forget the last error once progress has passed its place. Ends when the bootstrap has something to follow."""
        recovered, unmade = False, bool(await control.read_keys(self._lease.connection))
        lags_behind, end = bool((await self._look()).changed), await self._wal_end()
        looked_at = rechecked_at = time.monotonic()
        while True:
            await asyncio.sleep(self._settings.status_interval)
            now, progress = time.monotonic(), self._counters.progress
            if not recovered and (progress > place or progress >= self._known_at):
                await self._recovered()
                recovered = True
            if unmade and progress >= end:
                # not before: rows that the source had until then may contradict a new unique index
                if await self._make_rest():
                    return
                unmade = False
            if now - looked_at >= self._settings.schema_interval:
                looked_at = now
                if await fingerprint.read(self._settings, self._source, migration) != self._seen:
                    log.info("the source's schema has changed")
                    return
            if lags_behind and now - rechecked_at >= self._settings.recheck_interval:
                rechecked_at = now
                if (await self._look()).is_due():
                    return

    async def _make_rest(self) -> bool:
        """Make the indexes and the like of later deploys, beside the stream. False, and a word about it, if refused."""
        try:
            async with connected(self._settings.target, Side.TARGET, "worker index") as target:
                await make_rest(target, self._lease.epoch, may_wait={"VIEW"})
        except TargetError as error:
            log.warning("not made yet, comes with the next start of the stream", reason=error.message)
            return False
        return True

    async def _wal_end(self) -> Lsn:
        try:
            return await read_wal_end(self._source)
        except psycopg.Error as error:
            raise translate(error, Side.SOURCE, "reading the end of the WAL") from None

    async def _drain(self) -> None:
        """Apply what was spooled during the copy, while what comes meanwhile is spooled, if it has to wait for that."""

        def taken(lsn: Lsn) -> None:
            self._refused = lsn

        await _first_of(self._spooling.drain(self._known_at, taken), self._finished.wait())

    @contextlib.asynccontextmanager
    async def _flow(self, migration: Migration) -> AsyncIterator[Flow]:
        target = await Target.open(self._settings.target, self._lease.epoch, self._known_at)
        async with contextlib.AsyncExitStack() as stack:
            stack.push_async_callback(target.close)
            stream = await stack.enter_async_context(self._incoming.open(migration, lambda: target.progress))
            log.info("streaming", slot=migration.slot, from_lsn=format_lsn(target.progress))
            yield Flow(stream, target, self._metrics, self._counters, self._pulse.lag)


def _names(error: ReplicatorError, table: TableName) -> bool:
    return re.search(re.escape(str(table)) + r"(?![\w$])", error.message) is not None


def _to_run(statements: Sequence[str]) -> str:
    return f"Run on the target: {'; '.join(statements)}; the worker goes on by itself then."


def _told(error: ReplicatorError) -> dict[str, Any]:
    return {"side": error.side.value, "message": error.message, "hint": error.hint, "retryable": error.retryable}


async def _first_of(*works: Coroutine[Any, Any, Any]) -> None:
    """Run all until the first ends, cancel the others, and raise what ended it."""
    tasks = [asyncio.create_task(work) for work in works]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    for task in done:
        task.result()
