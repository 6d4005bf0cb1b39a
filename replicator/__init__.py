"""Moves a live Postgres database from one server to another with near-zero downtime."""

__version__ = "0.1.0"
