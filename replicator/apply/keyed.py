# cython: annotation_typing=False
"""What a batch did to the rows of a table that has a key: each row's changes become one. Pure, and compiled.

A row that the batch touched is remembered by its key now, with its *origin*: its key before the batch, or None if it
did not exist then. That, and whether it exists at the end, is all that the target needs:

    absent  → present   insert
    present → present   update, or a move when the key changed
    present → absent    delete, by origin
    absent  → absent    nothing

Under REPLICA IDENTITY FULL the key is the target's, and the source may know no such key, or a deferrable one: two of
its rows may have the same one for a while. It sends the whole old row then, which tells whether it is the one that is
remembered; if not, what came before has to be applied first, for the target to judge.
"""

from replicator.apply.again import incomplete
from replicator.apply.rows import KeyReader, fill, lacks
from replicator.errors import DivergenceError, ProtocolError, ReplicatorError
from replicator.model import UNCHANGED, Delete, Insert, Key, Relation, ReplicaIdentity, Row, Update


class KeyedChanges:
    """What happened to the rows of one table. ``rows``: by key now, the origin and the row; ``gone``: origins."""

    def __init__(self, relation: Relation, key: tuple[int, ...]) -> None:
        self.relation = relation
        self.rows: dict[Key, tuple[Key | None, Row]] = {}
        self.gone: dict[Key, None] = {}
        self._keys = KeyReader(key)

    def insert(self, change: Insert) -> None:
        """A new row; where the batch deleted the same key before, the old row has become the new one."""
        row = change.new
        if lacks(row):
            raise incomplete(self.relation)
        key = self._keys.read(row)
        if key in self.rows:
            raise self._impossible("inserts a key that it has inserted before")
        if self.gone and key in self.gone:
            del self.gone[key]
            self.rows[key] = (key, row)
        else:
            self.rows[key] = (None, row)

    def update(self, change: Update) -> bool:
        """A changed row: values that were not sent come from the old tuple, or from what the batch holds of the row.

        False, with nothing done, if it is another row of the same key.
        """
        row, old = change.new, change.old
        incomplete = lacks(row)
        if incomplete and old is not None:
            row = self._filled(row, old, change.old_is_full)
        key = self._keys.read(row)
        if incomplete and UNCHANGED in key.split(b"\t"):
            raise self._impossible("does not send a key")
        old_key = key if old is None else self._keys.read(old)
        pending = self.rows.get(old_key)
        if pending is None:
            if old_key in self.gone:
                raise self._impossible("updates a row that it has deleted")
            origin: Key | None = old_key
        else:
            origin, before = pending
            if change.old_is_full and before != old:
                return False
            if incomplete:
                row = fill(row, before)
        if key != old_key:
            if pending is not None:
                del self.rows[old_key]
            if key in self.rows:
                raise self._impossible("gives two rows the same key")
        self.rows[key] = (origin, row)
        return True

    def delete(self, change: Delete) -> bool:
        """A row that is no more; one that the batch made itself leaves no trace. False as in `update`."""
        key = self._keys.read(change.old)
        pending = self.rows.get(key)
        if pending is not None:
            origin, before = pending
            if change.old_is_full and before != change.old:
                return False
            del self.rows[key]
        elif key in self.gone:
            raise self._impossible("deletes a row twice")
        else:
            origin = key
        if origin is not None:
            self.gone[origin] = None
        return True

    def _filled(self, row: Row, old: Row, is_full: bool) -> Row:
        # a K tuple holds the identity columns only: the others are NULL there, whatever they are in the row
        only = None if is_full else {i for i, column in enumerate(self.relation.columns) if column.key}
        return fill(row, old, only)

    def _impossible(self, what: str) -> ReplicatorError:
        if self.relation.identity is ReplicaIdentity.FULL:
            # the key is the target's alone: the source may have dropped its own
            return DivergenceError(f"the stream of {self.relation.table} {what}, by the key that the target has")
        return ProtocolError(f"the stream of {self.relation.table} {what}")

    @property
    def inserts(self) -> list[Row]:
        """Rows that did not exist before the batch."""
        return [row for origin, row in self.rows.values() if origin is None]

    @property
    def updates(self) -> list[tuple[Key, Row]]:
        """Rows that keep their key."""
        return [(key, row) for key, (origin, row) in self.rows.items() if origin == key]

    @property
    def moves(self) -> list[tuple[Key, Row]]:
        """Rows whose key changed, by the key that they have on the target."""
        return [(origin, row) for key, (origin, row) in self.rows.items() if origin is not None and origin != key]

    @property
    def deletes(self) -> list[Key]:
        """Keys of rows that are gone."""
        return list(self.gone)

    def __len__(self) -> int:
        return len(self.rows) + len(self.gone)

    @property
    def size(self) -> int:
        """Bytes of the rows, as they are now."""
        return sum([len(row) for _, row in self.rows.values()])
