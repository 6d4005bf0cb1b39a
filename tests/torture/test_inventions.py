"""The torture test's own tools: what fails must be found again, and be made small."""

import pytest

from tests.torture.case import invent
from tests.torture.model import Case, Group, Statement, Transaction
from tests.torture.shrink import Shrinker, script

_BAD = "DELETE FROM t WHERE bad"


def _case() -> Case:
    """Three tables and six transactions of three statements, one of which is bad."""
    transactions = {
        n: Transaction((Statement("BEGIN"), Statement(_BAD if n == 4 else f"SELECT {n}"), Statement("COMMIT")))
        for n in range(6)
    }
    groups = {n: Group((f"CREATE TABLE t{n} ()",)) for n in range(3)}
    return Case(7, groups, transactions, tuple(n for n in range(6) for _ in range(3)))


def _has_bad(case: Case) -> bool:
    return _BAD in script(case)


@pytest.mark.parametrize("seed", range(20))
def test_a_seed_invents_the_same_case_each_time(seed: int) -> None:
    assert invent(seed) == invent(seed)
    assert script(invent(seed)) != script(invent(seed + 1))


def test_every_statement_is_played_once() -> None:
    """Given a case, then its order names each transaction as often as it has statements, the first alone."""
    case = invent(3)

    assert {n: case.order.count(n) for n in case.transactions} == {
        n: len(transaction.statements) for n, transaction in case.transactions.items()
    }
    first = len(case.transactions[0].statements)
    assert set(case.order[:first]) == {0}


def test_what_fails_is_made_as_small_as_possible() -> None:
    least = Shrinker(_has_bad, attempts=100).shrink(_case())

    assert script(least) == f"-- seed 7\n-- transaction 4, session of the app\n{_BAD};"


def test_attempts_to_make_it_small_are_limited() -> None:
    """Given a limit, then no more cases are tried, and what is left still fails."""
    tried = []

    def fails(case: Case) -> bool:
        tried.append(case)
        return _has_bad(case)

    least = Shrinker(fails, attempts=5).shrink(_case())

    assert len(tried) == 5
    assert _has_bad(least)
