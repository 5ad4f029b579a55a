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

from upsell_assets.bronze.law import judged, newer, position_terms, quote, same_key
from upsell_assets.contracts import Contract
from upsell_assets.lake.duck import connect
from upsell_assets.lake.tables import Lake, commit_properties, retry_conflicts
from upsell_assets.raw.files import FILE, MODIFIED, OP, ROW, SEQUENCE, Position, change_schema, order_fields

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


def merge(lake: Lake, contract: Contract, changes: pa.Table, floor: Position | None = None) -> Merged:
    """Merge change rows (see `raw.files.change_schema`) into the live table, by the law.

    Args:
        lake: where the tables lie.
        contract: the table.
        changes: any number of changes, of any order, repeated or not.
        floor: the position of the newest ended full load, at or below which changes are ignored.

    Raises:
        RetryableError: other writers kept committing in between; nothing is half-written.
    """
    return retry_conflicts(table_name(contract), lambda: _merge_once(lake, contract, changes, floor))


def _merge_once(lake: Lake, contract: Contract, changes: pa.Table, floor: Position | None) -> Merged:
    # The live table first: a tombstone that appears after it was opened comes with a later commit to the live
    # table, on which our own commit then fails.
    live = lake.open_or_create(table_name(contract), live_schema(contract))
    tombstones = lake.open_or_create(tombstones_name(contract), tombstone_schema(contract))
    with connect() as connection:
        connection.register("changes", changes)
        connection.register("live_rows", live.to_pyarrow_dataset())
        connection.register("tombstone_rows", tombstones.to_pyarrow_dataset())
        keys = ", ".join(quote(name) for name in contract.key)
        connection.execute(f"CREATE TEMP TABLE keys AS SELECT DISTINCT {keys} FROM changes")
        for view, rows in (("live", "live_rows"), ("tombstones", "tombstone_rows")):
            operation = f", 'D' AS {OP}" if view == "tombstones" else ""
            connection.execute(
                f"CREATE TEMP TABLE {view} AS SELECT r.*{operation} FROM {rows} AS r "
                f"SEMI JOIN keys AS k ON {same_key(contract, 'r', 'k')}"
            )
        _register_floor(connection, contract, floor)
        columns = [name for name in changes.column_names if not name.startswith("_")]
        live_columns = [field.name for field in live.schema().fields if not field.name.startswith("_")]
        connection.execute(f"CREATE TEMP TABLE judged AS {judged(contract, columns, live_columns)}")
        buried = connection.sql(_buried(contract)).to_arrow_table()
        staged = connection.sql(
            f"SELECT * EXCLUDE (_late, _upsert, _bury) FROM judged WHERE _upsert OR _delete"
        ).to_arrow_table()
        matched = connection.sql(
            f"SELECT count(*) FROM judged AS s SEMI JOIN live AS l ON {same_key(contract, 's', 'l')} WHERE _upsert OR _delete"
        ).fetchone()
    if buried.num_rows:
        _append(tombstones, buried.append_column(_WRITTEN[1], _constant(tombstones.version() + 1, buried)))
    deletes = sum(staged["_delete"].to_pylist())
    if staged.num_rows:
        _commit(live, contract, staged, matched=bool(matched and matched[0]))
    elif buried.num_rows:
        # A commit of its own makes a concurrent merge of an older change fail and look again.
        _append(live, live_schema(contract).empty_table())
    return Merged(staged.num_rows - deletes, deletes, buried.num_rows, live.version())


def _register_floor(connection: duckdb.DuckDBPyConnection, contract: Contract, floor: Position | None) -> None:
    kinds = {MODIFIED: pa.timestamp("us", tz="UTC"), SEQUENCE: order_fields(contract)[1].type}
    rows = [] if floor is None else [floor]
    connection.register(
        "floor",
        pa.table(
            {
                MODIFIED: pa.array([row.modified_date for row in rows], kinds[MODIFIED]),
                SEQUENCE: pa.array([row.change_seq for row in rows], kinds[SEQUENCE]),
                "_present": pa.array([True for _ in rows], pa.bool_()),
            }
        ),
    )


def _buried(contract: Contract) -> str:
    keys = ", ".join(f"j.{quote(name)}" for name in contract.key)
    order = ", ".join(
        f"CASE WHEN j._late THEN {at_floor} ELSE j.{column} END AS {column}"
        for column, at_floor in ((MODIFIED, f"f.{MODIFIED}"), (SEQUENCE, f"f.{SEQUENCE}"), (FILE, "NULL"), (ROW, "NULL"))
    )
    return f"SELECT {keys}, {order} FROM judged AS j LEFT JOIN floor AS f ON true WHERE j._bury"


def _commit(live: DeltaTable, contract: Contract, staged: pa.Table, *, matched: bool) -> None:
    written = (
        staged.drop_columns(["_delete"])
        .append_column(_WRITTEN[0], _constant(datetime.now(UTC), staged, _WRITTEN[0].type))
        .append_column(_WRITTEN[1], _constant(live.version() + 1, staged))
    )
    if not matched:
        _append(live, written)
        return
    names = [quote(name) for name in written.column_names]
    (
        live.merge(
            written.append_column("_delete", staged["_delete"]),
            predicate=same_key(contract, "s", "t"),
            source_alias="s",
            target_alias="t",
            merge_schema=True,
            streamed_exec=False,
            commit_properties=commit_properties(),
        )
        .when_matched_delete('s."_delete"')
        .when_matched_update({name: f"s.{name}" for name in names})
        .when_not_matched_insert({name: f"s.{name}" for name in names}, predicate='NOT s."_delete"')
        .execute()
    )


def remember(lake: Lake, contract: Contract, changes: pa.Table) -> None:
    """Keep change rows for good (a repeat keeps them twice, which readers of the history see through)."""

    def once() -> None:
        table = lake.open_or_create(changes_name(contract), changes_schema(contract))
        _append(table, changes.append_column(_WRITTEN[1], _constant(table.version() + 1, changes)))

    retry_conflicts(changes_name(contract), once)


def _append(table: DeltaTable, rows: pa.Table) -> None:
    write_deltalake(table, rows, mode="append", schema_mode="merge", commit_properties=commit_properties())


def _constant(value: object, like: pa.Table, kind: pa.DataType | None = None) -> pa.Array:
    return pa.repeat(pa.scalar(value, kind or pa.int64()), like.num_rows)


def sweep(lake: Lake, contract: Contract, keys: pa.Table, position: Position, token: str) -> Merged:
    """End a full load: live rows at or below its position that are not in it are deleted, with tombstones.

    Args:
        lake: where the tables lie.
        contract: the table.
        keys: the keys of the load's rows.
        position: the load's place in the order.
        token: the load's name; the live table remembers it with the commit, so that a repeat does nothing.
    """
    return retry_conflicts(table_name(contract), lambda: _sweep_once(lake, contract, keys, position, token))


def _sweep_once(lake: Lake, contract: Contract, keys: pa.Table, position: Position, token: str) -> Merged:
    live = lake.open_or_create(table_name(contract), live_schema(contract))
    tombstones = lake.open_or_create(tombstones_name(contract), tombstone_schema(contract))
    if live.transaction_version(token) is not None:
        return Merged(0, 0, 0, live.version())
    with connect() as connection:
        connection.register("load_keys", keys)
        connection.register("live_rows", live.to_pyarrow_dataset())
        _register_floor(connection, contract, position)
        names = ", ".join(f"l.{quote(name)}" for name in contract.key)
        gone = connection.sql(
            f"SELECT {names}, f.{MODIFIED}, f.{SEQUENCE}, NULL::VARCHAR AS {FILE}, NULL::BIGINT AS {ROW} "
            f"FROM live_rows AS l ANTI JOIN load_keys AS k ON {same_key(contract, 'l', 'k')} CROSS JOIN floor AS f "
            f"WHERE NOT {newer(position_terms(contract, 'l'), position_terms(contract, 'f'))}"
        ).to_arrow_table()
    if gone.num_rows:
        _append(tombstones, gone.append_column(_WRITTEN[1], _constant(tombstones.version() + 1, gone)))
        (
            live.merge(
                gone.select(list(contract.key)),
                predicate=same_key(contract, "s", "t"),
                source_alias="s",
                target_alias="t",
                streamed_exec=False,
                commit_properties=commit_properties({token: 1}),
            )
            .when_matched_delete()
            .execute()
        )
    else:
        write_deltalake(
            live,
            live_schema(contract).empty_table(),
            mode="append",
            schema_mode="merge",
            commit_properties=commit_properties({token: 1}),
        )
    return Merged(0, gone.num_rows, gone.num_rows, live.version())
