"""A libpq connection string as the explicit arguments that asyncpg takes, TLS included.

Source: PostgreSQL documentation, "libpq - Parameter Key Words" and "SSL Support". asyncpg would read a URL by rules of
its own, so both drivers would not always mean the same server.
"""

import ssl
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from psycopg.conninfo import conninfo_to_dict
from psycopg.pq import Conninfo

from replicator.errors import ConfigurationError, Side
from replicator.postgres import CONNECT_TIMEOUT, session_settings

_AS_THEY_ARE: Final = {"user": "user", "password": "password", "dbname": "database", "passfile": "passfile"}
_UNVERIFIED: Final = ("disable", "allow", "prefer")
_ROOT_CERTIFICATE: Final = "~/.postgresql/root.crt"
_VERSIONS: Final = {"TLSv1.2": ssl.TLSVersion.TLSv1_2, "TLSv1.3": ssl.TLSVersion.TLSv1_3}
_ALPN: Final = "postgresql"
"""Servers want it where TLS begins at once (documentation: "SSL Session Encryption")."""


def connect_arguments(dsn: str, side: Side, purpose: str, settings: Mapping[str, str]) -> dict[str, Any]:
    """The arguments for one session on that side; ``settings`` go beside the pinned ones.

    Raises ConfigurationError when a certificate file that the connection string names cannot be read.
    """
    parts = {name: str(value) for name, value in conninfo_to_dict(dsn).items() if value is not None}
    arguments: dict[str, Any] = {argument: parts[name] for name, argument in _AS_THEY_ARE.items() if name in parts}
    if host := parts.get("hostaddr") or parts.get("host"):
        arguments["host"] = host.split(",")
        arguments["port"] = _ports(parts.get("port", ""), len(arguments["host"]))
    if "target_session_attrs" in parts:
        arguments["target_session_attrs"] = parts["target_session_attrs"]
    server_settings = {**session_settings(side), "application_name": f"replicator {purpose}", **settings}
    if "options" in parts:
        server_settings["options"] = parts["options"]
    return arguments | {
        "ssl": tls(parts, side),
        "direct_tls": parts.get("sslnegotiation") == "direct",
        "server_settings": server_settings,
        "timeout": CONNECT_TIMEOUT,
    }


def _ports(text: str, hosts: int) -> list[int]:
    ports = [int(port or 5432) for port in text.split(",")]
    return ports * hosts if len(ports) == 1 else ports


def tls(parts: Mapping[str, str], side: Side) -> ssl.SSLContext | str | bool:
    """What sslmode means: the modes that verify nothing by their names, the others as a context."""
    parts = {**_from_environment(), **parts}
    mode = parts.get("sslmode", "verify-full" if parts.get("sslrootcert") == "system" else "prefer")
    context = None
    if mode not in _UNVERIFIED:
        try:
            context = _context(mode, parts)
        except OSError as error:
            raise ConfigurationError(
                f"the {side.value}'s TLS certificate files cannot be read: {error.strerror or 'not a certificate'}",
                hint="Correct sslrootcert, sslcert and sslkey in the URL.",
            ) from None
    if (context is None or context.verify_mode is ssl.CERT_NONE) and _proves_the_server_otherwise(parts):
        raise ConfigurationError(
            f"the {side.value}'s URL has channel_binding=require or require_auth, which the copy cannot hold to: "
            "it knows a server by its certificate only",
            hint="Give sslmode=verify-full and sslrootcert besides, or leave these out.",
        )
    return context or (mode if mode != "disable" else False)


def _proves_the_server_otherwise(parts: Mapping[str, str]) -> bool:
    return parts.get("channel_binding") == "require" or "require_auth" in parts


def _from_environment() -> Mapping[str, str]:
    """What libpq takes from PGSSLMODE and the like where the connection string does not say it."""
    return {
        option.keyword.decode(): option.val.decode()
        for option in Conninfo.get_defaults()
        if option.val not in (None, option.compiled)
        and option.keyword.startswith((b"ssl", b"channel_binding", b"require_auth"))
    }


class _Context(ssl.SSLContext):
    """Verifies the host that the URL names, also where hostaddr gives its address; asyncpg knows only one of both."""

    name: str | None = None

    def wrap_bio(
        self,
        incoming: ssl.MemoryBIO,
        outgoing: ssl.MemoryBIO,
        server_side: bool = False,  # as the class that it overrides
        server_hostname: str | bytes | None = None,
        session: ssl.SSLSession | None = None,
    ) -> ssl.SSLObject:
        """As of any context."""
        return super().wrap_bio(incoming, outgoing, server_side, self.name or server_hostname, session)


def _context(mode: str, parts: Mapping[str, str]) -> ssl.SSLContext:
    context = _Context(ssl.PROTOCOL_TLS_CLIENT)
    if "hostaddr" in parts and "," not in parts["hostaddr"]:
        context.name = parts.get("host")
    # as libpq; some distributions' Python would take less
    context.minimum_version = _VERSIONS.get(parts.get("ssl_min_protocol_version", ""), ssl.TLSVersion.TLSv1_2)
    context.set_alpn_protocols([_ALPN])
    root = parts.get("sslrootcert")
    # with a root certificate, libpq's "require" verifies the chain as "verify-ca" does
    verify = mode != "require" or root is not None
    context.check_hostname = mode == "verify-full" or root == "system"
    context.verify_mode = ssl.CERT_REQUIRED if verify else ssl.CERT_NONE
    if root == "system":
        context.load_default_certs()
    elif verify:
        context.load_verify_locations(Path(root or _ROOT_CERTIFICATE).expanduser())
    if "sslcrl" in parts:
        context.load_verify_locations(Path(parts["sslcrl"]))
        context.verify_flags |= ssl.VERIFY_CRL_CHECK_CHAIN
    if "sslcert" in parts:
        # without a password it would be asked for on the terminal
        context.load_cert_chain(parts["sslcert"], parts.get("sslkey"), parts.get("sslpassword", ""))
    return context
