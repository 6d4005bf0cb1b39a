"""Which of our publications a table belongs in, so that the app's own updates go on working: pure (law 5).

A partitioned table is published under its root only where every partition, future ones too, has a usable identity by
itself: a published partition without one makes the app's UPDATEs on it fail.
"""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from replicator.catalog import SourceTable
from replicator.errors import SourceError
from replicator.model import KeylessPolicy

_NAMED = 20
"""Tables named in one message; `replicator check` names all."""


@dataclass(frozen=True, slots=True)
class Keyless:
    """A table (with its partitions) whose updates and deletes could not be replicated, and why."""

    table: SourceTable
    reason: str

    @property
    def remedy(self) -> str:
        """What its owner could do, apart from choosing another REPLICATOR_KEYLESS."""
        if self.table.usable_index is None or self.table.problem is None:
            return "add a primary key"
        return f'ALTER TABLE {self.table.table} REPLICA IDENTITY USING INDEX "{self.table.usable_index}"'


@dataclass(slots=True)
class PublicationPlan:
    """Tables by publication; ``make_full`` get REPLICA IDENTITY FULL first; ``refused`` forbid the whole plan."""

    complete: list[SourceTable] = field(default_factory=list)
    insert_only: list[SourceTable] = field(default_factory=list)
    make_full: list[SourceTable] = field(default_factory=list)
    excluded: list[SourceTable] = field(default_factory=list)
    refused: list[Keyless] = field(default_factory=list)
    keyless: list[Keyless] = field(default_factory=list)

    def require_allowed(self) -> None:
        """Raise SourceError that names the refused tables, if there are any."""
        if not self.refused:
            return
        names = [f"{item.table.table} ({item.reason})" for item in self.refused[:_NAMED]]
        more = len(self.refused) - len(names)
        raise SourceError(
            f"updates and deletes could not be replicated for {', '.join(names)}{f' and {more} more' if more else ''}",
            hint="Add primary keys, or set REPLICATOR_KEYLESS to full, insert-only or exclude; "
            "`replicator check` has the remedy for each table.",
        )


def plan_publications(tables: Iterable[SourceTable], policy: KeylessPolicy, *, via_root: bool) -> PublicationPlan:
    """Sort the app's tables into publications; ``via_root``: changes of partitions travel under the root's name.

    Unlogged tables are in none: nothing of them is in the WAL.
    """
    logged = [table for table in tables if not table.unlogged]
    roots = {table.oid for table in logged if table.partitioned and table.root is None}
    leaves: dict[int, list[SourceTable]] = defaultdict(list)
    for table in logged:
        if table.root in roots and not table.partitioned:
            leaves[table.root].append(table)
    plan = PublicationPlan()
    for table in logged:
        if table.oid in roots:
            _place(plan, _root_unit(table, leaves[table.oid], via_root), policy)
        elif table.root not in roots and not table.partitioned:
            _place(plan, _Unit(table, [table], [table], table.problem), policy)
    return plan


@dataclass(frozen=True, slots=True)
class _Unit:
    """A table with its partitions: the relations to publish, and those that FULL would have to change."""

    table: SourceTable
    published: list[SourceTable]
    relations: list[SourceTable]
    problem: str | None
    full_problem: str | None = None


def _root_unit(root: SourceTable, leaves: Sequence[SourceTable], via_root: bool) -> _Unit:
    problem = next((f"{leaf.problem} in partition {leaf.table}" for leaf in leaves if leaf.problem), None)
    if via_root:
        future = None if root.keyed else "a future partition of it would have no primary key"
        return _Unit(root, [root], [root, *leaves], root.problem or problem or future, future)
    # the name of a root without a key would draw in future partitions without one
    return _Unit(root, [root] if root.keyed else list(leaves), list(leaves), problem)


def _place(plan: PublicationPlan, unit: _Unit, policy: KeylessPolicy) -> None:
    if unit.problem is None:
        plan.complete.extend(unit.published)
        return
    keyless = Keyless(unit.table, unit.problem)
    plan.keyless.append(keyless)
    match policy:
        case KeylessPolicy.REFUSE:
            plan.refused.append(keyless)
        case KeylessPolicy.INSERT_ONLY:
            plan.insert_only.append(unit.table)
        case KeylessPolicy.EXCLUDE:
            plan.excluded.append(unit.table)
        case KeylessPolicy.FULL:
            _place_full(plan, unit)


def _place_full(plan: PublicationPlan, unit: _Unit) -> None:
    changed = [relation for relation in unit.relations if relation.problem]
    obstacle = unit.full_problem or next((r.full_problem for r in changed if r.full_problem), None)
    if obstacle is not None:
        plan.refused.append(Keyless(unit.table, obstacle))
        return
    plan.complete.extend(unit.published)
    plan.make_full.extend(changed)
