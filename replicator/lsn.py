"""Log sequence numbers: byte positions in the source's WAL, held as plain integers so that they compare and subtract.

Source: PostgreSQL documentation, "pg_lsn Type" (two hexadecimal numbers of up to 8 digits, separated by a slash).
"""

import re
from typing import NewType

Lsn = NewType("Lsn", int)

INVALID = Lsn(0)
"""PostgreSQL's InvalidXLogRecPtr: no record lies here."""

_TEXT = re.compile(r"([0-9A-Fa-f]{1,8})/([0-9A-Fa-f]{1,8})")


def parse_lsn(text: str) -> Lsn:
    """Read ``16/B374D848``. Raises ValueError on anything else."""
    match = _TEXT.fullmatch(text)
    if match is None:
        raise ValueError(f"not an LSN: {text!r}")
    return Lsn(int(match[1], 16) << 32 | int(match[2], 16))


def format_lsn(lsn: int) -> str:
    """Write as PostgreSQL does: ``16/B374D848``."""
    return f"{lsn >> 32:X}/{lsn & 0xFFFFFFFF:X}"
