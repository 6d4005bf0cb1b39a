"""Names that applications give, and names that break programs which do not quote."""

from random import Random
from typing import Final

_PLAIN: Final = ("accounts", "orders", "items", "events", "notes", "prices", "people", "states", "parts", "log")
TRICKY: Final = (
    "select",
    "user",
    "Table",
    "MixedCase",
    "order by",
    'we"ird',
    "it's",
    "a.b",
    "%s",
    "{0}",
    "$1",
    "$$",
    "back\\slash",
    "semi;colon",
    "-- comment",
    "/* c */",
    "two\nlines",
    "tab\there",
    "; Type: TABLE; Schema: public; Owner: -",
    "1st",
    " ",
    "ünïcödé",
    "таблица",
    "表",
    "🐘",
    "é" * 31 + "x",
    "long_" + "x" * 58,
)
_OURS: Final = ("c1", "c2", "o1", "g", "t", "s", "n", "d", "x", "oid", "replicator", "group", "key", "value", "row")
"""What the product's own statements call things."""

_LIMIT: Final = 63


class Names:
    """Invents names, each once; all end in a number that is this case's own."""

    def __init__(self, random: Random) -> None:
        self._random = random
        self._used: set[str] = set()

    def invent(self) -> str:
        """A name for a table, a column or any other object."""
        words = self._random.choices((_PLAIN, TRICKY, _OURS), (5, 4, 2))[0]
        name = self._random.choice(words)
        while name in self._used:
            name = shortened(self._random.choice(words), f"_{len(self._used)}")
        self._used.add(name)
        return name


def shortened(name: str, end: str) -> str:
    """A name with this end, cut to what PostgreSQL keeps of it, in bytes."""
    kept = name.encode()[: _LIMIT - len(end.encode())].decode(errors="ignore")
    return kept + end
