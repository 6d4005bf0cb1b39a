"""Which tables the copy moves in PostgreSQL's binary format: it costs both servers half of what the text does. Pure.

Only where both sides' columns are of the same types, and only types whose format no version has changed since 14: an
interval is none, since 17 sends infinite ones, which an older server would take for finite.
Source: PostgreSQL documentation, COPY ("Binary Format"); the receive functions of each type.
"""

from collections.abc import Mapping, Sequence
from typing import Final, Literal

CopyFormat = Literal["text", "binary"]

_SCALARS: Final = frozenset({
    16,  # boolean
    17,  # bytea
    20,  # bigint
    21,  # smallint
    23,  # integer
    25,  # text
    114,  # json
    700,  # real
    701,  # double precision
    1042,  # character
    1043,  # character varying
    1082,  # date
    1083,  # time
    1114,  # timestamp
    1184,  # timestamptz
    1700,  # numeric
    2950,  # uuid
    3802,  # jsonb
})  # fmt: skip
"""Object ids of types that the server was built with: the same in every version (pg_type.dat)."""

_ARRAYS: Final = frozenset({
    1000, 1001, 1005, 1007, 1009, 1014, 1015, 1016, 1021, 1022, 1115, 1182, 1183, 1185, 1231, 2951, 199, 3807
})  # fmt: skip
"""Of arrays of these."""


def copy_format(columns: Sequence[str], source: Mapping[str, int], target: Mapping[str, int]) -> CopyFormat:
    """The format for these columns, with the object ids of all columns' types on either side, by name."""
    ours, theirs = ([types.get(column) for column in columns] for types in (source, target))
    return "binary" if columns and ours == theirs and set(ours) <= _SCALARS | _ARRAYS else "text"
