"""Law 5: a refused password is shown to the server once, however many addresses and TLS modes there are to try."""

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from replicator.errors import ConnectionRefusedForGoodError, ServerUnavailableError, Side, UnknownHostError
from replicator.postgres import connect
from tests.fixtures.databases import Database, new_source
from tests.fixtures.servers import SOURCE_MAJOR, new_server

REFUSAL = "password authentication failed"


@pytest.fixture(scope="module")
def tls_source(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Database]:
    """A source that offers TLS, as both platforms do."""
    if shutil.which("openssl") is None:
        pytest.skip("openssl is not installed: no certificate can be made")
    with new_server(SOURCE_MAJOR) as server:
        if not hasattr(server, "folder"):
            pytest.skip("the log of a server in a container is not at hand")
        _enable_tls(server.folder / "data")
        server.restart()
        yield new_source(server)


def _enable_tls(data: Path) -> None:
    key, certificate = data / "server.key", data / "server.crt"
    request = ["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost"]
    files = ["-keyout", str(key), "-out", str(certificate)]
    subprocess.run(["openssl", *request, *files], check=True, capture_output=True)
    owner = data.stat()
    for file in (key, certificate):
        file.chmod(0o600)
        shutil.chown(file, owner.st_uid, owner.st_gid)
    with (data / "postgresql.conf").open("a") as conf:
        conf.write("ssl = on\n")


def refusals(database: Database) -> int:
    log: Path = database.server.log_file  # type: ignore[attr-defined]  # only of an embedded server
    return log.read_text().count(REFUSAL)


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1,127.0.0.1"])
async def test_given_a_wrong_password_it_is_tried_once(tls_source: Database, host: str) -> None:
    before = refusals(tls_source)

    with pytest.raises(ConnectionRefusedForGoodError, match=REFUSAL) as caught:
        await connect(make_conninfo(tls_source.dsn, host=host, password="not-the-one"), Side.SOURCE, "test")

    assert refusals(tls_source) - before == 1
    assert "not-the-one" not in str(caught.value)


async def test_given_a_server_that_offers_tls_it_is_used_by_default(tls_source: Database) -> None:
    async with await connect(tls_source.dsn, Side.SOURCE, "test") as connection:
        cursor = await connection.execute("SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()")
        assert await cursor.fetchone() == (True,)


async def test_given_a_server_without_tls_it_connects_unless_tls_is_required(source: Database) -> None:
    async with await connect(source.dsn, Side.SOURCE, "test") as connection:
        assert connection.info.status is psycopg.pq.ConnStatus.OK

    with pytest.raises(ConnectionRefusedForGoodError, match="does not support SSL"):
        await connect(make_conninfo(source.dsn, sslmode="require"), Side.SOURCE, "test")


async def test_given_several_hosts_the_next_is_tried_when_one_is_down(source: Database) -> None:
    hosts, ports = "127.0.0.1,localhost", f"1,{source.server.port}"
    async with await connect(make_conninfo(source.dsn, host=hosts, port=ports), Side.SOURCE, "test") as connection:
        assert connection.info.port == source.server.port


async def test_given_a_host_that_does_not_resolve_the_error_says_so(source: Database) -> None:
    with pytest.raises(UnknownHostError, match="does not resolve"):
        await connect(make_conninfo(source.dsn, host="no-such-host.invalid"), Side.SOURCE, "test")


async def test_given_nobody_listens_the_error_is_retryable(source: Database) -> None:
    with pytest.raises(ServerUnavailableError):
        await connect(make_conninfo(source.dsn, port="1"), Side.SOURCE, "test")
