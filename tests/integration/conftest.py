"""Fixtures of the tests that apply changes to a target."""

from tests.fixtures.applying import application, applied_database, applier, plain_applier

__all__ = ["application", "applied_database", "applier", "plain_applier"]
