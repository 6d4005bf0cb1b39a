"""Copying the tables of a round: jobs shared out over connections, tables told apart by how they ended."""

import time
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from uuid import UUID

import structlog

from bootstrap.binary import CopyFormat
from bootstrap.copy import Copied, Relay, TablesGoneError
from bootstrap.driver import return_freed_memory
from bootstrap.jobs import Job, Load, single_jobs
from bootstrap.parallel import run_all
from replicator.config import Settings
from replicator.model import TableName, TableState

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Listener:
    """Who hears of the progress: of every chunk's bytes, and of tables whose new state is recorded."""

    count_bytes: Callable[[int], None]
    set_states: Callable[[TableState, Sequence[TableName]], None]


@dataclass(slots=True)
class _Progress:
    """What the jobs of a round know of one another."""

    waiting: deque[Job]
    pieces_left: Counter[TableName]
    copied: defaultdict[TableName, Copied] = field(default_factory=lambda: defaultdict(Copied))
    stale: set[TableName] = field(default_factory=set)


@dataclass(frozen=True, slots=True)
class Transfer:
    """The copying of one round.

    ``snapshot`` is the keeper's. ``replica``: session_replication_role may be set. ``freeze``: the target's tables are
    our own, so that a large one may be truncated first and have its rows frozen.
    """

    settings: Settings
    epoch: UUID
    snapshot: str
    replica: bool
    freeze: bool
    listener: Listener

    async def copy(self, jobs: Sequence[Job]) -> frozenset[TableName]:
        """Copy, and return the tables that need another round: dropped, truncated or rewritten since the snapshot.

        Their places on the target must be empty, and a table in several jobs be recorded as *copying*.
        Raises CopyError, SnapshotLostError, FencedError, or what connecting raises.
        """
        loads = [load for job in jobs for load in job.loads]
        progress = _Progress(deque(jobs), Counter(load.table.table for load in loads))
        await run_all(self._work(progress) for _ in range(min(self.settings.copy_jobs, len(jobs))))
        return_freed_memory()
        return frozenset(progress.stale)

    async def _work(self, progress: _Progress) -> None:
        async with Relay.opened(
            self.settings.source,
            self.settings.target,
            self.epoch,
            replica=self.replica,
            count_bytes=self.listener.count_bytes,
        ) as relay:
            while progress.waiting:
                await self._run(relay, progress.waiting.popleft(), progress)

    async def _run(self, relay: Relay, job: Job, progress: _Progress) -> None:
        loads = [load for load in job.loads if load.table.table not in progress.stale]
        pieces = [piece for load in loads for piece in load.pieces]
        try:
            fresh = await relay.begin_source(self.snapshot, list(dict.fromkeys(piece.part for piece in pieces)))
        except TablesGoneError:
            self._split_up(job, progress)
            return
        usable = [load for load in loads if all(piece.part.oid in fresh for piece in load.pieces)]
        progress.stale.update(load.table.table for load in loads if load not in usable)
        if usable:
            await self._copy(relay, usable, progress)
        else:
            await relay.end_source()

    def _split_up(self, job: Job, progress: _Progress) -> None:
        """One table of a job is gone: which one shows when each is a job of its own."""
        if len(job.loads) == 1:
            progress.stale.add(job.loads[0].table.table)
        else:
            progress.waiting.extendleft(single_jobs(job))

    async def _copy(self, relay: Relay, loads: Sequence[Load], progress: _Progress) -> None:
        started = time.monotonic()
        if len(loads) == 1 and loads[0].whole:
            await self._announce(relay, loads[0].table.table)
        await relay.begin_target()
        freeze = self.freeze and len(loads) == 1 and _is_plain(loads[0])
        if freeze:
            await relay.truncate(loads[0].table.table)
        formats = await relay.formats_of(loads)
        copied = {load.table.table: await self._load(relay, load, formats, freeze=freeze) for load in loads}
        whole = {load.table.table: copied[load.table.table] for load in loads if load.whole}
        if whole:
            await relay.set_states(TableState.COPIED, whole)
        await relay.commit()
        _log(copied, time.monotonic() - started)
        await self._finish(relay, copied, whole, progress)

    async def _announce(self, relay: Relay, name: TableName) -> None:
        """Show a table as being copied; those in several jobs are so from the round's beginning."""
        await relay.set_states(TableState.COPYING, {name: None})
        self.listener.set_states(TableState.COPYING, [name])

    async def _load(self, relay: Relay, load: Load, formats: Mapping[int, CopyFormat], *, freeze: bool) -> Copied:
        copied = Copied()
        for piece in load.pieces:
            copied += await relay.copy(load.table, piece, freeze=freeze, how=formats[piece.part.oid])
        return copied

    async def _finish(
        self,
        relay: Relay,
        copied: Mapping[TableName, Copied],
        whole: Mapping[TableName, Copied],
        progress: _Progress,
    ) -> None:
        """Note what is committed; a table in several jobs is copied when the last of them is."""
        complete = list(whole)
        for name, amount in copied.items():
            progress.copied[name] += amount
            progress.pieces_left[name] -= 1
            if not progress.pieces_left[name] and name not in whole and name not in progress.stale:
                await relay.set_states(TableState.COPIED, {name: progress.copied[name]})
                complete.append(name)
        self.listener.set_states(TableState.COPIED, complete)


def _is_plain(load: Load) -> bool:
    """Whether it is the whole of a table that is its own only part."""
    return load.whole and [piece.part.table for piece in load.pieces] == [load.table.table]


def _log(copied: Mapping[TableName, Copied], seconds: float) -> None:
    total = sum(copied.values(), start=Copied())
    names = {"table": str(next(iter(copied)))} if len(copied) == 1 else {"tables": len(copied)}
    log.info("copied", **names, rows=total.rows, bytes=total.bytes, seconds=round(seconds, 3))
