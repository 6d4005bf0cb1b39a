"""The way back, before the point of no return: the fence lifted, its steps forgotten, the migration streaming again."""

import asyncio
import contextlib
from typing import Final

from replicator import control
from replicator.config import Settings
from replicator.control import Migration
from replicator.cutover.plan import UNDOABLE, may_undo, recorded
from replicator.cutover.sides import on
from replicator.errors import ReplicatorError, Side
from replicator.model import Phase
from replicator.postgres import connected
from replicator.retries import retry_policy
from replicator.source import fence

_PATIENCE: Final = 20.0
"""Seconds to go on trying to reach a server; then the fence's own deadline opens the source."""


async def take_back(settings: Settings, migration: Migration, *, committing: bool = False) -> str:
    """Undo what a failed cutover did, and say in one sentence whether the source takes writes. Raises nothing of ours.

    With ``committing`` the point of no return may have been recorded though no answer came: then that is read first.
    """
    try:
        async with asyncio.timeout(_PATIENCE):
            if committing and not await _may_undo(settings):
                return "the point of no return is passed: run `replicator cutover` again, it goes on from there"
            lifted = await lift(settings, migration)
    except (ReplicatorError, TimeoutError) as error:
        reason = str(error) or "no answer"
        return f"the fence could not be undone ({reason}), it lifts itself at its deadline"
    # the steps of a cutover before its point of no return mean nothing to the next one
    with contextlib.suppress(ReplicatorError):
        await forget(settings)
    return "the fence is lifted, the source takes writes" if lifted else "the source takes writes"


async def _may_undo(settings: Settings) -> bool:
    async for attempt in retry_policy(_PATIENCE):
        with attempt:
            async with connected(settings.target, Side.TARGET, "cutover") as target:
                with on(Side.TARGET, "reading the recorded steps"):
                    return may_undo(recorded(await control.read_steps(target)))
    return False


async def lift(settings: Settings, migration: Migration) -> bool:
    """Open the source for writes; False if it was open. Tries again while the source is away."""
    async for attempt in retry_policy(_PATIENCE):
        with attempt:
            async with connected(settings.source, Side.SOURCE, "cutover") as source:
                with on(Side.SOURCE, "lifting the fence"):
                    return await fence.lift(source, migration.id)
    return False


async def forget(settings: Settings) -> None:
    """Forget the cutover's steps and go back to streaming."""
    async with connected(settings.target, Side.TARGET, "cutover") as target:
        with on(Side.TARGET, "forgetting the steps"):
            async with target.transaction():
                await control.forget_steps(target, [step.recorded_name for step in UNDOABLE])
                await control.set_phase(target, Phase.STREAMING)
