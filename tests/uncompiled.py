"""Run tests with the hot path as Python, though it is compiled: python -m tests.uncompiled [pytest's arguments]."""

import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from importlib.util import spec_from_file_location
from pathlib import Path
from types import ModuleType

import pytest

from replicator.compiled import HOT_PATH, compiled


class FromSource:
    """Finds the modules of the hot path in their sources, before anything else finds what was made of them."""

    @staticmethod
    def find_spec(name: str, path: Sequence[str] | None = None, target: ModuleType | None = None) -> ModuleSpec | None:
        if name not in HOT_PATH:
            return None
        found = PathFinder.find_spec(name, path, target)
        if found is None or found.origin is None:
            return None
        source = Path(found.origin).with_name(name.rpartition(".")[2]).with_suffix(".py")
        return spec_from_file_location(name, source, loader=SourceFileLoader(name, str(source)))


def main(arguments: Sequence[str]) -> int:
    """Raises if something compiled was imported nevertheless."""
    sys.meta_path.insert(0, FromSource)
    if names := compiled():
        raise RuntimeError(f"still compiled: {', '.join(sorted(names))}")
    return int(pytest.main([*arguments]))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
