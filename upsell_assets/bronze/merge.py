"""The law applied to Delta: one batch of change rows merged into a live table and its tombstones.

Two commits, tombstones first, each only if it has something to say. Both tables are opened, read and committed
at one version; when anybody else committed in between, nothing is written and the whole is decided anew.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime

import duckdb
import pyarrow as pa
from deltalake import DeltaTable, write_deltalake

from upsell_assets.bronze.floors import read_floors, write_floor
from upsell_assets.bronze.law import below_floor, judged, newest_floor, same_key
from upsell_assets.contracts import Contract
from upsell_assets.lake.duck import connect, quote, register
from upsell_assets.lake.tables import Lake, UnknownTableError, commit_properties, retry_conflicts
from upsell_assets.raw.files import OP, Position, change_schema, order_fields

INGESTED, VERSION = "_ingested_at", "_version"
_WRITTEN = [pa.field(INGESTED, pa.timestamp("us", tz="UTC")), pa.field(VERSION, pa.int64())]


@dataclass(frozen=True)
class Merged:
    """What one batch did: rows written, deleted and remembered as deleted, and the live table's version."""

    upserts: int
    deletes: int
    tombstones: int
    version: int


def table_name(contract: Contract) -> str:
    """The live table."""
    return f"bronze.{contract.name}"


def tombstones_name(contract: Contract) -> str:
    """The table of what was deleted: keys and order only."""
    return f"bronze.{contract.schema_name}._{contract.table}_tombstones"


def changes_name(contract: Contract) -> str:
    """Every accepted change of a table whose contract keeps the history."""
    return f"bronze.{contract.schema_name}._{contract.table}_changes"


def changes_schema(contract: Contract) -> pa.Schema:
    """Accepted changes as they were read, and the version of the commit that kept them."""
    return pa.schema([*change_schema(contract), _WRITTEN[1]])


def live_schema(contract: Contract) -> pa.Schema:
    """A live table: the contract's columns, operation, order and origin, time (UTC) and version of the commit."""
    return pa.schema([*change_schema(contract), *_WRITTEN])


def tombstone_schema(contract: Contract) -> pa.Schema:
    """Tombstones: key, order, and the version of the commit."""
    keys = [change_schema(contract).field(name) for name in contract.key]
    return pa.schema([*keys, *order_fields(contract), _WRITTEN[1]])


def merge(lake: Lake, contract: Contract, changes: pa.Table) -> Merged:
    """Merge change rows (see `raw.files.change_schema`) into the live table, by the law.

    Args:
        lake: where the tables lie.
        contract: the table.
        changes: any number of changes, of any order, repeated or not; rows of full loads among them.

    Raises:
        RetryableError: other writers kept committing in between; nothing is half-written.
    """
    return retry_conflicts(table_name(contract), lambda: _merge_once(lake, contract, changes))


def end_load(lake: Lake, contract: Contract, position: Position, token: str) -> Merged | None:
    """End a full load whose rows are all merged: what lies at or below its position and is not in it is deleted.

    Args:
        lake: where the tables lie.
        contract: the table.
        position: the load's place in the order; it becomes a floor.
        token: the load's name; the live table remembers it with the commit, and a repeat does nothing (None).

    Raises:
        RetryableError: other writers kept committing in between; a repeat does what is left.
    """
    if has_ended(lake, contract, token):
        return None
    write_floor(lake, contract, position)
    return retry_conflicts(table_name(contract), lambda: _merge_once(lake, contract, None, {token: 1}))


def has_ended(lake: Lake, contract: Contract, token: str) -> bool:
    """Whether the full load of that name was ended."""
    try:
        return lake.open(table_name(contract)).transaction_version(token) is not None
    except UnknownTableError:
        return False


def _merge_once(
    lake: Lake, contract: Contract, changes: pa.Table | None, tokens: dict[str, int] | None = None
) -> Merged:
    """Decide and commit; without changes, what the newest floor deletes."""
    # The live table first: a tombstone or a floor that appears after it was opened comes with a later commit to
    # the live table, on which our own commit then fails.
    live = lake.open_or_create(table_name(contract), live_schema(contract))
    tombstones = lake.open_or_create(tombstones_name(contract), tombstone_schema(contract))
    with connect() as connection:
        register(connection, "live_rows", lake.rows(live))
        register(connection, "tombstone_rows", lake.rows(tombstones))
        connection.register("floors", read_floors(lake, contract))
        connection.execute(f"CREATE TEMP TABLE floor AS {newest_floor(contract)}")
        if changes is None:
            connection.execute(f"CREATE TEMP TABLE changes AS {below_floor(contract)}")
        else:
            connection.register("changes", changes)
        buried, staged, matched = _decide(connection, contract)
    if buried.num_rows:
        _append(tombstones, buried.append_column(_WRITTEN[1], _constant(tombstones.version() + 1, buried)))
    deletes = sum(staged["_delete"].to_pylist())
    if staged.num_rows:
        _commit(live, contract, staged, matched=matched, tokens=tokens)
    elif buried.num_rows or tokens:
        # A commit of its own makes a concurrent merge of an older change fail and look again.
        _append(live, live_schema(contract).empty_table(), tokens)
    return Merged(staged.num_rows - deletes, deletes, buried.num_rows, live.version())


def _decide(connection: duckdb.DuckDBPyConnection, contract: Contract) -> tuple[pa.Table, pa.Table, bool]:
    """New tombstones, the rows to write or delete, and whether any of these has a live row now."""
    keys = ", ".join(quote(name) for name in contract.key)
    connection.execute(f"CREATE TEMP TABLE keys AS SELECT DISTINCT {keys} FROM changes")
    known = f"SEMI JOIN keys AS k ON {same_key(contract, 'r', 'k')}"
    connection.execute(f"CREATE TEMP TABLE live AS SELECT r.* FROM live_rows AS r {known}")
    connection.execute(f"CREATE TEMP TABLE tombstones AS SELECT r.*, 'D' AS {OP} FROM tombstone_rows AS r {known}")
    columns, live_columns = (_source_columns(connection, relation) for relation in ("changes", "live"))
    connection.execute(f"CREATE TEMP TABLE judged AS {judged(contract, columns, live_columns)}")
    order = ", ".join(field.name for field in order_fields(contract))
    buried = connection.sql(f"SELECT {keys}, {order} FROM judged WHERE _bury").to_arrow_table()
    # All columns of the live table, in its spelling: what a newer row does not have is null, not the older value.
    staged = connection.sql(
        "SELECT * FROM live WHERE false UNION ALL BY NAME "
        "SELECT * EXCLUDE (_upsert, _bury) FROM judged WHERE _upsert OR _delete"
    ).to_arrow_table()
    matched = connection.sql(
        f"SELECT 1 FROM judged AS s SEMI JOIN live AS l ON {same_key(contract, 's', 'l')} WHERE _upsert OR _delete LIMIT 1"
    ).fetchone()
    return buried, staged, matched is not None


def _source_columns(connection: duckdb.DuckDBPyConnection, relation: str) -> list[str]:
    return [name for name in connection.sql(f"SELECT * FROM {relation}").columns if not name.startswith("_")]


def _commit(
    live: DeltaTable, contract: Contract, staged: pa.Table, *, matched: bool, tokens: dict[str, int] | None
) -> None:
    written = (
        staged.drop_columns(["_delete", *(field.name for field in _WRITTEN)])
        .append_column(_WRITTEN[0], _constant(datetime.now(UTC), staged, _WRITTEN[0].type))
        .append_column(_WRITTEN[1], _constant(live.version() + 1, staged))
    )
    if not matched:
        _append(live, written, tokens)
        return
    columns = {quote(name): f"s.{quote(name)}" for name in written.column_names}
    (
        live.merge(
            written.append_column("_delete", staged["_delete"]),
            predicate=same_key(contract, "s", "t"),
            source_alias="s",
            target_alias="t",
            merge_schema=True,
            streamed_exec=False,
            commit_properties=commit_properties(tokens),
        )
        .when_matched_delete('s."_delete"')
        .when_matched_update(columns)
        .when_not_matched_insert(columns, predicate='NOT s."_delete"')
        .execute()
    )


def remember(lake: Lake, contract: Contract, changes: pa.Table) -> None:
    """Keep change rows for good (a repeat keeps them twice, which readers of the history see through)."""

    def once() -> None:
        table = lake.open_or_create(changes_name(contract), changes_schema(contract))
        _append(table, changes.append_column(_WRITTEN[1], _constant(table.version() + 1, changes)))

    retry_conflicts(changes_name(contract), once)


def _append(table: DeltaTable, rows: pa.Table, tokens: dict[str, int] | None = None) -> None:
    write_deltalake(table, rows, mode="append", schema_mode="merge", commit_properties=commit_properties(tokens))


def _constant(value: object, like: pa.Table, kind: pa.DataType | None = None) -> pa.Array:
    return pa.repeat(pa.scalar(value, kind or pa.int64()), like.num_rows)
