"""The status for a terminal."""

import asyncio
from typing import Final

from rich.console import Console, ConsoleRenderable, Group
from rich.filesize import decimal
from rich.live import Live
from rich.table import Table
from rich.text import Text

from replicator.config import Settings
from replicator.errors import ReplicatorError
from replicator.logs import printable
from replicator.lsn import format_lsn
from replicator.model import Phase, TableState
from replicator.status.read import StatusReader
from replicator.status.report import LastError, SlotStatus, Status, WorkerStatus

_INTERVAL: Final = 2.0
"""Seconds between two readings of `status --watch`."""

_NO_MIGRATION: Final = "No migration has begun on this target: start one with `replicator run`."


def render(status: Status) -> ConsoleRenderable:
    """Draw a status: a grid of names and values, then what is wrong."""
    if status.phase is None:
        return Text(_NO_MIGRATION)
    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="bold")
    grid.add_column(overflow="fold")
    grid.add_row("phase", _phase(status))
    grid.add_row("lag", _lag(status))
    grid.add_row("applied", format_lsn(status.applied_lsn) if status.applied_lsn is not None else "nothing yet")
    grid.add_row("tables", _tables(status))
    if status.spool_bytes is not None:
        grid.add_row("spool", f"{decimal(status.spool_bytes)} on the target, for tables that are not ready")
    grid.add_row("slot", _slot(status.slot) if status.slot else _no_slot(status))
    grid.add_row("worker", _worker(status.worker) if status.worker else Text("none", style="red"))
    if status.error is not None:
        grid.add_row("last error", _error(status.error))
    problems = [Text(f"✗ {printable(problem)}", style="red") for problem in status.problems]
    return Group(grid, *problems, *(Text(printable(note), style="dim") for note in status.notes))


def _phase(status: Status) -> str:
    since = f" since {status.phase_since:%Y-%m-%d %H:%M:%S} UTC" if status.phase_since else ""
    return f"{status.phase.value if status.phase else 'none'}{since}"


def _lag(status: Status) -> str:
    size = "? bytes" if status.lag.bytes is None else decimal(status.lag.bytes)
    if status.lag.seconds is None:
        return f"{size}, ? s"
    at_most = "" if status.worker_alive or status.lag.seconds == 0 else "at most "
    return f"{size}, {at_most}{status.lag.seconds:.1f} s"


def _tables(status: Status) -> str:
    counts = status.tables or {}
    states = ", ".join(f"{counts[state]} {state.value}" for state in TableState if counts.get(state))
    return f"{status.tables_copied} of {status.tables_total} copied" + (f" ({states})" if states else "")


def _slot(slot: SlotStatus) -> str:
    retained = "nothing" if slot.retained_bytes is None else decimal(slot.retained_bytes)
    limit = "without a limit" if slot.safe_bytes is None else f"lost after {decimal(max(0, slot.safe_bytes))} more"
    return f"{slot.name}, {'in use' if slot.active else 'not in use'}, keeps {retained} of WAL, {limit}"


def _no_slot(status: Status) -> str:
    return "none" if status.source_reached else "?"


def _worker(worker: WorkerStatus) -> Text:
    age = f"last heartbeat {worker.heartbeat_age:.0f} s ago"
    if worker.alive:
        return Text(f"alive on {worker.host}, version {worker.version}, {age}", style="green")
    return Text(f"gone from {worker.host}, version {worker.version}, {age}", style="red")


def _error(error: LastError) -> Text:
    return Text(f"{error.side}: {printable(error.message)}\n{printable(error.hint)}")


async def watch(settings: Settings, console: Console, interval: float = _INTERVAL) -> None:
    """Show the status again and again, until cancelled or until the cutover is done.

    A server that is away for a while is shown as such. Raises what cannot pass, such as a refused password.
    """
    async with StatusReader(settings) as reader:
        with Live(console=console, auto_refresh=False) as live:
            while True:
                try:
                    status = await reader.read()
                except ReplicatorError as error:
                    if not error.retryable:
                        raise
                    live.update(Text(f"{printable(str(error))}\n{printable(error.hint)}", style="red"), refresh=True)
                else:
                    live.update(render(status), refresh=True)
                    if status.phase is Phase.DONE:
                        return
                await asyncio.sleep(interval)
