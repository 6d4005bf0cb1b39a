"""Settings: from the environment only, every mistake named by its variable, no secret shown anywhere."""

import pytest

from replicator.config import Settings, load_settings
from replicator.errors import ConfigurationError, Side
from replicator.model import KeylessPolicy, SchemaMode

SOURCE = "postgresql://u:source-secret@source/db"
TARGET = "postgresql://u:target-secret@target/db"


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    for name in Settings.model_fields:
        monkeypatch.delenv(Settings.variable(name), raising=False)
    monkeypatch.setenv("SOURCE_DATABASE_URL", SOURCE)
    monkeypatch.setenv("TARGET_DATABASE_URL", TARGET)
    return monkeypatch


def refusal() -> ConfigurationError:
    with pytest.raises(ConfigurationError) as caught:
        load_settings()
    return caught.value


def test_two_urls_are_enough() -> None:
    settings = load_settings()

    assert (settings.source, settings.target) == (SOURCE, TARGET)
    assert settings.schema_mode is SchemaMode.COPY
    assert settings.keyless is KeylessPolicy.REFUSE
    assert settings.publications == ()


def test_http_is_for_this_machine_unless_it_is_said() -> None:
    assert load_settings().http_host == "127.0.0.1"


def test_each_setting_is_read_under_its_own_name(environment: pytest.MonkeyPatch) -> None:
    environment.setenv("REPLICATOR_SCHEMA", "existing")
    environment.setenv("REPLICATOR_KEYLESS", "insert-only")
    environment.setenv("REPLICATOR_PUBLICATIONS", " one, two ,")
    environment.setenv("REPLICATOR_COPY_JOBS", "7")

    settings = load_settings()

    assert settings.schema_mode is SchemaMode.EXISTING
    assert settings.keyless is KeylessPolicy.INSERT_ONLY
    assert settings.publications == ("one", "two")
    assert settings.copy_jobs == 7


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        ("REPLICATOR_KEYLES", "REPLICATOR_KEYLESS"),
        ("REPLICATOR_EXCLUDE_SCHEMA", "REPLICATOR_EXCLUDE_SCHEMAS"),
        ("REPLICATOR_SCHEMA_MODE", "REPLICATOR_SCHEMA"),
    ],
)
def test_a_misspelt_setting_is_refused_with_the_name_that_was_meant(
    environment: pytest.MonkeyPatch, given: str, meant: str
) -> None:
    environment.setenv(given, "a-value")

    assert refusal().message == f"{given}: there is no such setting; {meant} is one"


def test_what_others_put_into_the_environment_is_no_mistake(environment: pytest.MonkeyPatch) -> None:
    """Kubernetes names its variables after a service, which may be called replicator."""
    for name in ("REPLICATOR_PORT", "REPLICATOR_SERVICE_HOST", "REPLICATOR_PORT_9600_TCP", "REPLICATOR_TEST_SERVERS"):
        environment.setenv(name, "tcp://10.0.0.1:9600")

    load_settings()


def test_every_setting_says_what_it_is_for() -> None:
    assert [name for name, field in Settings.model_fields.items() if not field.description] == []


def test_law_9_secrets_are_masked_wherever_settings_are_printed(environment: pytest.MonkeyPatch) -> None:
    environment.setenv("REPLICATOR_PUSHGATEWAY_URL", "https://u:push-secret@host")
    settings = load_settings()

    shown = f"{settings} {settings!r} {settings.model_dump()} {settings.model_dump_json()}"

    assert "secret@" not in shown
    assert "push-secret" not in shown


def test_all_that_is_missing_is_named_at_once(environment: pytest.MonkeyPatch) -> None:
    environment.delenv("SOURCE_DATABASE_URL")
    environment.delenv("TARGET_DATABASE_URL")

    error = refusal()

    assert "SOURCE_DATABASE_URL" in error.message
    assert "TARGET_DATABASE_URL" in error.message
    assert error.side is Side.CONFIGURATION
    assert "\n" not in error.message


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("REPLICATOR_SCHEMA", "wrong-secret"),
        ("REPLICATOR_COPY_JOBS", "0"),
        ("REPLICATOR_COPY_JOBS", "wrong-secret"),
        ("REPLICATOR_BUFFER_BYTES", "1"),
        ("REPLICATOR_HTTP_PORT", "99999"),
        ("REPLICATOR_PUSHGATEWAY_URL", "ftp://wrong-secret"),
        ("REPLICATOR_ON_DIVERGENCE", "count"),
        ("REPLICATOR_KEYLESS", ""),
    ],
)
def test_law_9_a_wrong_setting_is_named_and_its_value_is_not(
    environment: pytest.MonkeyPatch, name: str, value: str
) -> None:
    environment.setenv(name, value)

    error = refusal()

    assert error.message.startswith(f"{name}: ")
    assert "secret" not in f"{error!r} {error} {error.hint}"
    assert error.__cause__ is None


@pytest.mark.parametrize(
    "password", ["top/secret", "12/secret", "top@secret", "top@@secret", "a@b/secret", "top secret"]
)
def test_law_9_a_password_that_is_not_encoded_is_refused_before_a_part_of_it_passes_for_host_or_database(
    environment: pytest.MonkeyPatch, password: str
) -> None:
    """Messages show host, port and database, and libpq takes what follows the password's / or @ for these."""
    environment.setenv("SOURCE_DATABASE_URL", f"postgresql://u:{password}@host:5432/db")

    error = refusal()

    assert error.message.startswith("SOURCE_DATABASE_URL: not a PostgreSQL connection string")
    assert "percent-encoded" in error.message
    assert "secret" not in f"{error!r} {error} {error.hint}"


def test_a_service_file_is_refused_as_the_copy_would_go_elsewhere(environment: pytest.MonkeyPatch) -> None:
    environment.setenv("TARGET_DATABASE_URL", "service=render")

    assert refusal().message.startswith("TARGET_DATABASE_URL: names a service file")


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://u%40x:p%40%2F%3A%20@host:5432/db?options=-csearch_path%3Da@b",
        "postgresql://u:p?#:[x@h1:1,h2:2/db",
        "host=h password='a@b/c d' dbname=a@b",
        "postgresql:///db?host=/run/postgresql",
    ],
)
def test_an_odd_password_that_is_encoded_is_taken(environment: pytest.MonkeyPatch, url: str) -> None:
    environment.setenv("SOURCE_DATABASE_URL", url)

    assert load_settings().source == url


def test_a_pushgateway_may_be_a_host_and_a_port(environment: pytest.MonkeyPatch) -> None:
    environment.setenv("REPLICATOR_PUSHGATEWAY_URL", "pushgateway:9091")

    url = load_settings().pushgateway_url

    assert url is not None
    assert url.get_secret_value() == "http://pushgateway:9091"
