"""The preflight of a worker: before anything is made on either server, the check says whether it can work at all."""

from collections.abc import Sequence

from replicator.check import Finding, Severity, check
from replicator.config import Settings
from replicator.errors import Reason, ReplicatorError, ServerUnavailableError, Side


class NotReadyError(ReplicatorError):
    """The preflight found what blocks the migration; each of the ``findings`` has its own side and remedy."""

    side = Side.CONFIGURATION
    hint = "Follow the remedies, then start again; `replicator check` shows them all."

    def __init__(self, findings: Sequence[Finding]) -> None:
        super().__init__(f"the preflight found {len(findings)} obstacle(s)")
        self.findings = findings

    @property
    def reasons(self) -> Sequence[Reason]:
        """One a finding."""
        return [Reason(finding.side, finding.message, finding.remedy) for finding in self.findings]


async def require_ready(settings: Settings) -> None:
    """Raise NotReadyError if something blocks the migration, or ServerUnavailableError if all of that may pass."""
    findings = await check(settings)
    obstacles = [finding for finding in findings if finding.severity is Severity.BLOCKED]
    if obstacles and all(finding.passing for finding in obstacles):
        raise ServerUnavailableError(obstacles[0].message, side=obstacles[0].side)
    if obstacles:
        raise NotReadyError(obstacles)
