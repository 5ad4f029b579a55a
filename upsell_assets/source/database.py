"""Connections to the points system, its tables and its roles.

Here: how a connection is opened and what its failures say, the schema (`ddl.sql`), least-privilege roles, and what
the tables hold. Not here: rows going in (`loader`, `simulator`, `live`) or out (`capture`). No message shows a
password, not even that of a malformed DSN.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import UTC, date
from importlib.resources import files
from typing import Any, LiteralString

import psycopg
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict

from upsell_assets.errors import PermanentError, RetryableError
from upsell_assets.settings import LOCAL_ZONE

Connection = psycopg.Connection[tuple[Any, ...]]

TABLES: dict[str, dict[str, str]] = {
    "customers": {"idCustomer": "text", "PointsCustomer": "bigint", "flEmail": "bigint"},
    "transactions": {
        "idTransaction": "text",
        "idCustomer": "text",
        "dtTransaction": "timestamp",
        "pointsTransaction": "bigint",
    },
    "transactions_product": {
        "idTransactionCart": "text",
        "idTransaction": "text",
        "NameProduct": "text",
        "QuantityProduct": "bigint",
    },
}
"""Columns and types of `ddl.sql`, in its order."""

_CHECK_DSN = "Check UPSELL_SOURCE_DSN"
_NOT_A_DSN = (
    "source database: UPSELL_SOURCE_DSN is not a PostgreSQL address. Write "
    "postgresql://USER:PASSWORD@HOST:PORT/DATABASE, with special characters of the password percent-encoded."
)
# A failed connection carries no SQLSTATE, only text. These do not pass by themselves; all others may.
_REFUSALS = (
    "authentication failed",
    "no password supplied",
    "does not exist",
    "no pg_hba.conf entry",
    "permission denied",
    "does not support SSL",
    "certificate",
)


def connect(dsn: str, **kw: Any) -> Connection:
    """Open a connection in autocommit mode, so that `connection.transaction()` is a transaction of its own.

    Args:
        dsn: URL or key=value pairs, as libpq takes them.
        **kw: arguments of `psycopg.connect`; they win over the defaults here.

    Raises:
        PermanentError: the DSN is malformed, or the server refuses the user, the password or the database.
        RetryableError: the server cannot be reached now.
    """
    try:
        parts = conninfo_to_dict(dsn)
    except psycopg.ProgrammingError:
        raise PermanentError(_NOT_A_DSN) from None
    host, port = str(parts.get("host") or "localhost"), str(parts.get("port") or 5432)
    # An unencoded "@" or "/" of a password moves its rest into the host, the port or the database.
    if "@" in host + str(parts.get("dbname", "")) or not port.replace(",", "").isdigit():
        raise PermanentError(_NOT_A_DSN)
    defaults = {"connect_timeout": 10, "application_name": "upsell"}
    options: dict[str, Any] = {"autocommit": True} | {k: v for k, v in defaults.items() if k not in parts} | kw
    try:
        return psycopg.connect(dsn, **options)
    except psycopg.ProgrammingError:
        raise PermanentError(_NOT_A_DSN) from None
    except psycopg.OperationalError as error:
        reason = str(error).splitlines()[0].rpartition("failed: ")[2].removeprefix("FATAL:").strip()
        message = f"source database {host}:{port}: {reason}. {_CHECK_DSN}"
        if any(refusal in reason for refusal in _REFUSALS):
            raise PermanentError(f"{message}.") from None
        raise RetryableError(f"{message}, and that the server runs.") from None


@contextmanager
def database_errors(doing: str) -> Iterator[None]:
    """Turn the failures that a person can act on into one line each; `doing` says what was being done.

    Raises:
        PermanentError: a table or column is missing, or the role lacks a right.
        RetryableError: the connection was lost, or the server gave up on a deadlock or for lack of resources.
    """
    try:
        yield
    except (psycopg.errors.UndefinedTable, psycopg.errors.UndefinedColumn, psycopg.errors.InvalidSchemaName) as error:
        raise PermanentError(
            f"source database: {doing}: {_reason(error)}. Create the tables, or check UPSELL_SOURCE_SCHEMA."
        ) from error
    except psycopg.errors.InsufficientPrivilege as error:
        raise PermanentError(
            f"source database: {doing}: {_reason(error)}. Grant it, or use another user in UPSELL_SOURCE_DSN."
        ) from error
    except psycopg.OperationalError as error:
        raise RetryableError(
            f"source database: {doing}: {_reason(error)}. Try again; if it persists, see the server's log."
        ) from error


def _reason(error: psycopg.Error) -> str:
    return error.diag.message_primary or str(error).partition("\n")[0]


def create_schema(connection: Connection, schema: str = "public") -> None:
    """Create the schema and its tables where they are missing; what stands is left as it is.

    Raises:
        PermanentError: the user may not create them, or does not own those that stand.
    """
    ddl = files(__package__).joinpath("ddl.sql").read_bytes()
    with database_errors(f"creating the tables in schema {schema}"), connection.transaction():
        if not connection.execute("SELECT FROM pg_namespace WHERE nspname = %s", [schema]).rowcount:
            connection.execute(sql.SQL("CREATE SCHEMA {}").format(sql.Identifier(schema)))
        connection.execute(sql.SQL("SET LOCAL search_path TO {}").format(sql.Identifier(schema)))
        connection.execute("SET LOCAL client_min_messages TO warning")  # no notice for what stands
        connection.execute(ddl)


def create_roles(
    connection: Connection,
    schema: str = "public",
    *,
    capture_role: str,
    capture_password: str,
    app_role: str,
    app_password: str,
) -> None:
    """Create, or bring back to exactly these rights, the role that reads changes and the role of the application.

    The capture role may log in, replicate and read the three tables; the publication is its owner's to make, and so
    are rights on other tables, which stay: every command that starts calls this beside a running lake. The
    application's role may log in, and read and write rows of the three tables. Passwords are sent as SCRAM
    verifiers, so that no server log can hold them.

    Raises:
        PermanentError: the tables are missing, the user may not create such roles, or one of them is that user.
    """
    if len({capture_role, app_role, connection.info.user}) < 3:
        raise PermanentError(
            f"source database: roles {capture_role} and {app_role} must differ from each other and from the user that "
            f"creates them, {connection.info.user}. Choose other names."
        )
    with database_errors(f"creating roles {capture_role} and {app_role}"), connection.transaction():
        create_role(connection, capture_role, capture_password, "REPLICATION")
        create_role(connection, app_role, app_password, "NOREPLICATION")
        _grant(connection, schema, capture_role, "SELECT")
        _grant(connection, schema, app_role, "SELECT, INSERT, UPDATE, DELETE")


def create_role(connection: Connection, role: str, password: str, replication: LiteralString) -> None:
    """Create a role that may log in, or bring it back to just that; `replication` is REPLICATION or NOREPLICATION."""
    known = connection.execute("SELECT FROM pg_roles WHERE rolname = %s", [role]).rowcount
    verifier = connection.pgconn.encrypt_password(password.encode(), role.encode(), b"scram-sha-256")
    connection.execute(
        sql.SQL("{} ROLE {} WITH LOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE NOBYPASSRLS {} PASSWORD {}").format(
            sql.SQL("ALTER" if known else "CREATE"),
            sql.Identifier(role),
            sql.SQL(replication),
            sql.Literal(verifier.decode()),
        )
    )


def _grant(connection: Connection, schema: str, role: str, rights: LiteralString) -> None:
    names = {"schema": sql.Identifier(schema), "role": sql.Identifier(role)}
    tables = sql.SQL(", ").join(sql.Identifier(schema, table) for table in TABLES)
    for statement in (
        sql.SQL("REVOKE ALL ON {tables} FROM {role}").format(tables=tables, **names),
        sql.SQL("REVOKE ALL ON SCHEMA {schema} FROM {role}").format(**names),
        sql.SQL("GRANT USAGE ON SCHEMA {schema} TO {role}").format(**names),
        sql.SQL("GRANT {rights} ON {tables} TO {role}").format(rights=sql.SQL(rights), tables=tables, **names),
    ):
        connection.execute(statement)


def copy_statement(schema: str, table: str, columns: Iterable[str]) -> sql.Composed:
    """COPY of these columns of the table, from the client."""
    return sql.SQL("COPY {} ({}) FROM STDIN").format(
        sql.Identifier(schema, table), sql.SQL(", ").join(map(sql.Identifier, columns))
    )


def is_filled(connection: Connection, schema: str = "public") -> bool:
    """Whether any of the three tables has a row; tables that do not exist have none."""
    for table in TABLES:
        name = sql.Identifier(schema, table)
        exists = connection.execute("SELECT to_regclass(%s)", [name.as_string(connection)]).fetchone()
        if exists == (None,):
            continue
        with database_errors(f"looking for rows in {schema}.{table}"):
            if connection.execute(sql.SQL("SELECT FROM {} LIMIT 1").format(name)).rowcount:
                return True
    return False


def event_days(connection: Connection, schema: str = "public") -> tuple[date, date] | None:
    """The days, in America/Sao_Paulo, of the first and the last transaction; None if none has a date.

    Raises:
        PermanentError: the table is missing, or may not be read.
    """
    query = sql.SQL('SELECT min("dtTransaction"), max("dtTransaction") FROM {}')
    with database_errors(f"reading the dates of {schema}.transactions"):
        row = connection.execute(query.format(sql.Identifier(schema, "transactions"))).fetchone()
    if row is None or row[0] is None:
        return None
    first, last = (moment.replace(tzinfo=UTC).astimezone(LOCAL_ZONE).date() for moment in row)
    return first, last
