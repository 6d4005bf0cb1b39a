"""The copy relay over TLS: as strict as the connection string says, like every other session."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from psycopg.conninfo import make_conninfo

from bootstrap.copy import Relay
from replicator.demo.installation import server_account
from replicator.errors import ReplicatorError
from tests.fixtures.bootstrapping import assert_equal, run_bootstrap, take_lease
from tests.fixtures.databases import Database, new_source, settings_for
from tests.fixtures.servers import ServerMaker

ENCRYPTED = """
SELECT ssl FROM pg_stat_ssl JOIN pg_stat_activity USING (pid) WHERE application_name = 'replicator worker copy'
"""


@pytest.fixture
def certificate() -> Iterator[tuple[Path, Path]]:
    """A certificate for localhost, which signs itself, and its key, in a folder that the server's user can read."""
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("the program openssl is not installed")
    with TemporaryDirectory(prefix="replicator-tls-") as name:
        folder = Path(name)
        folder.chmod(0o755)
        certificate, key = folder / "server.crt", folder / "server.key"
        arguments = ["-x509", "-new", "-nodes", "-days", "2", "-subj", "/CN=localhost"]
        arguments += ["-addext", "subjectAltName=DNS:localhost"]
        subprocess.run(
            [openssl, "req", *arguments, "-out", certificate, "-keyout", key], check=True, capture_output=True
        )
        key.chmod(0o600)
        account = server_account()
        os.chown(key, account.uid, account.gid)
        yield certificate, key


@pytest.fixture
def tls_source(make_server: ServerMaker, certificate: tuple[Path, Path]) -> Database:
    crt, key = certificate
    server = make_server(17, ssl="on", ssl_cert_file=str(crt), ssl_key_file=str(key))
    return new_source(server)


async def test_the_copy_is_encrypted_and_verified(
    tls_source: Database, target: Database, certificate: tuple[Path, Path]
) -> None:
    """Given sslmode=verify-full, then the sessions of the relay are verified as psycopg's are, or refused."""
    tls_source.execute("CREATE TABLE t (id int PRIMARY KEY); INSERT INTO t VALUES (1)")
    dsn = make_conninfo(tls_source.dsn, host="localhost", sslmode="verify-full", sslrootcert=str(certificate[0]))
    settings = settings_for(dsn, target)

    await run_bootstrap(settings)

    await assert_equal(settings)
    epoch = await take_lease(settings)
    async with Relay.opened(dsn, target.dsn, epoch, replica=False, count_bytes=print):
        assert tls_source.fetch(ENCRYPTED, superuser=True) == [(True,)]
    other = make_conninfo(tls_source.dsn, sslmode="verify-full", sslrootcert="system")
    with pytest.raises(ReplicatorError, match="certificate"):
        async with Relay.opened(other, target.dsn, epoch, replica=False, count_bytes=print):
            pass
