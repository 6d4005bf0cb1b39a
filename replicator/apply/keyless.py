# cython: annotation_typing=False
"""What a batch did to a table without a key: a multiset of whole rows. Pure, and compiled."""

from collections.abc import Iterator
from dataclasses import dataclass, field

from replicator.apply.again import incomplete
from replicator.apply.rows import fill, lacks
from replicator.errors import ProtocolError
from replicator.model import Delete, Insert, Relation, Row, Update


@dataclass
class KeylessChanges:
    """What happened to a table without a key: how many copies of which row images came and went."""

    relation: Relation
    added: dict[Row, int] = field(default_factory=dict)
    removed: dict[Row, int] = field(default_factory=dict)

    def insert(self, change: Insert) -> None:
        """One more copy of the image."""
        if lacks(change.new):
            raise incomplete(self.relation)
        _count(change.new, self.added, self.removed)

    def update(self, change: Update) -> bool:
        """One copy of the old image becomes one of the new. Only REPLICA IDENTITY FULL sends the old image. True."""
        if change.old is None or not change.old_is_full:
            raise ProtocolError(f"an update of {self.relation.table}, which has no key, came without its old row")
        _count(change.old, self.removed, self.added)
        _count(fill(change.new, change.old), self.added, self.removed)
        return True

    def delete(self, change: Delete) -> bool:
        """One copy of the image less. True."""
        if not change.old_is_full:
            raise ProtocolError(f"a deletion in {self.relation.table}, which has no key, came without its old row")
        _count(change.old, self.removed, self.added)
        return True

    @property
    def inserts(self) -> Iterator[Row]:
        """Every image as often as it came."""
        for image, count in self.added.items():
            for _ in range(count):
                yield image

    def __len__(self) -> int:
        return sum(self.added.values()) + sum(self.removed.values())

    @property
    def size(self) -> int:
        """Bytes of the rows that are to be inserted."""
        return sum([len(image) * count for image, count in self.added.items()])


def _count(image: Row, here: dict[Row, int], there: dict[Row, int]) -> None:
    left = there.get(image, 0)
    if left > 1:
        there[image] = left - 1
    elif left == 1:
        del there[image]
    else:
        here[image] = here.get(image, 0) + 1
