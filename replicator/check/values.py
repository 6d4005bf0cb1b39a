"""Whether the target can hold every value and name of the source: encodings, and types that a server may lack."""

from typing import Final, LiteralString

import psycopg

from replicator.check.context import Pair
from replicator.check.finding import Finding, blocked, listed, warning
from replicator.errors import Side
from replicator.postgres import Connection

_LONGEST: Final = 63
"""Bytes of a name that PostgreSQL keeps (documentation, "Identifiers and Key Words")."""

_LONG_NAMES: Final[LiteralString] = """
WITH named AS (
  SELECT oid AS namespace, nspname AS name FROM pg_catalog.pg_namespace
  UNION ALL SELECT relnamespace, relname FROM pg_catalog.pg_class
  UNION ALL SELECT typnamespace, typname FROM pg_catalog.pg_type
  UNION ALL SELECT connamespace, conname FROM pg_catalog.pg_constraint
  UNION ALL SELECT pronamespace, proname FROM pg_catalog.pg_proc
  UNION ALL SELECT c.relnamespace, a.attname FROM pg_catalog.pg_attribute a
              JOIN pg_catalog.pg_class c ON c.oid = a.attrelid WHERE a.attnum > 0 AND NOT a.attisdropped
  UNION ALL SELECT t.typnamespace, e.enumlabel FROM pg_catalog.pg_enum e
              JOIN pg_catalog.pg_type t ON t.oid = e.enumtypid
)
SELECT DISTINCT d.name::text
  FROM named d JOIN pg_catalog.pg_namespace n ON n.oid = d.namespace
 WHERE n.nspname = ANY (%s) AND octet_length(pg_catalog.convert_to(d.name::text, 'UTF8')) > %s
 ORDER BY 1
"""

_COLUMNS_OF: Final[LiteralString] = """
SELECT DISTINCT n.nspname || '.' || c.relname || '.' || a.attname
  FROM pg_catalog.pg_attribute a
  JOIN pg_catalog.pg_class c ON c.oid = a.attrelid AND c.relkind IN ('r', 'p', 'c')
  JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
  JOIN pg_catalog.pg_type t ON t.oid = a.atttypid
 WHERE n.nspname = ANY (%(schemas)s) AND a.attnum > 0 AND NOT a.attisdropped
   AND %(types)s::pg_catalog.regtype[] && ARRAY[t.oid, t.typelem, t.typbasetype]::pg_catalog.regtype[]
 ORDER BY 1
"""

_REFERENCES: Final = (
    *("regclass", "regcollation", "regconfig", "regdictionary", "regnamespace", "regoper", "regoperator"),
    *("regproc", "regprocedure", "regrole", "regtype"),
)

_XML: Final[LiteralString] = "SELECT pg_catalog.xml_is_well_formed('<a/>')"


async def encodings(pair: Pair) -> list[Finding]:
    """Encodings that go together; and what becomes longer in the target's."""
    source, target = _encoding(pair.source.connection), _encoding(pair.target.connection)
    found = encoding_verdict(source, target)
    if source not in (target, "SQL_ASCII"):
        schemas = list(pair.source.schemas)
        cursor = await pair.source.connection.execute(_LONG_NAMES, [schemas, _LONGEST])
        names = [name for (name,) in await cursor.fetchall()]
        found += length_verdict(names, await _columns_of(pair, "name"))
    return found


def _encoding(connection: Connection) -> str:
    return connection.info.parameter_status("server_encoding") or ""


def encoding_verdict(source: str, target: str) -> list[Finding]:
    """Text travels as UTF8: any encoding can become that, and nothing else holds everything."""
    if source == target != "SQL_ASCII":
        return []
    if target not in ("UTF8", source):
        return [
            blocked(
                Side.TARGET,
                f"the database's encoding is {target}, the source's is {source}: not every text could be stored",
                "Create the target database with ENCODING 'UTF8'.",
            )
        ]
    if source == "SQL_ASCII":
        return [
            warning(
                Side.SOURCE,
                "the database's encoding is SQL_ASCII: what is valid UTF-8 arrives as it is, "
                "and the migration stops at text that is not",
                "Convert text of other encodings to UTF-8 on the source first, "
                "lest it stops; only you know which encodings these are.",
            )
        ]
    return [
        warning(
            Side.SOURCE,
            f"the database's encoding is {source}: all text is converted to {target}",
            "Nothing needs doing unless the app depends on the encoding (its bytes, octet_length, limits of an index).",
        )
    ]


def length_verdict(names: list[str], columns: list[str]) -> list[Finding]:
    """``names`` that are too long in UTF8, and ``columns`` whose values may be."""
    found = []
    if names:
        found.append(
            blocked(
                Side.SOURCE,
                f"names are longer than {_LONGEST} bytes in UTF8: {listed(names)}",
                "Give them shorter names (ALTER … RENAME) on the source.",
            )
        )
    if columns:
        found.append(
            warning(
                Side.SOURCE,
                f"values of the type name are cut to {_LONGEST} bytes, which UTF8 may need more of: {listed(columns)}",
                "Give these columns the type text if such values may be that long.",
            )
        )
    return found


async def xml(pair: Pair) -> list[Finding]:
    """A server may be built without libxml: it knows the type, and takes no value of it."""
    columns = await _columns_of(pair, "xml")
    if not columns:
        return []
    try:
        await pair.target.connection.execute(_XML)
    except psycopg.errors.FeatureNotSupported:
        return [
            blocked(
                Side.TARGET,
                f"the server was built without support for xml, which columns have: {listed(columns)}",
                "Choose a target whose server has it, or give the columns another type on the source.",
            )
        ]
    return []


async def references(pair: Pair) -> list[Finding]:
    """Values that name an object of the server cannot be stored where there is none of that name."""
    columns = await _columns_of(pair, *_REFERENCES)
    if not columns:
        return []
    return [
        warning(
            Side.TARGET,
            f"values name objects of the server, and can be stored only where these are: {listed(columns)}",
            "Make the roles that they name on the target; mind that indexes come after the rows. "
            "The type text takes any name.",
        )
    ]


async def _columns_of(pair: Pair, *types: str) -> list[str]:
    """Columns of these types, of arrays of them, or of domains over them; those of composite types too."""
    parameters = {"schemas": list(pair.source.schemas), "types": list(types)}
    cursor = await pair.source.connection.execute(_COLUMNS_OF, parameters)
    return [name for (name,) in await cursor.fetchall()]
