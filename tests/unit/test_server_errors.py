"""Laws 4, 5 and 9: what becomes of errors as servers send them, values and all (see test_errors.py for the rest)."""

import psycopg
import pytest
from psycopg.pq import DiagnosticField

from replicator.errors import (
    ApplyError,
    ConfigurationError,
    ConnectionRefusedForGoodError,
    ReplicatorError,
    ServerUnavailableError,
    Side,
    TooManyConnectionsError,
    UnknownHostError,
)
from replicator.postgres import connect, connect_error, translate
from replicator.retries import is_retryable

VALUE = "a-secret-value"
PASSWORD = "a-secret-password"
DSN = f"postgresql://app:{PASSWORD}@db.example.com:5433/shop"


def server_error(state: str, message: str = f"something about {VALUE}") -> psycopg.Error:
    """As a server answers: values of a row stand in the primary message of some, and in the detail of others."""
    fields = {
        DiagnosticField.SQLSTATE: state,
        DiagnosticField.MESSAGE_PRIMARY: message,
        DiagnosticField.MESSAGE_DETAIL: f"Failing row contains ({VALUE}).",
        DiagnosticField.SCHEMA_NAME: "public",
        DiagnosticField.TABLE_NAME: "orders",
        DiagnosticField.CONSTRAINT_NAME: "orders_check",
    }
    try:
        kind = psycopg.errors.lookup(state)
    except KeyError:
        kind = psycopg.DatabaseError
        kind = type("Unknown", (kind,), {"sqlstate": state})
    return kind(f"{message}\n{fields[DiagnosticField.MESSAGE_DETAIL]}", info={k: v.encode() for k, v in fields.items()})


# --- law 4: what may be tried again -----------------------------------------------------------------------------------


@pytest.mark.parametrize("state", ["XX000", "XX001", "42501", "42703", "22P02", "23505", "0A000", "P0001", "ZZ999"])
def test_law_4_what_is_not_known_to_pass_is_not_tried_again(state: str) -> None:
    error = translate(server_error(state), Side.TARGET, "applying", otherwise=ApplyError)

    assert type(error) is ApplyError
    assert not is_retryable(error)
    assert not is_retryable(translate(server_error(state), Side.TARGET, "applying"))


@pytest.mark.parametrize(
    "message", ["cache lookup failed for relation 16385", "could not open relation with OID 16385"]
)
def test_a_table_that_is_dropped_under_a_look_at_the_catalog_is_looked_for_again(message: str) -> None:
    assert is_retryable(translate(server_error("XX000", message), Side.SOURCE, "looking", otherwise=ApplyError))


# --- laws 4 and 9: no values ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("state", ["22001", "22003", "22P02", "23502", "23505", "23514", "P0001", "XX000", "ZZ999"])
def test_law_4_an_error_about_a_row_names_its_table_and_none_of_its_values(state: str) -> None:
    error = translate(server_error(state), Side.TARGET, "insert in public.orders", otherwise=ApplyError)

    assert VALUE not in f"{error} {error!r} {error.hint} {vars(error)}"
    assert state in error.message
    assert "public.orders" in error.message
    assert "orders_check" in error.message


def test_an_error_about_objects_says_what_the_server_said_but_not_the_detail() -> None:
    error = translate(server_error("42703", 'column "a" does not exist'), Side.TARGET, "applying")

    assert 'column "a" does not exist (42703' in error.message
    assert VALUE not in str(error)


# --- law 5: a refusal is final ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        'FATAL:  password authentication failed for user "app"',
        'FATAL:  role "app" does not exist',
        'FATAL:  database "shop" does not exist',
        "FATAL:  Tenant or user not found",
        'FATAL:  no pg_hba.conf entry for host "1.2.3.4", user "app", database "shop", SSL off',
        "fe_sendauth: no password supplied",
        'FATAL:  permission denied for database "shop"',
        "FATAL:  must be superuser or replication role to start walsender",
    ],
)
def test_law_5_a_refused_login_is_never_tried_again(text: str) -> None:
    message = f'connection to server at "10.0.0.1", port 5433 failed: {text}'
    error = connect_error(psycopg.OperationalError(message), Side.SOURCE, DSN)

    assert type(error) is ConnectionRefusedForGoodError
    assert not is_retryable(error)


@pytest.mark.parametrize("state", ["28P01", "28000"])
def test_law_5_a_refusal_by_its_code_is_never_tried_again(state: str) -> None:
    error = translate(server_error(state), Side.SOURCE, "reading", otherwise=ApplyError)

    assert type(error) is ConnectionRefusedForGoodError
    assert not is_retryable(error)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("failed: Connection refused", ServerUnavailableError),
        ("failed: FATAL:  the database system is starting up", ServerUnavailableError),
        ("failed: FATAL:  sorry, too many clients already", TooManyConnectionsError),
        ("failed to resolve host 'nowhere': Name or service not known", UnknownHostError),
    ],
)
def test_an_outage_is_tried_again(text: str, expected: type[ReplicatorError]) -> None:
    error = connect_error(psycopg.OperationalError(text), Side.SOURCE, DSN)

    assert type(error) is expected
    assert is_retryable(error)


# --- law 9 ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", ["failed: Connection refused", "FATAL:  password authentication failed", "?"])
def test_law_9_a_failed_connection_tells_where_to_but_not_the_password(text: str) -> None:
    error = connect_error(psycopg.OperationalError(text), Side.SOURCE, DSN)

    assert PASSWORD not in f"{error} {error!r} {error.hint}"
    assert "db.example.com:5433/shop" in error.message


@pytest.mark.parametrize(
    "dsn", [f"postgres//app:{PASSWORD}@db", f"host=db password={PASSWORD} nonsense", f"{DSN}?{PASSWORD}"]
)
async def test_law_9_a_url_that_cannot_be_read_is_not_quoted(dsn: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        await connect(dsn, Side.TARGET, "test")

    assert PASSWORD not in f"{caught.value} {caught.value!r} {caught.value.hint}"
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__
