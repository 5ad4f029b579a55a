"""Every change of one key, wherever it lies: among those that the lake keeps, and in the raw files.

Where the contract keeps the history, and it is whole, the accepted changes come from there, and of raw only the files
are read that were not taken in. Else every raw file of the table is read, since no index says where a key is. Not here:
which of the changes wins (`trace`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import datetime
from functools import reduce
from typing import Any, Literal

import pyarrow as pa
import pyarrow.compute as pc
from deltalake import DeltaTable

from upsell_assets.bronze.layout import Files
from upsell_assets.bronze.loads import Placed, open_loads
from upsell_assets.bronze.tables import ARRIVALS_SINCE, INGESTED, changes_name, late_name
from upsell_assets.contracts import Contract, arrow_type
from upsell_assets.errors import FileRejectedError, PermanentError
from upsell_assets.lake.duck import parquet, quote, reader
from upsell_assets.lake.store import ObjectStore
from upsell_assets.lake.tables import Lake
from upsell_assets.raw.files import FILE, MODIFIED, OP, ROW, SEQUENCE, Position, plain_shape, read_changes, read_rows
from upsell_assets.raw.landing import LandedFile, landed_changes, landed_parts
from upsell_assets.raw.ledger import Ledger, Record, Records
from upsell_assets.raw.loads import manifests

State = Literal["accepted", "too late", "quarantined", "waiting", "new"]
"""Of a change: it counts; it came after the tombstones that would judge it; its file broke the contract; its file waits
for the manifest of its full load; its file was not taken in yet."""

Key = dict[str, Any]
"""Key column -> value."""

_TOLD = 100
"""Files between two lines of progress."""


@dataclass(frozen=True)
class Sighting:
    """One change of the key; what is not known of a file that cannot be read as the contract says is None.

    Attributes:
        state: see `State`; `reason` says why it is not accepted.
        file, row: where it lies.
        operation: I, U or D; of a file in quarantine whatever stands there.
        modified_date, change_seq: its place in the order.
        values: the columns that are not null, without the key.
        arrived: when the lake took it in (UTC).
    """

    state: State
    file: str
    row: int
    operation: str | None
    modified_date: datetime | None
    change_seq: Any
    values: dict[str, Any]
    reason: str = ""
    arrived: datetime | None = None


@dataclass
class Sightings:
    """What was found.

    Attributes:
        found: the changes, in no order.
        loads: position (as the ledger spells it) -> name of the full load that stands there.
        unread: files that could not be looked into, each with why.
    """

    found: list[Sighting]
    loads: dict[str, str]
    unread: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class _File:
    file: LandedFile
    position: Position | None
    state: State
    reason: str
    record: Record | None


def parse_key(contract: Contract, said: Iterable[str]) -> Key:
    """A key as a person writes it: its values in the contract's order, or COLUMN=VALUE in any.

    Raises:
        PermanentError: there are too few values or too many, or one is none of its column's type.
    """
    spelled = {name.lower(): name for name in contract.key}
    named: dict[str, str] = {}
    plain: list[str] = []
    for part in said:
        column, equals, value = part.partition("=")
        if equals and column.lower() in spelled and spelled[column.lower()] not in named:
            named[spelled[column.lower()]] = value
        else:
            plain.append(part)
    others = [name for name in contract.key if name not in named]
    if len(plain) != len(others):
        raise PermanentError(
            f"bronze.{contract.name}: its key is ({', '.join(contract.key)}); give a value for each, in this order or as "
            "COLUMN=VALUE."
        )
    named |= zip(others, plain, strict=True)
    return {name: _typed(contract, name, named[name]) for name in contract.key}


def _typed(contract: Contract, name: str, value: str) -> Any:
    try:
        return pa.array([value]).cast(arrow_type(contract.columns[name]))[0].as_py()
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise PermanentError(
            f"bronze.{contract.name}: {value!r} is no {contract.columns[name]}, which {name} is."
        ) from error


def sightings(
    store: ObjectStore, lake: Lake, contract: Contract, key: Key, progress: Callable[[str], None] = lambda _: None
) -> Sightings:
    """Look for every change of a key.

    Args:
        store: where the raw files lie.
        lake: where the tables lie.
        contract: the table.
        key: its key columns with their values.
        progress: called with each step that takes long.

    Raises:
        RetryableError: the store cannot be reached.
    """
    records = Ledger(lake, contract).records()
    files, loads = _files(store, contract, records)
    found = Sightings([], loads)
    whole = _history_is_whole(lake, contract)
    read = [file for file in files if not (whole and file.state == "accepted")]
    if not whole:
        landed = {(file.file.key, file.file.etag) for file in files}
        gone = [r for at, r in records.items() if r.state == "accepted" and r.rows and at not in landed]
        found.unread += [f"{record.file.key}: was taken in, and lies in raw no more" for record in gone]
    for number, file in enumerate(read, 1):
        _look_into(store, contract, file, key, found)
        if number % _TOLD == 0 or number == len(read) > _TOLD:
            progress(f"{contract.name}: looked into {number:,} of {len(read):,} raw files")
    if contract.history:
        found.found += _kept(lake, contract, key)
    found.found = _once(found.found, _set_aside(lake, contract, key))
    return found


def rows_of_key(
    lake: Lake, contract: Contract, table: DeltaTable, key: Key, paths: list[str] | None = None
) -> pa.Table:
    """The rows of a key in a table, or in some of its files: their key columns are read, and whole rows where it is."""
    shape = pa.schema(table.schema().to_arrow()).empty_table()
    paths = Files.of(table).paths if paths is None else paths
    condition = " AND ".join(f"{quote(name)} = ?" for name in contract.key)
    values = [key[name] for name in contract.key]
    with reader(lake) as connection:
        connection.register("shape", shape)
        holding: list[str] = []
        if paths:
            found = connection.execute(
                f"SELECT DISTINCT filename FROM {parquet(paths)} WHERE {condition}", values
            ).fetchall()
            holding = [path for (path,) in found]
        rows = "FROM shape"
        if holding:
            rows += f" UNION ALL BY NAME SELECT * EXCLUDE (filename) FROM {parquet(holding)} WHERE {condition}"
        return connection.execute(rows, values if holding else []).to_arrow_table()


def _files(store: ObjectStore, contract: Contract, records: Records) -> tuple[list[_File], dict[str, str]]:
    """Every file that lies there now, with what became of it; and the names of full loads by their positions."""
    parts = landed_parts(store, contract)
    # As if nothing were known: every load is told with its position.
    opened = open_loads(store, contract, parts=parts, manifests=manifests(store, contract), known={})
    waiting = set(opened.waiting)
    placed: list[Placed] = [*opened.parts, *((part, None) for part in parts if part.key in waiting)]
    placed += [(file, None) for file in landed_changes(store, contract)]
    files = []
    for file, position in placed:
        record = records.get((file.key, file.etag))
        files.append(_File(file, position, *_state(record, waits=file.key in waiting), record))
    loads = {r.position: r.file.load for r in records.values() if r.position and r.file.load is not None}
    loads |= {str(load.position): load.name for load, _ in opened.loads}
    return files, loads


def _state(record: Record | None, *, waits: bool) -> tuple[State, str]:
    if record is not None and record.state == "accepted":
        return "accepted", ""
    if record is not None and record.state == "quarantined":
        return "quarantined", record.reason or ""
    if waits:
        return "waiting", "no manifest names its file yet"
    return "new", "its file was not taken in yet"


def _history_is_whole(lake: Lake, contract: Contract) -> bool:
    """Whether all that was ever accepted is kept: nothing came before the table of changes began."""
    changes = lake.find(changes_name(contract)) if contract.history else None
    return changes is not None and changes.transaction_version(ARRIVALS_SINCE) == 0


def _look_into(store: ObjectStore, contract: Contract, of: _File, key: Key, found: Sightings) -> None:
    try:
        body = store.read(of.file.key, etag=of.file.etag)
    except FileNotFoundError:
        found.unread.append(f"{of.file.key}: was replaced or removed while it was looked for; ask again")
        return
    try:
        changes = read_changes(body, of.file, contract, of.position).changes
    except FileRejectedError as error:
        if of.state == "accepted":
            found.unread.append(f"{of.file.key}: was taken in, and breaks the contract as it is now: {error}")
        else:
            _look_roughly(body, contract, of, key, of.reason or str(error), found)
        return
    same = [pc.equal(changes[name], pa.scalar(value, changes[name].type)) for name, value in key.items()]
    found.found += _sighted(contract, changes.filter(reduce(pc.and_, same)), of.state, of.reason, of.record)


def _look_roughly(body: bytes, contract: Contract, of: _File, key: Key, reason: str, found: Sightings) -> None:
    """Look into a file that breaks its contract; what cannot be read at all is told."""
    try:
        rows = read_rows(body, of.file, contract)
        with suppress(FileRejectedError):
            rows, _ = plain_shape(rows, of.file, contract)
    except FileRejectedError as error:
        found.unread.append(f"{of.file.key}: {error}")
        return
    columns = {name.lower(): name for name in rows.column_names}
    if missing := [name for name in key if name.lower() not in columns]:
        found.unread.append(f"{of.file.key}: has no {', '.join(missing)}; {reason}")
        return
    wanted = {columns[name.lower()]: str(value) for name, value in key.items()}
    added = {contract.operations.column.lower(), MODIFIED[1:], SEQUENCE[1:]}
    for number, row in enumerate(rows.to_pylist()):
        if all(str(row[name]) == value for name, value in wanted.items()):
            operation = row.get(columns.get(contract.operations.column.lower(), ""))
            values = {n: v for n, v in row.items() if v is not None and n not in wanted and n.lower() not in added}
            moment = row.get(columns.get(MODIFIED[1:], ""))
            moment = moment if isinstance(moment, datetime) else None
            sequence = row.get(columns.get(SEQUENCE[1:], ""))
            found.found.append(Sighting(of.state, of.file.key, number, operation, moment, sequence, values, reason))


def _sighted(
    contract: Contract, changes: pa.Table, state: State, reason: str = "", record: Record | None = None
) -> list[Sighting]:
    arrived = record.recorded_at if record and state == "accepted" else None
    return [
        Sighting(
            state,
            row[FILE],
            row[ROW],
            row[OP],
            row[MODIFIED],
            row[SEQUENCE],
            {
                name: value
                for name, value in row.items()
                if not name.startswith("_") and name not in contract.key and value is not None
            },
            reason,
            row.get(INGESTED) or arrived,
        )
        for row in changes.to_pylist()
    ]


def _kept(lake: Lake, contract: Contract, key: Key) -> list[Sighting]:
    changes = lake.find(changes_name(contract))
    return _sighted(contract, rows_of_key(lake, contract, changes, key), "accepted") if changes else []


def _set_aside(lake: Lake, contract: Contract, key: Key) -> set[tuple[str, int]]:
    """Where the changes of the key lie that came too late."""
    if (late := lake.find(late_name(contract))) is None:
        return set()
    rows = rows_of_key(lake, contract, late, key)
    return {(row[FILE], row[ROW]) for row in rows.to_pylist()}


def _once(found: Iterable[Sighting], late: set[tuple[str, int]]) -> list[Sighting]:
    """Each change once, by its earliest arrival: a crash's repeat is kept twice, and raw has what is kept."""
    first: dict[str, Sighting] = {}
    for sighting in found:
        if sighting.state == "accepted" and (sighting.file, sighting.row) in late:
            sighting = replace(sighting, state="too late", reason="older than the tombstones that would judge it")
        same = repr(
            replace(sighting, arrived=None, values={name.lower(): v for name, v in sorted(sighting.values.items())})
        )
        other = first.get(same)
        if other is None or (sighting.arrived and (other.arrived is None or sighting.arrived < other.arrived)):
            first[same] = sighting
    return [*first.values()]
