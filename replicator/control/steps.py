"""The steps that are done, by name, with what each recorded (law 8)."""

from collections.abc import Mapping, Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql

from replicator.control.schema import NOW, STEPS, run
from replicator.postgres import Connection


async def read_steps(connection: Connection) -> dict[str, Mapping[str, Any]]:
    """The steps that are done, by name, with what each recorded."""
    cursor = await run(connection, sa.select(STEPS.c.name, STEPS.c.detail))
    return {row["name"]: row["detail"] for row in await cursor.fetchall()}


async def record_step(connection: Connection, name: str, detail: Mapping[str, Any] | None = None) -> None:
    """Record a step as done; recording it again replaces its detail."""
    values = {"detail": dict(detail or {}), "done_at": NOW}
    statement = postgresql.insert(STEPS).values(name=name, **values)
    await run(connection, statement.on_conflict_do_update(index_elements=["name"], set_=values))


async def forget_steps(connection: Connection, names: Sequence[str]) -> None:
    """Forget steps, so that they are done again."""
    await run(connection, STEPS.delete().where(STEPS.c.name.in_(names)))
