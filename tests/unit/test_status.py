"""The verdict on a migration, from what was read; and what of it is shown."""

import io
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import pytest
from rich.console import Console

from replicator import control
from replicator.errors import ServerUnavailableError, Side
from replicator.lsn import Lsn
from replicator.model import Phase, TableName, TableState
from replicator.source.slot import Slot
from replicator.status import Status
from replicator.status.verdict import Records, SourceView, judge
from replicator.status.view import render

EPOCH = UUID(int=1)
NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
AWAY = ServerUnavailableError("cannot connect to the source at db:5432/app", side=Side.SOURCE)


def migration(phase: Phase = Phase.STREAMING, error: dict[str, str] | None = None) -> control.Migration:
    return control.Migration(
        UUID(int=2), "replicator_0", ("replicator_0",), True, {}, "7", 1, "app", phase, NOW, error
    )  # fmt: skip


def worker(age: float = 1, **statistics: Any) -> control.Worker:
    figures = {"lag_bytes": 10, "lag_seconds": 0.5, "source_lsn": "0/3E8"} | statistics
    return control.Worker(EPOCH, 1, "render-1", "0.1.0", NOW, age, figures)


def slot(**changes: Any) -> Slot:
    values: dict[str, Any] = {
        "name": "replicator_0",
        "active_pid": 5,
        "confirmed_flush": Lsn(900),
        "restart_lsn": Lsn(800),
        "wal_status": "reserved",
        "safe_bytes": None,
        "retained_bytes": 200,
        "wal_lsn": Lsn(1000),
        "now": NOW,
    }
    return Slot(**(values | changes))


def table(name: str, state: TableState) -> control.TableRecord:
    return control.TableRecord(TableName("public", name), 1, state)


def status(
    phase: Phase = Phase.STREAMING,
    progress: int | None = 1000,
    by: control.Worker | None = None,
    source: SourceView | ServerUnavailableError | None = None,
    error: dict[str, str] | None = None,
) -> Status:
    applied = None if progress is None else control.Progress(EPOCH, Lsn(progress), None)
    tables = [table("a", TableState.READY), table("b", TableState.COPIED), table("c", TableState.COPYING)]
    records = Records(migration(phase, error), applied, by or worker(), tables)
    return judge(records, source or SourceView(Lsn(1000), slot()), 15)


# --- lag --------------------------------------------------------------------------------------------------------------


def test_lag_in_bytes_counts_wal_that_was_not_sent_yet() -> None:
    # the worker's own figure is older than what the source says now
    assert status(progress=400, by=worker(lag_bytes=0)).lag.bytes == 600


def test_without_the_source_lag_is_as_the_worker_saw_it_last_and_a_note_says_so() -> None:
    read = status(progress=400, by=worker(source_lsn="0/1F4"), source=AWAY)

    assert (read.lag.bytes, read.lag.seconds) == (100, 0.5)
    assert "cannot connect to the source" in read.notes[0]
    assert "last figures" in read.notes[0]


def test_nothing_unapplied_is_no_lag_whoever_is_alive() -> None:
    assert status(by=worker(age=3600)).lag.seconds == 0


def test_without_a_worker_the_lag_in_seconds_grows_with_its_silence() -> None:
    read = status(progress=400, by=worker(age=3600))

    assert read.lag.seconds == 3600.5
    assert "at most" in read.notes[0]


def test_lag_in_seconds_that_nobody_measured_is_unknown_and_not_zero() -> None:
    assert status(progress=400, by=worker(age=3600, lag_seconds=None)).lag.seconds is None


def test_before_anything_is_applied_there_is_no_lag_to_tell() -> None:
    read = status(Phase.BOOTSTRAP, progress=None)

    assert (read.lag.bytes, read.lag.seconds, read.applied_lsn) == (None, None, None)


# --- the verdict ------------------------------------------------------------------------------------------------------


def test_streaming_with_a_live_worker_is_healthy() -> None:
    assert status().healthy


@pytest.mark.parametrize(
    ("read", "problem"),
    [
        (status(by=worker(age=15)), "no worker is running"),
        (status(error={"side": "target", "message": "a row is there already", "hint": "x"}), "a row is there already"),
        (status(source=SourceView(Lsn(1000), None)), "slot is gone"),
        (status(source=SourceView(Lsn(1000), slot(wal_status="lost"))), "WAL is lost"),
        (status(source=SourceView(Lsn(1000), slot(wal_status="unreserved"))), "WAL is unreserved"),
        (status(source=SourceView(Lsn(1000), slot(active_pid=None))), "does not stream"),
        (status(source=SourceView(Lsn(1000), slot(safe_bytes=66, retained_bytes=200))), "lost after 66 more bytes"),
    ],
)
def test_what_an_operator_must_look_at_is_unhealthy(read: Status, problem: str) -> None:
    assert not read.healthy
    assert problem in read.problems[0]


def test_while_copying_the_slot_is_not_in_use_and_that_is_right() -> None:
    assert status(Phase.BOOTSTRAP, source=SourceView(Lsn(1000), slot(active_pid=None))).healthy


def test_before_progress_is_recorded_there_need_not_be_a_slot() -> None:
    assert status(Phase.BOOTSTRAP, progress=None, source=SourceView(Lsn(1000), None)).healthy


def test_a_source_that_this_machine_cannot_reach_is_no_verdict_on_the_migration() -> None:
    assert status(source=AWAY).healthy


def test_after_the_cutover_neither_worker_nor_slot_is_missed() -> None:
    read = status(Phase.DONE, progress=400, by=worker(age=3600), source=SourceView(Lsn(1000), None))

    assert read.healthy
    assert (read.lag.bytes, read.lag.seconds) == (0, 0.0)


# --- what is shown ----------------------------------------------------------------------------------------------------


def test_the_json_document_has_the_documented_shape() -> None:
    document = status(progress=0x1F4).to_json()

    assert document["phase"] == "streaming"
    assert document["phase_since"] == "2026-01-02T03:04:05+00:00"
    assert document["lag"] == {"bytes": 500, "seconds": 0.5}
    assert (document["applied_lsn"], document["source_lsn"]) == ("0/1F4", "0/3E8")
    assert document["tables"] == {
        "total": 3,
        "copied": 2,
        "states": {"pending": 0, "copying": 1, "copied": 1, "ready": 1},
    }
    assert document["slot"] == {
        "name": "replicator_0",
        "active": True,
        "retained_bytes": 200,
        "safe_bytes": None,
        "wal_status": "reserved",
    }
    assert document["worker"]["alive"] is True
    assert document["error"] is None
    assert document["migration"]["publications"] == ["replicator_0"]


def test_before_a_migration_the_document_has_every_field_all_the_same() -> None:
    document = Status().to_json()

    assert document.keys() == status().to_json().keys()
    assert document["phase"] == "none"
    assert document["lag"] == {"bytes": None, "seconds": None}
    assert document["tables"]["total"] == 0
    assert document["worker"] == {"alive": False}
    assert document["healthy"] is True


def shown(read: Status) -> str:
    output = io.StringIO()
    Console(file=output, width=200).print(render(read))
    return output.getvalue()


def test_the_terminal_shows_what_the_document_says() -> None:
    text = shown(status(progress=400, error={"side": "target", "message": "disk full", "hint": "Free some space."}))

    for part in ("streaming", "600 bytes, 0.5 s", "0/190", "2 of 3 copied", "replicator_0, in use", "render-1"):
        assert part in text
    assert "target: disk full" in text
    assert "Free some space." in text


def test_before_a_migration_the_terminal_says_what_to_do() -> None:
    assert "replicator run" in shown(Status())
