"""docs/reliability.md tells of every fault that the suite provokes, and of no other."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

_ROOT = Path(__file__).parents[2]
_LISTED = re.compile(r"`(test_\w+\.py::test_\w+)` \| passed \|$", re.MULTILINE)


def marked(file: Path) -> Iterator[str]:
    """The tests of a module that say which fault they provoke."""
    for statement in ast.parse(file.read_text()).body:
        if isinstance(statement, ast.FunctionDef) and any(
            ast.unparse(decorator).startswith("pytest.mark.fault(") for decorator in statement.decorator_list
        ):
            yield f"{file.name}::{statement.name}"


def test_every_fault_is_in_the_table_with_its_result() -> None:
    """`make faults` writes the table anew."""
    provoked = {name for file in (_ROOT / "tests" / "faults").glob("test_*.py") for name in marked(file)}
    assert provoked

    assert set(_LISTED.findall((_ROOT / "docs" / "reliability.md").read_text())) == provoked
