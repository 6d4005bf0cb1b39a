"""When a worker is ready: it works, its lease is alive, and it is connected to both sides."""

import pytest

from monitoring.health import Health
from replicator.model import Phase


def working(phase: Phase = Phase.STREAMING) -> Health:
    health = Health(lease_timeout=15, phase=phase, source_connected=True, target_connected=True)
    health.renew(100.0)
    return health


@pytest.mark.parametrize("phase", [Phase.BOOTSTRAP, Phase.STREAMING, Phase.CUTOVER])
def test_copying_and_streaming_are_ready(phase: Phase) -> None:
    assert working(phase).obstacles(114.0) == []


def test_after_the_cutover_there_is_nothing_to_be_ready_for() -> None:
    assert working(Phase.DONE).obstacles(100.0) == ["phase is done"]


def test_a_lease_that_is_not_renewed_in_time_is_dead() -> None:
    assert working().obstacles(115.1) == ["the lease is not renewed"]


def test_a_new_worker_names_everything_that_it_lacks() -> None:
    assert len(Health(lease_timeout=15).obstacles(0.0)) == 4


def test_a_worker_that_lost_a_server_is_not_ready_and_still_leads() -> None:
    """Its metrics go on being pushed, or its lag would seem to stand still."""
    health = working()
    health.target_connected = False
    health.step_back()

    assert len(health.obstacles(100.0)) == 2
    assert health.leading


def test_a_worker_that_waits_for_another_does_not_lead_until_it_has_the_lease() -> None:
    """Law 6: one worker at a time."""
    health = working()

    health.wait_for_lease()
    assert not health.leading

    health.renew(200.0)
    assert health.leading
    assert health.obstacles(200.0) == []


def test_a_stream_that_waits_for_its_operator_is_not_ready_until_the_worker_begins_anew() -> None:
    health = working()
    health.waits_for = "public.t: the target has no column c"
    assert health.obstacles(100.0) == ["the stream waits for its operator: public.t: the target has no column c"]

    health.step_back()
    health.renew(100.0)
    assert health.obstacles(100.0) == []
