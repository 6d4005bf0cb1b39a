"""Databases as the two platforms hand them out: owned by a role that is no superuser."""

from contextlib import AbstractContextManager
from typing import Final, Protocol

from psycopg import Connection, sql
from psycopg.rows import TupleRow

SUPABASE_ROLE: Final = "postgres"
RENDER_ROLE: Final = "app"

_SUPABASE_ATTRIBUTES: Final = sql.SQL("NOSUPERUSER CREATEDB CREATEROLE REPLICATION BYPASSRLS")
_RENDER_ATTRIBUTES: Final = sql.SQL("NOSUPERUSER CREATEDB")


class Administered(Protocol):
    """A server that we own: an embedded one, or one in a container."""

    password: str

    def administer(self, database: str = ...) -> AbstractContextManager[Connection[TupleRow]]:
        """A superuser's session in autocommit mode."""

    def dsn(self, user: str, database: str, password: str | None = ...) -> str:
        """A URL for a role."""


def supabase_like(server: Administered, database: str) -> str:
    """Create a database as Supabase does and return its owner's URL. Design, section 7: The two platforms."""
    with server.administer() as connection:
        if _create_role(connection, SUPABASE_ROLE, _SUPABASE_ATTRIBUTES, server.password):
            connection.execute("GRANT pg_monitor, pg_read_all_data, pg_signal_backend TO postgres")
            connection.execute("ALTER ROLE postgres SET statement_timeout = '2min'")
        _create_database(connection, database, SUPABASE_ROLE)
        connection.execute(sql.SQL("ALTER DATABASE {} SET extra_float_digits = 0").format(sql.Identifier(database)))
    return server.dsn(SUPABASE_ROLE, database)


def render_like(server: Administered, database: str) -> str:
    """Create a database as Render does, its owner nothing but that, and return the owner's URL."""
    with server.administer() as connection:
        _create_role(connection, RENDER_ROLE, _RENDER_ATTRIBUTES, server.password)
        _create_database(connection, database, RENDER_ROLE)
    return server.dsn(RENDER_ROLE, database)


def _create_role(connection: Connection[TupleRow], name: str, attributes: sql.SQL, password: str) -> bool:
    if connection.execute("SELECT FROM pg_roles WHERE rolname = %s", [name]).fetchone() is not None:
        return False
    statement = sql.SQL("CREATE ROLE {} LOGIN {} PASSWORD {}")
    connection.execute(statement.format(sql.Identifier(name), attributes, sql.Literal(password)))
    return True


def _create_database(connection: Connection[TupleRow], name: str, owner: str) -> None:
    connection.execute(sql.SQL("CREATE DATABASE {} OWNER {}").format(sql.Identifier(name), sql.Identifier(owner)))
