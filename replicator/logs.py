"""Logging: JSON lines on a server, readable on a terminal, always on standard error."""

import logging
import sys
from typing import Literal

import structlog


def configure_logs(form: Literal["auto", "json", "console"], level: str) -> None:
    """Set structlog up for the process. ``auto`` is console on a terminal, else JSON."""
    readable = form == "console" or (form == "auto" and sys.stderr.isatty())
    # never rich's tracebacks, which print local variables: connection strings would be among them
    renderers: list[structlog.types.Processor] = (
        [structlog.dev.ConsoleRenderer(exception_formatter=structlog.dev.plain_traceback)]
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
