"""Letting the stream pass over what no table takes."""

from uuid import UUID

import structlog

from replicator import control
from replicator.lsn import format_lsn
from replicator.postgres import Connection

log = structlog.get_logger(__name__)


async def pass_over(target: Connection, epoch: UUID) -> None:
    """Move progress to the oldest snapshot, when all tables are ready: none takes a change that lies before it.

    The stream may have no choice: up to PostgreSQL 17, what was written while a publication was missing cannot be
    decoded. Raises FencedError.
    """
    progress = await control.read_progress(target)
    snapshots = [record.snapshot_lsn for record in (await control.read_tables(target)).values()]
    oldest = min((lsn for lsn in snapshots if lsn is not None), default=None)
    if progress is None or progress.spooled is not None or oldest is None or None in snapshots:
        return
    if oldest > progress.lsn:
        log.info("all tables came again: the stream goes on behind their snapshots", lsn=format_lsn(oldest))
        await control.advance(target, epoch, progress.lsn, oldest)
