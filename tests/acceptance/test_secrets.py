"""Law 9 over a whole migration: TLS only, odd passwords, a client's key; and nothing anywhere that shows a secret."""

import asyncio
import io
import json
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final
from urllib.parse import quote

import httpx
import psycopg
import pytest
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict
from rich.console import Console

from bootstrap.pgdump import find_pg_dump
from replicator.cleanup import cleanup
from replicator.config import Settings
from replicator.demo.roles import RENDER_ROLE, SUPABASE_ROLE
from replicator.demo.servers import free_port
from replicator.model import Phase
from replicator.status import read_status, render
from tests.fixtures.databases import Database, settings_for
from tests.fixtures.tls import KEY_PASSWORD, TlsPair
from tests.fixtures.worker import Worker, run_command, wait_caught_up, wait_for_phase

ODD: Final = " p%41@:/'\"\\?#&=+[x]ü\u00a0ﬁ🐘\t{} "
PASSWORDS: Final = {"source": f"{ODD}source-secret", "target": f"{ODD}target-secret"}
SECRETS: Final = ("source-secret", "target-secret", KEY_PASSWORD)
"""What none of it may show; whatever is done to the rest of a password where it is written."""

ROWS: Final = 500

RECORD: Final = """#!/bin/sh
if [ "$1" != --version ]; then tr '\\0' '\\n' <"/proc/$$/cmdline" >>"{record}"; fi
exec "{program}" "$@"
"""


@dataclass(slots=True)
class Told:
    """All that a migration has told, by the place where it stands."""

    places: dict[str, str] = field(default_factory=dict)
    codes: dict[str, int] = field(default_factory=dict)

    def command(self, settings: Settings, *arguments: str) -> None:
        """Run a command as chatty as it can be."""
        variables = {"REPLICATOR_LOG_LEVEL": "debug", "REPLICATOR_LOG_FORMAT": "console"}
        done = run_command(settings, *arguments, variables=variables)
        name = f"replicator {' '.join(arguments)}"
        self.codes[name] = done.returncode
        self.places[name] = f"{name}:\n{done.stdout}{done.stderr}"


def with_password(database: Database, role: str, password: str) -> None:
    """Change it under log_statement = none, as the test's own statement must not be found."""
    with psycopg.connect(database.superuser_dsn, autocommit=True) as connection:
        connection.execute("SET log_statement = 'none'")
        connection.execute(sql.SQL("ALTER ROLE {} PASSWORD {}").format(sql.Identifier(role), sql.Literal(password)))


def as_superuser(database: Database) -> Database:
    return replace(database, dsn=database.superuser_dsn)


def url(pair: TlsPair, side: str) -> str:
    """As an operator writes it: a URL with the password percent-encoded."""
    words = conninfo_to_dict(pair.dsn(side, channel_binding="require"))
    user, host, port, database = (str(words.pop(name)) for name in ("user", "host", "port", "dbname"))
    del words["password"]
    options = "&".join(f"{name}={quote(str(value), safe='')}" for name, value in words.items())
    return f"postgresql://{user}:{quote(PASSWORDS[side], safe='')}@{host}:{port}/{database}?{options}"


def recording_pg_dump(folder: Path, settings: Settings) -> Path:
    """A folder with a pg_dump that writes its command line into the file ``pg_dump.arguments`` there."""
    program = find_pg_dump(settings, 170000)
    script = folder / "pg_dump"
    script.write_text(RECORD.format(record=folder / "pg_dump.arguments", program=program))
    script.chmod(0o755)
    return folder


def arguments_of(worker: Worker) -> str:
    return "\n".join(Path(f"/proc/{worker.pid}/cmdline").read_text().split("\0"))


async def shown_status(settings: Settings) -> str:
    status = await read_status(settings)
    paper = Console(record=True, width=200, file=io.StringIO())
    paper.print(render(status))
    return json.dumps(status.to_json(), default=str) + paper.export_text()


def control_tables(target: Database) -> str:
    """Every row of every control table as text."""
    names = target.fetch(
        "SELECT table_schema || '.' || table_name FROM information_schema.tables WHERE table_schema = 'replicator'"
    )
    return "\n".join(f"{name} {target.fetch(f'SELECT t::text FROM {name} t')}" for (name,) in names)


@pytest.fixture(scope="module")
def told(tls_pair: TlsPair, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Told]:
    """A migration from check to cleanup, over connections that verify fully."""
    folder, told = tmp_path_factory.mktemp("secrets"), Told()
    (folder / "tmp").mkdir()
    source, target = (as_superuser(database) for database in (tls_pair.source, tls_pair.target))
    for side, role in (("source", SUPABASE_ROLE), ("target", RENDER_ROLE)):
        with_password(getattr(tls_pair, side), role, PASSWORDS[side])
    settings = settings_for(url(tls_pair, "source"), url(tls_pair, "target"), http_port=free_port(), log_level="debug")
    settings = settings.model_copy(update={"pg_bin": str(recording_pg_dump(folder, settings))})
    source.execute(f"CREATE TABLE t (id int PRIMARY KEY); INSERT INTO t SELECT generate_series(1, {ROWS})")
    source.execute(f"ALTER TABLE t OWNER TO {SUPABASE_ROLE}")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TMPDIR", str(folder / "tmp"))
        worker = Worker(settings, folder / "worker.log")
        told.command(settings, "check", "--json")
        worker.start()
        try:
            wait_for_phase(target, Phase.STREAMING, worker)
            source.execute("INSERT INTO t VALUES (0)")
            wait_caught_up(source, target, worker)
            told.places["arguments of the worker"] = arguments_of(worker)
            for path in ("/metrics", "/healthz", "/readyz"):
                told.places[path] = httpx.get(f"http://127.0.0.1:{settings.http_port}{path}").text
            told.places["control tables"] = control_tables(target)
            told.places["status"] = asyncio.run(shown_status(settings))
            told.command(settings, "cutover", "--json")
            told.codes["worker"] = worker.stop()
        finally:
            if worker.running:
                worker.kill()
        told.places["cleanup"] = str(asyncio.run(cleanup(settings)))
    told.places["log of the worker"] = worker.log
    told.places["arguments of pg_dump"] = (folder / "pg_dump.arguments").read_text()
    for side in ("source", "target"):
        told.places[f"what the {side} was asked"] = getattr(tls_pair, side).server.log_file.read_text()
    told.places["temporary files"] = f"files: {list((folder / 'tmp').rglob('*'))}"
    yield told
    for database in (source, target):  # the servers outlive this module, whose tests need not come in one run
        database.execute("DROP TABLE t")
    for side, role in (("source", SUPABASE_ROLE), ("target", RENDER_ROLE)):
        database = getattr(tls_pair, side)
        with_password(database, role, database.server.password)
    shutil.rmtree(folder)


PLACES: Final[Mapping[str, str]] = {
    "replicator check --json": '"ready": true',
    "status": '"phase": "streaming"',
    "replicator cutover --json": '"downtime_seconds"',
    "cleanup": "control tables",
    "arguments of the worker": "\nrun\n",
    "arguments of pg_dump": "--dbname=",
    "log of the worker": '"event": "streaming"',
    "control tables": "replicator.migration [(",
    "/metrics": 'replicator_target_connections{kind="lease"} 1.0',
    "/healthz": "ok",
    "/readyz": "ok",
    "temporary files": "files: []",
    "what the source was asked": "START_REPLICATION",
    "what the target was asked": "UPDATE replicator.progress",
}
"""Each with what it must hold, so that nothing is searched in vain."""


def test_the_whole_path_goes_over_connections_that_are_verified(told: Told, tls_pair: TlsPair) -> None:
    """Given servers that take TLS and SCRAM only, client certificates and odd passwords, then all of it works."""
    assert told.codes == dict.fromkeys(told.codes, 0)
    assert tls_pair.target.fetch("SELECT count(*), min(id) FROM t", superuser=True) == [(ROWS + 1, 0)]


@pytest.mark.parametrize("place", PLACES)
def test_no_secret_is_told(told: Told, place: str) -> None:
    """Given the most talkative log level, then neither a password nor a part of it stands anywhere."""
    text = told.places[place]

    assert PLACES[place] in text
    assert [secret for secret in SECRETS if secret in text] == []
