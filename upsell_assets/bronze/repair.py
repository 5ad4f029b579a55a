"""Is a live table what its contract says, and how it becomes so again.

A contract can be wrong: a date that it calls immutable moves, or its key is none. `doubled_keys` names the keys of
which a table then holds several rows. Once the contract is corrected, `repair` writes the table anew: from its own
rows, or from raw, where rows are lost because two were taken for one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import pyarrow as pa
import pyarrow.compute as pc
from deltalake import DeltaTable, write_deltalake

from upsell_assets.bronze.ingest import Ingested, Progress, ingest
from upsell_assets.bronze.law import newest_per_key
from upsell_assets.bronze.layout import (
    DATE,
    MONTH,
    Files,
    date_of,
    month_of,
    partition_by,
)
from upsell_assets.bronze.tables import (
    ARRIVALS_SINCE,
    GENERATION,
    VERSION,
    changes_name,
    changes_schema,
    late_name,
    live_schema,
    table_name,
    tombstone_schema,
    tombstones_name,
)
from upsell_assets.contracts import Contract
from upsell_assets.lake.commits import commit_properties, retry_conflicts
from upsell_assets.lake.duck import parquet, reader
from upsell_assets.lake.keys import Keys, doubled_in_table
from upsell_assets.lake.store import ObjectStore
from upsell_assets.lake.tables import Lake
from upsell_assets.raw.files import FILE, MODIFIED, ROW, SEQUENCE
from upsell_assets.raw.ledger import Ledger

BATCH_ROWS = 65_536
FILE_BYTES = 4 << 20
"""Of the files that a repair writes: some 100,000 rows of a narrow table; merges then bring them to their size."""


def doubled_keys(lake: Lake, contract: Contract) -> Keys:
    """Keys (at most 20) of which the live table holds more than one row; reads the key of every row.

    Raises:
        UnknownTableError: there is no such table yet.
    """
    return doubled_in_table(lake, lake.open(table_name(contract)), contract.key)


def complaints(contract: Contract, done: Ingested) -> list[str]:
    """What an ingestion saw that the contract rules out, each with what to do; none: it saw nothing of the kind."""
    found = []
    if done.moved:
        found.append(
            f"{contract.immutable_date} is called immutable, and moved for {_shown(contract, done.moved)}. The rows are "
            f"right; inserts may not be. Remove immutable_date from the contract, then run: upsell repair {contract.table}"
        )
    if done.doubled:
        found.append(
            f"({', '.join(contract.key)}) is called the key, and two rows have {_shown(contract, done.doubled)}; one of them "
            f"is lost. Correct key in the contract, then run: upsell repair {contract.table} --from-raw"
        )
    if done.tied:
        found.append(
            f"{done.tied} times a key has several changes with one modified_date and no change_seq. The name of the file "
            "and the number of the row decided which is the newest, and need not be right. Have the producer ship a finer "
            "order (of DMS: upsell dms check)"
        )
    if done.reloaded:
        found.append(
            f"{len(done.reloaded)} files of the full load were replaced (first: {done.reloaded[0]}), and full_load.as_of is "
            f"still {contract.full_load.as_of}: rows of both versions stand at one place. Set it to when the new load began"
        )
    if done.late:
        found.append(
            f"{done.late} changes are older than the tombstones that would judge them. They are set aside in "
            f"{late_name(contract)}; raise tombstone_days in the contract if that is not what you want"
        )
    return found


def _shown(contract: Contract, keys: list[tuple[object, ...]]) -> str:
    names = ", ".join(contract.key)
    return f"{names} = " + "; ".join(", ".join(map(str, key)) for key in keys[:5]) + ("; ..." if len(keys) > 5 else "")


def repair(lake: Lake, contract: Contract) -> int:
    """Write a live table anew under its contract, in one commit: one row a key, the newest; returns its rows.

    Raises:
        UnknownTableError: there is no such table yet.
        RetryableError: other writers kept committing in between; nothing was written.
    """
    return retry_conflicts(table_name(contract), lambda: _repair_once(lake, contract))


def _repair_once(lake: Lake, contract: Contract) -> int:
    live = lake.open(table_name(contract))
    files, held = Files.of(live), pa.schema(live.schema().to_arrow())
    columns = [name for name in held.names if not name.startswith("_")]
    date = f", {date_of(contract, 'r')} AS {DATE}" if contract.immutable_date else ""
    month = f", {month_of(f'r.{DATE}')} AS {MONTH}" if contract.immutable_date else ""
    order = [MONTH, DATE] if contract.immutable_date else [MODIFIED, SEQUENCE, FILE, ROW]
    laid = [name for name in (DATE, MONTH) if name in held.names]
    with reader(lake) as connection:
        connection.register("shape", held.empty_table())
        shaped = f"SELECT * EXCLUDE ({', '.join(laid)}) FROM shape" if laid else "SELECT * FROM shape"
        if files.paths:
            written = ", ".join(["filename", *({DATE} & set(laid))])
            shaped += f" UNION ALL BY NAME SELECT * EXCLUDE ({written}) FROM {parquet(files.paths)}"
        connection.execute(f"CREATE TEMP VIEW rows AS {shaped}")
        placed = connection.sql(
            f"SELECT r.* REPLACE ({live.version() + 1}::BIGINT AS {VERSION}){month} "
            f"FROM (SELECT r.*{date} FROM ({newest_per_key(contract, 'rows', columns)}) AS r) AS r "
            f"ORDER BY {', '.join(order)}"
        )
        # New rows of every key: what was made from the table before is made anew, whole.
        _overwrite(live, contract, placed.to_arrow_reader(BATCH_ROWS), {GENERATION: live.version() + 1})
    return int(pc.sum(Files.of(live).table["rows"]).as_py() or 0)


def rebuild(store: ObjectStore, lake: Lake, contract: Contract, progress: Progress | None = None) -> Ingested:
    """Empty a table, its tombstones and its history, and take every file of raw in again under the contract.

    A change then arrived when the ledger first wrote its file down.

    What happens if it is interrupted: every file stands in the ledger as one to take in, and any ingest goes on.
    Ends of full loads stay known.

    Raises:
        RetryableError: the store cannot be reached, or other writers kept committing; run it again.
    """
    ledger = Ledger(lake, contract)
    again = [record for record in ledger.records().values() if record.state == "accepted"]
    ledger.write([replace(record, state="retry", reason="bronze is made anew from raw") for record in again])
    _empty(lake, contract, tombstones_name(contract), tombstone_schema(contract))
    _empty(lake, contract, changes_name(contract), changes_schema(contract))
    _empty(lake, contract, table_name(contract), live_schema(contract))
    return ingest(store, lake, contract, progress=progress)


def _empty(lake: Lake, contract: Contract, name: str, schema: pa.Schema) -> None:
    def once() -> None:
        table, live = lake.open(name), name == table_name(contract)
        tokens = {GENERATION: table.version() + 1} if live else {}
        if name == changes_name(contract):
            tokens = {ARRIVALS_SINCE: 0}  # nothing is there any more whose arrival is not known
        _overwrite(table, contract, schema.empty_table().to_reader(), tokens, live=live)

    if lake.exists(name):
        retry_conflicts(name, once)


def _overwrite(
    table: DeltaTable, contract: Contract, rows: pa.RecordBatchReader, tokens: Mapping[str, int], *, live: bool = True
) -> None:
    write_deltalake(
        table,
        rows,
        mode="overwrite",
        schema_mode="overwrite",
        partition_by=[*partition_by(contract)] if live else None,
        target_file_size=FILE_BYTES,
        commit_properties=commit_properties(tokens),
    )
