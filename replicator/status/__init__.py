"""`replicator status`: what an operator wants to know, read from the control tables and from the source."""

from replicator.status.read import StatusReader, read_status
from replicator.status.report import Status
from replicator.status.view import render, watch

__all__ = ["Status", "StatusReader", "read_status", "render", "watch"]
