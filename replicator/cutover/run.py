"""`replicator cutover`: does the steps of the plan, records each, and takes back what may be taken back."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Coroutine, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import structlog

from replicator import control
from replicator.config import Settings
from replicator.control import Deferred, Migration
from replicator.cutover import finish, schema
from replicator.cutover.obstacle import ObstructedError
from replicator.cutover.plan import UNDOABLE, Step, may_undo, recorded, remaining
from replicator.cutover.report import CutoverReport, Report, StepTime
from replicator.cutover.sides import on
from replicator.cutover.switch import Detail, Switch
from replicator.cutover.undo import forget, lift, take_back
from replicator.errors import CutoverError, ReplicatorError, Side
from replicator.exclusive import only_command
from replicator.model import KeylessPolicy, Phase, SchemaMode
from replicator.postgres import Connection, connected

log = structlog.get_logger(__name__)

_PURPOSE: Final = "cutover"

_TO_THE_SOURCE: Final = (
    "To go back, point the app at the source and run `replicator cleanup`, which opens it for writes; "
    "what was written to the target stays there."
)


async def cutover(
    settings: Settings, report: Report, *, omit_failing: bool = False, rehearse: bool = False
) -> CutoverReport:
    """Switch from the source to the target, or go on with a switch that was interrupted.

    With ``rehearse``, do everything up to the fence and change nothing. With ``omit_failing``, leave out what the
    target refuses. Raises ReplicatorError; its message says whether writes on the source are open.
    """
    async with _opened(settings) as (migration, target):
        if rehearse and migration.phase is Phase.DONE:
            raise CutoverError(
                "the cutover is done: there is nothing to rehearse",
                hint="Run `replicator cleanup` when the new database has settled.",
                side=Side.TARGET,
            )
        run = _Run(_as_recorded(settings, migration), migration, target, report, omit_failing)
        return await (run.rehearse() if rehearse else run.run())


async def abort(settings: Settings) -> None:
    """Lift the fence and go on streaming, before the point of no return. Raises CutoverError after it."""
    async with _opened(settings) as (migration, target):
        if not may_undo(recorded(await control.read_steps(target))):
            raise CutoverError(
                "the cutover has passed its point of no return: the target may have been written to",
                hint=_TO_THE_SOURCE
                if migration.phase is Phase.DONE
                else "Run `replicator cutover` again: it goes on where it stopped.",
                side=Side.TARGET,
            )
        await lift(settings, migration)
        await forget(settings)


@contextlib.asynccontextmanager
async def _opened(settings: Settings) -> AsyncIterator[tuple[Migration, Connection]]:
    async with connected(settings.target, Side.TARGET, _PURPOSE) as target:
        with on(Side.TARGET, "reading the control tables"):
            migration = await control.read_migration(target) if await control.exists(target) else None
        if migration is None or migration.phase is Phase.BOOTSTRAP:
            raise CutoverError(
                "there is no migration that streams on this target",
                hint="Start `replicator run`, and wait until `replicator status` says that it streams.",
                side=Side.TARGET,
            )
        async with only_command(target):
            yield migration, target


def _as_recorded(settings: Settings, migration: Migration) -> Settings:
    """With what shapes the migration as its worker has it: this command may run where those variables are not set."""
    shape = migration.settings
    return settings.model_copy(
        update={
            "schema_mode": SchemaMode(shape.get("REPLICATOR_SCHEMA", settings.schema_mode)),
            "keyless": KeylessPolicy(shape.get("REPLICATOR_KEYLESS", settings.keyless)),
            "exclude_schemas": tuple(filter(None, shape["REPLICATOR_EXCLUDE_SCHEMAS"].split(",")))
            if "REPLICATOR_EXCLUDE_SCHEMAS" in shape
            else settings.exclude_schemas,
        }
    )


@dataclass(slots=True)
class _Run:
    settings: Settings
    migration: Migration
    target: Connection
    report: Report
    omit_failing: bool
    times: list[StepTime] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)
    unfinished: list[str] = field(default_factory=list)
    drain_seconds: float | None = None
    sequences: int = 0

    async def rehearse(self) -> CutoverReport:
        async with connected(self.settings.source, Side.SOURCE, _PURPOSE) as source:
            switch = self._switch(source)
            await switch.examine()
        self._learn(switch)
        return await self._told(rehearsed=True)

    async def run(self) -> CutoverReport:
        done = recorded(await self._steps())
        steps = list(remaining(done))
        if Step.SEAL in steps:
            async with connected(self.settings.source, Side.SOURCE, _PURPOSE) as source:
                await self._switch_over(self._switch(source), steps)
        with _beyond_return():
            for step in steps[steps.index(Step.SEAL) + 1 :] if Step.SEAL in steps else steps:
                await self._do(step, self._finish(step))
        self.report(
            "the slot still keeps WAL on the source: run `replicator cleanup` when the new database has settled"
        )
        return await self._told(rehearsed=False)

    def _switch(self, source: Connection) -> Switch:
        return Switch(self.settings, self.migration, source, self.target, self.report, self.omit_failing)

    def _learn(self, switch: Switch) -> None:
        self.drain_seconds = switch.drain_seconds
        self.sequences = len(switch.survey.sequences.pairs)
        self.left_out.extend(switch.survey.left_out)

    # --- both sides ---------------------------------------------------------------------------------------------------

    async def _switch_over(self, switch: Switch, steps: Iterable[Step]) -> None:
        early = [step for step in steps if step in (*UNDOABLE, Step.POINT_OF_NO_RETURN)]
        if early:
            try:
                await switch.prepare()
                for step in early:
                    await self._do(step, switch.do(step))
            except BaseException as error:
                await self._take_back(error, committing=Step.CONFIRM.value in {item.step for item in self.times})
                raise
        with _beyond_return():
            await self._do(Step.SEAL, switch.do(Step.SEAL))
        self._learn(switch)

    async def _take_back(self, error: BaseException, *, committing: bool) -> None:
        """Undo, whatever interrupts us meanwhile, and tell the outcome with the error."""
        outcome = await _uninterrupted(take_back(self.settings, self.migration, committing=committing))
        self.report(outcome)
        if isinstance(error, ObstructedError):
            raise ObstructedError(error.obstacles, outcome) from None
        if isinstance(error, ReplicatorError):
            hint = error.hint if not error.retryable else CutoverError.hint
            raise CutoverError(f"{error.message}; {outcome}", hint=hint, side=error.side) from None

    # --- the target alone ---------------------------------------------------------------------------------------------

    async def _finish(self, step: Step) -> Detail | None:
        """Do one of the last steps; None if it is to be tried again."""
        if step is Step.OPEN:
            return await self._open()
        items = await control.read_deferred(self.target)
        match step:
            case Step.SCHEMA:
                return await self._complete_schema(items)
            case Step.VALIDATE:
                failed = await finish.validate(self.target, items) + await finish.comment(self.target, items)
            case Step.REFRESH:
                failed = await finish.refresh(self.target, items)
            case Step.ANALYZE:
                failed = await finish.analyze(self.target, await control.read_tables(self.target))
            case _:
                raise AssertionError(step)
        self.unfinished.extend(failed)
        return None if failed else {}

    async def _complete_schema(self, items: list[Deferred]) -> Detail:
        omitted = (await self._steps())[Step.POINT_OF_NO_RETURN.recorded_name].get("omitted", ())
        window = [item for item in schema.window(items) if [item.kind, item.schema, item.name] not in omitted]
        failures = await schema.run(self.target, window, omit_failing=self.omit_failing)
        return {"statements": len(window), "left_out": [str(failure) for failure in failures]}

    async def _open(self) -> Detail:
        began = (await self._steps())[Step.FENCE.recorded_name]["began"]
        async with self.target.transaction():
            await control.set_phase(self.target, Phase.DONE)
            cursor = await self.target.execute(
                "SELECT extract(epoch FROM pg_catalog.clock_timestamp())::float8 - %s", [began]
            )
            row = await cursor.fetchone()
            downtime = float(row[0]) if row else 0.0
            # in the same transaction: an open target without its downtime would be fenced anew by a rerun
            await control.record_step(self.target, Step.OPEN.recorded_name, {"downtime_seconds": downtime})
        self.report(f"open: the target takes writes; the app could not write for {downtime:.2f} s")
        return {"downtime_seconds": downtime}

    # --- recording ----------------------------------------------------------------------------------------------------

    async def _do(self, step: Step, work: Coroutine[Any, Any, Detail | None]) -> None:
        start = time.monotonic()
        with on(Side.TARGET, f"step {step.value}"):
            detail = await work
            if detail is not None:
                await control.record_step(self.target, step.recorded_name, detail)
        seconds = time.monotonic() - start
        self.times.append(StepTime(step.value, seconds))
        self.report(f"{step.value}: {seconds:.2f} s" + ("" if detail is not None else ", not complete"))
        log.info("cutover step", step=step.value, seconds=round(seconds, 3), done=detail is not None)

    async def _steps(self) -> Mapping[str, Mapping[str, Any]]:
        with on(Side.TARGET, "reading the recorded steps"):
            return await control.read_steps(self.target)

    async def _told(self, *, rehearsed: bool) -> CutoverReport:
        steps = await self._steps()
        details = [steps.get(step.recorded_name, {}) for step in (Step.POINT_OF_NO_RETURN, Step.SCHEMA)]
        known = [line for detail in details for line in detail.get("left_out", ())]
        with on(Side.TARGET, "reading the control tables"):
            tables = len(await control.read_tables(self.target))
        return CutoverReport(
            rehearsed=rehearsed,
            tables=tables,
            sequences=steps.get(Step.SEQUENCES.recorded_name, {}).get("sequences", self.sequences),
            drain_seconds=self.drain_seconds,
            downtime_seconds=steps.get(Step.OPEN.recorded_name, {}).get("downtime_seconds"),
            steps=tuple(self.times),
            left_out=tuple(dict.fromkeys([*known, *self.left_out])),
            unfinished=tuple(self.unfinished),
        )


@contextlib.contextmanager
def _beyond_return() -> Iterator[None]:
    try:
        yield
    except ReplicatorError as error:
        hint = error.hint if not error.retryable else CutoverError.hint
        message = f"{error.message}; the point of no return is passed, so nothing is undone"
        raise CutoverError(message, hint=hint, side=error.side) from None


async def _uninterrupted(work: Coroutine[Any, Any, str]) -> str:
    """Await to the end, through further cancellations: the first one has been seen, and will be raised again."""
    task = asyncio.ensure_future(work)
    while not task.done():
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.shield(task)
    return task.result()
