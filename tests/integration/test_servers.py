"""The embedded servers, and the fixtures that every other test stands on: servers, databases, proxy."""

import os
import signal
import socket
import stat
import subprocess
import sys
import textwrap
from pathlib import Path

import psycopg
import pytest

from replicator.config import Settings
from replicator.demo import installation
from replicator.demo.servers import Server, StopMode
from replicator.errors import EmbeddedServerError
from tests.fixtures.databases import Database
from tests.fixtures.proxy import ProxyMaker
from tests.fixtures.servers import ServerMaker
from tests.fixtures.waiting import wait_until


def test_the_source_is_owned_by_a_role_like_supabases(source: Database) -> None:
    attributes = "rolsuper, rolreplication, rolcreatedb, rolcreaterole, rolbypassrls"
    assert source.fetch(f"SELECT {attributes} FROM pg_roles WHERE rolname = current_user") == [
        (False, True, True, True, True)
    ]
    assert source.value("SHOW extra_float_digits") == "0"
    assert source.value("SHOW statement_timeout") == "2min"
    assert source.value("SHOW wal_level") == "logical"


def test_the_target_is_owned_by_a_role_that_is_nothing_else(target: Database) -> None:
    attributes = "rolsuper, rolreplication, rolcreatedb, rolcreaterole, rolbypassrls"
    assert target.fetch(f"SELECT {attributes} FROM pg_roles WHERE rolname = current_user") == [
        (False, False, True, False, False)
    ]
    target.execute("CREATE TABLE t (id int)")
    assert target.value("SELECT tableowner FROM pg_tables WHERE tablename = 't'") == "app"


def test_each_test_has_databases_of_its_own(source: Database, target: Database, settings: Settings) -> None:
    assert source.fetch("SELECT 1 FROM pg_tables WHERE schemaname = 'public'") == []
    assert (settings.source, settings.target) == (source.dsn, target.dsn)


def test_a_wrong_password_is_refused(source: Database) -> None:
    with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
        psycopg.connect(source.server.dsn("postgres", source.name, "wrong"))


@pytest.mark.parametrize("mode", StopMode)
def test_a_restarted_server_keeps_its_port_and_its_data(private_source: Database, mode: StopMode) -> None:
    private_source.execute("CREATE TABLE t AS SELECT 1 AS id")

    private_source.server.restart(mode)

    assert private_source.value("SELECT id FROM t") == 1


def test_a_killed_server_starts_again(private_target: Database) -> None:
    private_target.execute("CREATE TABLE t AS SELECT 1 AS id")

    private_target.server.kill()
    private_target.server.start()

    assert private_target.value("SELECT id FROM t") == 1


def test_settings_reach_the_server(make_server: ServerMaker) -> None:
    server = make_server(17, max_replication_slots="3", application_name="it's")

    with server.administer() as connection:
        assert connection.execute("SHOW max_replication_slots").fetchone() == ("3",)
        assert connection.execute("SELECT reset_val FROM pg_settings WHERE name = 'application_name'").fetchone() == (
            "it's",
        )


def test_a_setting_that_the_server_refuses_is_reported(make_server: ServerMaker) -> None:
    with pytest.raises(EmbeddedServerError, match="no_such_setting"):
        make_server(18, no_such_setting="1")


def test_a_removed_server_leaves_nothing() -> None:
    with Server(installation.find_pair().target, durable=False) as server:
        folder, pid = server.folder, server.pid
        assert pid is not None

    assert not folder.exists()
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_a_server_does_not_outlive_its_owner(number: signal.Signals) -> None:
    program = """
        import time
        from replicator.demo import installation
        from replicator.demo.servers import Server
        with Server(installation.find_pair().target, durable=False) as server:
            print(server.folder, server.port, flush=True)
            time.sleep(60)
    """
    with subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(program)], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as owner:
        assert owner.stdout is not None
        folder, port = owner.stdout.readline().split()

        owner.send_signal(number)

    wait_until(lambda: not Path(folder).exists(), timeout=20, what="the server's folder is gone")
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", int(port)))


@pytest.mark.skipif(os.geteuid() != 0, reason="only root runs servers as another user")
def test_root_copies_programs_that_the_servers_user_cannot_read(tmp_path: Path) -> None:
    found = installation.find_pair().target
    assert found.wheel is not None
    closed = tmp_path / "closed"
    closed.mkdir()
    package = found.wheel.parent
    for name in (found.wheel.name, f"{found.wheel.name}.libs"):
        (closed / name).symlink_to(package / name)
    closed.chmod(stat.S_IRWXU)
    hidden = installation.Installation(
        found.major, closed / found.wheel.name / "pginstall" / "bin", closed / found.wheel.name
    )

    with Server(hidden, durable=False) as server:
        assert server.installation.programs.is_relative_to(server.folder)
        with server.administer() as connection:
            assert connection.execute("SELECT 1").fetchone() == (1,)


def test_without_time_zones_both_sides_are_18(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(installation, "_ZONEINFO", Path("/nowhere"))

    pair = installation.find_pair()

    assert (pair.source.major, pair.target.major) == (18, 18)
    assert pair.note is not None
    assert "tzdata" in pair.note


def test_a_system_postgresql_15_is_a_source(source_15: Database) -> None:
    assert source_15.value("SHOW server_version_num").startswith("15")


# --- the proxy --------------------------------------------------------------------------------------------------------


def test_the_proxy_forwards_and_cuts(target: Database, make_proxy: ProxyMaker) -> None:
    proxy = make_proxy(target.server.port)
    with psycopg.connect(proxy.dsn(target.dsn)) as connection:
        assert connection.execute("SELECT 1").fetchone() == (1,)

        proxy.cut()

        with pytest.raises(psycopg.OperationalError):
            connection.execute("SELECT 1")
    with psycopg.connect(proxy.dsn(target.dsn)) as connection:
        assert connection.execute("SELECT 2").fetchone() == (2,)


def test_the_proxy_goes_away_and_comes_back_at_its_port(target: Database, make_proxy: ProxyMaker) -> None:
    proxy = make_proxy(target.server.port)
    port = proxy.port

    proxy.down()
    with pytest.raises(psycopg.OperationalError):
        psycopg.connect(proxy.dsn(target.dsn))

    proxy.up()
    assert proxy.port == port
    with psycopg.connect(proxy.dsn(target.dsn)) as connection:
        assert connection.execute("SELECT 1").fetchone() == (1,)


def test_a_deaf_proxy_answers_nothing_until_it_hears(target: Database, make_proxy: ProxyMaker) -> None:
    proxy = make_proxy(target.server.port)
    proxy.deaf()
    with pytest.raises(psycopg.OperationalError, match="timeout"):
        psycopg.connect(proxy.dsn(target.dsn), connect_timeout=2)

    proxy.hear()
    with psycopg.connect(proxy.dsn(target.dsn)) as connection:
        assert connection.execute("SELECT 1").fetchone() == (1,)


def test_the_proxy_loses_the_answer_to_a_commit_that_happened(target: Database, make_proxy: ProxyMaker) -> None:
    target.execute("CREATE TABLE t (id int)")
    proxy = make_proxy(target.server.port)
    with psycopg.connect(proxy.dsn(target.dsn)) as connection:
        connection.execute("INSERT INTO t VALUES (1)")
        proxy.lose_next_commit()

        with pytest.raises(psycopg.OperationalError):
            connection.commit()

    assert proxy.lost_answers == 1
    assert target.value("SELECT count(*) FROM t") == 1
