"""Preflight: what stands in the way of a migration, each finding with its remedy."""

from replicator.check.finding import Finding, Severity, blocking
from replicator.check.run import check

__all__ = ["Finding", "Severity", "blocking", "check"]
