"""Whether the worker has followed the app's last deploy: what it makes by itself is not on the cutover's list."""

import asyncio
import time
from typing import Final, NamedTuple

from bootstrap.fingerprint import read_app
from bootstrap.refresh import FOLLOWED_STEP
from replicator import control
from replicator.catalog import managed_schemas, read_definitions
from replicator.config import Settings
from replicator.control import Migration
from replicator.cutover.sides import on
from replicator.errors import Side
from replicator.model import FENCE, SchemaMode
from replicator.postgres import Connection

_PATIENCE: Final = 10.0
"""Seconds for what the worker does after it has seen a deploy: a dump, a table's copy, an index."""

_PAUSE: Final = 0.2


class Followed(NamedTuple):
    """A hash of the source's schema, as `definitions` makes it, and whether the worker has followed to it."""

    definitions: str
    is_followed: bool


async def await_followed(settings: Settings, migration: Migration, source: Connection, target: Connection) -> Followed:
    """Give the worker the time to look at the source's schema once more, and to make what is new."""
    deadline = time.monotonic() + settings.schema_interval + _PATIENCE
    while True:
        seen = await definitions(settings, source)  # before the comparison: a later deploy makes another hash
        is_followed = await _is_followed(settings, migration, source, target)
        if is_followed or time.monotonic() >= deadline:
            return Followed(seen, is_followed)
        await asyncio.sleep(_PAUSE)


async def _is_followed(settings: Settings, migration: Migration, source: Connection, target: Connection) -> bool:
    with on(Side.TARGET, "reading the control tables"):
        step = (await control.read_steps(target)).get(FOLLOWED_STEP)
        unmade = await control.read_keys(target)
    if settings.schema_mode is not SchemaMode.COPY or step is None:
        return True  # nothing is made by the worker
    return not unmade and step.get("fingerprint") == await read_app(settings, source, migration)


async def definitions(settings: Settings, source: Connection) -> str:
    """A hash of the source's schema, without what a fence adds: another one later means that a deploy was missed."""
    with on(Side.SOURCE, "looking at the source's schema"):
        excluded = [*settings.exclude_schemas, *await managed_schemas(source), control.SCHEMA, FENCE]
        return await read_definitions(source, excluded)
