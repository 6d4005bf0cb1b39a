"""Renamed values of enums: whatever names go round, the target ends with the source's, and stays so."""

import itertools
import re
from collections.abc import Iterable, Sequence

import pytest

from bootstrap.labels import Enum, Label, Relabelling, different_labels_of
from replicator.model import TableName

NAME = TableName("public", "mood")


def followed(theirs: Sequence[str], statements: Iterable[str]) -> list[str]:
    """What the target's values are after the statements; each has to be possible."""
    labels = list(theirs)
    for statement in statements:
        if found := re.fullmatch(r"ALTER TYPE \S+ RENAME VALUE '(.*)' TO '(.*)'", statement):
            before, after = found.groups()
            assert after not in labels
            labels[labels.index(before)] = after
        else:
            found = re.fullmatch(
                r"ALTER TYPE \S+ ADD VALUE IF NOT EXISTS '(.*?)'(?: (AFTER|BEFORE) '(.*)')?", statement
            )
            assert found is not None
            label, place, other = found.groups()
            labels.insert(labels.index(other) + (place == "AFTER"), label)
    return labels


@pytest.mark.parametrize("now", list(itertools.permutations("abcxyz", 3)))
def test_names_that_values_exchange_take_over_or_get_anew_are_followed_once(now: Sequence[str]) -> None:
    """Given three values that have other names by now, then one pass follows them, and another one finds nothing."""
    former = {n: {name} for n, name in enumerate("abc")}
    enum = Enum(*NAME, labels=list(now), oids=[0, 1, 2])

    changes = different_labels_of(enum, ["a", "b", "c"], former)
    theirs = followed(["a", "b", "c"], (statement for change in changes for statement in change.statements()))

    assert theirs == list(now)
    assert list(different_labels_of(enum, theirs, former)) == []


def test_a_value_that_was_renamed_twice_is_found_by_either_name() -> None:
    enum = Enum(*NAME, labels=["z", "b"], oids=[0, 1])

    for name in ("a", "y"):
        (change,) = different_labels_of(enum, [name, "b"], {0: {"a", "y"}, 1: {"b"}})
        assert change == Relabelling(*NAME, {name: "z"})


def test_a_value_that_nobody_has_seen_is_a_new_one() -> None:
    enum = Enum(*NAME, labels=["a", "new", "b"], oids=[0, 2, 1])

    assert list(different_labels_of(enum, ["a", "b"], {0: {"a"}, 1: {"b"}})) == [Label(*NAME, "new", "a", "a")]


def test_a_value_is_not_given_a_name_that_the_target_has_for_another() -> None:
    """Given the new name beside the old one, as an operator may add it, then both stay: the rows come again."""
    enum = Enum(*NAME, labels=["x", "b"], oids=[0, 1])

    assert list(different_labels_of(enum, ["a", "x", "b"], {0: {"a"}, 1: {"b"}})) == []
