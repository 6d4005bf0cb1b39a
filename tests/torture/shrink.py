"""Making a case that fails smaller, as long as it still fails."""

from collections.abc import Callable, Collection, Sequence
from typing import TypeVar

from tests.torture.model import Case

T = TypeVar("T")


class Shrinker:
    """Leaves out tables, then transactions, then statements. ``fails`` plays a case; ``attempts`` are how often."""

    def __init__(self, fails: Callable[[Case], bool], attempts: int) -> None:
        self._fails = fails
        self._attempts = attempts

    def shrink(self, case: Case) -> Case:
        """The smallest case that was found."""
        case = self._without(case, list(case.groups), case.without_groups)
        case = self._without(case, list(case.transactions), case.without_transactions)
        for number in list(case.transactions):
            case = self._shrunk_transaction(case, number)
        return self._without(case, list(case.groups), case.without_groups)

    def _shrunk_transaction(self, case: Case, number: int) -> Case:
        places = range(len(case.transactions[number].statements))
        return self._without(case, places, lambda gone: case.without_statements(number, gone))

    def _without(self, case: Case, items: Sequence[T], remove: Callable[[Collection[T]], Case]) -> Case:
        """Leave out as many items as possible: large shares first, then smaller ones."""
        gone: set[T] = set()
        size = len(items)
        while size and self._attempts:
            for start in range(0, len(items), size):
                share = gone | set(items[start : start + size])
                if share > gone and self._still_fails(remove(share)):
                    gone, case = share, remove(share)
            size //= 2
        return case

    def _still_fails(self, case: Case) -> bool:
        if not self._attempts:
            return False
        self._attempts -= 1
        return self._fails(case)


def script(case: Case) -> str:
    """A case as SQL for psql; a change of the session is a comment."""
    lines = [f"-- seed {case.seed}"]
    lines += [f"{statement};" for group in case.groups.values() for statement in group.statements]
    done = dict.fromkeys(case.transactions, 0)
    before = None
    for number in case.order:
        transaction = case.transactions[number]
        if number != before:
            lines.append(f"-- transaction {number}, session of the {transaction.role.value}")
        lines.append(str(transaction.statements[done[number]]))
        done[number] += 1
        before = number
    return "\n".join(lines)
