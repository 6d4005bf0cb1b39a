"""Law 9: every error says whose side it is, what to do, and whether trying again may help."""

import asyncio
from collections.abc import Iterator

import psycopg
import pytest

from replicator import errors
from replicator.errors import (
    ApplyError,
    ConnectionRefusedForGoodError,
    DivergenceError,
    ProtocolError,
    ReplicatorError,
    ServerUnavailableError,
    Side,
    TooManyConnectionsError,
    TransientError,
)
from replicator.postgres import describe, translate
from replicator.retries import is_retryable


def known(parent: type[ReplicatorError] = ReplicatorError) -> Iterator[type[ReplicatorError]]:
    yield parent
    for child in parent.__subclasses__():
        yield from known(child)


CLASSES = [error for error in known() if error.__module__ == errors.__name__]

RETRYABLE = {
    "FencedError",
    "ServerUnavailableError",
    "SlotBusyError",
    "SnapshotLostError",
    "TooManyConnectionsError",
    "TransientError",
    "UnknownHostError",
    "UnknownTableError",
}
"""What passes by itself; a new class must be put here on purpose."""


@pytest.mark.parametrize("error", CLASSES)
def test_law_9_every_class_has_a_side_a_remedy_and_a_reason(error: type[ReplicatorError]) -> None:
    raised = error("what happened")

    assert isinstance(raised.side, Side)
    assert len(raised.hint) > 20
    assert "\n" not in raised.hint
    assert error.__doc__
    assert str(raised) == f"{raised.side.value}: what happened"


def test_law_9_only_what_is_known_to_pass_is_retried() -> None:
    assert {error.__name__ for error in CLASSES if error.retryable} == RETRYABLE


@pytest.mark.parametrize(
    "error",
    [
        ReplicatorError("?"),
        ProtocolError("?"),
        DivergenceError("?"),
        ApplyError("?"),
        ConnectionRefusedForGoodError("?"),
        ValueError("?"),
        KeyError("?"),
        OSError("?"),
        asyncio.CancelledError(),
        psycopg.OperationalError("?"),
        MemoryError(),
    ],
)
def test_law_4_what_is_unknown_is_not_retried(error: BaseException) -> None:
    assert not is_retryable(error)


def test_one_raise_may_know_better_than_its_class() -> None:
    error = ApplyError("refused", hint="Turn it off and on.", side=Side.SOURCE).located("at 0/1")

    assert (error.hint, error.side, str(error)) == ("Turn it off and on.", Side.SOURCE, "source: refused, at 0/1")
    assert (ApplyError("x").side, ApplyError("x").hint) == (Side.TARGET, ApplyError.hint)


# --- what a server's SQLSTATE becomes ---------------------------------------------------------------------------------


def refused(state: str) -> ReplicatorError:
    """What becomes of an error with this SQLSTATE whose message holds a value."""
    error = psycopg.errors.lookup(state)("secret")
    return translate(error, Side.TARGET, "applying", otherwise=ApplyError)


@pytest.mark.parametrize(
    ("state", "becomes"),
    [
        ("40001", TransientError),
        ("40P01", TransientError),
        ("55P03", TransientError),
        ("57014", TransientError),
        ("25006", TransientError),
        ("53100", TransientError),
        ("53300", TooManyConnectionsError),
        ("57P01", ServerUnavailableError),
        ("57P03", ServerUnavailableError),
        ("08006", ServerUnavailableError),
        ("28P01", ConnectionRefusedForGoodError),
        ("23505", ApplyError),
        ("22P02", ApplyError),
        ("42501", ApplyError),
        ("42P01", ApplyError),
        ("XX000", ApplyError),
        ("P0001", ApplyError),
    ],
)
def test_law_4_an_sqlstate_is_passing_only_if_it_is_known_to_be(state: str, becomes: type[ReplicatorError]) -> None:
    error = refused(state)

    assert type(error) is becomes
    assert error.side is Side.TARGET
    assert state in error.message
    assert "secret" not in error.message


def test_a_connection_that_is_lost_is_worth_another_try() -> None:
    error = translate(psycopg.OperationalError("the connection is closed: secret"), Side.SOURCE, "reading")

    assert isinstance(error, ServerUnavailableError)
    assert error.message == "reading: the connection was lost"


def test_law_9_a_programming_error_of_the_driver_is_ours_to_find() -> None:
    error = translate(psycopg.ProgrammingError("secret"), Side.TARGET, "reading")

    assert type(error) is ReplicatorError
    assert not error.retryable


@pytest.mark.parametrize("state", ["23505", "22P02", "P0001", "XX000", "21000"])
def test_law_9_a_message_that_may_hold_values_is_replaced_by_its_condition(state: str) -> None:
    error = psycopg.errors.lookup(state)('duplicate key: "secret"')

    assert describe(error) == f"{type(error).__name__} ({state})"
