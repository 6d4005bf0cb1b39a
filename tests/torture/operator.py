"""The operator of a migration whose app goes on deploying: runs on the target what the worker asks for."""

import contextlib
import json
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Final

import psycopg

from tests.fixtures.databases import Database
from tests.fixtures.worker import Worker, run_command

_ASKS: Final = "Run on the target: "
_ENDS: Final = ("; the worker goes on by itself then", "; or give it a default", "; then start `replicator run`")
_MISSHAPEN: Final = (" has another shape on the source", " numbers a column otherwise than the source")
_PASSES_WITHIN: Final = 20.0
_MOST: Final = 3
"""So often the same statement may be needed in one migration: what the app does it may do again."""


@dataclass(slots=True)
class Operator:
    """Reads the worker's log, and does each thing that it asks for once."""

    target: Database
    worker: Worker
    did: list[str] = field(default_factory=list)
    _read: int = 0
    _stuck: tuple[float, str] | None = None

    def _assert_going_on(self) -> None:
        if self._stuck is None:
            return
        if self.target.value("SELECT error IS NULL FROM replicator.migration", superuser=True):
            self._stuck = None
        elif time.monotonic() > self._stuck[0] + _PASSES_WITHIN:
            raise AssertionError(f"the worker cannot go on: {self._stuck[1]}")

    def look(self) -> None:
        """Do what was asked for since the last look. Raises AssertionError if that cannot be done, or does not help."""
        self._assert_going_on()
        for event in self._errors():
            remedy = str(event.get("remedy"))
            if not remedy.startswith(_ASKS):  # it may pass when the worker has looked at the source's schema
                self._stuck = self._stuck or (time.monotonic(), json.dumps(event))
                continue
            self._do(min((remedy.removeprefix(_ASKS).partition(end)[0] for end in _ENDS), key=len), event)

    def ask(self) -> None:
        """Do what a rehearsal of the cutover names: tables that nobody writes to make the worker ask for nothing."""
        done = run_command(self.worker.settings, "cutover", "--rehearse", "--json")
        for obstacle in json.loads(done.stdout).get("errors", ()):
            if obstacle["message"].endswith(_MISSHAPEN) and obstacle["remedy"].startswith("ALTER "):
                # what one statement does for a partitioned table is named for each of its partitions
                with contextlib.suppress(AssertionError):
                    self._do(obstacle["remedy"].removesuffix("."), obstacle)

    def _do(self, statement: str, asked: dict[str, Any]) -> None:
        assert Counter(self.did)[statement] < _MOST, f"the remedy does not help: {json.dumps(asked)}"
        self.did.append(statement)
        try:
            with psycopg.connect(self.target.dsn, autocommit=True, client_encoding="UTF8") as session:
                session.execute(statement.encode())
        except psycopg.Error as error:
            raise AssertionError(f"the remedy does not work: {error}: {json.dumps(asked)}") from None

    def _errors(self) -> Iterator[dict[str, Any]]:
        log = self.worker.log
        end = log.rfind("\n") + 1
        new, self._read = log[self._read : end], end
        for line in new.splitlines():
            if '"level": "error"' in line:
                yield json.loads(line)
