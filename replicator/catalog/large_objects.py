"""Large objects: they belong to no table, and logical replication does not carry them.

Source: PostgreSQL documentation, "Logical Replication, Restrictions"; "System Catalogs" (pg_largeobject_metadata).
"""

from typing import Final, LiteralString

from replicator.postgres import Connection

_COUNT: Final[LiteralString] = "SELECT count(*) FROM pg_catalog.pg_largeobject_metadata"


async def count_large_objects(connection: Connection) -> int:
    """How many large objects the database has."""
    row = await (await connection.execute(_COUNT)).fetchone()
    return int(row[0]) if row else 0
