"""Tables that are published no more, and whose rows stay on the target: should they come back, they must not be mixed.

Source and target may have grown apart meanwhile, so such a table is emptied before it is copied again.
"""

import json
from collections.abc import Iterable
from typing import Final

from replicator import control
from replicator.model import TableName
from replicator.postgres import Connection

_STEP: Final = "left"


async def left_tables(target: Connection) -> frozenset[TableName]:
    """The tables that we filled, and that were published no more."""
    detail = (await control.read_steps(target)).get(_STEP, {})
    return frozenset(TableName(*json.loads(name)) for name in detail)


async def note_left(target: Connection, tables: Iterable[TableName]) -> None:
    """Add to them."""
    await _record(target, {*await left_tables(target), *tables})


async def forget_left(target: Connection, tables: Iterable[TableName]) -> None:
    """These are copied again."""
    left = await left_tables(target)
    if left & set(tables):
        await _record(target, left - set(tables))


async def _record(target: Connection, tables: Iterable[TableName]) -> None:
    await control.record_step(target, _STEP, {json.dumps(list(table)): "" for table in sorted(tables)})
