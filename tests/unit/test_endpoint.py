"""A libpq connection string in asyncpg's words: both drivers must mean the same server, role and TLS."""

import ssl

import pytest

from bootstrap.endpoint import connect_arguments
from replicator.errors import ConfigurationError, Side


def arguments(dsn: str) -> dict[str, object]:
    return connect_arguments(dsn, Side.SOURCE, "worker copy", {})


def test_every_word_has_its_place() -> None:
    found = arguments("postgresql://u%40x:p%2Fw@db.example:6543/data?options=-csearch_path%3Dapp&sslmode=disable")
    assert {key: found[key] for key in ("host", "port", "user", "password", "database", "ssl")} == {
        "host": ["db.example"],
        "port": [6543],
        "user": "u@x",
        "password": "p/w",
        "database": "data",
        "ssl": False,
    }
    settings = found["server_settings"]
    assert isinstance(settings, dict)
    assert settings["options"] == "-csearch_path=app"
    assert settings["application_name"] == "replicator worker copy"
    assert settings["extra_float_digits"] == "3"


def test_several_hosts_keep_their_ports() -> None:
    found = arguments("host=a,b port=1,2 user=u")
    assert (found["host"], found["port"]) == (["a", "b"], [1, 2])
    found = arguments("host=a,b user=u hostaddr=10.0.0.1,10.0.0.2")
    assert (found["host"], found["port"]) == (["10.0.0.1", "10.0.0.2"], [5432, 5432])


@pytest.mark.parametrize("mode", ["allow", "prefer"])
def test_modes_that_verify_nothing_go_by_name(mode: str) -> None:
    assert arguments(f"host=a sslmode={mode}")["ssl"] == mode
    assert arguments("host=a")["ssl"] == "prefer"


@pytest.mark.parametrize(
    ("words", "verify", "hostname"),
    [
        ("sslmode=require", ssl.CERT_NONE, False),
        ("sslmode=verify-full sslrootcert=system", ssl.CERT_REQUIRED, True),
        ("sslmode=require sslrootcert=system", ssl.CERT_REQUIRED, True),
    ],
)
def test_modes_that_verify_are_as_strict_as_libpq(words: str, verify: ssl.VerifyMode, hostname: bool) -> None:
    context = arguments(f"host=a {words}")["ssl"]
    assert isinstance(context, ssl.SSLContext)
    assert (context.verify_mode, context.check_hostname) == (verify, hostname)
    assert context.minimum_version >= ssl.TLSVersion.TLSv1_2


def test_a_missing_certificate_is_a_configuration_error() -> None:
    """Law 9: given a root certificate that is not there, then the error says whose URL to correct."""
    with pytest.raises(ConfigurationError, match="the source's TLS certificate files cannot be read: No such file"):
        arguments("host=a sslmode=verify-ca sslrootcert=/nowhere/root.crt")
