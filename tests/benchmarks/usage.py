"""What processes use: seconds of the processor and bytes of memory, as Linux's /proc tells them.

Where there is no /proc everything is None: the other figures remain.
"""

import os
import time
from pathlib import Path
from typing import Final, NamedTuple

from replicator.demo.servers import Server

CONSUMER: Final = "CPU consumer"
SOURCE: Final = "CPU source"
TARGET: Final = "CPU target"
PEAK_MEMORY: Final = "peak MiB"
BUSY_BEFORE: Final = "cores busy before"
"""What others did before a benchmark began: it disturbs it."""


class _Ticks(NamedTuple):
    """Of one process: its parent, what it used, and what its children used that have ended (proc_pid_stat(5))."""

    parent: int
    own: int
    children: int


def _ticks(pid: int) -> _Ticks | None:
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    numbers = [int(field) for field in fields[1:15]]
    return _Ticks(numbers[0], numbers[10] + numbers[11], numbers[12] + numbers[13])


def cpu_seconds_of(pid: int) -> float | None:
    """What a process itself has used so far."""
    found = _ticks(pid)
    return None if found is None else found.own / os.sysconf("SC_CLK_TCK")


def tree_cpu_seconds(pid: int) -> float | None:
    """What a process and its children have used so far, those that have ended too."""
    before = _ticks(pid)
    while before is not None:
        living = sum(found.own for found in map(_ticks, _processes()) if found is not None and found.parent == pid)
        after = _ticks(pid)
        # a child that was reaped meanwhile would be in neither sum
        if after is not None and after.children == before.children:
            return (after.own + after.children + living) / os.sysconf("SC_CLK_TCK")
        before = after
    return None


def _processes() -> list[int]:
    return [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit()]


def peak_mebibytes(pid: int) -> float | None:
    """The most that a process ever had resident (VmHWM)."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM:")), None)


def busy_cores(seconds: float) -> float | None:
    """How many cores the whole machine keeps busy, looked at for so long (proc_stat(5))."""
    began = _idle_seconds()
    time.sleep(seconds)
    ended = _idle_seconds()
    if began is None or ended is None:
        return None
    return max(0.0, (os.cpu_count() or 1) - (ended - began) / seconds)


def _idle_seconds() -> float | None:
    try:
        fields = Path("/proc/stat").read_text().split(maxsplit=6)
    except OSError:
        return None
    # waiting for the disk is idle, too
    return (int(fields[4]) + int(fields[5])) / os.sysconf("SC_CLK_TCK")


class Meter:
    """The processor's seconds of both servers from its making on."""

    def __init__(self, source: Server, target: Server) -> None:
        self._servers = {SOURCE: source, TARGET: target}
        self._began = self._read()

    def figures(self, consumer: int | None) -> dict[str, float]:
        """What each side has used, and the consumer's process if it is none of a server's."""
        used = {name: now - self._began[name] for name, now in self._read().items()}
        own = None if consumer is None else tree_cpu_seconds(consumer)
        return used if own is None else {CONSUMER: own, **used}

    def _read(self) -> dict[str, float]:
        found = {name: server.pid and tree_cpu_seconds(server.pid) for name, server in self._servers.items()}
        return {name: seconds for name, seconds in found.items() if seconds is not None}
