"""What a server's catalog says about tables: read only."""

from replicator.catalog.fingerprints import publications_fingerprint, read_definitions, read_fingerprint
from replicator.catalog.large_objects import count_large_objects
from replicator.catalog.published import Part, PublishedTable, published_tables
from replicator.catalog.shapes import read_shapes
from replicator.catalog.tables import MANAGED_SCHEMAS, SourceTable, app_schemas, managed_schemas, source_tables

__all__ = [
    "MANAGED_SCHEMAS",
    "Part",
    "PublishedTable",
    "SourceTable",
    "app_schemas",
    "count_large_objects",
    "managed_schemas",
    "publications_fingerprint",
    "published_tables",
    "read_definitions",
    "read_fingerprint",
    "read_shapes",
    "source_tables",
]
