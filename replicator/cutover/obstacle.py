"""What a cutover has to be told before it begins."""

from dataclasses import dataclass

from replicator.errors import Side


@dataclass(frozen=True, slots=True)
class Obstacle:
    """Something that stands in the way, and what removes it."""

    message: str
    remedy: str
    side: Side = Side.SOURCE
