"""What the source's schema was when a bootstrap looked at it, to learn later whether there is something to follow.

What the bootstrap itself makes there, our publications, must not look like a deploy, and a deploy that comes while it
works must. So the app's part is read before anything else is, ours after the last change that we make.
"""

from typing import NamedTuple

from replicator import control
from replicator.catalog import managed_schemas, publications_fingerprint, read_fingerprint
from replicator.config import Settings
from replicator.control import Migration
from replicator.errors import Side, SourceError
from replicator.postgres import Connection, reporting


class Fingerprint(NamedTuple):
    """``app`` is all that deploys change, publications of the user's included; ``ours`` is our own publications."""

    app: str
    ours: str


async def read_app(settings: Settings, source: Connection, migration: Migration | None) -> str:
    """The app's part; no ``migration`` is recorded before its publications are made."""
    with reporting(Side.SOURCE, "looking at the source's schema", SourceError):
        excluded = [*settings.exclude_schemas, *await managed_schemas(source), control.SCHEMA]
        return await read_fingerprint(source, excluded, _ours(migration))


async def read_ours(source: Connection, migration: Migration) -> str:
    """Our part: what somebody else does to our publications must be seen, too."""
    with reporting(Side.SOURCE, "looking at the publications", SourceError):
        return await publications_fingerprint(source, _ours(migration))


async def read(settings: Settings, source: Connection, migration: Migration) -> Fingerprint:
    """Both parts, as they are now."""
    return Fingerprint(await read_app(settings, source, migration), await read_ours(source, migration))


def _ours(migration: Migration | None) -> tuple[str, ...]:
    return tuple(migration.publications) if migration is not None and migration.owns_publications else ()
