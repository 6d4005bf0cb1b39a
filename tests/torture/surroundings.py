"""Settings that an owner may have given a role: none may change what arrives, or end a session of replicator."""

from random import Random
from typing import Final

from replicator.demo.roles import RENDER_ROLE, SUPABASE_ROLE
from tests.fixtures.databases import Database

_EITHER: Final = {
    "DateStyle": ("SQL, DMY", "German", "Postgres, MDY", "ISO, YMD"),
    "IntervalStyle": ("sql_standard", "postgres_verbose", "iso_8601"),
    "TimeZone": ("Asia/Kolkata", "America/New_York", "Etc/GMT+12"),
    "bytea_output": ("escape",),
    "extra_float_digits": ("-15", "1"),
    "client_encoding": ("LATIN1",),
    "array_nulls": ("off",),
    "xmloption": ("document",),
    "search_path": ("", "pg_temp, public", "nowhere"),
    "quote_all_identifiers": ("on",),
    "default_transaction_isolation": ("serializable", "repeatable read"),
    "default_transaction_deferrable": ("on",),
    "idle_session_timeout": ("1500ms",),
    "lock_timeout": ("1ms",),
    "statement_timeout": ("50ms",),
    "idle_in_transaction_session_timeout": ("300ms",),
    "transaction_timeout": ("700ms",),
    "plan_cache_mode": ("force_generic_plan",),
}
_TARGET_ONLY: Final = {
    "synchronous_commit": ("off", "local"),
    "standard_conforming_strings": ("off",),
    "default_toast_compression": ("pglz",),
    "check_function_bodies": ("on",),
}
_SINCE: Final = {"transaction_timeout": 170_000}


def surround(random: Random, source: Database, target: Database) -> list[str]:
    """Give the owners of both databases a few settings there, and return the statements that did."""
    statements = []
    for database, owner, possible in (
        (source, SUPABASE_ROLE, _EITHER),
        (target, RENDER_ROLE, _EITHER | _TARGET_ONLY),
    ):
        version = int(database.value("SHOW server_version_num"))
        names = [name for name in possible if _SINCE.get(name, 0) <= version]
        for name in random.sample(names, random.choice((0, 1, 2, 5))):
            value = _value(name, random.choice(possible[name]))
            statements.append(f"ALTER ROLE {owner} IN DATABASE {database.name} SET {name} = {value}")
            database.execute(statements[-1], superuser=True)
    return statements


def _value(name: str, value: str) -> str:
    """A list of schemas is no single literal."""
    return value if name == "search_path" and value else f"'{value}'"
