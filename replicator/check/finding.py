"""What a check returns: a finding with its remedy. An exception would mean that the check itself could not run."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import Enum

from replicator.errors import ReplicatorError, Side, UnknownHostError

_NAMED = 10


class Severity(Enum):
    """Whether a finding stands in the way."""

    BLOCKED = "blocked"
    WARNING = "warning"


@dataclass(frozen=True, slots=True)
class Finding:
    """One line each: whose side it is on, what was found, and what to do about it."""

    severity: Severity
    side: Side
    message: str
    remedy: str
    passing: bool = False
    """Whether trying again may help: a server was away, or the connection was lost."""

    def to_json(self) -> dict[str, str]:
        """What a script needs of it."""
        return {
            "severity": self.severity.value,
            "side": self.side.value,
            "message": self.message,
            "remedy": self.remedy,
        }


def blocking(findings: Iterable[Finding]) -> bool:
    """Whether the migration cannot begin."""
    return any(finding.severity is Severity.BLOCKED for finding in findings)


def blocked(side: Side, message: str, remedy: str) -> Finding:
    """A finding that stands in the way."""
    return Finding(Severity.BLOCKED, side, message, remedy)


def warning(side: Side, message: str, remedy: str) -> Finding:
    """A finding that its reader should know."""
    return Finding(Severity.WARNING, side, message, remedy)


def from_error(error: ReplicatorError) -> Finding:
    """What an error says, as a finding."""
    # a name that does not resolve is a wrong URL until it has resolved once
    passing = error.retryable and not isinstance(error, UnknownHostError)
    return Finding(Severity.BLOCKED, error.side, error.message, error.remedy, passing)


def listed(names: Sequence[object]) -> str:
    """The first names, and how many more there are."""
    text = ", ".join(str(name) for name in names[:_NAMED])
    return text if len(names) <= _NAMED else f"{text} and {len(names) - _NAMED} more"
