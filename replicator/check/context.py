"""What the checks look at: each side's connection, with what several of them need."""

from collections.abc import Sequence
from dataclasses import dataclass

from replicator import control
from replicator.catalog import SourceTable, app_schemas, source_tables
from replicator.config import Settings
from replicator.control import Migration
from replicator.postgres import Connection


@dataclass(frozen=True, slots=True)
class Target:
    """The target; ``migration`` is ours if one is under way there, None also before the control tables exist."""

    settings: Settings
    connection: Connection
    migration: Migration | None


@dataclass(frozen=True, slots=True)
class Source:
    """The source with the app's tables and schemas; ``under_way``: a migration has begun, so its slot exists."""

    settings: Settings
    connection: Connection
    tables: Sequence[SourceTable]
    schemas: Sequence[str]
    under_way: bool


@dataclass(frozen=True, slots=True)
class Pair:
    """Both sides."""

    source: Source
    target: Target


async def read_target(settings: Settings, connection: Connection) -> Target:
    """What the checks of the target need."""
    known = await control.exists(connection)
    return Target(settings, connection, await control.read_migration(connection) if known else None)


async def read_source(settings: Settings, connection: Connection, target: Target | None) -> Source:
    """What the checks of the source need."""
    excluded = (*settings.exclude_schemas, control.SCHEMA)
    return Source(
        settings=settings,
        connection=connection,
        tables=await source_tables(connection, excluded),
        schemas=await app_schemas(connection, excluded),
        under_way=target is not None and target.migration is not None,
    )
