"""What the demo shows while it runs: a line for each stage that is done, and a live one for the stage in hand."""

from types import TracebackType
from typing import Self

from rich.console import Console
from rich.live import Live
from rich.markup import escape
from rich.spinner import Spinner


class Progress:
    """Writes to standard error, so that standard output is the report's alone. Off a terminal, no live line."""

    def __init__(self, console: Console | None = None) -> None:
        self._console = console or Console(stderr=True)
        self._live = Live(console=self._console, refresh_per_second=8, transient=True)

    def __enter__(self) -> Self:
        if self._console.is_terminal:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._live.stop()

    def doing(self, text: str) -> None:
        """Replace the live line."""
        self._live.update(Spinner("dots", text=escape(text)))

    def done(self, text: str) -> None:
        """Add a line that stays."""
        self._console.print(f"[green]✓[/] {escape(text)}", highlight=False)
