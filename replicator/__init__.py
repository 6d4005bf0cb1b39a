"""Moves a live Postgres database from one server to another with near-zero downtime."""

from importlib.metadata import version

__version__ = version("replicator")
