"""The tables in docs/ name tests: each exists, and each line has one."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = {"restrictions.md": 40, "security.md": 25}
"""Each with fewer lines than its tables have."""


def lines_of(page: str) -> list[str]:
    """The lines of a page's tables, without their heads."""
    text = (ROOT / "docs" / page).read_text()
    return [line for line in text.splitlines() if re.match(r"\| (?!restriction |what |---)", line)]


LINES = [line for page in PAGES for line in lines_of(page)]


def functions_in(path: str) -> set[str]:
    """The names of the functions in a file."""
    tree = ast.parse((ROOT / path).read_text())
    return {node.name for node in tree.body if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)}


@pytest.mark.parametrize("line", LINES, ids=lambda line: str(line)[2:40])
def test_each_line_names_a_test_that_exists(line: str) -> None:
    """Given a line of the table, then its last column is the name of a test."""
    _, _, _, named, _ = line.split("|")
    path, name = named.strip().strip("`").split("::")
    assert name.startswith("test_")
    assert name in functions_in(path)


@pytest.mark.parametrize("page", PAGES)
def test_the_tables_are_read(page: str) -> None:
    assert len(lines_of(page)) > PAGES[page]


def test_the_laws_name_files_that_exist() -> None:
    named = re.findall(r"`((?:replicator|bootstrap)/[\w/.]*)`", (ROOT / "docs" / "invariants.md").read_text())

    assert len(named) > 10
    assert [path for path in named if not (ROOT / path).exists()] == []
