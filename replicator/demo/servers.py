"""PostgreSQL servers that live for one demo or one test session, in a folder of their own, on the loopback address."""

import contextlib
import os
import random
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping
from enum import Enum
from pathlib import Path
from typing import Any, Final, Self
from urllib.parse import quote

import psycopg
from psycopg.rows import TupleRow

from replicator.demo.installation import Account, Installation, server_account
from replicator.errors import EmbeddedServerError

HOST: Final = "127.0.0.1"
_PORTS: Final = range(20_000, 32_000)
"""Below Linux's ephemeral ports: a port stays ours while the server is restarted."""

_START_TIMEOUT: Final = 60.0
_STOP_TIMEOUT: Final = 60.0
_POLL: Final = 0.03

_SETTINGS: Final[Mapping[str, str]] = {
    "listen_addresses": HOST,
    "wal_level": "logical",
    "max_replication_slots": "10",
    "max_wal_senders": "10",
    "max_connections": "100",
    "max_prepared_transactions": "10",
    "log_line_prefix": "%m [%p] %u@%d ",
}
_WITHOUT_FSYNC: Final[Mapping[str, str]] = {"fsync": "off", "full_page_writes": "off"}

_GUARD: Final = """
cat >/dev/null
pid=$(head -n 1 "$1/data/postmaster.pid" 2>/dev/null)
if [ -n "$pid" ] && kill -QUIT "$pid" 2>/dev/null; then
  for tenth in 1 2 3 4 5 6 7 8 9 10; do kill -0 "$pid" 2>/dev/null && sleep 0.1; done
fi
rm -rf "$1"
"""
"""Waits for the end of its input, which comes with our end however we end; then removes the server."""


class StopMode(Enum):
    """How a server is told to stop: the signal of pg_ctl's mode."""

    FAST = signal.SIGINT
    IMMEDIATE = signal.SIGQUIT


class Server:
    """One server. Use it as a context manager: it is started on entry, stopped and removed on exit.

    It does not outlive this process, not even one that is killed, unless ``detach`` is called. With ``durable`` False
    nothing is flushed to disk, for tests that do not measure. It lives in ``place``, or where temporary files do.
    """

    def __init__(
        self,
        installation: Installation,
        *,
        superuser: str = "supabase_admin",
        durable: bool = True,
        settings: Mapping[str, str] | None = None,
        place: Path | None = None,
    ) -> None:
        self.superuser = superuser
        self.password = secrets.token_hex(8)
        self.port = free_port()
        self._settings = {**_SETTINGS, **({} if durable else _WITHOUT_FSYNC), **(settings or {})}
        self._account = server_account()
        self._process: subprocess.Popen[bytes] | None = None
        self.folder = Path(tempfile.mkdtemp(prefix="replicator-postgres-", dir=place))
        self.folder.chmod(0o755)
        os.chown(self.folder, self._account.uid, self._account.gid)
        self._guard = _start_guard(self.folder, self._account)
        try:
            self.installation = installation.readable(self._account, self.folder)
            self._initialise()
        except BaseException:
            self.remove()
            raise

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.remove()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.remove()

    # --- where it is --------------------------------------------------------------------------------------------------

    @property
    def log_file(self) -> Path:
        """The server's log."""
        return self.folder / "log"

    @property
    def _data(self) -> Path:
        return self.folder / "data"

    def dsn(self, user: str, database: str, password: str | None = None) -> str:
        """A URL for a role; every role that this package makes has the server's own password."""
        return f"postgresql://{quote(user)}:{quote(password or self.password)}@{HOST}:{self.port}/{quote(database)}"

    def superuser_dsn(self, database: str = "postgres") -> str:
        """A URL for the superuser that owns the server."""
        return self.dsn(self.superuser, database)

    @contextlib.contextmanager
    def administer(self, database: str = "postgres") -> Iterator[psycopg.Connection[TupleRow]]:
        """A superuser's session in autocommit mode."""
        with psycopg.connect(self.superuser_dsn(database), autocommit=True) as connection:
            yield connection

    # --- its life -----------------------------------------------------------------------------------------------------

    @property
    def pid(self) -> int | None:
        """The postmaster's process id while the server runs."""
        return self._process.pid if self._process is not None and self._process.poll() is None else None

    def start(self) -> None:
        """Start and wait until connections are accepted. Raises EmbeddedServerError."""
        deadline = time.monotonic() + _START_TIMEOUT
        while not self._try_start(deadline):
            # after a kill, its orphaned backends hold the shared memory for a moment
            if time.monotonic() > deadline or "shared memory block is still in use" not in self._last_words():
                raise EmbeddedServerError(f"PostgreSQL {self.installation.major} did not start: {self._last_words()}")
            time.sleep(0.2)

    def stop(self, mode: StopMode = StopMode.FAST, timeout: float = _STOP_TIMEOUT) -> None:
        """Stop and wait, at most ``timeout`` seconds. Raises EmbeddedServerError if it is still there then."""
        if self._process is None:
            return
        self._process.send_signal(mode.value)
        try:
            self._process.wait(timeout)
        except subprocess.TimeoutExpired:
            raise EmbeddedServerError(f"PostgreSQL did not stop within {timeout:g} seconds") from None
        self._process = None

    def restart(self, mode: StopMode = StopMode.FAST) -> None:
        """Stop, then start at the same port."""
        self.stop(mode)
        self.start()

    def kill(self) -> None:
        """Kill the postmaster with no warning; its children end by themselves."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def remove(self) -> None:
        """Stop at once and delete everything."""
        if self._process is not None:
            self._process.send_signal(StopMode.IMMEDIATE.value)
            self._process.wait()
            self._process = None
        self._dismiss_guard()
        shutil.rmtree(self.folder, ignore_errors=True)

    def detach(self) -> None:
        """Let the server outlive this process: from now on only its own pid stops it."""
        self._dismiss_guard()

    # --- inside -------------------------------------------------------------------------------------------------------

    def _initialise(self) -> None:
        password_file = self.folder / "password"
        password_file.write_text(self.password)
        os.chown(password_file, self._account.uid, self._account.gid)
        arguments = [
            *("--pgdata", str(self._data), "--username", self.superuser, "--pwfile", str(password_file)),
            *("--auth", "scram-sha-256", "--encoding", "UTF8", "--locale", "C", "--no-sync", "--no-instructions"),
        ]
        result = self._run("initdb", arguments)
        password_file.unlink()
        if result.returncode != 0:
            raise EmbeddedServerError(f"initdb failed: {' '.join(result.stderr.split())}")
        with (self._data / "postgresql.conf").open("a") as file:
            file.writelines(f"{name} = {_quoted(value)}\n" for name, value in self._settings.items())

    def _try_start(self, deadline: float) -> bool:
        with self.log_file.open("ab") as log:
            self._process = self._launch(["-p", str(self.port), "-k", str(self.folder)], log.fileno())
        while time.monotonic() < deadline:
            if self._process.poll() is not None:
                self._process = None
                return False
            if self._is_ready():
                return True
            time.sleep(_POLL)
        return False

    def _is_ready(self) -> bool:
        """The postmaster writes its state as the eighth line of its pid file (source: miscadmin.h)."""
        try:
            lines = (self._data / "postmaster.pid").read_text().splitlines()
        except FileNotFoundError:
            return False
        return len(lines) > 7 and lines[7].strip() in {"ready", "standby"} and lines[0] == str(self.pid)

    def _last_words(self) -> str:
        return " ".join(self.log_file.read_text(errors="replace").splitlines()[-5:])

    def _run(self, program: str, arguments: list[str]) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [self.installation.programs / program, *arguments],
            capture_output=True,
            text=True,
            check=False,
            **self._process_options(),
        )

    def _launch(self, arguments: list[str], log: int) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [self.installation.programs / "postgres", "-D", self._data, *arguments],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,  # Ctrl-C on our terminal is not for the server
            **self._process_options(),
        )

    def _process_options(self) -> dict[str, Any]:
        # no PG* variable of ours may reach the server
        environment = {"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C", "TZ": "UTC"}
        return {"cwd": self.folder, "env": environment, "umask": 0o077, **self._account.process_options()}

    def _dismiss_guard(self) -> None:
        self._guard.kill()
        self._guard.communicate()


def _start_guard(folder: Path, account: Account) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        ["/bin/sh", "-c", _GUARD, "guard", str(folder)],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        cwd="/",
        start_new_session=True,
        **account.process_options(),
    )


def _quoted(value: str) -> str:
    return "'" + value.replace("'", "''") + "'"


def free_port() -> int:
    """One of this machine's that nobody has taken yet."""
    for port in random.sample(_PORTS, 100):
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind((HOST, port))
            return port
    raise EmbeddedServerError(f"no free port on {HOST} between {_PORTS.start} and {_PORTS.stop}")
