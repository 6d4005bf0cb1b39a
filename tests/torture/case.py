"""Inventing a case from its seed: a schema of several tables, and what an app does to them."""

from dataclasses import replace
from random import Random
from typing import Final

from tests.torture.belongings import belongings, referring
from tests.torture.columns import Columns
from tests.torture.deploys import Deploys
from tests.torture.model import Case, Group, Table, Transaction, mostly, quoted
from tests.torture.names import Names, shortened
from tests.torture.shapes import SHAPES
from tests.torture.tables import Inventor
from tests.torture.transactions import Transactions, interleaved
from tests.torture.types import EXTENSION_SCHEMA, extension_types
from tests.torture.user_types import UserTypes

_SCHEMA_GROUP: Final = 0


def invent(seed: int, transactions: int = 25, *, deploys: bool = False) -> Case:
    """The case of a seed, always the same one; with ``deploys`` the app changes its schema, too."""
    random = Random(seed)
    names = Names(random)
    schema = shortened(names.invent(), f" {seed}")
    own = UserTypes(schema)
    extensions = extension_types(quoted(EXTENSION_SCHEMA))
    inventor = Inventor(random, schema, names, Columns(random, names, [*own.column_types, *extensions]))
    groups = {_SCHEMA_GROUP: Group((f"CREATE SCHEMA {quoted(schema)}", *own.statements))}
    tables = _tables(inventor, groups)
    inventions = Transactions(random, seed, tables, Deploys(inventor, tables) if deploys else None)
    invented = _transactions(random, inventions, transactions)
    return Case(
        seed=seed,
        groups=groups,
        transactions=dict(enumerate(invented)),
        order=interleaved(random, invented),
    )


def _tables(inventor: Inventor, groups: dict[int, Group]) -> list[Table]:
    random = inventor.random
    tables: list[Table] = []
    for number in range(1, random.randint(3, 6) + 1):
        made = referring(inventor, number, tables) if mostly(random, 0.25) else None
        if made is None:
            shape = random.choices([shape for shape, _ in SHAPES], [weight for _, weight in SHAPES])[0]
            made = shape(inventor, number)
        table, group = made
        if table.refers_to is None and mostly(random, 0.15):
            table = replace(table, secured=True)
        tables.append(table)
        groups[number] = Group((*group.statements, *belongings(inventor, table)))
    return tables


def _transactions(random: Random, inventions: Transactions, count: int) -> list[Transaction]:
    found = [inventions.first(), *(inventions.any() for _ in range(count))]
    if mostly(random, 0.15):
        found.insert(random.randrange(1, count), inventions.large())
    return found
