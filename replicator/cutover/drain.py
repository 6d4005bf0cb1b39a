"""Draining to exactly zero: a marker in the source's WAL, and the wait until the worker has applied it.

A marker is a transaction like any other: once its nonce is in the progress row, everything that committed before it is
on the target (law 1). So lag is zero by proof, not by a gauge.
"""

import asyncio
import itertools
from dataclasses import dataclass
from typing import Final, LiteralString
from uuid import uuid4

from replicator import control
from replicator.cutover.sides import on
from replicator.errors import CutoverError, Side
from replicator.lsn import format_lsn
from replicator.postgres import Connection

_POLL: Final = 0.02
"""Seconds between two looks at the progress row."""

_WORKER_POLL: Final = 50
"""Looks at the progress row between two looks at the worker."""

_EMIT: Final[LiteralString] = "SELECT pg_catalog.pg_logical_emit_message(true, 'replicator', %s)"


@dataclass(frozen=True, slots=True)
class Marker:
    """A marker that was written; ``written_at`` is the event loop's time."""

    nonce: str
    written_at: float


async def write_marker(source: Connection) -> Marker:
    """Write a marker that is flushed, and so will be sent, when this returns."""
    marker = Marker(uuid4().hex, asyncio.get_running_loop().time())
    with on(Side.SOURCE, "writing a marker"):
        await source.execute("SET synchronous_commit = on")  # the role may have another default
        await source.execute(_EMIT, [marker.nonce])
    return marker


async def wait_applied(target: Connection, marker: Marker, *, patience: float, lease_timeout: float) -> float:
    """Wait until the marker is applied, and return how many seconds that took since it was written.

    Raises CutoverError after ``patience`` seconds, or when the worker has given no sign of life for ``lease_timeout``.
    """
    loop = asyncio.get_running_loop()
    with on(Side.TARGET, "waiting for the marker"):
        for look in itertools.count():
            if await _is_applied(target, marker.nonce):
                break
            if look % _WORKER_POLL == 0:
                await require_worker(target, lease_timeout)
            if loop.time() - marker.written_at > patience:
                raise await _too_slow(target, patience)
            await asyncio.sleep(_POLL)
    return loop.time() - marker.written_at


async def require_worker(target: Connection, lease_timeout: float) -> None:
    """Raise CutoverError unless a worker has given a sign of life within ``lease_timeout`` seconds."""
    worker = await control.read_worker(target)
    if worker is None or worker.heartbeat_age > lease_timeout:
        since = "" if worker is None else f" for {worker.heartbeat_age:.0f} s"
        raise CutoverError(
            f"no worker has given a sign of life{since}",
            hint="Start `replicator run`, wait until `replicator status` shows no lag, and try again.",
            side=Side.OURS,
        )


async def _is_applied(target: Connection, nonce: str) -> bool:
    progress = await control.read_progress(target)
    return progress is not None and progress.marker == nonce


async def _too_slow(target: Connection, patience: float) -> CutoverError:
    progress = await control.read_progress(target)
    at = "nowhere" if progress is None else format_lsn(progress.lsn)
    return CutoverError(
        f"the worker did not catch up within {patience:.1f} s: it is at {at}",
        hint="Wait until `replicator status` shows no lag, or raise REPLICATOR_CUTOVER_TIMEOUT, and try again.",
        side=Side.OURS,
    )
