"""What the points system's database must offer before anything is captured, and the state of its slot.

Here: the publication and the replica identities (made with an owner's connection), the check of every precondition,
and the slot. Not here: the slot's creation, which belongs to the snapshot it exports (`full_load`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import psycopg
from psycopg import sql

from upsell_assets.contracts import Contract
from upsell_assets.errors import PermanentError, RetryableError
from upsell_assets.source.database import Connection, database_errors


def source_name(contract: Contract, schema: str) -> tuple[str, str]:
    """Schema and name of the source table, `schema` being where tables are by default."""
    first, dot, rest = (contract.source_table or contract.table).partition(".")
    return (first, rest) if dot else (schema, first)


def source_identifier(contract: Contract, schema: str) -> sql.Identifier:
    """The source table, quoted."""
    return sql.Identifier(*source_name(contract, schema))


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
                owner.execute(sql.SQL("ALTER TABLE {} REPLICA IDENTITY FULL").format(table))
            if capture_role:
                role = sql.Identifier(capture_role)
                owner.execute(sql.SQL("GRANT USAGE ON SCHEMA {} TO {}").format(sql.Identifier(found[0]), role))
                owner.execute(sql.SQL("GRANT SELECT ON {} TO {}").format(table, role))
        _publish(owner, name, set(tables.values()))


def _one(connection: Connection, query: str, table: sql.Identifier) -> object:
    row = connection.execute(query.encode(), [table.as_string(connection)]).fetchone()
    return row[0] if row else None


_SETTINGS = "publish = 'insert, update, delete, truncate', publish_via_partition_root = true"


def _publish(owner: Connection, name: str, wanted: set[tuple[str, str]]) -> None:
    publication = sql.Identifier(name)
    tables = sql.SQL(", ").join(sql.Identifier(*table) for table in sorted(wanted))
    if not _publication(owner, name):
        owner.execute(
            sql.SQL("CREATE PUBLICATION {} FOR TABLE {} WITH ({})").format(publication, tables, sql.SQL(_SETTINGS))
        )
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
        "WHERE p.pubname = %s AND r.prqual IS NULL AND r.prattrs IS NULL",
        [name],
    )
    return {(row[0], row[1]) for row in rows}


def _publishes_all(connection: Connection, name: str) -> bool:
    query = (
        "SELECT FROM pg_publication WHERE pubname = %s AND pubinsert AND pubupdate AND pubdelete AND pubtruncate "
        "AND pubviaroot"
    )
    return bool(connection.execute(query, [name]).rowcount)


def preflight(connection: Connection, contracts: Mapping[str, Contract], *, name: str, schema: str) -> None:
    """Check, as the role that will capture, everything that capture needs.

    Raises:
        PermanentError: what is missing, all of it, each with its remedy.
    """
    faults = [*_server_faults(connection, name), *_publication_faults(connection, contracts, name, schema)]
    for contract in contracts.values():
        faults += _table_faults(connection, contract, schema)
    if faults:
        raise PermanentError(f"capture {name}: the source database is not ready: {'; '.join(faults)}.")


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
    """The replication slot as the server knows it; `lost` is why it can no longer be read, if so."""

    confirmed_lsn: int
    active_pid: int | None
    lost: str | None


def find_slot(connection: Connection, name: str) -> Slot | None:
    """The slot of that name in this database, or None.

    Raises:
        PermanentError: there is one, but not for this database's pgoutput.
    """
    row = connection.execute(
        "SELECT (confirmed_flush_lsn - '0/0')::bigint, active_pid, wal_status, "
        "plugin = 'pgoutput' AND database = current_database() FROM pg_replication_slots WHERE slot_name = %s",
        [name],
    ).fetchone()
    if row is None:
        return None
    confirmed, active_pid, wal_status, ours = row
    if not ours:
        raise PermanentError(
            f"capture {name}: a replication slot of this name serves something else. Set UPSELL_CAPTURE_NAME to another."
        )
    return Slot(confirmed or 0, active_pid, "its log was removed" if wal_status == "lost" else None)


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


def drop(owner: Connection, name: str) -> None:
    """Remove slot and publication, if they are there; replica identities stay.

    Raises:
        RetryableError: somebody reads the slot at this moment.
    """
    drop_slot(owner, name)
    with database_errors(f"dropping publication {name}"):
        owner.execute(sql.SQL("DROP PUBLICATION IF EXISTS {}").format(sql.Identifier(name)))
