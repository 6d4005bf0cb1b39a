"""Fixtures of the tests that apply changes to a target."""

from tests.fixtures.applying import applied_database, applier, emptied_database, plain_applier

__all__ = ["applied_database", "applier", "emptied_database", "plain_applier"]
