"""Telling whose side an error of the driver is, while a cutover runs."""

from contextlib import AbstractContextManager

from replicator.errors import CutoverError, Side
from replicator.postgres import reporting


def on(side: Side, doing: str) -> AbstractContextManager[None]:
    """Turn psycopg's errors within the block into ours; what is not known to be passing is a CutoverError."""
    return reporting(side, doing, CutoverError)
