"""Inventing columns: of any type, with defaults, identities, and generated ones."""

from collections.abc import Sequence
from dataclasses import replace
from random import Random
from typing import Final

from tests.torture.model import Column, ColumnType, mostly, quoted
from tests.torture.names import Names
from tests.torture.types import BUILT_IN, INTEGER, KEYS, TEXT

NUMBERS: Final = range(30)
"""Numbers of values: few, so that a key comes again after its row was deleted."""

_LONG: Final = tuple(f"repeat('{letter}', 1100)" for letter in "éß")
"""Values that an index takes, and that are TOASTed in a column whose storage is external."""


class Columns:
    """Invents columns of one case from the types that it may use."""

    def __init__(self, random: Random, names: Names, own_types: Sequence[ColumnType]) -> None:
        self._random = random
        self._names = names
        self._own = own_types
        self._own_keys = [type_ for type_ in own_types if type_.numbered is not None]

    def key(self) -> Column:
        """A column that may be part of a key."""
        pool = self._random.choices(([INTEGER, TEXT], KEYS, self._own_keys), (3, 4, 2))[0]
        chosen = self._random.choice(pool)
        edges = chosen.values if mostly(self._random, 0.7) else ()
        long = _LONG if chosen is TEXT and mostly(self._random, 0.3) else ()
        return Column(self._names.invent(), replace(chosen, values=edges + long, large=()), "NOT NULL", nullable=False)

    def any(self) -> Column:
        """A column of any type, not generated."""
        pool = self._random.choices((BUILT_IN, self._own, [TEXT, INTEGER]), (5, 3, 2))[0]
        chosen = self._random.choice(pool)
        if chosen.numbered is not None and mostly(self._random, 0.2):
            return Column(self._names.invent(), chosen, f"DEFAULT {chosen.value(5)}")
        if chosen.values and mostly(self._random, 0.2):
            return Column(self._names.invent(), chosen, "NOT NULL", nullable=False)
        return Column(self._names.invent(), chosen)

    def serial(self) -> Column:
        """An integer that counts by itself."""
        kind = self._random.choice(("serial", "always", "default"))
        if kind == "serial":
            return Column(self._names.invent(), replace(INTEGER, sql="serial", values=()), nullable=False)
        return Column(
            self._names.invent(),
            replace(INTEGER, values=()),
            f"GENERATED {'ALWAYS' if kind == 'always' else 'BY DEFAULT'} AS IDENTITY",
            nullable=False,
            identity_always=kind == "always",
        )

    def generated(self, columns: Sequence[Column]) -> Column:
        """A stored generated column, made from one of these if it can be."""
        from_text = [column for column in columns if column.type.sql == "text" and not column.generated]
        from_integer = [column for column in columns if column.type.sql == "integer" and not column.generated]
        if from_text and mostly(self._random, 0.6):
            made, type_ = f"md5({quoted(self._random.choice(from_text).name)})", TEXT
        elif from_integer:
            made, type_ = f"{quoted(self._random.choice(from_integer).name)} % 7", INTEGER
        else:
            made, type_ = "1 + 1", INTEGER
        return Column(self._names.invent(), type_, f"GENERATED ALWAYS AS ({made}) STORED", generated=True)

    def several(self, fewest: int = 0, most: int = 6) -> list[Column]:
        """Some columns of any kind, in any order."""
        found = [self.any() for _ in range(self._random.randint(fewest, most))]
        if mostly(self._random, 0.2):
            found.append(self.serial())
        if mostly(self._random, 0.25):
            found.append(self.generated(found))
        self._random.shuffle(found)
        return found

    def nullable_twin(self) -> Column:
        """A column that may be NULL and whose other values may be unique."""
        return replace(self.key(), definition="", nullable=True)
