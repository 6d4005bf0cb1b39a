"""Programs that are measured: seconds by the wall clock, and of the processor."""

import os
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self, TypeVar

from psycopg.conninfo import conninfo_to_dict

_POLL: Final = 0.005
_GRACE: Final = 30.0

T = TypeVar("T")


class BenchmarkError(Exception):
    """A run that must not be reported: it failed, took too long, or its result is wrong."""


@dataclass(frozen=True, slots=True)
class Exit:
    """How a program ended; ``cpu_seconds`` are its own and those of its children, user and system."""

    code: int
    seconds: float
    cpu_seconds: float


class Child:
    """One program. A context manager: what still runs at its exit is killed."""

    def __init__(self, arguments: Sequence[str | Path], environment: Mapping[str, str], log_file: Path) -> None:
        self._name = Path(arguments[0]).name
        self._log_file = log_file
        with log_file.open("wb") as log:
            self._process = subprocess.Popen(
                arguments, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
        self.started_at = time.monotonic()
        self._exit: Exit | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self.poll() is None:
            self._process.kill()
            self._process.wait()

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    def poll(self) -> Exit | None:
        """How it ended, or None while it runs."""
        if self._exit is None:
            pid, status, usage = os.wait4(self._process.pid, os.WNOHANG)
            if pid != 0:
                seconds = time.monotonic() - self.started_at
                # subprocess has to know that there is nothing left to wait for
                code = self._process.returncode = os.waitstatus_to_exitcode(status)
                self._exit = Exit(code, seconds, usage.ru_utime + usage.ru_stime)
        return self._exit

    def succeed(self, timeout: float) -> Exit:
        """Wait until it has ended well. Raises BenchmarkError."""
        ended = wait_for(self.poll, timeout, self._name)
        if ended.code != 0:
            raise self.failure(f"{self._name} ended with exit code {ended.code}")
        return ended

    def stop(self) -> Exit:
        """SIGTERM, after which it has to end well. Raises BenchmarkError."""
        self._process.terminate()
        return self.succeed(_GRACE)

    def failure(self, message: str) -> BenchmarkError:
        """An error with the last lines of what it printed."""
        lines = self._log_file.read_text(errors="replace").splitlines()[-15:]
        return BenchmarkError("\n".join([message, *lines]))


def wait_for(condition: Callable[[], T | None], timeout: float, what: str, interval: float = _POLL) -> T:
    """Call ``condition`` until it returns something else than None. Raises BenchmarkError."""
    deadline = time.monotonic() + timeout
    while (result := condition()) is None:
        if time.monotonic() > deadline:
            raise BenchmarkError(f"{what}: not within {timeout:g} s")
        time.sleep(interval)
    return result


def client_environment(dsn: str) -> dict[str, str]:
    """The environment that makes PostgreSQL's own programs connect there: no password on a command line."""
    names = {"host": "PGHOST", "port": "PGPORT", "user": "PGUSER", "password": "PGPASSWORD", "dbname": "PGDATABASE"}
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("PG")}
    parts = conninfo_to_dict(dsn)
    return inherited | {variable: str(parts[name]) for name, variable in names.items() if parts.get(name) is not None}
