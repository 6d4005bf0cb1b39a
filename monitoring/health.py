"""What the worker says of itself to /readyz and to the pusher. Pure: the caller's clock comes in as an argument."""

from dataclasses import dataclass
from typing import Final

from replicator.model import Phase

_WORKING: Final = (Phase.BOOTSTRAP, Phase.STREAMING, Phase.CUTOVER)


@dataclass(slots=True)
class Health:
    """The worker writes it, HTTP and the pusher read it.

    ``lease_timeout`` is in seconds; ``leading`` is whether the figures of this worker are the migration's;
    ``waits_for`` is what the stream needs its operator for, None while it goes on.
    """

    lease_timeout: float
    phase: Phase | None = None
    source_connected: bool = False
    target_connected: bool = False
    leading: bool = False
    waits_for: str | None = None
    _renewed_at: float | None = None

    def renew(self, now: float) -> None:
        """Note that the lease was confirmed at ``now`` (monotonic seconds)."""
        self.leading = True
        self._renewed_at = now

    def step_back(self) -> None:
        """Note that the lease is not held now. Metrics are still pushed: an outage must show, and the last figures."""
        self._renewed_at = self.waits_for = None

    def wait_for_lease(self) -> None:
        """Note that another worker has the lease: until the next ``renew`` the figures to push are that one's."""
        self.leading = False
        self._renewed_at = None

    def obstacles(self, now: float) -> list[str]:
        """Why the worker is not ready at ``now`` (monotonic seconds); empty if it is."""
        found = []
        if self.phase not in _WORKING:
            found.append(f"phase is {self.phase.value if self.phase else 'none'}")
        if self._renewed_at is None:
            found.append("another worker has the lease, or none was taken yet")
        elif now - self._renewed_at > self.lease_timeout:
            found.append("the lease is not renewed")
        if not self.source_connected:
            found.append("the source is not connected")
        if not self.target_connected:
            found.append("the target is not connected")
        if self.waits_for is not None:
            found.append(f"the stream waits for its operator: {self.waits_for}")
        return found
