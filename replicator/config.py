"""Settings, from the environment only: what a container has. Secrets are masked wherever they might be printed."""

import os
from collections.abc import Iterable, Iterator, Mapping
from difflib import get_close_matches
from typing import Annotated, Final, Literal

import psycopg
from psycopg.conninfo import conninfo_to_dict
from pydantic import Field, SecretStr, ValidationError, field_validator
from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from replicator.errors import ConfigurationError
from replicator.model import KeylessPolicy, SchemaMode, SpoolMode

MIB = 1024 * 1024

_PREFIX: Final = "REPLICATOR_"
_LIKENESS: Final = 0.7
"""From which on a name counts as misspelt. REPLICATOR_PORT is no mistake: Kubernetes makes it for a service."""


class Settings(BaseSettings):
    """One field a setting; its name in the environment is the alias, or REPLICATOR_ and the field's name."""

    model_config = SettingsConfigDict(env_prefix=_PREFIX, extra="ignore", frozen=True)

    source_database_url: SecretStr = Field(
        validation_alias="SOURCE_DATABASE_URL",
        description="the database to move, a direct connection (no pooler)",
    )
    target_database_url: SecretStr = Field(
        validation_alias="TARGET_DATABASE_URL", description="the database to move to"
    )

    schema_mode: SchemaMode = Field(
        SchemaMode.COPY,
        validation_alias="REPLICATOR_SCHEMA",
        description="copy: make the target's schema from the source's; existing: your migrations made it",
    )
    publications: Annotated[tuple[str, ...], NoDecode] = Field(
        (), description="names of existing publications, comma-separated; empty: replicator makes its own"
    )
    keyless: KeylessPolicy = Field(
        KeylessPolicy.REFUSE,
        description="tables whose updates could not be replicated: refuse, full, insert-only or exclude",
    )
    on_divergence: Literal["stop"] = Field(
        "stop", description="stop at a change that does not fit ('count' is not supported yet)"
    )
    exclude_schemas: Annotated[tuple[str, ...], NoDecode] = Field(
        (), description="schemas to leave out, comma-separated, besides Supabase's managed ones"
    )

    copy_jobs: int = Field(4, ge=1, le=64, description="connections to each side that copy the snapshot")
    index_jobs: int = Field(2, ge=1, le=16, description="connections to the target that build indexes")
    split_bytes: int = Field(1024 * MIB, ge=MIB, description="a table larger than this is copied in parts of this size")
    buffer_bytes: int = Field(64 * MIB, ge=MIB, description="rows held in memory before they are applied, in bytes")
    spool: SpoolMode = Field(
        SpoolMode.AUTO,
        description="keep changes on the target while tables are copied: always, never, or auto: when the slot keeps "
        "more than a fifth of max_slot_wal_keep_size",
    )
    slot_timeout: float = Field(
        300, gt=0, description="seconds to wait for old transactions of the source when a slot is made"
    )
    confirm_delay: float = Field(
        60,
        ge=0,
        description="seconds that the slot is held back, for a failover of the target that loses commits",
    )
    status_interval: float = Field(1, gt=0, le=10, description="seconds between heartbeats and lag samples")
    lease_timeout: float = Field(15, ge=2, description="seconds without a heartbeat after which a worker is replaced")
    schema_interval: float = Field(
        5, gt=0, description="seconds between looks for changes of the source's schema that the stream does not show"
    )
    recheck_interval: float = Field(
        15, gt=0, description="seconds between attempts to go on after a change that the target does not take"
    )
    retry_timeout: float = Field(0, ge=0, description="seconds to go on retrying a server that is away; 0: for ever")
    cutover_timeout: float = Field(60, gt=0, description="seconds after which a fence lifts itself (before the switch)")
    lock_timeout: float = Field(
        0.5, gt=0, description="seconds that the fence waits for locks before it lets the app pass"
    )

    http_host: str = Field("127.0.0.1", description="address of /metrics, /healthz and /readyz")
    http_port: int = Field(9600, ge=0, le=65535, description="port of /metrics, /healthz and /readyz; 0: off")
    pushgateway_url: SecretStr | None = Field(
        None, description="where to push metrics: http://host:port, or host:port; unset: nowhere"
    )
    push_interval: float = Field(10, gt=0, description="seconds between pushes")
    instance: str = Field(
        "replicator", min_length=1, description="name of this migration in pushed metrics; stays the same over restarts"
    )
    log_format: Literal["auto", "json", "console"] = Field("auto", description="auto: console on a terminal, else json")
    log_level: Literal["debug", "info", "warning", "error"] | None = Field(
        None, description="how much to log; unset: info for the worker, warning for the other commands"
    )
    pg_bin: str | None = Field(None, description="folder of pg_dump; unset: searched for")

    @field_validator("publications", "exclude_schemas", mode="before")
    @classmethod
    def _split(cls, value: object) -> object:
        if isinstance(value, str):
            return tuple(part.strip() for part in value.split(",") if part.strip())
        return value

    @field_validator("source_database_url", "target_database_url")
    @classmethod
    def _readable(cls, value: SecretStr) -> SecretStr:
        """Not to be found out by a worker that waits for the other server. An empty one would mean libpq's defaults."""
        text = value.get_secret_value().strip()
        try:
            parts = conninfo_to_dict(text)
        except psycopg.ProgrammingError:
            # libpq quotes the string that it cannot read, password and all
            parts = {}
        if "service" in parts:
            raise ValueError("names a service file, which the copy's driver does not read; write out what is in it")
        if parts and not ("://" in text and _splits_the_password(parts)):
            return value
        raise ValueError(
            "not a PostgreSQL connection string; write it as postgresql://user:password@host:5432/database, "
            "special characters percent-encoded"
        )

    @field_validator("pushgateway_url", mode="before")
    @classmethod
    def _with_scheme(cls, value: object) -> object:
        """Render's blueprints can only give ``host:port``."""
        if not isinstance(value, str) or not value:
            return value or None
        scheme, separator, _ = value.partition("://")
        if separator and scheme not in {"http", "https"}:
            raise ValueError("must begin with http:// or https://, or be host:port")
        return value if separator else f"http://{value}"

    @classmethod
    def variable(cls, field_or_alias: str) -> str:
        """The name in the environment of a field, which pydantic may name by its alias already."""
        field = cls.model_fields.get(field_or_alias)
        if field is None:
            return field_or_alias
        return str(field.validation_alias or f"{_PREFIX}{field_or_alias.upper()}")

    @classmethod
    def descriptions(cls) -> list[str]:
        """A line for each setting: its variable, what it is, and its default."""
        return [
            f"{cls.variable(name)}: {field.description} [{_default(field)}]" for name, field in cls.model_fields.items()
        ]

    @property
    def source(self) -> str:
        """The source's connection string, secret included."""
        return self.source_database_url.get_secret_value()

    @property
    def target(self) -> str:
        """The target's connection string, secret included."""
        return self.target_database_url.get_secret_value()


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    default = getattr(field.default, "value", field.default)
    return "unset" if default in ((), None, "") else str(default)


def _splits_the_password(parts: Mapping[str, object]) -> bool:
    """Whether the host seems to begin or end within the password, at its @ or /: messages would show a part of it."""
    host, port, database = (str(parts.get(name, "")) for name in ("host", "port", "dbname"))
    return "@" in host + database or not set(port) <= set("0123456789,")


def load_settings() -> Settings:
    """Read the environment.

    Raises ConfigurationError that names every setting that is missing, wrong or misspelt, and no values.
    """
    problems = list(_misspelt(os.environ))
    try:
        settings = Settings()  # type: ignore[call-arg]  # the fields come from the environment
    except ValidationError as error:
        problems += (
            f"{Settings.variable(str(item['loc'][0]))}: {item['msg'].removeprefix('Value error, ')}"
            for item in error.errors(include_input=False, include_url=False)
        )
    if problems:
        raise ConfigurationError("; ".join(problems), hint="Set it in the environment; see `replicator run --help`.")
    return settings


def _misspelt(names: Iterable[str]) -> Iterator[str]:
    """To ignore one could cost more than a start: a schema that was not to be moved, a table that is not followed."""
    known = [Settings.variable(name).removeprefix(_PREFIX) for name in Settings.model_fields]
    for name in names:
        given = name.removeprefix(_PREFIX)
        if given != name and given not in known and (meant := get_close_matches(given, known, n=1, cutoff=_LIKENESS)):
            yield f"{name}: there is no such setting; {_PREFIX}{meant[0]} is one"
