"""The tables in docs/ name tests: each exists, and each line has one."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
RESTRICTIONS = (ROOT / "docs" / "restrictions.md").read_text()
LINES = [line for line in RESTRICTIONS.splitlines() if re.match(r"\| (?!restriction|---)", line)]


def functions_in(path: str) -> set[str]:
    """The names of the functions in a file."""
    tree = ast.parse((ROOT / path).read_text())
    return {node.name for node in tree.body if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)}


@pytest.mark.parametrize("line", LINES, ids=lambda line: str(line)[2:40])
def test_each_restriction_names_a_test_that_exists(line: str) -> None:
    """Given a line of the table, then its last column is the name of a test."""
    _, _, _, named, _ = line.split("|")
    path, name = named.strip().strip("`").split("::")
    assert name.startswith("test_")
    assert name in functions_in(path)


def test_the_table_is_read() -> None:
    assert len(LINES) > 40
