"""Opening a connection so that a wrong password is shown to the server once (law 5), and its errors name their side.

Some hosts ban an address after three failures. psycopg tries the same password at every address of a host, and libpq
under sslmode=prefer, its default, once with TLS and once without.
"""

import asyncio
import ipaddress
import os
import re
import socket
import ssl
from collections.abc import AsyncIterator, Mapping
from typing import Any, Final, TypeVar

import psycopg
from psycopg import AsyncConnection
from psycopg.abc import PQGen
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from psycopg.rows import TupleRow

from replicator.errors import Side

_Result = TypeVar("_Result")

_WITHOUT_TLS: Final = re.compile(r"SSL(?!.*certificate verify failed)|no pg_hba\.conf entry", re.IGNORECASE)
"""Why to try without TLS under sslmode=prefer. Not where a root certificate is given and another one signs."""

_AUTHENTICATION: Final = re.compile(r"authentication failed|SASL|password", re.IGNORECASE)


class SidedConnection(AsyncConnection[TupleRow]):
    """A session whose errors know whose they are: much of the work asks both servers, the one after the other."""

    side: Side

    async def wait(self, gen: PQGen[_Result], *args: Any, **options: Any) -> _Result:  # noqa: ANN401  # psycopg's own
        """Everything that a session does runs here, but for connecting."""
        try:
            return await super().wait(gen, *args, **options)
        except psycopg.Error as error:
            error.side = self.side  # type: ignore[attr-defined]  # psycopg's error has no place for it
            raise


def side_of(error: psycopg.Error) -> Side | None:
    """The side of the session that raised it; None if no session of ours did."""
    return getattr(error, "side", None)


async def open_connection(dsn: str, side: Side, **options: Any) -> SidedConnection:  # noqa: ANN401  # libpq's options
    """Try every address, with TLS and then without where sslmode allows it, until one connects or refuses the login.

    Raises psycopg.Error: ProgrammingError for an unreadable string, else the last failure.
    """
    parts = {name: str(value) for name, value in conninfo_to_dict(dsn, **options).items() if value is not None}
    if _trusts_the_system(parts):
        _find_its_certificates()
    last: psycopg.Error | None = None
    async for address in _addresses(parts):
        for mode in _tls_modes(parts):
            try:
                session = await SidedConnection.connect(make_conninfo("", **(parts | address | mode)), autocommit=True)
            except psycopg.Error as error:
                last = error
                if _AUTHENTICATION.search(str(error)):
                    raise
                if not _WITHOUT_TLS.search(str(error)):
                    break  # the same would happen without TLS
            else:
                session.side = side
                return session
    raise last or psycopg.OperationalError(f"failed to resolve host {parts.get('host', '')!r}")


def _trusts_the_system(parts: Mapping[str, str]) -> bool:
    return parts.get("sslrootcert", os.environ.get("PGSSLROOTCERT")) == "system"


def _find_its_certificates() -> None:
    """Say where they are: psycopg's binary wheel looks in a folder that exists nowhere."""
    file = ssl.get_default_verify_paths().cafile
    if file and "SSL_CERT_FILE" not in os.environ and "SSL_CERT_DIR" not in os.environ:
        os.environ["SSL_CERT_FILE"] = file


def _tls_modes(parts: Mapping[str, str]) -> list[dict[str, str]]:
    if parts.get("sslmode", os.environ.get("PGSSLMODE", "prefer")) != "prefer":
        return [{}]
    if _trusts_the_system(parts) or parts.get("sslnegotiation") == "direct":
        return [{}]  # libpq takes verify-full for its default there, or refuses
    return [{"sslmode": "require"}, {"sslmode": "disable"}]


async def _addresses(parts: Mapping[str, str]) -> AsyncIterator[dict[str, str]]:
    """One at a time, since the next is needed only when this one fails; hosts and ports are lists with commas."""
    named = [parts[name].split(",") if name in parts else [] for name in ("host", "hostaddr", "port")]
    count = max(1, len(named[0]), len(named[1]))
    hosts, literals, ports = (values * count if len(values) == 1 else values for values in named)
    for index in range(count):
        address = {
            name: values[index]
            for name, values in (("host", hosts), ("hostaddr", literals), ("port", ports))
            if index < len(values)
        }
        if "hostaddr" in address or not _is_name(address.get("host", "")):
            yield address
            continue
        for literal in await _resolve(address["host"]):
            yield address | {"hostaddr": literal}


def _is_name(host: str) -> bool:
    """Whether it needs resolving: a name, and neither an address, a socket's folder nor libpq's default."""
    if not host or host.startswith(("/", "@")):
        return False
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return True
    return False


async def _resolve(host: str) -> list[str]:
    try:
        found = await asyncio.get_running_loop().getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except OSError:
        return []
    return list(dict.fromkeys(str(item[4][0]) for item in found))
