"""What the demo found out: the figures, the verdict, and how both are shown."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

from rich.console import ConsoleRenderable, Group
from rich.filesize import decimal
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from replicator.verify import TableDifference

_BARS: Final = "▁▂▃▄▅▆▇█"
_CHART_WIDTH: Final = 60


@dataclass(frozen=True, slots=True)
class Copied:
    """The snapshot, and the seconds from the worker's start until it streamed: schema, rows, keys and indexes."""

    rows: int
    bytes: int
    seconds: float

    @property
    def rows_per_second(self) -> float:
        """The copy rate, over all of that time."""
        return self.rows / self.seconds

    def __str__(self) -> str:
        return f"{self.rows:,} rows, {decimal(self.bytes)} in {self.seconds:.1f} s ({self.rows_per_second:,.0f} rows/s)"


@dataclass(frozen=True, slots=True)
class LagSample:
    """The lag ``elapsed`` seconds after streaming began; None is what was not known."""

    elapsed: float
    bytes: int | None
    seconds: float | None

    def __str__(self) -> str:
        size = "?" if self.bytes is None else decimal(self.bytes)
        return f"lag {size}, ? s" if self.seconds is None else f"lag {size}, {self.seconds:.2f} s"


@dataclass(frozen=True, slots=True)
class KeptServer:
    """A server that was left up: ``kill PID`` ends it, then its folder can go."""

    side: str
    url: str
    pid: int
    folder: str

    def __str__(self) -> str:
        return f"{self.side}: {self.url} (to end it: kill {self.pid}; its folder: {self.folder})"


@dataclass(frozen=True, slots=True)
class DemoReport:
    """The outcome; ``problems`` is empty only if nothing was lost, added, changed or went wrong.

    Transactions are the app's; ``transactions_on_target`` is how many of them the target holds by the writers' own
    count. ``kept`` are the servers, if they were left up.
    """

    problems: tuple[str, ...]
    servers: str = ""
    tables: tuple[TableDifference, ...] = ()
    transactions: int = 0
    transactions_rolled_back: int = 0
    transactions_on_target: int = 0
    copied: Copied | None = None
    lag: tuple[LagSample, ...] = ()
    downtime_seconds: float | None = None
    kept: tuple[KeptServer, ...] = ()

    @property
    def ok(self) -> bool:
        """Whether the migration was perfect."""
        return not self.problems

    @property
    def rows(self) -> int:
        """The rows that the target should have."""
        return sum(table.source_rows for table in self.tables)

    @property
    def rows_lost(self) -> int | None:
        """Rows that the target lacks; None if it was not compared."""
        return sum(table.lost for table in self.tables) if self.tables else None

    @property
    def rows_extra(self) -> int | None:
        """Rows that the target has alone; None if it was not compared."""
        return sum(table.extra for table in self.tables) if self.tables else None

    @property
    def rows_different(self) -> int | None:
        """Rows that the target has with another value; None if it was not compared."""
        return sum(table.different for table in self.tables) if self.tables else None

    def to_json(self) -> dict[str, Any]:
        """The document of `demo --json`: durations in seconds, sizes in bytes, null if unknown."""
        return {
            "result": "ok" if self.ok else "failed",
            "problems": list(self.problems),
            "servers": self.servers,
            "rows": self.rows,
            "rows_lost": self.rows_lost,
            "rows_extra": self.rows_extra,
            "rows_different": self.rows_different,
            "transactions": self.transactions,
            "transactions_rolled_back": self.transactions_rolled_back,
            "transactions_on_target": self.transactions_on_target,
            "copied": self.copied
            and {
                "rows": self.copied.rows,
                "bytes": self.copied.bytes,
                "seconds": round(self.copied.seconds, 3),
                "rows_per_second": round(self.copied.rows_per_second),
            },
            "downtime_seconds": _rounded(self.downtime_seconds),
            "lag": [
                {"elapsed": round(item.elapsed, 2), "bytes": item.bytes, "seconds": _rounded(item.seconds)}
                for item in self.lag
            ],
            "tables": {
                str(item.table): {
                    "source_rows": item.source_rows,
                    "target_rows": item.target_rows,
                    "lost": item.lost,
                    "extra": item.extra,
                    "different": item.different,
                }
                for item in self.tables
            },
            "kept": [asdict(server) for server in self.kept],
        }


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 3)


# --- for a terminal ---------------------------------------------------------------------------------------------------


def render(report: DemoReport) -> ConsoleRenderable:
    """Draw the report: the tables, the figures, the verdict."""
    parts: list[ConsoleRenderable] = []
    if report.tables:
        parts += [_tables(report.tables), Text(), _figures(report), Text()]
    parts += [Text(f"✗ {problem}", style="red") for problem in report.problems]
    if report.ok:
        parts.append(Text("Nothing was lost, added or changed.", style="bold green"))
    if report.kept:
        parts += [Text(), *(Text(str(server)) for server in report.kept), *map(Text, _to_practise(report.kept))]
    return Group(*parts)


def _to_practise(kept: Sequence[KeptServer]) -> list[str]:
    """What can be typed next: the migration is done, and can be looked at, cleaned up, and begun again."""
    return [
        *(f"export {server.side.upper()}_DATABASE_URL='{server.url}'" for server in kept),
        "export REPLICATOR_KEYLESS=full",
        "# replicator status; replicator cleanup; on the target: DROP SCHEMA public CASCADE; CREATE SCHEMA public;",
        "# then all over again: replicator check; replicator run; replicator cutover --rehearse; replicator cutover",
    ]


def _tables(tables: Sequence[TableDifference]) -> Table:
    drawn = Table("table", box=None, pad_edge=False)
    for heading in ("source rows", "target rows", "lost", "extra", "different"):
        drawn.add_column(heading, justify="right")
    for item in tables:
        drawn.add_row(
            escape(str(item.table)),
            *(f"{count:,}" for count in (item.source_rows, item.target_rows)),
            *(f"[{'red' if count else 'green'}]{count:,}[/]" for count in (item.lost, item.extra, item.different)),
        )
    return drawn


def _figures(report: DemoReport) -> Table:
    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="bold")
    grid.add_column()
    grid.add_row(
        "transactions",
        f"{report.transactions:,} committed, {report.transactions_on_target:,} on the target,"
        f" {report.transactions_rolled_back:,} rolled back",
    )
    grid.add_row("copied", f"{report.copied}, indexes built" if report.copied else "not measured")
    grid.add_row("lag", _lag(report.lag))
    if chart := _chart([item.seconds or 0.0 for item in report.lag]):
        grid.add_row("", chart)
    grid.add_row("downtime", _downtime(report))
    return grid


def _lag(samples: Sequence[LagSample]) -> str:
    seconds = sorted(item.seconds for item in samples if item.seconds is not None)
    if not seconds:
        return "not measured"
    worst = max((item.bytes or 0 for item in samples), default=0)
    median = seconds[len(seconds) // 2]
    return f"median {median:.2f} s, at most {seconds[-1]:.2f} s and {decimal(worst)}, over {samples[-1].elapsed:.0f} s"


def _chart(values: Sequence[float]) -> str:
    """One character a moment, the largest value of each; the tallest is the largest of all."""
    if not values or not max(values):
        return ""
    width = min(_CHART_WIDTH, len(values))
    moments = [values[len(values) * n // width : len(values) * (n + 1) // width] for n in range(width)]
    return "".join(_BARS[round(max(moment) / max(values) * (len(_BARS) - 1))] for moment in moments)


def _downtime(report: DemoReport) -> str:
    if report.downtime_seconds is None:
        return "not measured"
    return f"{report.downtime_seconds:.2f} s, from the fence until the target was open"
