"""The locked requirements: exact versions of known files, the image's among all, so that an audit resolves nothing."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import pytest

ROOT: Final = Path(__file__).parents[2]
LOCKS: Final = ("requirements.lock", "requirements-runtime.lock")
REQUIREMENT: Final = re.compile(r"(?P<name>[a-z0-9]+(?:[-._][a-z0-9]+)*)==(?P<version>[0-9][0-9a-z.!+]*)")
HASH: Final = re.compile(r"--hash=sha256:[0-9a-f]{64}")


def requirements(lock: str) -> Mapping[str, str]:
    """What stands in a lock, each requirement with all that belongs to it, by what its line begins with."""
    text = re.sub(r"^\s*#.*$", "", (ROOT / lock).read_text(), flags=re.MULTILINE).replace("\\\n", " ")
    lines = [line.split(maxsplit=1) for line in text.splitlines() if line.strip()]
    return {first: " ".join(rest) for first, *rest in lines}


@pytest.mark.parametrize("lock", LOCKS)
def test_every_locked_requirement_is_one_version_with_its_hashes(lock: str) -> None:
    """So pip takes no other file than those that were there when they were locked, wherever it gets them."""
    locked = requirements(lock)

    assert len(locked) > 20
    assert [name for name in locked if not REQUIREMENT.fullmatch(name)] == []
    assert [name for name, rest in locked.items() if not all(map(HASH.fullmatch, rest.split())) or not rest] == []


def test_the_image_has_the_versions_that_were_tested() -> None:
    everything, image = (requirements(lock) for lock in LOCKS)

    assert {name: rest for name, rest in image.items() if everything.get(name) != rest} == {}


@pytest.mark.parametrize(
    ("file", "lock"), [("Makefile", "requirements.lock"), ("Dockerfile", "requirements-runtime.lock")]
)
def test_what_installs_the_locks_insists_on_the_hashes(file: str, lock: str) -> None:
    text = (ROOT / file).read_text().replace("\\\n", " ")
    installs = [line for line in text.splitlines() if re.search(r"pip install\b.*\s-r\s", line)]

    assert [line for line in installs if lock in line]
    assert [line for line in installs if "--require-hashes" not in line] == []
