"""`replicator demo`: two servers, a live app, the whole migration, and a comparison row by row.

servers → app and its writers → check → worker: copy, stream → cutover → compare → write on the target
"""

import asyncio
import contextlib
import time
from collections.abc import AsyncGenerator, AsyncIterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import psycopg
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource

from replicator import control, postgres
from replicator.check import Severity, check
from replicator.config import Settings
from replicator.cutover import CutoverReport, cutover
from replicator.demo import installation
from replicator.demo.app import WRITERS, count_rows, create_app
from replicator.demo.judge import Outcome, judge
from replicator.demo.progress import Progress
from replicator.demo.report import Copied, DemoReport, KeptServer, LagSample, render
from replicator.demo.roles import render_like, supabase_like
from replicator.demo.servers import Server
from replicator.demo.worker import Worker, running_worker
from replicator.demo.writers import Journal, Writers
from replicator.errors import DemoError, ReplicatorError, Side
from replicator.model import KeylessPolicy, Phase
from replicator.status import Status, StatusReader
from replicator.terminal import console

_DATABASE: Final = "app"
_SAMPLE: Final = 0.25
"""Seconds between two readings of the status."""

_CAUGHT_UP: Final = 1.0
"""Seconds of lag that count as near zero while writes go on."""

_PATIENCE: Final = 120.0
"""Seconds for the copy, for catching up, and for the app to meet the fence; later than that something is wrong."""


@dataclass(frozen=True, slots=True)
class DemoOptions:
    """``seconds`` of streaming, ``rate`` transactions a second, ``rows`` to begin with; ``json``: print no report."""

    seconds: float = 15
    rate: float = 200
    rows: int = 50_000
    keep: bool = False
    json: bool = False


async def run_demo(options: DemoOptions) -> DemoReport:
    """Run the whole migration and return what came of it; an error on the way is one of its problems.

    Everything that it starts is stopped when it ends or is cancelled, the servers under ``keep`` aside.
    """
    with Progress() as progress:
        async with _servers(progress, keep=options.keep) as servers:
            try:
                report = await _migrate(options, servers, progress)
            except ReplicatorError as error:
                report = DemoReport((f"{error} — {error.hint}",))
            except psycopg.Error as error:
                report = DemoReport((f"the sample app: {postgres.describe(error)}",))
    report = replace(report, servers=servers.title, kept=servers.kept() if options.keep else ())
    if not options.json:
        console().print(render(report))
    return report


# --- the two servers --------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Servers:
    title: str
    source: Server
    target: Server
    source_dsn: str
    target_dsn: str

    @property
    def worker_log(self) -> Path:
        return self.source.folder / "replicator.log"

    def kept(self) -> tuple[KeptServer, ...]:
        both = (("source", self.source, self.source_dsn), ("target", self.target, self.target_dsn))
        return tuple(
            KeptServer(side, dsn, server.pid, str(server.folder))
            for side, server, dsn in both
            if server.pid is not None
        )


@contextlib.asynccontextmanager
async def _servers(progress: Progress, *, keep: bool) -> AsyncIterator[_Servers]:
    progress.doing("starting two PostgreSQL servers")
    pair = installation.find_pair()
    # started in threads: where we are cancelled meanwhile, the servers' guards remove them
    source, target = await asyncio.gather(
        asyncio.to_thread(_start, pair.source, "supabase_admin"), asyncio.to_thread(_start, pair.target, "render_admin")
    )
    try:
        title = f"PostgreSQL {pair.source.major} as on Supabase → PostgreSQL {pair.target.major} as on Render"
        progress.done(title if pair.note is None else f"{title} ({pair.note})")
        yield _Servers(title, source, target, supabase_like(source, _DATABASE), render_like(target, _DATABASE))
    finally:
        for server in (source, target):
            server.detach() if keep else server.remove()


def _start(found: installation.Installation, superuser: str) -> Server:
    return Server(found, superuser=superuser).__enter__()


class _OwnSettings(Settings):
    """What is said here, whatever the environment says: these servers are the demo's."""

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],  # the library's signature
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Nothing but the arguments."""
        return (init_settings,)


def _settings(servers: _Servers) -> Settings:
    return _OwnSettings.model_validate(
        {
            "SOURCE_DATABASE_URL": servers.source_dsn,
            "TARGET_DATABASE_URL": servers.target_dsn,
            # the app updates and deletes in a table without a key
            "keyless": KeylessPolicy.FULL,
            "status_interval": _SAMPLE,
            "http_port": 0,
            # should we be killed, the worker does not look for its servers for ever
            "retry_timeout": 60,
            "log_format": "json",
        }
    )


# --- the migration ----------------------------------------------------------------------------------------------------


async def _migrate(options: DemoOptions, servers: _Servers, progress: Progress) -> DemoReport:
    settings = _settings(servers)
    progress.doing("creating the sample app")
    await create_app(servers.source_dsn, options.rows)
    rows = await count_rows(servers.source_dsn)
    progress.done(f"the sample app: {rows:,} rows; {WRITERS} writers at {options.rate:g} transactions/s")
    writers = Writers(servers.source_dsn, options.rate)
    async with writers.at_work() as journal:
        await _check(settings, progress)
        async with running_worker(settings, servers.worker_log) as worker:
            watch = _Watch(settings, worker, journal, progress)
            copied = await watch.bootstrap()
            lag = await watch.stream(options.seconds)
            switched = await _cut_over(settings, journal, progress)
            await writers.ended(_PATIENCE)
            exit_code = await worker.stop()
    progress.doing("comparing both sides row by row")
    outcome = Outcome(servers.source_dsn, servers.target_dsn, journal, switched, exit_code)
    report = await judge(outcome)
    progress.done(f"compared {report.rows:,} rows on each side, one by one")
    return replace(report, copied=copied, lag=lag)


async def _check(settings: Settings, progress: Progress) -> None:
    progress.doing("check")
    blocked = [finding for finding in await check(settings) if finding.severity is Severity.BLOCKED]
    if blocked:
        raise DemoError(f"check: {blocked[0].message}", side=blocked[0].side, hint=blocked[0].remedy)
    progress.done(f"check: ready, with REPLICATOR_KEYLESS={settings.keyless.value} for the app's table without a key")


async def _cut_over(settings: Settings, journal: Journal, progress: Progress) -> CutoverReport:
    before = journal.committed
    report = await cutover(settings, lambda line: progress.doing(f"cutover: {line}"))
    progress.done(
        f"cutover: {report.downtime_seconds or 0:.2f} s of downtime, after {before:,} transactions of the app"
    )
    return report


# --- watching the worker ----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Watch:
    """Reads the status again and again, shows it, and fails when the worker ends or takes too long."""

    settings: Settings
    worker: Worker
    journal: Journal
    progress: Progress

    async def bootstrap(self) -> Copied:
        """Wait until the worker streams."""
        began = time.monotonic()
        async with contextlib.aclosing(self._readings(_PATIENCE, "begin to stream")) as readings:
            async for status in readings:
                if status.phase is Phase.STREAMING:
                    break
                self._show(f"copying: {status.tables_copied} of {status.tables_total} tables")
        copied = await _copied(self.settings, time.monotonic() - began)
        self.progress.done(f"copied {copied}")
        return copied

    async def stream(self, seconds: float) -> tuple[LagSample, ...]:
        """Watch the lag for that long, and then until it is near zero."""
        began = time.monotonic()
        samples: list[LagSample] = []
        async with contextlib.aclosing(self._readings(seconds + _PATIENCE, "catch up")) as readings:
            async for status in readings:
                sample = LagSample(time.monotonic() - began, status.lag.bytes, status.lag.seconds)
                samples.append(sample)
                self._show(f"streaming: {sample.elapsed:.0f} of {seconds:g} s, {sample}")
                if sample.elapsed >= seconds and sample.seconds is not None and sample.seconds <= _CAUGHT_UP:
                    break
        self.progress.done(f"streamed for {sample.elapsed:.0f} s, {sample}")
        return tuple(samples)

    def _show(self, text: str) -> None:
        self.progress.doing(f"{text}; {self.journal.committed:,} transactions committed by the app")

    async def _readings(self, patience: float, wanted: str) -> AsyncGenerator[Status]:
        deadline = time.monotonic() + patience
        async with StatusReader(self.settings) as reader:
            while time.monotonic() < deadline:
                self.worker.assert_running()
                yield await reader.read()
                await asyncio.sleep(_SAMPLE)
        raise DemoError(f"the worker did not {wanted} within {patience:g} s")


async def _copied(settings: Settings, seconds: float) -> Copied:
    async with await postgres.connect(settings.target, Side.TARGET, "demo") as target:
        records = (await control.read_tables(target)).values()
    return Copied(sum(record.rows or 0 for record in records), sum(record.bytes or 0 for record in records), seconds)
