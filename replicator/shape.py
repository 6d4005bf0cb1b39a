"""A published table's shape on the source, as it was when its rows were copied: what a later shape is compared with.

Attribute numbers tell a renamed column from a new one; files tell a rewrite, and what happened to the partitions of a
root, which the stream does not show; entries tell a table that left a publication and came back, or a publication that
sent less for a while. Pure.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Self

from replicator.model import Relation


@dataclass(frozen=True, slots=True)
class ShapeColumn:
    """A column that holds a value of its own; ``kinds`` are the type oids and modifiers that its values came with.

    ``version`` is another one after every ALTER COLUMN: the xmin of its row in the catalog.
    """

    name: str
    type: str
    kinds: frozenset[tuple[int, int]]
    version: int = 0


@dataclass(frozen=True, slots=True)
class Shape:
    """``columns`` by attribute number, ``files`` (relfilenodes) by part, of which the ``filled`` hold pages.

    ``entries`` are the rows of the catalogs through which it is published, each with what changes when it is altered.
    ``of_root``: changes travel under the name of a partitioned table, whose parts are its leaves. ``computed`` are its
    generated columns by attribute number, names and types; ``others`` the names of those and of what the target had
    besides when this was recorded, perhaps dropped on the source.
    ``labels`` are the values of the enums in its columns, by object id: that is what rows hold. ``attributes`` are
    those of the composite types in its columns, by the relation of each: numbers, which are never given out again, and
    types. An earlier version recorded no ``labels``, so that all are new, and not the two that may be None: not known.
    """

    columns: Mapping[int, ShapeColumn]
    files: Mapping[int, int]
    entries: frozenset[str]
    filled: frozenset[int] = frozenset()
    of_root: bool = False
    others: frozenset[str] = frozenset()
    labels: Mapping[int, str] = field(default_factory=dict)
    computed: Mapping[int, tuple[str, str]] | None = field(default_factory=dict)
    attributes: Mapping[int, Sequence[str]] | None = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """As the control tables keep it."""
        columns = {str(n): [c.name, c.type, sorted(map(list, c.kinds)), c.version] for n, c in self.columns.items()}
        files = {str(oid): node for oid, node in self.files.items()}
        labels = {str(oid): label for oid, label in self.labels.items()}
        parts = {"files": files, "filled": sorted(self.filled), "of_root": self.of_root, "labels": labels}
        if self.computed is not None:
            parts["computed"] = {str(n): [name, kind] for n, (name, kind) in self.computed.items()}
        if self.attributes is not None:
            parts["attributes"] = {str(oid): list(each) for oid, each in self.attributes.items()}
        return {"columns": columns, "entries": sorted(self.entries), "others": sorted(self.others), **parts}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Self:
        """What `to_json` made, of this version or an earlier one."""
        computed, attributes = value.get("computed"), value.get("attributes")
        return cls(
            {
                int(n): ShapeColumn(name, kind, frozenset((oid, modifier) for oid, modifier in kinds), version)
                for n, (name, kind, kinds, version) in value["columns"].items()
            },
            {int(oid): node for oid, node in value["files"].items()},
            frozenset(value["entries"]),
            frozenset(value["filled"]),
            value["of_root"],
            frozenset(value["others"]),
            {int(oid): label for oid, label in value.get("labels", {}).items()},
            None if computed is None else {int(n): (name, kind) for n, (name, kind) in computed.items()},
            None if attributes is None else {int(oid): each for oid, each in attributes.items()},
        )

    def names_follow(self, relation: Relation) -> bool:
        """Whether the names come in the order of their columns: names that were swapped do not."""
        numbers = {column.name: number for number, column in self.columns.items()}
        found = [numbers[column.name] for column in relation.columns if column.name in numbers]
        return found == sorted(found)

    def retyped_in(self, relation: Relation) -> list[str]:
        """The columns whose values come as another type than the copied ones; unknown columns are not ours to judge."""
        kinds = {column.name: column.kinds for column in self.columns.values()}
        return [
            c.name for c in relation.columns if c.name in kinds and (c.type_oid, c.type_modifier) not in kinds[c.name]
        ]

    def renamed(self, now: Self) -> list[tuple[str, str]]:
        """Old and new names of the columns that have another name now."""
        common = ((column.name, now.columns[n].name) for n, column in self.columns.items() if n in now.columns)
        return [(before, after) for before, after in common if before != after]

    def retyped(self, now: Self) -> list[ShapeColumn]:
        """The columns that have a type now whose values were never taken."""
        return [c for n, c in now.columns.items() if n in self.columns and not c.kinds <= self.columns[n].kinds]

    def added(self, now: Self) -> list[ShapeColumn]:
        """The columns that are there only now."""
        return [column for n, column in now.columns.items() if n not in self.columns]

    def dropped(self, now: Self) -> list[str]:
        """The names of the columns that are gone."""
        return [column.name for n, column in self.columns.items() if n not in now.columns]

    def reused(self, now: Self) -> frozenset[str]:
        """The names that mean another column now than the target's column of that name holds, or computes."""
        before = {column.name: number for number, column in self.columns.items()}
        held = {c.name for n, c in now.columns.items() if before.get(c.name, n) != n or c.name in self.others}
        known = self.others.union(before) if self.computed is not None else before.keys()
        former = self.computed or {}
        other = (column for n, column in (now.computed or {}).items() if former.get(n) != column)
        return frozenset(held.union(name for name, _ in other if name in known))

    def left_to_others(self, now: Self) -> frozenset[str]:
        """The reused names whose former column has no name any more, on the source."""
        return self.reused(now) - {before for before, _ in self.renamed(now)}

    def named_as(self, now: Self) -> Self:
        """With the columns' names of now, as the target has them once it was renamed."""
        columns = {
            n: replace(column, name=now.columns[n].name) if n in now.columns else column
            for n, column in self.columns.items()
            if column.name not in self.left_to_others(now)
        }
        return replace(self, columns=columns, others=self.others - self.left_to_others(now))

    def altered(self, now: Self) -> bool:
        """Whether a column was altered in any way, which may have given it other values of the same type."""
        return any(self.columns[n].version != c.version for n, c in now.columns.items() if n in self.columns)

    def rewritten(self, now: Self) -> bool:
        """Whether a part was rewritten or truncated."""
        return any(self.files[oid] != node for oid, node in now.files.items() if oid in self.files)

    def relabelled(self, now: Self) -> bool:
        """Whether a value of an enum has another name now."""
        return any(now.labels.get(oid, label) != label for oid, label in self.labels.items())

    def has_new_labels(self, now: Self) -> bool:
        """Whether an enum has a value more."""
        return bool(now.labels.keys() - self.labels.keys())

    def composed_otherwise(self, now: Self) -> bool:
        """Whether a composite type has other attributes now than the values that rows hold."""
        after = now.attributes or {}
        return any(after[oid] != each for oid, each in (self.attributes or {}).items() if oid in after)

    def must_come_again(self, now: Self) -> bool:
        """Whether the target's rows are others, unseen by the stream.

        By a rewrite, below a root, while less was published, or because a name means another column or value.
        """
        if not self.entries <= now.entries:
            return True
        if self.reused(now) or self.relabelled(now) or self.composed_otherwise(now):
            return True
        rewritten = self.rewritten(now)
        if self.of_root:
            # a leaf that was truncated, dropped or detached, or attached with rows
            return rewritten or bool(self.files.keys() - now.files.keys()) or bool(now.filled - self.files.keys())
        return rewritten and bool(self.added(now) or self.retyped(now) or self.altered(now) or self.has_new_labels(now))

    def is_outdated(self, now: Self) -> bool:
        """Whether what a later look compares is another on a table that this covers, or was not recorded."""
        unknown = self.computed is None or self.attributes is None or self.entries != now.entries
        return unknown or self.rewritten(now) or self.altered(now)

    def covers(self, now: Self) -> bool:
        """Whether nothing is different that the stream, or the target, would have to know."""
        columns = self.renamed(now) or self.retyped(now) or self.added(now) or self.dropped(now)
        differs = columns or self.has_new_labels(now)
        return not (differs or self.must_come_again(now) or now.files.keys() - self.files.keys())

    def followed_by(self, now: Self) -> Self:
        """The shape from now on, when the rows need not come again: older values may still be on their way."""
        return replace(now, columns={n: self._known(n, column) for n, column in now.columns.items()})

    def on(self, target: Iterable[str]) -> Self:
        """The shape beside a table of the target with these columns."""
        others = self.others.union(target) - {column.name for column in self.columns.values()}
        return replace(self, others=others)

    def _known(self, number: int, column: ShapeColumn) -> ShapeColumn:
        before = self.columns.get(number)
        return column if before is None else replace(column, kinds=column.kinds | before.kinds)
