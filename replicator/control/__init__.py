"""The control tables on the target: the one place where the worker and the operators' commands meet.

Statements are SQLAlchemy Core; they run on psycopg connections, because progress must commit in the same transaction
as the rows (law 1). The caller owns the connection and the transaction.

``lease`` and ``progress`` are two rows on purpose: copy, index and step transactions hold ``FOR SHARE`` on the lease
for as long as they run, while every apply transaction updates progress and every heartbeat updates ``worker``.
"""

from replicator.control.lease import Worker, heartbeat, read_worker, register_worker, take_lease, under_epoch
from replicator.control.migration import (
    Migration,
    forget_migration,
    read_migration,
    record_error,
    set_phase,
    start_migration,
)
from replicator.control.progress import (
    ADVANCE,
    Advance,
    Progress,
    advance,
    assert_advanced,
    read_progress,
    start_progress,
)
from replicator.control.schema import SCHEMA, TABLE_NAMES, create, drop, exists
from replicator.control.spool import (
    ADVANCE_SPOOL,
    NO_TABLE,
    Chunk,
    add_chunks,
    begin_spool,
    end_spool,
    forget_chunks,
    last_chunk,
    read_chunks,
    spool_size,
    spooled_tables,
)
from replicator.control.statements import (
    Deferred,
    KeyStatement,
    add_deferred,
    add_keys,
    forget_deferred,
    forget_keys,
    mark_deferred,
    mark_keys,
    next_position,
    read_deferred,
    read_keys,
    was_made_by,
)
from replicator.control.steps import forget_steps, read_steps, record_step
from replicator.control.tables import (
    TableRecord,
    add_tables,
    read_more_ready,
    read_tables,
    remove_tables,
    rename_table,
    set_shape,
    set_table_states,
)

__all__ = [
    "ADVANCE",
    "ADVANCE_SPOOL",
    "NO_TABLE",
    "SCHEMA",
    "TABLE_NAMES",
    "Advance",
    "Chunk",
    "Deferred",
    "KeyStatement",
    "Migration",
    "Progress",
    "TableRecord",
    "Worker",
    "add_chunks",
    "add_deferred",
    "add_keys",
    "add_tables",
    "advance",
    "assert_advanced",
    "begin_spool",
    "create",
    "drop",
    "end_spool",
    "exists",
    "forget_chunks",
    "forget_deferred",
    "forget_keys",
    "forget_migration",
    "forget_steps",
    "heartbeat",
    "last_chunk",
    "mark_deferred",
    "mark_keys",
    "next_position",
    "read_chunks",
    "read_deferred",
    "read_keys",
    "read_migration",
    "read_more_ready",
    "read_progress",
    "read_steps",
    "read_tables",
    "read_worker",
    "record_error",
    "record_step",
    "register_worker",
    "remove_tables",
    "rename_table",
    "set_phase",
    "set_shape",
    "set_table_states",
    "spool_size",
    "spooled_tables",
    "start_migration",
    "start_progress",
    "take_lease",
    "under_epoch",
    "was_made_by",
]
