"""Law 4 and "Source identity": the stream goes on only where no change can be missing."""

from dataclasses import replace
from datetime import UTC, datetime
from uuid import UUID

import pytest

from replicator.control import Migration, Progress
from replicator.errors import ReplicatorError, SlotLostError, SourceChangedError, TargetLostCommitsError
from replicator.lsn import Lsn
from replicator.source.resumable import check_resumable
from replicator.source.slot import Slot, SourceIdentity

NOW = datetime(2025, 1, 1, tzinfo=UTC)
IDENTITY = SourceIdentity("7000000000000000001", 1, "app", Lsn(900))
MIGRATION = Migration(UUID(int=1), "replicator_00000000", ("p",), True, {}, "7000000000000000001", 1, "app")
SLOT = Slot("replicator_00000000", None, Lsn(500), Lsn(400), "reserved", None, 500, Lsn(900), NOW)
PROGRESS = Progress(UUID(int=2), Lsn(600), None)


@pytest.mark.parametrize("lsn", [500, 600, 900])
def test_given_progress_between_the_slot_and_the_end_of_wal_the_stream_may_go_on(lsn: int) -> None:
    check_resumable(SLOT, IDENTITY, MIGRATION, replace(PROGRESS, lsn=Lsn(lsn)))


def test_given_no_progress_yet_a_sound_slot_is_enough() -> None:
    check_resumable(SLOT, IDENTITY, MIGRATION, None)


@pytest.mark.parametrize(
    "identity",
    [
        replace(IDENTITY, system_identifier="7000000000000000002"),
        replace(IDENTITY, timeline=2),
        replace(IDENTITY, database="other"),
    ],
)
def test_given_another_server_timeline_or_database_the_stream_stops(identity: SourceIdentity) -> None:
    with pytest.raises(SourceChangedError):
        check_resumable(SLOT, identity, MIGRATION, PROGRESS)


@pytest.mark.parametrize(
    ("slot", "progress", "error"),
    [
        (None, PROGRESS, SlotLostError),
        (replace(SLOT, wal_status="lost"), PROGRESS, SlotLostError),
        (replace(SLOT, restart_lsn=None), PROGRESS, SlotLostError),
        (SLOT, replace(PROGRESS, lsn=Lsn(499)), TargetLostCommitsError),
        (SLOT, replace(PROGRESS, lsn=Lsn(901)), SourceChangedError),
    ],
)
def test_given_changes_that_may_be_missing_the_stream_stops(
    slot: Slot | None, progress: Progress, error: type[ReplicatorError]
) -> None:
    with pytest.raises(error):
        check_resumable(slot, IDENTITY, MIGRATION, progress)
