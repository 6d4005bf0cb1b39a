"""The findings for a terminal."""

from collections.abc import Sequence
from typing import Final

from rich.console import ConsoleRenderable, Group
from rich.table import Table
from rich.text import Text

from replicator.check.finding import Finding, Severity, blocking
from replicator.logs import printable

_STYLES: Final = {Severity.BLOCKED: "red", Severity.WARNING: "yellow"}


def render(findings: Sequence[Finding]) -> ConsoleRenderable:
    """Draw a table of the findings, if there are any, then the verdict."""
    verdict = Text("blocked", "red") if blocking(findings) else Text("ready", "green")
    if not findings:
        return verdict
    table = Table("", "side", "finding", "remedy", show_lines=True)
    for finding in findings:
        severity = Text(finding.severity.value, style=_STYLES[finding.severity])
        told = (Text(printable(text)) for text in (finding.message, finding.remedy))
        table.add_row(severity, finding.side.value, *told)
    return Group(table, verdict)
