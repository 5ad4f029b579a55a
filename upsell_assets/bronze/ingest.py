"""Raw to bronze: what landed and is not in the ledger yet is read, validated and merged.

The same code runs under the Dagster assets and under `upsell ingest`. A file is written down only after its rows
are in bronze; whatever crashes in between is repeated, which the law makes harmless.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime

import pyarrow as pa
from deltalake import write_deltalake

from upsell_assets.bronze.merge import live_schema, merge, remember, sweep, table_name
from upsell_assets.contracts import Contract
from upsell_assets.errors import FileRejectedError
from upsell_assets.lake.store import ObjectStore
from upsell_assets.lake.tables import Lake, UnknownTableError
from upsell_assets.raw.files import Position, change_schema, read_changes
from upsell_assets.raw.landing import EVER, LandedFile, Window, full_load_prefix, landed
from upsell_assets.raw.ledger import Ledger, Record
from upsell_assets.raw.loads import FullLoad, full_loads

BATCH_ROWS = 500_000

Progress = Callable[[str], None]


@dataclass
class Ingested:
    """What one ingestion did; `version` is that of the live table, None while there is none."""

    files: int = 0
    rows: int = 0
    upserts: int = 0
    deletes: int = 0
    tombstones: int = 0
    quarantined: list[Record] = field(default_factory=list)
    loads: list[str] = field(default_factory=list)
    version: int | None = None


@dataclass(frozen=True)
class _Batch:
    changes: pa.Table
    records: list[Record]
    position: Position | None


def ingest(
    store: ObjectStore,
    lake: Lake,
    contract: Contract,
    window: Window = EVER,
    progress: Progress | None = None,
) -> Ingested:
    """Take in a table's files that landed in the window (whenever they landed, by default).

    Raises:
        RetryableError: the store cannot be reached, or other writers kept committing; what was merged stays.
        ContractError: a full load's manifest is not valid.
    """
    say = progress or (lambda _: None)
    ledger = Ledger(lake, contract)
    files = landed(store, contract, window)
    records = ledger.records(window)
    fresh = [file for file in files if _is_new(records.get((file.key, file.etag)))]
    loads = full_loads(store, contract, landed(store, contract) if window != EVER and _has_load(files) else files)
    floor = newest_floor(lake, contract)
    done = Ingested()
    for batch in _batches(store, lake, contract, fresh, {load.name: load for load in loads}, done, ledger):
        say(f"{contract.name}: merging {batch.changes.num_rows:,} changes of {len(batch.records)} files")
        if contract.history:
            remember(lake, contract, batch.changes)
        merged = merge(lake, contract, batch.changes, _floor_for(batch.position, floor, contract))
        ledger.write(batch.records)
        done.files += len(batch.records)
        done.rows += batch.changes.num_rows
        done.upserts += merged.upserts
        done.deletes += merged.deletes
        done.tombstones += merged.tombstones
    for load in loads:
        _end_load(store, lake, contract, load, done)
    done.version = lake.open(table_name(contract)).version() if lake.exists(table_name(contract)) else None
    return done


def _is_new(record: Record | None) -> bool:
    return record is None or record.state == "retry"


def _has_load(files: list[LandedFile]) -> bool:
    return any(file.load is not None for file in files)


def _batches(
    store: ObjectStore,
    lake: Lake,
    contract: Contract,
    files: list[LandedFile],
    loads: dict[str, FullLoad],
    done: Ingested,
    ledger: Ledger,
) -> Iterator[_Batch]:
    """Read the files, rejected ones into quarantine, the others in batches of one position."""
    known = _undeclared_types(lake, contract)
    pending: list[pa.Table] = []
    records: list[Record] = []
    position: Position | None = None
    for file in files:
        load = loads.get(file.load) if file.load is not None else None
        at = load.position if load else None
        if records and (at != position or sum(table.num_rows for table in pending) >= BATCH_ROWS):
            yield _Batch(pa.concat_tables(pending, promote_options="default"), records, position)
            pending, records = [], []
        position = at
        try:
            changes = read_changes(store.read(file.key, etag=file.etag), file, contract, at)
            _agree(changes, known, contract)
        except FileRejectedError as error:
            rejected = Record(file, "quarantined", 0, str(error))
            ledger.write([rejected])
            done.quarantined.append(rejected)
            continue
        except FileNotFoundError:
            continue  # replaced since it was listed: the next listing has its new version
        pending.append(changes)
        records.append(Record(file, "accepted", changes.num_rows))
    if records:
        yield _Batch(pa.concat_tables(pending, promote_options="default"), records, position)


def _undeclared_types(lake: Lake, contract: Contract) -> dict[str, pa.DataType]:
    try:
        schema = pa.schema(lake.open(table_name(contract)).schema().to_arrow())
    except UnknownTableError:
        return {}
    declared = set(live_schema(contract).names)
    return {name.lower(): schema.field(name).type for name in schema.names if name not in declared}


def _agree(changes: pa.Table, known: dict[str, pa.DataType], contract: Contract) -> None:
    for column in changes.schema:
        if column.name in change_schema(contract).names:
            continue
        kind = known.setdefault(column.name.lower(), column.type)
        if kind != column.type:
            raise FileRejectedError(
                f"undeclared column {column.name!r} is {column.type}, other files have {kind}; declare it in the contract"
            )


def _end_load(store: ObjectStore, lake: Lake, contract: Contract, load: FullLoad, done: Ingested) -> None:
    """Make the load's position the floor and sweep, once every file of it is in; a second time does nothing."""
    if not load.ended:
        return
    token = f"full_load:{load.name}:{_fingerprint(load)}"
    if lake.exists(table_name(contract)) and lake.open(table_name(contract)).transaction_version(token) is not None:
        return
    records = Ledger(lake, contract).records()
    states = [records.get(entry) for entry in load.files.items()]
    if not all(record is not None and record.state == "accepted" for record in states):
        return
    keys = [_load_keys(store, contract, record.file, load.position) for record in states if record]
    schema = pa.schema([change_schema(contract).field(name) for name in contract.key])
    # The floor first: from now on nobody merges below it, then what lies below is swept.
    _write_floor(lake, contract, load)
    swept = sweep(lake, contract, pa.concat_tables([schema.empty_table(), *keys]), load.position, token)
    done.deletes += swept.deletes
    done.tombstones += swept.tombstones
    done.loads.append(load.name or full_load_prefix(contract))


def _load_keys(store: ObjectStore, contract: Contract, file: LandedFile, position: Position) -> pa.Table:
    rows = read_changes(store.read(file.key, etag=file.etag), file, contract, position)
    return rows.select(list(contract.key))


def _fingerprint(load: FullLoad) -> str:
    return hashlib.sha256(repr(sorted(load.files.items())).encode()).hexdigest()[:16]


def _floors_name(contract: Contract) -> str:
    return f"bronze.{contract.schema_name}._floors"


_FLOORS = pa.schema(
    [
        ("table", pa.string()),
        ("load", pa.string()),
        ("modified_date", pa.timestamp("us", tz="UTC")),
        ("change_seq", pa.string()),
        ("recorded_at", pa.timestamp("us", tz="UTC")),
    ]
)


def _write_floor(lake: Lake, contract: Contract, load: FullLoad) -> None:
    at = load.position
    row = {
        "table": contract.table,
        "load": load.name,
        "modified_date": at.modified_date,
        "change_seq": None if at.change_seq is None else str(at.change_seq),
        "recorded_at": datetime.now(UTC),
    }
    write_deltalake(
        lake.open_or_create(_floors_name(contract), _FLOORS), pa.Table.from_pylist([row], _FLOORS), mode="append"
    )


def newest_floor(lake: Lake, contract: Contract) -> Position | None:
    """The position of the newest ended full load of a table, if there was one."""
    if not lake.exists(_floors_name(contract)):
        return None
    rows = lake.open(_floors_name(contract)).to_pyarrow_dataset().to_table().to_pylist()
    kind = change_schema(contract).field("_change_seq").type
    positions = [
        Position(row["modified_date"], _typed(row["change_seq"], kind)) for row in rows if row["table"] == contract.table
    ]
    return max(positions, key=lambda at: _comparable(at, contract), default=None)


def _typed(value: str | None, kind: pa.DataType) -> str | int | None:
    return value if value is None or pa.types.is_string(kind) else int(value)


def _comparable(at: Position, contract: Contract) -> tuple[object, ...]:
    lowest = datetime.min.replace(tzinfo=UTC)
    terms: list[object] = []
    for column in contract.order:
        if column == "modified_date":
            terms.append(at.modified_date or lowest)
        else:
            terms += [at.change_seq is not None, at.change_seq or 0]
    return tuple(terms)


def _floor_for(position: Position | None, floor: Position | None, contract: Contract) -> Position | None:
    """The floor that a batch is held against: the rows of the load that set it, or of a newer one, pass."""
    if position is None or floor is None or _comparable(position, contract) < _comparable(floor, contract):
        return floor
    return None
