"""TLS as strict as the URLs say, on every connection of every part: the whole path, and what is refused at once."""

import asyncio
import ssl
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final

import pytest

from bootstrap.copy import Relay
from bootstrap.pgdump import dump_schemas
from monitoring.health import Health
from monitoring.metrics import Metrics
from replicator.check import Severity, check
from replicator.cleanup import cleanup
from replicator.config import Settings
from replicator.cutover import abort, cutover
from replicator.errors import ConfigurationError, ConnectionRefusedForGoodError, ReplicatorError, Side
from replicator.postgres import connect
from replicator.status import read_status
from replicator.verify import compare
from replicator.worker import Worker
from tests.fixtures.bootstrapping import take_lease
from tests.fixtures.databases import settings_for
from tests.fixtures.tls import TlsPair

AT_ONCE: Final = 10
"""Seconds in which a refusal has come: a second attempt comes later than the first, and then again and again."""

Opener = Callable[[str, Side], Awaitable[Any]]


async def ordinary(dsn: str, side: Side) -> None:
    await (await connect(dsn, side, "test")).close()


async def replication(dsn: str, side: Side) -> None:
    await (await connect(dsn, side, "test", replication=True)).close()


async def pg_dump(dsn: str, _: Side) -> None:
    await dump_schemas(settings_for(dsn, dsn), 170000, None, ["public"])


@pytest.fixture(scope="module")
def copying(tls_pair: TlsPair) -> Opener:
    """Opens the connections of the copy, of which the other side's is as it should be."""
    right = {side.value: tls_pair.dsn(side.value) for side in (Side.SOURCE, Side.TARGET)}
    epoch = asyncio.run(take_lease(settings_for(right["source"], right["target"])))

    async def copy(dsn: str, side: Side) -> None:
        given = right | {side.value: dsn}
        async with Relay.opened(given["source"], given["target"], epoch, replica=False, count_bytes=print):
            pass

    return copy


async def refusal(opener: Opener, dsn: str, side: Side) -> ReplicatorError:
    """What it is refused with: one line, that is no reason to try again."""
    with pytest.raises(ReplicatorError) as caught:
        await asyncio.wait_for(opener(dsn, side), AT_ONCE)
    error = caught.value
    assert isinstance(error, ConnectionRefusedForGoodError | ConfigurationError), error
    assert not error.retryable
    assert f"the {side.value}" in error.message
    assert "\n" not in f"{error} {error.hint}"
    assert "ssl" in error.hint
    return error


# --- what the client refuses ------------------------------------------------------------------------------------------

WRONG: Final[Mapping[str, tuple[str, Callable[[TlsPair], dict[str, str | None]]]]] = {
    "another authority": ("certificate", lambda pair: {"sslrootcert": str(pair.stranger.root.crt)}),
    "no such file": ("does not exist|cannot be read", lambda _: {"sslrootcert": "/nowhere/root.crt"}),
    "a revoked certificate": ("certificate", lambda pair: {"sslcrl": str(pair.revoked)}),
    "another host": ("does not match|not valid for", lambda _: {"host": "127.0.0.1"}),
}
"""What is wrong with a URL, and how that is told."""


@pytest.mark.parametrize("wrong", WRONG)
@pytest.mark.parametrize("side", [Side.SOURCE, Side.TARGET], ids=["source", "target"])
async def test_a_server_that_is_not_proved_is_refused_at_once(
    tls_pair: TlsPair, copying: Opener, side: Side, wrong: str
) -> None:
    """Given verify-full and a certificate that does not fit, then no connection of any kind comes about (law 9)."""
    told, changes = WRONG[wrong]
    for opener in (ordinary, copying, *((replication, pg_dump) if side is Side.SOURCE else ())):
        error = await refusal(opener, tls_pair.dsn(side.value, **changes(tls_pair)), side)
        assert any(words in error.message for words in told.split("|"))


@pytest.mark.parametrize("shown", ["expired", "elsewhere", "none"])
async def test_a_server_with_a_wrong_certificate_is_refused_at_once(
    tls_pair: TlsPair, copying: Opener, shown: str
) -> None:
    """Given an expired certificate, another host's, or no TLS at all, then nobody sends a password there."""
    tls_pair.show("source", getattr(tls_pair, shown, None))
    try:
        for opener in (ordinary, replication, copying, pg_dump):
            await refusal(opener, tls_pair.dsn("source"), Side.SOURCE)
    finally:
        tls_pair.show("source", tls_pair.server)


@pytest.mark.parametrize(
    "changes",
    [{"sslcert": None, "sslkey": None}, {"sslpassword": "not-the-one"}],
    ids=["no certificate", "wrong key password"],
)
async def test_a_client_certificate_that_is_not_shown_is_no_reason_to_try_again(
    tls_pair: TlsPair, copying: Opener, changes: Mapping[str, str | None]
) -> None:
    for opener in (ordinary, replication, copying, pg_dump):
        error = await refusal(opener, tls_pair.dsn("source", **changes), Side.SOURCE)
        assert "not-the-one" not in f"{error} {error.hint}"


async def test_a_client_certificate_of_a_stranger_is_refused_at_once(tls_pair: TlsPair) -> None:
    stranger = tls_pair.stranger.root
    dsn = tls_pair.dsn("source", sslcert=str(stranger.crt), sslkey=str(stranger.key), sslpassword=None)
    for opener in (ordinary, replication, pg_dump):
        await refusal(opener, dsn, Side.SOURCE)


@pytest.mark.parametrize(
    "changes",
    [
        {"sslmode": "verify"},
        {"sslmode": "require", "sslrootcert": "system"},
        {"sslmode": "prefer", "sslnegotiation": "direct"},
        {"channel_binding": "always"},
        {"ssl_min_protocol_version": "TLSv9"},
        {"port": "99999"},
    ],
    ids=str,
)
async def test_what_libpq_does_not_take_in_a_url_is_a_configuration_error(
    tls_pair: TlsPair, changes: Mapping[str, str]
) -> None:
    with pytest.raises(ConfigurationError, match=r"^configuration: the source's URL: (invalid|weak)"):
        await asyncio.wait_for(ordinary(tls_pair.dsn("source", **changes), Side.SOURCE), AT_ONCE)


# --- channel binding --------------------------------------------------------------------------------------------------


async def test_channel_binding_is_taken_where_a_certificate_proves_the_server_too(
    tls_pair: TlsPair, copying: Opener
) -> None:
    """Given SCRAM with channel_binding=require and verify-full, then every connection comes about."""
    for side in (Side.SOURCE, Side.TARGET):
        await copying(tls_pair.dsn(side.value, channel_binding="require", require_auth="scram-sha-256"), side)
    for opener in (ordinary, replication, pg_dump):
        await opener(tls_pair.dsn("source", channel_binding="require", require_auth="scram-sha-256"), Side.SOURCE)


@pytest.mark.parametrize("words", [{"channel_binding": "require"}, {"require_auth": "scram-sha-256"}], ids=str)
async def test_channel_binding_alone_is_refused_by_check_and_copy(
    tls_pair: TlsPair, copying: Opener, words: Mapping[str, str]
) -> None:
    """The copy's driver knows a server by its certificate only: it must not be less strict than the URL."""
    weak = tls_pair.dsn("target", **words, sslmode="require", sslrootcert=None)

    assert "which the copy cannot hold to" in (await refusal(copying, weak, Side.TARGET)).message
    findings = await check(settings_for(tls_pair.dsn("source"), weak))
    assert "which the copy cannot hold to" in "".join(f.message for f in findings if f.severity is Severity.BLOCKED)


async def test_what_the_environment_says_holds_for_the_copy_too(
    tls_pair: TlsPair, copying: Opener, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Given PGSSLMODE and PGSSLROOTCERT, as libpq reads them, and a URL that says nothing, then they hold."""
    unsaid = tls_pair.dsn("target", sslmode=None, sslrootcert=None)
    monkeypatch.setenv("PGSSLMODE", "verify-full")
    monkeypatch.setenv("PGSSLROOTCERT", str(tls_pair.authority.root.crt))
    await copying(unsaid, Side.TARGET)

    monkeypatch.setenv("PGSSLROOTCERT", str(tls_pair.stranger.root.crt))
    for opener in (ordinary, copying):
        await refusal(opener, unsaid, Side.TARGET)


async def test_preferring_tls_with_a_root_certificate_never_ends_in_plain_text(tls_pair: TlsPair) -> None:
    """Given no sslmode, a root certificate, and a server that is not proved, then it is not asked without TLS."""
    error = await refusal(
        ordinary, tls_pair.dsn("target", sslmode=None, sslrootcert=str(tls_pair.stranger.root.crt)), Side.TARGET
    )
    assert "certificate verify failed" in error.message


async def test_the_name_is_verified_where_the_url_gives_the_address_too(tls_pair: TlsPair, copying: Opener) -> None:
    """Given hostaddr, then it is the host that the certificate must be for."""
    for opener in (ordinary, replication, copying, pg_dump):
        await opener(tls_pair.dsn("source", hostaddr="127.0.0.1"), Side.SOURCE)
        await refusal(opener, tls_pair.dsn("source", hostaddr="127.0.0.1", host="elsewhere.example"), Side.SOURCE)


@pytest.mark.parametrize("given", [{}, {"sslmode": "verify-full"}], ids=str)
async def test_the_systems_certificates_are_found_and_verify_fully(
    tls_pair: TlsPair, copying: Opener, monkeypatch: pytest.MonkeyPatch, given: Mapping[str, str]
) -> None:
    """Given sslrootcert=system, with which verify-full is the default, then all find the system's, and hold to them."""
    for name in ("SSL_CERT_FILE", "SSL_CERT_DIR"):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    ours = ssl.get_default_verify_paths()._replace(cafile=str(tls_pair.authority.root.crt))
    monkeypatch.setattr(ssl, "get_default_verify_paths", lambda: ours)
    words: dict[str, str | None] = {"sslmode": None, **given, "sslrootcert": "system"}

    for opener in (ordinary, replication, copying, pg_dump):
        await opener(tls_pair.dsn("source", **words), Side.SOURCE)
        await refusal(opener, tls_pair.dsn("source", **words | {"host": "127.0.0.1"}), Side.SOURCE)


async def test_tls_from_the_first_byte_is_taken(tls_pair: TlsPair, copying: Opener) -> None:
    for side in (Side.SOURCE, Side.TARGET):
        await copying(tls_pair.dsn(side.value, sslnegotiation="direct"), side)


# --- every command ----------------------------------------------------------------------------------------------------


async def _work(settings: Settings) -> None:
    await Worker(settings, Metrics(), Health(15)).run(stream=True)


COMMANDS: Final[Mapping[str, Callable[[Settings], Awaitable[object]]]] = {
    "run": _work,
    "status": read_status,
    "cutover": lambda settings: cutover(settings, print),
    "abort": abort,
    "cleanup": cleanup,
    "compare": lambda settings: compare(settings.source, settings.target),
}


@pytest.mark.parametrize("command", COMMANDS)
async def test_every_command_refuses_a_target_that_is_not_proved(tls_pair: TlsPair, command: str) -> None:
    wrong = tls_pair.dsn("target", sslrootcert=str(tls_pair.stranger.root.crt))
    settings = settings_for(tls_pair.dsn("source"), wrong)

    with pytest.raises(ConnectionRefusedForGoodError, match=r"the target at .*certificate verify failed"):
        await asyncio.wait_for(COMMANDS[command](settings), AT_ONCE)


async def test_check_tells_of_both_sides_at_once(tls_pair: TlsPair) -> None:
    stranger = str(tls_pair.stranger.root.crt)
    dsns = [tls_pair.dsn(side, sslrootcert=stranger) for side in ("source", "target")]

    findings = await asyncio.wait_for(check(settings_for(*dsns)), AT_ONCE)

    assert [finding.side for finding in findings] == [Side.TARGET, Side.SOURCE]
    assert all("certificate verify failed" in finding.message for finding in findings)
    assert all("sslrootcert" in finding.remedy for finding in findings)
