"""The installed command `replicator run` as a process of its own: the demo migrates with the real thing."""

import asyncio
import contextlib
import os
import shutil
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Final

from pydantic import SecretStr

from replicator.config import Settings
from replicator.errors import DemoError

_STOP_TIMEOUT: Final = 30.0


def command() -> Path:
    """The console script beside this Python, else the one on PATH. Raises DemoError."""
    beside = Path(sys.executable).with_name("replicator")
    found = str(beside) if beside.exists() else shutil.which("replicator")
    if found is None:
        raise DemoError("the command `replicator` is not installed", hint="Install the package: pip install -e .")
    return Path(found)


def environment(settings: Settings) -> dict[str, str]:
    """The environment that gives a process these settings, and none of this process's own."""
    inherited = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("REPLICATOR_", "PG")) and not name.endswith("_DATABASE_URL")
    }
    values = {Settings.variable(name): getattr(settings, name) for name in Settings.model_fields}
    return inherited | {name: _text(value) for name, value in values.items() if value is not None}


def _text(value: object) -> str:
    match value:
        case SecretStr():
            return value.get_secret_value()
        case tuple():
            return ",".join(value)
        case _:
            return str(getattr(value, "value", value))


class Worker:
    """A worker that runs; its log, as JSON lines, is in ``log_file``."""

    def __init__(self, process: asyncio.subprocess.Process, log_file: Path) -> None:
        self._process = process
        self._log_file = log_file

    def assert_running(self) -> None:
        """Raise DemoError with the last line of its log if the worker has ended."""
        if self._process.returncode is not None:
            lines = self._log_file.read_text(errors="replace").splitlines() or ["without a word"]
            raise DemoError(f"`replicator run` ended with exit code {self._process.returncode}: {lines[-1]}")

    async def stop(self) -> int:
        """SIGTERM, or SIGKILL after half a minute; return the exit code, which is 0 for a clean stop."""
        if self._process.returncode is None:
            self._process.terminate()
            with contextlib.suppress(TimeoutError):
                return await asyncio.wait_for(self._process.wait(), _STOP_TIMEOUT)
            self._process.kill()
        return await self._process.wait()


@contextlib.asynccontextmanager
async def running_worker(settings: Settings, log_file: Path) -> AsyncIterator[Worker]:
    """Run a worker while the context lasts."""
    with log_file.open("ab") as log:
        process = await asyncio.create_subprocess_exec(
            command(),
            "run",
            env=environment(settings),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,  # Ctrl-C on our terminal is for us; we stop it
        )
    worker = Worker(process, log_file)
    try:
        yield worker
    finally:
        await worker.stop()
