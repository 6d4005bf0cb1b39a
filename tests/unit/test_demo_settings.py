"""The demo runs on servers of its own: what the user's environment says is of other ones."""

from typing import cast

import pytest

from replicator.demo.run import _Servers, _settings
from replicator.demo.servers import Server


def test_the_users_settings_are_not_the_demos(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REPLICATOR_PUBLICATIONS", "theirs")
    monkeypatch.setenv("SOURCE_DATABASE_URL", "postgresql://theirs/db")
    nobody = cast("Server", None)

    settings = _settings(_Servers("17 to 18", nobody, nobody, "postgresql://ours/app", "postgresql://other/app"))

    assert (settings.publications, settings.source) == ((), "postgresql://ours/app")
