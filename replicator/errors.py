"""Every error that the service raises: whose side it is on, what to do about it, and whether to try again.

Law 9: an error carries its side, its remedy and its retryability. A message never holds a password or a value of a row.
What is neither retryable nor waits for the operator ends the worker.
"""

from collections.abc import Mapping, Sequence
from enum import Enum
from typing import ClassVar, Final, NamedTuple, Self

_BY_ITSELF: Final = "replicator tries again by itself"
_BY_HAND: Final = "Run the command again"


class Side(Enum):
    """Whose fault an error is."""

    SOURCE = "source"
    TARGET = "target"
    CONFIGURATION = "configuration"
    OURS = "replicator"


class Reason(NamedTuple):
    """Something that is wrong: whose side it is on, what, and the remedy."""

    side: Side
    message: str
    remedy: str


class ReplicatorError(Exception):
    """The root: one line of message, one line of hint.

    ``side``, ``hint`` and ``retryable`` are defaults of the class; one raise may give a better side or hint.
    ``waits_for_operator``: it passes only when somebody changes the target; a worker that streams waits for that.
    """

    side: Side = Side.OURS
    hint: str = "This is a defect of replicator: please report it with the log."
    retryable: ClassVar[bool] = False
    waits_for_operator: ClassVar[bool] = False

    def __init__(self, message: str, *, hint: str | None = None, side: Side | None = None) -> None:
        super().__init__(message)
        self.message = self.what = message
        if hint is not None:
            self.hint = hint
        if side is not None:
            self.side = side

    def located(self, where: str) -> Self:
        """The same error, its message ending with where it happened; ``what`` stays as it was."""
        self.message = f"{self.message}, {where}"
        return self

    @property
    def remedy(self) -> str:
        """The hint where the error ends a command: only a worker that goes on tries again by itself."""
        return self.hint.replace(_BY_ITSELF, _BY_HAND)

    @property
    def reasons(self) -> Sequence[Reason]:
        """What a command tells, a line each: usually the error itself."""
        return [Reason(self.side, self.message, self.remedy)]

    def __str__(self) -> str:
        return f"{self.side.value}: {self.message}"


# --- configuration ---------------------------------------------------------------------------------------------------


class ConfigurationError(ReplicatorError):
    """A setting is missing or wrong, or the settings contradict each other. Exit code 2."""

    side = Side.CONFIGURATION
    hint = "Correct the setting and start again."


# --- reaching a server -----------------------------------------------------------------------------------------------


class ServerUnavailableError(ReplicatorError):
    """A server cannot be reached now, or has ended our session: restart, network, failover."""

    retryable = True
    hint = f"{_BY_ITSELF}; check that the server runs and can be reached from here."


class UnknownHostError(ServerUnavailableError):
    """The host name does not resolve. Passing only if it has resolved before: a worker's first connect gives up."""

    side = Side.CONFIGURATION
    hint = "Correct the host in the URL; Supabase's direct host needs IPv6 or the IPv4 add-on."


class TransientError(ReplicatorError):
    """A server refused a statement for a passing reason: deadlock, lock or resource shortage, read-only standby."""

    retryable = True
    hint = f"{_BY_ITSELF}; if it persists, look at the server's log."


class ConnectionRefusedForGoodError(ReplicatorError):
    """A server answered and said no: password, role, database or access rule. Never retried (law 5)."""

    side = Side.CONFIGURATION
    hint = "Correct the user name, password or database in the URL, then start again."


class TooManyConnectionsError(ReplicatorError):
    """The server has no connection left for us."""

    retryable = True
    hint = "Free connections on the server, or lower REPLICATOR_COPY_JOBS."


# --- the source ------------------------------------------------------------------------------------------------------


class SourceError(ReplicatorError):
    """The source lacks something that logical replication needs."""

    side = Side.SOURCE
    hint = "Run `replicator check` for the list of what is missing."


class SourceChangedError(SourceError):
    """The source is not the server, timeline or WAL that the migration began with (design: Source identity)."""

    hint = (
        "The source failed over or was restored: changes may be missing. "
        "Run `replicator cleanup`, empty the target, and start the migration again."
    )


class SlotLostError(SourceError):
    """The replication slot is gone or was invalidated: changes were lost on the source."""

    hint = "Run `replicator cleanup`, empty the target, and start the migration again; see max_slot_wal_keep_size."


class DecodingError(SourceError):
    """The source fails inside while it decodes its own WAL."""

    hint = (
        "The source cannot decode its own WAL at this place, for no slot: look at its log, update it to the newest "
        "minor version; if that does not help, run `replicator cleanup`, empty the target, and start again."
    )


class UntoldRollbackError(SourceError):
    """What was rolled back of a transaction that was sent before its commit is not known: receive it again, after it.

    The source's stream does not always tell, and its commit log forgets what is older than the oldest row that is not
    frozen (documentation: pg_xact_status).
    """


class SlotBusyError(SourceError):
    """The slot is in use by another process: wait for it (law 6)."""

    retryable = True
    hint = "Another worker still streams from the slot; this one takes over when the other has stopped."


class SnapshotLostError(SourceError):
    """The connection that kept the exported snapshot is gone: the round is over and begins again."""

    retryable = True
    hint = "replicator begins a new round for the tables that were not finished."


class UnknownTableError(SourceError):
    """A change came for a table that has no snapshot yet: it needs a round before the stream can go on."""

    retryable = True
    hint = "replicator copies the table, then goes on with the stream."


# --- the target ------------------------------------------------------------------------------------------------------


class TargetError(ReplicatorError):
    """The target lacks something, or refused something."""

    side = Side.TARGET
    hint = "Run `replicator check` for the list of what is missing."


class SentTable(NamedTuple):
    """A table as the stream describes it, with type and modifier of each column by name; ``oid`` is the source's."""

    oid: int
    schema: str
    name: str
    columns: Mapping[str, tuple[int, int]]


class SchemaMismatchError(TargetError):
    """A published table or column has no place on the target."""

    waits_for_operator = True
    hint = "Give the target the missing table or column; a worker that streams goes on by itself then."
    sent: SentTable | None = None
    """The table whose change has come, where one has."""


class DivergenceError(TargetError):
    """A change found no row where there must be one, or a row where there must be none (law 4)."""

    waits_for_operator = True
    hint = (
        "Something else wrote to the target. Find and mend the rows of this table on the target: "
        "the worker goes on at this change by itself then."
    )


class MigrationRemovedError(TargetError):
    """The control tables are gone: `replicator cleanup` ran while the worker did."""

    hint = "Stop this worker; to begin a new migration, empty the target first."


class ApplyError(TargetError):
    """The target refused a change for a reason that is not known to be passing (law 4)."""

    waits_for_operator = True
    hint = "Remove the reason on the target: the worker goes on at this change by itself then."


class FencedError(TargetError):
    """Another worker has taken over: our epoch or progress is not the recorded one any more (laws 1 and 6)."""

    retryable = True
    hint = "Another worker runs this migration; this one waits for its turn."


class TargetLostCommitsError(TargetError):
    """Progress on the target is behind what the slot still has: a failover lost commits that were confirmed."""

    hint = "Run `replicator cleanup`, empty the target, and start the migration again."


# --- phases ----------------------------------------------------------------------------------------------------------


class CopyError(ReplicatorError):
    """The snapshot copy of a table failed or is not complete."""

    side = Side.TARGET
    hint = "Remove the reason, then start `replicator run` again: finished tables are kept."


class CutoverError(ReplicatorError):
    """The cutover could not go on; the message says whether writes on the source are open."""

    side = Side.SOURCE
    hint = "Remove the reason, then run `replicator cutover` again."


class CleanupError(ReplicatorError):
    """The cleanup could not remove something, or must not."""

    hint = "Remove the reason, then run `replicator cleanup` again: it goes on with what is left."


class CommandBusyError(ReplicatorError):
    """Another cutover, abort or cleanup works on this migration."""

    side = Side.TARGET
    hint = "Wait for its end, or stop it with Ctrl-C: before its point of no return it then undoes what it did."


# --- the demo --------------------------------------------------------------------------------------------------------


class DemoError(ReplicatorError):
    """The demo cannot go on: the worker ended, or never caught up."""

    hint = "Run `replicator demo --keep` and look at replicator.log in the source's folder."


class EmbeddedServerError(ReplicatorError):
    """A PostgreSQL server of the demo or of the tests could not be made, started or stopped."""

    hint = "Look at the message of PostgreSQL; the demo needs a little memory, disk space and the loopback address."


# --- ours ------------------------------------------------------------------------------------------------------------


class LocalDiskError(ReplicatorError):
    """The worker cannot keep in a temporary file what is large: a transaction until it has committed, a huge row."""

    side = Side.CONFIGURATION
    hint = "Give the worker a temporary directory with room for the source's largest transactions (TMPDIR)."


class ProtocolError(ReplicatorError):
    """The source sent what the protocol does not allow, or what this version does not know."""
