"""Raw to bronze: what landed and is not in the ledger yet is read, validated and merged.

The same code runs under the Dagster assets and under `upsell ingest`. A file is written down only after its rows
are in bronze; whatever crashes in between is repeated, which the law makes harmless.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from datetime import datetime

import pyarrow as pa

from upsell_assets.bronze.history import remember
from upsell_assets.bronze.loads import Placed, end_loads, open_loads
from upsell_assets.bronze.merge import Merged, merge
from upsell_assets.bronze.tables import live_schema, table_name
from upsell_assets.clock import Clock, utc_now
from upsell_assets.contracts import Contract
from upsell_assets.errors import FileRejectedError
from upsell_assets.lake.store import ObjectStore
from upsell_assets.lake.tables import Lake, UnknownTableError
from upsell_assets.raw.files import Accepted, Position, change_schema, read_changes
from upsell_assets.raw.landing import EVER, LandedFile, Window, full_load_prefix, landed_changes, landed_parts
from upsell_assets.raw.ledger import Known, KnownFiles, Ledger, Record
from upsell_assets.raw.loads import manifests

BATCH_ROWS = 200_000
"""Changes of one merge, about: memory holds them, and each merge looks their keys up."""

Progress = Callable[[str], None]


@dataclass
class Ingested:
    """What one ingestion did; `version` is that of the live table after it, None where it did not open the table.

    `loads` are the full loads that ended, `waiting` the keys of files of loads that no manifest names yet,
    `decisions` what was made of columns that are not as the contract has them, with the number of files,
    `moved`, `doubled`, `tied` and `late` what speaks against the contract (see `Merged`), `reloaded` the keys of files
    of the flat full load that were replaced while its position stayed.
    """

    files: int = 0
    rows: int = 0
    upserts: int = 0
    deletes: int = 0
    tombstones: int = 0
    quarantined: list[Record] = field(default_factory=list)
    loads: list[str] = field(default_factory=list)
    waiting: list[str] = field(default_factory=list)
    decisions: Counter[str] = field(default_factory=Counter)
    moved: list[tuple[object, ...]] = field(default_factory=list)
    doubled: list[tuple[object, ...]] = field(default_factory=list)
    tied: int = 0
    late: int = 0
    reloaded: list[str] = field(default_factory=list)
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
    clock: Clock = utc_now,
    batch_rows: int = BATCH_ROWS,
) -> Ingested:
    """Take in a table's changes that landed in the window (whenever they landed, by default), and its full loads.

    Full loads do not keep to the window: a manifest may come days after the files that it names. `clock` says when a
    change arrives, where the contract keeps that; a file that is only taken in again arrived when it first did.

    Raises:
        RetryableError: the store cannot be reached, or other writers kept committing; what was merged stays.
    """
    say = progress or (lambda _: None)
    ledger = Ledger(lake, contract)
    changes, parts = landed_changes(store, contract, window), landed_parts(store, contract)
    declarations = manifests(store, contract)
    known = ledger.known([*changes, *parts, *declarations])
    opened = open_loads(store, contract, parts=parts, manifests=declarations, known=known)
    done = Ingested(quarantined=[*opened.rejected], waiting=opened.waiting)
    ledger.write(opened.rejected)
    if opened.waiting:
        say(f"{contract.name}: {len(opened.waiting)} files wait for their manifest (first: {opened.waiting[0]})")
    placed: list[Placed] = [*opened.parts, *((file, None) for file in changes)]
    fresh = [(file, position) for file, position in placed if _is_new(file, position, known)]
    done.reloaded = _replaced_in_place(ledger, fresh)
    arrived = _arrived_before(ledger, fresh, known) if contract.history else {}
    for batch in _batches(store, contract, fresh, undeclared_columns(lake, contract) if fresh else {}, batch_rows):
        if batch.changes:
            changed = pa.concat_tables(batch.changes, promote_options="default")
            say(f"{contract.name}: merging {changed.num_rows:,} changes")
            if contract.history:
                remember(lake, contract, changed, clock, arrived)
            _count(merge(lake, contract, changed), done)
            done.rows += changed.num_rows
        ledger.write(batch.records)
        known |= {(r.file.key, r.file.etag): Known(r.state, r.position) for r in batch.records}
        done.files += len(batch.changes)
        done.quarantined += [record for record in batch.records if record.state == "quarantined"]
        done.decisions.update(decision for record in batch.records for decision in record.decisions)
    ended = list(end_loads(lake, contract, opened, known, clock))
    for load, _, merged in ended:
        if merged:
            _count(merged, done)
            done.loads.append(load.name or full_load_prefix(contract))
    ledger.write(record for _, record, _ in ended)
    return done


def retry(
    store: ObjectStore, lake: Lake, contract: Contract, files: Iterable[LandedFile], progress: Progress | None = None
) -> list[Record]:
    """Take in files that are in quarantine, by the ingestion of their landing days; what the ledger says then.

    Args:
        store: where they lie.
        lake: where the tables lie.
        contract: their table.
        files: what lies at their paths now, whether or not it is the version that was rejected.
        progress: called with each step.

    Raises:
        RetryableError: as of `ingest`.
    """
    ledger, files = Ledger(lake, contract), list(files)
    records = {(r.file.key, r.file.etag): r for file in files for r in ledger.history(file.key)}
    # A version that was taken in and came back is in order: it is written down again, since the newest record counts.
    before = [records.get((file.key, file.etag)) for file in files]
    ledger.write(
        record if record and record.state == "accepted" else Record(file, "retry")
        for file, record in zip(files, before, strict=True)
    )
    for day in sorted({file.day for file in files}):
        ingest(store, lake, contract, Window(day, day), progress)
    return [next(r for r in reversed(ledger.history(f.key)) if r.file.etag == f.etag) for f in files]


def _is_new(file: LandedFile, position: Position | None, known: KnownFiles) -> bool:
    record = known.get((file.key, file.etag))
    return record is None or record.state == "retry" or record.position != _text(position)


def _arrived_before(ledger: Ledger, fresh: list[Placed], known: KnownFiles) -> dict[str, datetime]:
    """Of files that were taken in once and are now taken in again, when they were written down."""
    again = [(f.key, f.etag, _text(position)) for f, position in fresh if (f.key, f.etag) in known]
    first = ledger.first_accepted() if again else {}
    return {file[0]: first[file] for file in again if file in first}


def _replaced_in_place(ledger: Ledger, fresh: list[Placed]) -> list[str]:
    """Files of the flat load of which another version was taken in at the same position: neither is the newer one."""
    etags = {(file.key, str(position)): file.etag for file, position in fresh if position and file.load == ""}
    before = ledger.records().values() if etags else ()
    return sorted(
        {
            record.file.key
            for record in before
            if record.state == "accepted"
            and etags.get((record.file.key, str(record.position)), record.file.etag) != record.file.etag
        }
    )


def _text(position: Position | None) -> str | None:
    return None if position is None else str(position)


def _count(merged: Merged, done: Ingested) -> None:
    done.upserts += merged.upserts
    done.deletes += merged.deletes
    done.tombstones += merged.tombstones
    done.moved += merged.moved
    done.doubled += merged.doubled
    done.tied += merged.tied
    done.late += merged.late
    done.version = merged.version


def _batches(
    store: ObjectStore, contract: Contract, files: Iterable[Placed], known: dict[str, pa.Field], enough: int
) -> Iterator[_Batch]:
    """Read the files, until there are enough changes for one merge."""
    batch = _Batch([], [])
    for file, position in files:
        try:
            found = read_changes(store.read(file.key, etag=file.etag), file, contract, position)
            accepted = _agreed(found, known, contract)
        except FileRejectedError as error:
            batch.records.append(Record(file, "quarantined", 0, str(error), _text(position)))
            continue
        except FileNotFoundError:
            continue  # replaced since it was listed: the next listing has its new version
        batch.changes.append(accepted.changes)
        rows = accepted.changes.num_rows
        batch.records.append(Record(file, "accepted", rows, None, _text(position), accepted.decisions))
        if sum(table.num_rows for table in batch.changes) >= enough:
            yield batch
            batch = _Batch([], [])
    if batch.records:
        yield batch


def undeclared_columns(lake: Lake, contract: Contract) -> dict[str, pa.Field]:
    """The columns of the live table that the contract does not declare, by lower-case name."""
    try:
        schema = pa.schema(lake.open(table_name(contract)).schema().to_arrow())
    except UnknownTableError:
        return {}
    declared = set(live_schema(contract).names)
    return {column.name.lower(): column for column in schema if column.name not in declared}


def _agreed(read: Accepted, known: dict[str, pa.Field], contract: Contract) -> Accepted:
    """The changes, with undeclared columns spelled as they were first; `known` learns the new ones."""
    changes, declared = read.changes, change_schema(contract)
    found = {column.name: column for column in changes.schema if column.name not in declared.names}
    for name, column in found.items():
        if (kind := known.get(name.lower(), column).type) != column.type:
            raise FileRejectedError(
                f"undeclared column {name!r} is {column.type}, other files have {kind}; declare it in the contract"
            )
    names = {name: known.setdefault(name.lower(), column).name for name, column in found.items()}
    respelled = [f"{name} read as {first}" for name, first in names.items() if name != first]
    return Accepted(
        changes.rename_columns([names.get(name, name) for name in changes.column_names]),
        (*read.decisions, *respelled),
    )
