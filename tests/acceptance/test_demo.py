"""`replicator demo`, the installed command: the whole migration under live writes, and nothing left behind."""

import json
import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import psycopg
import pytest

from replicator.demo.worker import command
from tests.fixtures.waiting import wait_until

_SMALL = ("--seconds", "3", "--rows", "2000", "--rate", "100", "--json")


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder for everything temporary; open to all, since root's servers run as another user."""
    path = Path(tempfile.mkdtemp(prefix="replicator-demo-"))
    path.chmod(0o755)
    yield path
    shutil.rmtree(path, ignore_errors=True)


def start(folder: Path, *options: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [command(), "demo", *options],
        env=os.environ | {"TMPDIR": str(folder)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(process: subprocess.Popen[str]) -> tuple[int, dict[str, Any]]:
    output, errors = process.communicate(timeout=150)
    print(errors)
    document: dict[str, Any] = json.loads(output)
    print(json.dumps({**document, "lag": len(document.get("lag", []))}, indent=1))
    return process.returncode, document


def test_the_demo_moves_a_live_database_and_loses_nothing(folder: Path) -> None:
    code, document = finish(start(folder, *_SMALL))

    assert document["problems"] == []
    assert (code, document["result"]) == (0, "ok")
    assert (document["rows_lost"], document["rows_extra"], document["rows_different"]) == (0, 0, 0)
    assert document["transactions"] == document["transactions_on_target"] > 100
    assert document["rows"] > 2000
    assert document["copied"]["rows"] > 1500
    assert 0 < document["downtime_seconds"] < 60
    assert document["lag"][-1]["elapsed"] >= 3
    assert list(folder.iterdir()) == []


def test_kept_servers_stay_up(folder: Path) -> None:
    code, document = finish(start(folder, "--seconds", "0", "--rows", "100", "--rate", "20", "--json", "--keep"))
    try:
        assert code == 0
        source, target = (_count(server["url"]) for server in document["kept"])
        # the last write of the demo is the app's, on the target
        assert target > source
    finally:
        for server in document["kept"]:
            os.kill(server["pid"], signal.SIGQUIT)
            wait_until(lambda url=server["url"]: not _answers(url), what="the server is gone")  # type: ignore[misc]


def _count(url: str) -> int:
    with psycopg.connect(url) as connection:
        ((count,),) = connection.execute("SELECT count(*) FROM sessions").fetchall()
        return int(count)


def _answers(url: str) -> bool:
    try:
        psycopg.connect(url).close()
    except psycopg.OperationalError:
        return False
    return True


@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="looks for leftover processes in /proc")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_demo_leaves_nothing_behind(folder: Path, number: signal.Signals) -> None:
    with start(folder, "--seconds", "60", "--rows", "2000", "--rate", "100") as process:
        wait_until(lambda: list(folder.glob("*/replicator.log")), what="the worker runs")

        process.send_signal(number)
        _, errors = process.communicate(timeout=60)

    assert process.returncode != 0
    assert "Traceback" not in errors
    assert wait_until(lambda: list(folder.iterdir()) == [], what="the servers are gone")
    assert _processes_of(folder) == []


def _processes_of(folder: Path) -> list[str]:
    """The command lines of what was started with our temporary folder in its environment."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if f"TMPDIR={folder}".encode() in (process / "environ").read_bytes():
                found.append((process / "cmdline").read_text().replace("\0", " "))
    return found
