"""Which modules of the hot path run compiled (pyproject: ext-modules). Nothing else depends on it."""

from importlib.util import find_spec
from typing import Final

HOT_PATH: Final = (
    "replicator.apply.batch",
    "replicator.apply.keyed",
    "replicator.apply.keyless",
    "replicator.apply.lines",
    "replicator.apply.rows",
    "replicator.model",
    "replicator.pgoutput.decoder",
    "replicator.pgoutput.messages",
    "replicator.pgoutput.transactions",
    "replicator.source.buffer",
    "replicator.source.kept",
    "replicator.source.reading",
    "replicator.source.streamed",
)


def compiled() -> frozenset[str]:
    """Those of HOT_PATH that were compiled when the package was installed; the others run as Python."""
    return frozenset(name for name in HOT_PATH if not _file(name).endswith(".py"))


def describe() -> str:
    """All, some or none of them, for people."""
    slow = sorted(set(HOT_PATH) - compiled())
    if not slow:
        return "compiled"
    return "not compiled" if len(slow) == len(HOT_PATH) else f"compiled but for {', '.join(slow)}"


def _file(name: str) -> str:
    spec = find_spec(name)
    return spec.origin or "" if spec else ""
