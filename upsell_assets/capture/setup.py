"""What the points system's database must offer before anything is captured, and the state of its slot.

Here: role, publication and replica identities (made with an owner's connection), the check of every precondition, and
the slot. Not here: the slot's creation, which belongs to the snapshot it exports (`full_load`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import psycopg
from psycopg import sql

from upsell_assets.contracts import Contract
from upsell_assets.errors import PermanentError, RetryableError
from upsell_assets.source.database import Connection, create_role, database_errors


def source_name(contract: Contract, schema: str) -> tuple[str, str]:
    """Schema and name of the source table, `schema` being where tables are by default."""
    first, dot, rest = (contract.source_table or contract.table).partition(".")
    return (first, rest) if dot else (schema, first)


def source_identifier(contract: Contract, schema: str) -> sql.Identifier:
    """The source table, quoted."""
    return sql.Identifier(*source_name(contract, schema))


def explain(
    connection: Connection, contracts: Mapping[str, Contract], *, name: str, schema: str, capture_role: str
) -> list[str]:
    """All that the database must be told, once, by an administrator and the tables' owner: statements of SQL.

    The role gets what they say and nothing else: it may log in, replicate, and read these tables.
    """
    tables = [source_name(contract, schema) for contract in contracts.values()]
    statements = [
        sql.SQL("ALTER SYSTEM SET wal_level = 'logical'"),
        sql.SQL("ALTER SYSTEM SET max_slot_wal_keep_size = '8GB'"),
        sql.SQL("CREATE ROLE {} LOGIN REPLICATION PASSWORD '...'").format(sql.Identifier(capture_role)),
        *(statement for found in dict.fromkeys(tables) for statement in _grants(found, capture_role)),
        *(_identity(found) for found in tables),
        _create_publication(name, set(tables)),
    ]
    return list(dict.fromkeys(f"{statement.as_string(connection)};" for statement in statements))


def _grants(table: tuple[str, str], role: str) -> list[sql.Composed]:
    to = sql.Identifier(role)
    return [
        sql.SQL("GRANT USAGE ON SCHEMA {} TO {}").format(sql.Identifier(table[0]), to),
        sql.SQL("GRANT SELECT ON {} TO {}").format(sql.Identifier(*table), to),
    ]


def _identity(table: tuple[str, str]) -> sql.Composed:
    return sql.SQL("ALTER TABLE {} REPLICA IDENTITY FULL").format(sql.Identifier(*table))


def prepare(
    owner: Connection, contracts: Mapping[str, Contract], *, name: str, schema: str, capture_role: str | None = None
) -> None:
    """Publish the contracts' tables, whole old rows included, and let `capture_role` read them. Repeatable.

    Raises:
        PermanentError: the user does not own the tables, or may not create a publication; or a table is missing.
        RetryableError: a table stayed locked for ten seconds.
    """
    tables = {table: source_name(contract, schema) for table, contract in contracts.items()}
    with database_errors(f"preparing publication {name}"), owner.transaction():
        owner.execute("SET LOCAL lock_timeout TO '10s'")  # a queued lock on a table stops all who come after it
        for found in tables.values():
            table = sql.Identifier(*found)
            if _one(owner, "SELECT relreplident <> 'f' FROM pg_class WHERE oid = %s::regclass", table):
                owner.execute(_identity(found))
            for grant in _grants(found, capture_role) if capture_role else ():
                owner.execute(grant)
        _publish(owner, name, set(tables.values()))


def ensure_role(owner: Connection, role: str, password: str) -> bool:
    """Create the role that captures, where there is none; whether it was created. One that stands stays as it is.

    Raises:
        PermanentError: the user may not create a role that replicates.
    """
    with database_errors(f"creating role {role}"):
        if owner.execute("SELECT FROM pg_roles WHERE rolname = %s", [role]).rowcount:
            return False
        create_role(owner, role, password, "REPLICATION")
        return True


def _one(connection: Connection, query: str, table: sql.Identifier) -> object:
    row = connection.execute(query.encode(), [table.as_string(connection)]).fetchone()
    return row[0] if row else None


_SETTINGS = "publish = 'insert, update, delete, truncate', publish_via_partition_root = true"


def _create_publication(name: str, tables: set[tuple[str, str]]) -> sql.Composed:
    return sql.SQL("CREATE PUBLICATION {} FOR TABLE {} WITH ({})").format(
        sql.Identifier(name), sql.SQL(", ").join(sql.Identifier(*table) for table in sorted(tables)), sql.SQL(_SETTINGS)
    )


def _publish(owner: Connection, name: str, wanted: set[tuple[str, str]]) -> None:
    publication = sql.Identifier(name)
    tables = sql.SQL(", ").join(sql.Identifier(*table) for table in sorted(wanted))
    if not _publication(owner, name):
        owner.execute(_create_publication(name, wanted))
    elif _published(owner, name) != wanted or not _publishes_all(owner, name):
        owner.execute(sql.SQL("ALTER PUBLICATION {} SET TABLE {}").format(publication, tables))
        owner.execute(sql.SQL("ALTER PUBLICATION {} SET ({})").format(publication, sql.SQL(_SETTINGS)))


def _publication(connection: Connection, name: str) -> bool:
    return bool(connection.execute("SELECT FROM pg_publication WHERE pubname = %s", [name]).rowcount)


def _published(connection: Connection, name: str) -> set[tuple[str, str]]:
    """The tables published whole: neither rows nor columns are left out."""
    rows = connection.execute(
        "SELECT n.nspname, c.relname FROM pg_publication p JOIN pg_publication_rel r ON r.prpubid = p.oid "
        "JOIN pg_class c ON c.oid = r.prrelid JOIN pg_namespace n ON n.oid = c.relnamespace "
        # Through JSON: PostgreSQL 14 has neither filters nor columns for them.
        "WHERE p.pubname = %s AND to_jsonb(r) ->> 'prqual' IS NULL AND to_jsonb(r) ->> 'prattrs' IS NULL",
        [name],
    )
    return {(row[0], row[1]) for row in rows}


def _publishes_all(connection: Connection, name: str) -> bool:
    query = (
        "SELECT FROM pg_publication WHERE pubname = %s AND pubinsert AND pubupdate AND pubdelete AND pubtruncate "
        "AND pubviaroot"
    )
    return bool(connection.execute(query, [name]).rowcount)


def preflight(connection: Connection, contracts: Mapping[str, Contract], *, name: str, schema: str) -> list[str]:
    """Check, as the role that will capture, everything that capture needs; what is dangerous only is returned.

    Raises:
        PermanentError: what is missing, all of it, each with its remedy.
    """
    with database_errors("looking at what capture needs"):
        faults = find_faults(connection, contracts, name=name, schema=schema)
        if faults:
            raise PermanentError(
                f"capture {name}: the source database is not ready: {'; '.join(faults)}. As owner of the tables: upsell "
                "capture --setup."
            )
        return find_dangers(connection)


def find_faults(connection: Connection, contracts: Mapping[str, Contract], *, name: str, schema: str) -> list[str]:
    """What keeps the connection's user from capturing these tables, each with its remedy."""
    faults = [*_server_faults(connection, name), *_publication_faults(connection, contracts, name, schema)]
    for contract in contracts.values():
        faults += _table_faults(connection, contract, schema)
    return faults


def find_dangers(connection: Connection) -> list[str]:
    """What keeps nobody from capturing, and may harm the server, each with its remedy."""
    kept = connection.execute("SELECT current_setting('max_slot_wal_keep_size')").fetchone()
    if kept != ("-1",):
        return []
    return [
        "max_slot_wal_keep_size is not set: while nobody captures, the server keeps its log until its disk is full. "
        "ALTER SYSTEM SET max_slot_wal_keep_size = '8GB', and pg_reload_conf()"
    ]


def _server_faults(connection: Connection, name: str) -> list[str]:
    row = connection.execute(
        "SELECT current_setting('wal_level'), current_setting('max_replication_slots')::int, "
        "(SELECT count(*) FROM pg_replication_slots WHERE slot_name <> %s), current_user, "
        "(SELECT rolreplication OR rolsuper FROM pg_roles WHERE rolname = current_user) OR EXISTS "
        "(SELECT FROM pg_roles WHERE rolname = 'rds_replication' AND pg_has_role(oid, 'USAGE'))",
        [name],
    ).fetchone()
    assert row is not None
    wal_level, allowed, taken, user, may_replicate = row
    faults = []
    if wal_level != "logical":
        faults.append(f"wal_level is {wal_level}: set it to logical and restart the server")
    if taken >= allowed:
        faults.append(f"all {allowed} replication slots are taken: raise max_replication_slots, or drop one")
    if not may_replicate:
        faults.append(f"user {user} may not replicate: ALTER ROLE {user} REPLICATION")
    return faults


def _publication_faults(connection: Connection, contracts: Mapping[str, Contract], name: str, schema: str) -> list[str]:
    if not _publication(connection, name):
        tables = ", ".join(source_identifier(c, schema).as_string(connection) for c in contracts.values())
        return [
            f'publication {name} is missing: as owner of the tables, CREATE PUBLICATION "{name}" FOR TABLE {tables}'
        ]
    published = _published(connection, name)
    missing = sorted(".".join(t) for c in contracts.values() if (t := source_name(c, schema)) not in published)
    faults = []
    if missing:
        faults.append(
            f"publication {name} lacks {', '.join(missing)}, or filters their rows or columns: ALTER PUBLICATION "
            f'"{name}" SET TABLE with the whole tables'
        )
    if not _publishes_all(connection, name):
        faults.append(f'publication {name} leaves out some operations: ALTER PUBLICATION "{name}" SET ({_SETTINGS})')
    return faults


def _table_faults(connection: Connection, contract: Contract, schema: str) -> list[str]:
    table = source_identifier(contract, schema).as_string(connection)
    row = connection.execute(
        "SELECT c.relreplident, has_table_privilege(c.oid, 'SELECT') AND has_schema_privilege(n.oid, 'USAGE'), "
        "current_user FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace "
        "WHERE (n.nspname, c.relname) = (%s, %s)",
        source_name(contract, schema),
    ).fetchone()
    if row is None:
        return [f"table {table} does not exist: create it, or correct UPSELL_SOURCE_SCHEMA"]
    identity, readable, user = row
    faults = []
    if identity != "f":
        # With less, an update says nothing about a long text that it left as it was.
        faults.append(f"table {table} does not log whole old rows: ALTER TABLE {table} REPLICA IDENTITY FULL")
    if not readable:
        faults.append(f"user {user} may not read {table}: GRANT SELECT ON {table} TO {user}, and USAGE on its schema")
    if contract.change_seq_type != "string":
        faults.append(f"contract {contract.name} has change_seq_type {contract.change_seq_type}: capture needs string")
    return faults


@dataclass(frozen=True)
class Slot:
    """The replication slot as the server knows it.

    Attributes:
        confirmed_lsn: up to where it was let go.
        restart_lsn: from where on the server keeps its log.
        left: bytes of log until the server gives the slot up; None: it never does.
        active_pid: who reads it now.
        lost: why it can no longer be read, if so.
    """

    confirmed_lsn: int
    restart_lsn: int
    left: int | None
    active_pid: int | None
    lost: str | None


def find_slot(connection: Connection, name: str) -> Slot | None:
    """The slot of that name in this database, or None.

    Raises:
        PermanentError: there is one, but not for this database's pgoutput.
    """
    row = connection.execute(
        "SELECT (confirmed_flush_lsn - '0/0')::bigint, (restart_lsn - '0/0')::bigint, safe_wal_size, active_pid, "
        "wal_status, "
        "plugin = 'pgoutput' AND database = current_database() FROM pg_replication_slots WHERE slot_name = %s",
        [name],
    ).fetchone()
    if row is None:
        return None
    confirmed, restart, left, active_pid, wal_status, ours = row
    if not ours:
        raise PermanentError(
            f"capture {name}: a replication slot of this name serves something else. Set UPSELL_CAPTURE_NAME to another."
        )
    lost = "its log was removed" if wal_status == "lost" else None
    return Slot(confirmed or 0, restart or 0, left, active_pid, lost)


def drop_slot(connection: Connection, name: str) -> None:
    """Drop the slot, if it is there.

    Raises:
        RetryableError: somebody reads it at this moment.
    """
    try:
        connection.execute(
            "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE slot_name = %s", [name]
        )
    except psycopg.errors.ObjectInUse as error:
        raise RetryableError(
            f"capture {name}: the replication slot is in use ({error.diag.message_primary}). Stop the other capture, "
            "or wait until the server has noticed that it is gone."
        ) from error


def drop_publication(owner: Connection, name: str) -> None:
    """Remove the publication, if it is there; replica identities stay.

    Raises:
        PermanentError: the user does not own it.
    """
    with database_errors(f"dropping publication {name}"):
        owner.execute(sql.SQL("DROP PUBLICATION IF EXISTS {}").format(sql.Identifier(name)))
