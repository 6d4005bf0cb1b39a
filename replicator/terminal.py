"""Where tables are drawn: as wide as a terminal, and as wide as they are where nobody looks at them now."""

import os
import sys
from typing import Final

from rich.console import Console

_UNBOUNDED: Final = 10_000


def console() -> Console:
    """Standard output. A pipe or file gets each line whole, for grep, unless COLUMNS says how wide it is."""
    whole = not (sys.stdout.isatty() or "COLUMNS" in os.environ)
    return Console(width=_UNBOUNDED if whole else None)
