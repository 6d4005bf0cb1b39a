"""What a case is: tables of one kind, and what an app does to them."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Case:
    """Tables that are made and filled before the copy (``make``), and changed while the stream runs.

    Each of the ``changes`` is one transaction. Everything runs with a schema of its own foremost on the search_path.
    ``after`` is what the app does on the target once it is cut over.
    """

    name: str
    make: str
    changes: tuple[str, ...]
    after: str = ""


def large(n: int) -> str:
    """An expression of 9,600 characters that cannot be compressed much: it is kept out of line."""
    return f"(SELECT string_agg(md5((i * {n})::text), '') FROM generate_series(1, 300) i)"
