"""The hot path runs compiled where there is a compiler, else as Python: the same files, both tested."""

import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Final

import pytest

from replicator.compiled import HOT_PATH, compiled, describe

ROOT: Final = Path(__file__).parents[2]
JUDGES: Final = (
    "test_decoder.py",
    "test_transactions.py",
    "test_streamed.py",
    "test_stream_buffer.py",
    "test_batch.py",
    "test_batch_property.py",
)


def test_what_is_compiled_is_what_the_project_says() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    modules = {module["name"]: module for module in project["tool"]["setuptools"]["ext-modules"]}

    assert sorted(modules) == sorted(HOT_PATH)
    for name, module in modules.items():
        source = f"{name.replace('.', '/')}.py"
        assert module["sources"] == [source]
        assert module["optional"]
        assert (ROOT / source).with_suffix(".pxd").exists()


def test_the_version_says_which_runs() -> None:
    printed = subprocess.run(
        [Path(sys.executable).with_name("replicator"), "--version"], capture_output=True, text=True, check=True
    ).stdout

    # this run may have turned the compiled modules off (tests.uncompiled)
    installed = subprocess.run(
        [sys.executable, "-c", "from replicator.compiled import describe; print(describe())"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert printed.endswith(f" ({installed.strip()})\n")
    assert describe() in ("compiled", "not compiled"), "either there is a compiler or not"


def test_the_sources_pass_the_same_tests() -> None:
    """The others of this run judge what is compiled, where it is."""
    if not compiled():
        pytest.skip("nothing is compiled here: all of this run's tests judge the sources")
    files = [f"tests/unit/{name}" for name in JUDGES]
    ended = subprocess.run(
        [sys.executable, "-m", "tests.uncompiled", "-q", "-p", "no:cacheprovider", *files],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )

    assert ended.returncode == 0, ended.stdout[-2000:]
