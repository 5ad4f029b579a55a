"""Raw to bronze: what landed and is not in the ledger yet is read, validated and merged.

The same code runs under the Dagster assets and under `upsell ingest`. A file is written down only after its rows
are in bronze; whatever crashes in between is repeated, which the law makes harmless.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

import pyarrow as pa

from upsell_assets.bronze.loads import Placed, end_loads, open_loads
from upsell_assets.bronze.merge import live_schema, merge, remember, table_name
from upsell_assets.contracts import Contract
from upsell_assets.errors import FileRejectedError
from upsell_assets.lake.store import ObjectStore
from upsell_assets.lake.tables import Lake, UnknownTableError
from upsell_assets.raw.files import Position, change_schema, read_changes
from upsell_assets.raw.landing import EVER, LandedFile, Window, full_load_prefix, landed_changes, landed_parts
from upsell_assets.raw.ledger import Ledger, Record, Records
from upsell_assets.raw.loads import manifests

BATCH_ROWS = 500_000

Progress = Callable[[str], None]


@dataclass
class Ingested:
    """What one ingestion did; `version` is that of the live table, None while there is none.

    `loads` are the full loads that ended, `waiting` the keys of files of loads that no manifest names yet.
    """

    files: int = 0
    rows: int = 0
    upserts: int = 0
    deletes: int = 0
    tombstones: int = 0
    quarantined: list[Record] = field(default_factory=list)
    loads: list[str] = field(default_factory=list)
    waiting: list[str] = field(default_factory=list)
    version: int | None = None


@dataclass(frozen=True)
class _Batch:
    """What was read: the records of all its files, and the changes of those that were accepted."""

    records: list[Record]
    changes: list[pa.Table]


def ingest(
    store: ObjectStore,
    lake: Lake,
    contract: Contract,
    window: Window = EVER,
    progress: Progress | None = None,
) -> Ingested:
    """Take in a table's changes that landed in the window (whenever they landed, by default), and its full loads.

    Full loads do not keep to the window: a manifest may come days after the files that it names.

    Raises:
        RetryableError: the store cannot be reached, or other writers kept committing; what was merged stays.
    """
    say = progress or (lambda _: None)
    ledger = Ledger(lake, contract)
    changes, parts = landed_changes(store, contract, window), landed_parts(store, contract)
    declarations = manifests(store, contract)
    records = ledger.known([*changes, *parts, *declarations])
    opened = open_loads(store, lake, contract, parts=parts, manifests=declarations, records=records)
    done = Ingested(quarantined=[*opened.rejected], waiting=opened.waiting)
    ledger.write(opened.rejected)
    if opened.waiting:
        say(f"{contract.name}: {len(opened.waiting)} files wait for their manifest (first: {opened.waiting[0]})")
    placed: list[Placed] = [*opened.parts, *((file, None) for file in changes)]
    fresh = [(file, position) for file, position in placed if _is_new(file, position, records)]
    for batch in _batches(store, contract, fresh, _undeclared_types(lake, contract)):
        if batch.changes:
            _take_in(lake, contract, pa.concat_tables(batch.changes, promote_options="default"), done, say)
        ledger.write(batch.records)
        records |= {(record.file.key, record.file.etag): record for record in batch.records}
        done.files += len(batch.changes)
        done.quarantined += [record for record in batch.records if record.state == "quarantined"]
    for load, merged in end_loads(lake, contract, opened, records):
        done.deletes += merged.deletes
        done.tombstones += merged.tombstones
        done.loads.append(load.name or full_load_prefix(contract))
    done.version = lake.open(table_name(contract)).version() if lake.exists(table_name(contract)) else None
    return done


def _is_new(file: LandedFile, position: Position | None, records: Records) -> bool:
    record = records.get((file.key, file.etag))
    return record is None or record.state == "retry" or record.position != _text(position)


def _text(position: Position | None) -> str | None:
    return None if position is None else str(position)


def _take_in(lake: Lake, contract: Contract, changes: pa.Table, done: Ingested, say: Progress) -> None:
    say(f"{contract.name}: merging {changes.num_rows:,} changes")
    if contract.history:
        remember(lake, contract, changes)
    merged = merge(lake, contract, changes)
    done.rows += changes.num_rows
    done.upserts += merged.upserts
    done.deletes += merged.deletes
    done.tombstones += merged.tombstones


def _batches(
    store: ObjectStore, contract: Contract, files: Iterable[Placed], known: dict[str, pa.Field]
) -> Iterator[_Batch]:
    """Read the files, until there are enough changes for one merge."""
    batch = _Batch([], [])
    for file, position in files:
        try:
            found = read_changes(store.read(file.key, etag=file.etag), file, contract, position)
            changes = _agreed(found, known, contract)
        except FileRejectedError as error:
            batch.records.append(Record(file, "quarantined", 0, str(error), _text(position)))
            continue
        except FileNotFoundError:
            continue  # replaced since it was listed: the next listing has its new version
        batch.changes.append(changes)
        batch.records.append(Record(file, "accepted", changes.num_rows, None, _text(position)))
        if sum(table.num_rows for table in batch.changes) >= BATCH_ROWS:
            yield batch
            batch = _Batch([], [])
    if batch.records:
        yield batch


def _undeclared_types(lake: Lake, contract: Contract) -> dict[str, pa.Field]:
    """The columns of the live table that the contract does not declare, by lower-case name."""
    try:
        schema = pa.schema(lake.open(table_name(contract)).schema().to_arrow())
    except UnknownTableError:
        return {}
    declared = set(live_schema(contract).names)
    return {column.name.lower(): column for column in schema if column.name not in declared}


def _agreed(changes: pa.Table, known: dict[str, pa.Field], contract: Contract) -> pa.Table:
    """The changes, with undeclared columns spelled as they were first; `known` learns the new ones."""
    declared = change_schema(contract)
    found = {column.name: column for column in changes.schema if column.name not in declared.names}
    for name, column in found.items():
        if (kind := known.get(name.lower(), column).type) != column.type:
            raise FileRejectedError(
                f"undeclared column {name!r} is {column.type}, other files have {kind}; declare it in the contract"
            )
    names = {name: known.setdefault(name.lower(), column).name for name, column in found.items()}
    return changes.rename_columns([names.get(name, name) for name in changes.column_names])
