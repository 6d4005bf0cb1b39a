"""The steps that need both sides: from the fence until it is permanent and everything before it is on the target.

Why nothing can be lost: when the fence's transaction commits, no write is in flight, for it has waited for all of them.
The first marker drains what came before. At the second, and once more when the fence becomes permanent, the tables, the
triggers and the function are what they were right after that commit, and the deadline is ahead: so no write can have
passed, not even between the markers.
"""

import time
from dataclasses import dataclass, field
from typing import Any, Final

from replicator import control
from replicator.config import Settings
from replicator.control import Migration
from replicator.cutover import finish
from replicator.cutover.drain import Marker, require_worker, wait_applied, write_marker
from replicator.cutover.fence import fence_patiently
from replicator.cutover.followed import definitions
from replicator.cutover.plan import UNDOABLE, Step
from replicator.cutover.preflight import Survey, inventory, migrated, survey
from replicator.cutover.report import Report
from replicator.cutover.sequences import Value, align, copy_values
from replicator.cutover.sides import on
from replicator.cutover.unsent import look_at_unsent
from replicator.errors import CutoverError, Side
from replicator.model import Phase
from replicator.postgres import Connection, endpoint
from replicator.source import fence as barrier
from replicator.source.fence import Fence
from replicator.source.writes import wait_until_reported

_READY_SHARE: Final = 0.5
"""Of the fence's time, that the worker may be behind before the fence is raised."""

Detail = dict[str, Any]


@dataclass(slots=True)
class Switch:
    """One process's attempt; what it knows of the fence is lost with it, and then made anew."""

    settings: Settings
    migration: Migration
    source: Connection
    target: Connection
    report: Report
    omit_failing: bool
    survey: Survey = field(default_factory=Survey)
    drain_seconds: float | None = None
    _fence: Fence | None = None
    _values: dict[int, Value] = field(default_factory=dict)

    @property
    def _destination(self) -> str:
        return endpoint(self.settings.target)

    async def prepare(self) -> None:
        """Find what stands in the way, and get everything ready that can be ready before the fence."""
        await self.examine()
        with on(Side.TARGET, "filling materialized views"):
            views = await finish.empty_views(self.target)
            failures = await finish.fill(self.target, views)
        for line in failures:
            self.report(f"not filled yet: {line}")
        if views:
            await self.examine()  # that may have taken minutes
        with on(Side.SOURCE, "preparing the fence"):
            await barrier.prepare(self.source, self.migration.id)
        with on(Side.TARGET, "recording the phase"):
            await control.set_phase(self.target, Phase.CUTOVER)

    async def examine(self) -> None:
        """Raise CutoverError if anything stands in the way; measure how far behind the worker is. Changes nothing."""
        await require_worker(self.target, self.settings.lease_timeout)
        self.survey = await survey(
            self.settings, self.migration, self.source, self.target, omit_failing=self.omit_failing
        )
        self.survey.require_clear()
        self.drain_seconds = await self._drain(self.settings.cutover_timeout * _READY_SHARE)
        fenced = len(self.survey.fenced)
        self.report(f"ready: the worker is {self.drain_seconds:.2f} s behind; {fenced} tables to close for writes")

    async def do(self, step: Step) -> Detail:
        """Do one step and return what to record of it."""
        match step:
            case Step.FENCE:
                return await self._raise()
            case Step.DRAIN:
                return {"seconds": await self._drain(self._time_left())}
            case Step.SEQUENCES:
                await self._copy_sequences()
                return {"sequences": len(self._values)}
            case Step.CONFIRM:
                return await self._confirm()
            case Step.POINT_OF_NO_RETURN:
                return {"left_out": self.survey.left_out, "omitted": self.survey.omitted}
            case Step.SEAL:
                return await self._seal()
            case _:
                raise AssertionError(step)

    # --- before the point of no return --------------------------------------------------------------------------------

    async def _raise(self) -> Detail:
        before = (await control.read_steps(self.target)).get(Step.FENCE.recorded_name)
        await control.forget_steps(self.target, [step.recorded_name for step in UNDOABLE])
        with on(Side.SOURCE, "raising the fence"):
            self._fence = await self._fence_all(self.settings.cutover_timeout)
        began = await self._target_time() - (time.monotonic() - self._fence.raised_at)
        lifts_at = began + self.settings.cutover_timeout
        if before is not None and began < before["lifts_at"]:
            began = before["began"]  # the fence of a process that died was still up: the app has waited since then
        self.report(f"fenced: writes on the source are refused for {self.settings.cutover_timeout:g} s at most")
        return {"began": began, "lifts_at": lifts_at}

    async def _fence_all(self, lifts_after: float | None) -> Fence:
        return await fence_patiently(
            self.source,
            self.survey.fenced,
            destination=self._destination,
            lifts_after=lifts_after,
            lock_timeout=self.settings.lock_timeout,
            patience=self.settings.cutover_timeout,
            report=self.report,
        )

    async def _confirm(self) -> Detail:
        """The second marker, and the proof that nothing lies between the two."""
        if any(table.insert_only for table in self.survey.published):
            with on(Side.SOURCE, "waiting for statistics"):
                await wait_until_reported(self.source)
        marker = await write_marker(self.source)
        now = await inventory(self.settings, self.migration, self.source, self.target)
        if not self.omit_failing:
            now.obstacles.extend(await look_at_unsent(self.migration, now.published, self.source, self.target))
        now.require_clear()
        self.survey.published, self.survey.sequences = now.published, now.sequences
        self.survey.left_out = list(dict.fromkeys([*self.survey.left_out, *now.left_out]))
        seconds = await self._wait(marker, self._time_left())
        await self._copy_sequences()
        if reason := await self._breach():
            raise CutoverError(f"{reason}, so that writes may have passed after the drain")
        if await definitions(self.settings, self.source) != self.survey.definitions:  # as late as can be
            raise CutoverError(
                "the source's schema has changed since the cutover looked at it",
                hint="Run `replicator cutover` again: it looks anew.",
                side=Side.SOURCE,
            )
        return {"seconds": seconds}

    async def _breach(self) -> str | None:
        if self._fence is None:
            return "there is no fence"
        with on(Side.SOURCE, "looking at the fence"):
            return await barrier.breach(self.source, self._fence, migrated(self.survey.published))

    def _time_left(self) -> float:
        if self._fence is None:
            return 0
        return self.settings.cutover_timeout - (time.monotonic() - self._fence.raised_at)

    # --- after it -----------------------------------------------------------------------------------------------------

    async def _seal(self) -> Detail:
        """Make the fence permanent. If it may have let a write pass before that, fence and drain once more."""
        reason = "another process raised the fence"
        if self._fence is None:
            # the fence of that process may be open since long: as before the first one, nothing may stand in the way
            await self.examine()
        else:
            tables = migrated(self.survey.published)
            with on(Side.SOURCE, "making the fence permanent"):
                reason = await barrier.seal(self.source, self._fence, tables, self._destination) or ""
        if reason:
            self.report(f"{reason}: fencing and draining once more")
            await self._seal_anew()
        return {"again": reason}

    async def _seal_anew(self) -> None:
        """From an unknown state: a fence that never lifts itself, everything before it drained, sequences read anew."""
        self.survey = await inventory(self.settings, self.migration, self.source, self.target)
        self.survey.require_clear()
        with on(Side.SOURCE, "raising the fence"):
            await barrier.prepare(self.source, self.migration.id)
            self._fence = await self._fence_all(None)
        await self._drain(self.settings.cutover_timeout)
        self._values = {}
        await self._copy_sequences()

    # --- both ---------------------------------------------------------------------------------------------------------

    async def _drain(self, patience: float) -> float:
        return await self._wait(await write_marker(self.source), patience)

    async def _wait(self, marker: Marker, patience: float) -> float:
        return await wait_applied(self.target, marker, patience=patience, lease_timeout=self.settings.lease_timeout)

    async def _copy_sequences(self) -> None:
        found = self.survey.sequences
        altered = await align(self.target, found)
        known = {oid: value for oid, value in self._values.items() if oid not in altered}
        self._values = await copy_values(self.source, self.target, found.pairs, known)

    async def _target_time(self) -> float:
        """Seconds since 1970 by the target's clock."""
        cursor = await self.target.execute("SELECT extract(epoch FROM pg_catalog.clock_timestamp())::float8")
        row = await cursor.fetchone()
        return float(row[0]) if row else 0.0
