"""Logging: JSON lines on a server, readable on a terminal, always on standard error."""

import logging
import sys
from typing import Literal

import structlog


def printable(text: str) -> str:
    """The text on one line, with escapes for what a terminal would obey: names of the source may hold anything."""
    if text.isprintable():
        return text
    return "".join(it if it.isprintable() else it.encode("unicode_escape").decode() for it in text)


class _Shown:
    """A value that the console's renderer shows as it is: of texts, it escapes only those with blanks by itself."""

    def __init__(self, text: str) -> None:
        self._text = text

    def __repr__(self) -> str:
        return printable(self._text)


def _printable_values(_: object, __: str, event: structlog.types.EventDict) -> structlog.types.EventDict:
    return {
        name: _Shown(value) if isinstance(value, str) and not value.isprintable() else value
        for name, value in event.items()
    }


def configure_logs(form: Literal["auto", "json", "console"], level: str) -> None:
    """Set structlog up for the process. ``auto`` is console on a terminal, else JSON."""
    readable = form == "console" or (form == "auto" and sys.stderr.isatty())
    # never rich's tracebacks, which print local variables: connection strings would be among them
    renderers: list[structlog.types.Processor] = (
        [_printable_values, structlog.dev.ConsoleRenderer(exception_formatter=structlog.dev.plain_traceback)]
        if readable
        else [structlog.processors.format_exc_info, structlog.processors.JSONRenderer(ensure_ascii=False)]
    )
    logging.getLogger("httpx").setLevel(logging.WARNING)  # it tells of every push
    logging.getLogger("psycopg").setLevel(logging.ERROR)  # it tells of connections that we end ourselves
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            *renderers,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelNamesMapping()[level.upper()]),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )
