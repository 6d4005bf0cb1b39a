"""Telling whose side an error of the driver is."""

import contextlib
from collections.abc import Iterator

import psycopg

from replicator.errors import CutoverError, Side
from replicator.postgres import translate


@contextlib.contextmanager
def on(side: Side, doing: str) -> Iterator[None]:
    """Turn psycopg's errors into ours, with the side and what was being done."""
    try:
        yield
    except psycopg.Error as error:
        raise translate(error, side, doing, otherwise=CutoverError) from None
