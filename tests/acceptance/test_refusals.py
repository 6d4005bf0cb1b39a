"""Bad input, through the installed commands `run` and `check`: one line that says which side, what, and the remedy.

No traceback, the exit code of the design page, nothing left behind on either server, and never a password in sight.
"""

import json
import signal
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from psycopg.conninfo import make_conninfo

from replicator.demo.servers import Server
from replicator.demo.worker import command
from tests.fixtures.databases import Database, new_source, settings_for
from tests.fixtures.pooler import pooler
from tests.fixtures.servers import SOURCE_MAJOR, AnyServer, ServerMaker
from tests.fixtures.traces import traces
from tests.fixtures.waiting import wait_until
from tests.fixtures.worker import run_command

SECRET = "not-the-one"
_FAILED_LOGIN = "password authentication failed"


@dataclass(frozen=True, slots=True)
class Refusal:
    """What `run` and `check` both had to say."""

    side: str
    message: str
    remedy: str


def refused(source: Database, target: Database, **changes: Any) -> Refusal:
    """Run both commands; they agree on one thing that is wrong, and leave both databases as they were."""
    settings = settings_for(source, target, **changes)
    before = traces(source), traces(target)
    with ThreadPoolExecutor() as pool:
        run, check = pool.map(lambda command: run_command(settings, *command), (["run"], ["check", "--json"]))
    assert (run.returncode, check.returncode) == (1, 1)
    for done in (run, check):
        assert "Traceback" not in done.stderr
        assert SECRET not in done.stdout + done.stderr
    (line,) = [line for line in run.stderr.splitlines() if not line.startswith("{")]
    (found,) = [item for item in json.loads(check.stdout)["findings"] if item["severity"] == "blocked"]
    assert found["remedy"]
    assert line == f"error: {found['side']}: {found['message']} — {found['remedy']}"
    assert (traces(source), traces(target)) == before
    return Refusal(found["side"], found["message"], found["remedy"])


@pytest.fixture
def source(source: Database) -> Database:
    """With the table of an app."""
    source.execute("CREATE TABLE t (id int PRIMARY KEY, v text); INSERT INTO t VALUES (1, 'one')")
    return source


# --- getting there ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("side", ["source", "target"])
def test_a_wrong_password_is_shown_to_the_server_once(source: Database, target: Database, side: str) -> None:
    database = source if side == "source" else target
    before = failed_logins(database.server)

    url = {f"{side.upper()}_DATABASE_URL": make_conninfo(database.dsn, password=SECRET)}
    refusal = refused(source, target, **url)

    assert refusal.side == side
    assert _FAILED_LOGIN in refusal.message
    # one of each command
    assert failed_logins(database.server) == before + 2


def failed_logins(server: AnyServer) -> int:
    if not isinstance(server, Server):
        pytest.skip("reads the log of an embedded server")
    return server.log_file.read_text().count(_FAILED_LOGIN)


@pytest.mark.parametrize("side", ["source", "target"])
def test_an_unknown_host_is_not_waited_for(source: Database, target: Database, side: str) -> None:
    url = {f"{side.upper()}_DATABASE_URL": f"postgresql://app:{SECRET}@no-such-host.invalid/app"}

    refusal = refused(source, target, **url)

    assert refusal.side == side
    assert f"cannot connect to the {side} at no-such-host.invalid" in refusal.message
    assert "does not resolve" in refusal.message


def test_a_pooler_is_told_from_the_server(source: Database, target: Database) -> None:
    with pooler(source.server.port) as between:
        refusal = refused(source, target, SOURCE_DATABASE_URL=between.dsn(source.dsn))

    assert refusal.side == "configuration"
    assert "connection pooler" in refusal.message
    assert "direct host" in refusal.remedy


def test_both_urls_may_not_lead_to_one_database(source: Database) -> None:
    refusal = refused(source, source)

    assert refusal.side == "configuration"
    assert "same database" in refusal.message


# --- the source -------------------------------------------------------------------------------------------------------


def test_a_source_without_logical_wal_needs_a_setting(make_server: ServerMaker, target: Database) -> None:
    source = new_source(make_server(SOURCE_MAJOR, wal_level="replica"))
    source.execute("CREATE TABLE t (id int PRIMARY KEY)")

    refusal = refused(source, target)

    assert (refusal.side, refusal.message) == ("source", "wal_level is replica, not logical")
    assert "wal_level = logical" in refusal.remedy


@pytest.fixture
def no_free_slot(source: Database) -> Iterator[None]:
    taken = [f"taken_{number}" for number in range(int(source.value("SHOW max_replication_slots")))]
    with source.server.administer() as connection:
        for name in taken:
            connection.execute("SELECT pg_create_physical_replication_slot(%s)", [name])
        yield
        for name in taken:
            connection.execute("SELECT pg_drop_replication_slot(%s)", [name])


@pytest.mark.usefixtures("no_free_slot")
def test_a_source_without_a_free_slot_needs_one(source: Database, target: Database) -> None:
    refusal = refused(source, target)

    assert (refusal.side, refusal.message) == ("source", "all replication slots are in use")
    assert "max_replication_slots" in refusal.remedy


def test_a_table_whose_updates_could_not_be_replicated_is_named(source: Database, target: Database) -> None:
    source.execute("CREATE TABLE keyless (v text)")

    refusal = refused(source, target)

    assert refusal.side == "source"
    assert "public.keyless" in refusal.message
    assert "REPLICATOR_KEYLESS" in refusal.remedy
    # the app goes on
    source.execute("INSERT INTO keyless VALUES ('a'); UPDATE keyless SET v = 'b'; DELETE FROM keyless")


# --- the target -------------------------------------------------------------------------------------------------------


def test_a_target_that_is_not_empty_is_left_alone(source: Database, target: Database) -> None:
    target.execute("CREATE TABLE t (id int PRIMARY KEY); INSERT INTO t VALUES (7)")

    refusal = refused(source, target)

    assert refusal.side == "target"
    assert "not empty: public.t" in refusal.message
    assert target.fetch("SELECT id FROM t") == [(7,)]


def test_rows_in_a_schema_of_the_users_own_are_left_alone(source: Database, target: Database) -> None:
    target.execute("CREATE TABLE t (id int PRIMARY KEY, v text); INSERT INTO t VALUES (7)")

    refusal = refused(source, target, REPLICATOR_SCHEMA="existing")

    assert refusal.side == "target"
    assert "public.t" in refusal.message
    assert target.fetch("SELECT id FROM t") == [(7,)]


def test_a_column_without_a_place_is_named(source: Database, target: Database) -> None:
    target.execute("CREATE TABLE t (id int PRIMARY KEY)")

    refusal = refused(source, target, REPLICATOR_SCHEMA="existing")

    assert refusal.side == "target"
    assert "public.t" in refusal.message


def test_an_extension_that_the_target_lacks_is_named(source: Database, target: Database) -> None:
    available = "SELECT FROM pg_available_extensions WHERE name = 'pgcrypto'"
    if not source.fetch(available) or target.fetch(available):
        pytest.skip("the source here has no extension that the target lacks")
    source.execute("CREATE EXTENSION pgcrypto; CREATE TABLE u (id text PRIMARY KEY DEFAULT gen_salt('bf'))")

    refusal = refused(source, target)

    assert refusal.side == "target"
    assert "extension pgcrypto is not available" in refusal.message


# --- settings that cannot be read: exit code 2 ------------------------------------------------------------------------


@pytest.mark.parametrize("command", ["run", "check"])
def test_settings_that_cannot_be_read_are_misuse(source: Database, target: Database, command: str) -> None:
    variables = {
        "SOURCE_DATABASE_URL": f"postgresql://app:{SECRET}@[host/app",
        "TARGET_DATABASE_URL": "",
        "REPLICATOR_KEYLESS": "maybe",
        "REPLICATOR_COPY_JOBS": "0",
    }

    done = run_command(settings_for(source, target), command, variables=variables)

    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: configuration: ")
    for name in variables:
        assert f"{name}: " in line
    assert SECRET not in line


def test_a_status_that_goes_on_is_no_document(source: Database, target: Database) -> None:
    done = run_command(settings_for(source, target), "status", "--watch", "--json")

    assert done.returncode == 2
    assert "use one of them" in done.stderr


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="looks for the signals that a process handles")
def test_an_interrupt_while_a_command_is_loaded_prints_nothing() -> None:
    """Given Ctrl-C before the command has begun, then it ends by the signal, without a traceback."""
    with subprocess.Popen([command(), "check"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        wait_until(lambda: _handles_interrupts(process.pid), what="the interpreter", interval=0.001)
        wait_until(lambda: not _handles_interrupts(process.pid), what="the program", interval=0.001)
        process.send_signal(signal.SIGINT)
        output = process.communicate(timeout=30)

    assert (process.returncode, *output) == (-signal.SIGINT, "", "")


def _handles_interrupts(pid: int) -> bool:
    caught = next(line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("SigCgt"))
    return bool(int(caught.split()[1], 16) >> (signal.SIGINT - 1) & 1)
