"""What capture writes to the lake: parquet files, manifests of full loads, and the durable watermark.

Here: the keys, the position as text, files of bounded size and their order of writing. Not here: where rows come from
(`full_load`, `stream`). An object is written whole or not at all, so that a reader never sees half a file. Enforced
here: a manifest is written after its files, and names them by etag; a load without a manifest is not one.
"""

from __future__ import annotations

import io
import json
import logging
import re
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta

import pyarrow as pa
import pyarrow.parquet as pq

from upsell_assets.contracts import Contract
from upsell_assets.errors import PermanentError
from upsell_assets.lake.store import ObjectStore

FILE_BYTES = 32 << 20
FILE_ROWS = 500_000
"""A file is closed at the first row group that reaches one of these; it is held in memory until then."""

MANIFEST = "_manifest.json"
_LOAD = re.compile(r"\d{8}T\d{6}Z-[0-9A-F]{16}")

_log = logging.getLogger(__name__)


def change_seq(commit_lsn: int, ordinal: int) -> str:
    """The position of a change as text of fixed width, which sorts as the pair does.

    Args:
        commit_lsn: where the commit record begins. The place of the change itself would not do: under interleaved
            transactions, late commits lie below it.
        ordinal: the number of the change in its transaction, from 1. A full load has 0: it sorts below every change
            that commits at or after its consistent point.
    """
    return f"{commit_lsn:016X}-{ordinal:010d}"


def lsn_text(lsn: int) -> str:
    """A log position as PostgreSQL writes it."""
    return f"{lsn >> 32:X}/{lsn & 0xFFFFFFFF:X}"


def utc(unix_us: int) -> datetime:
    """The moment of a Unix time in microseconds (exact, which division of floats is not)."""
    return datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=unix_us)


def root(contract: Contract) -> str:
    """The prefix of everything that lands for the contract's schema."""
    return f"raw/{contract.schema_name}"


class ParquetFile:
    """One parquet file, made in memory one row group at a time and written whole at `close`."""

    def __init__(self, store: ObjectStore, contract: Contract, key: str, schema: pa.Schema) -> None:
        self.key = key
        self.rows = 0
        self._store = store
        self._sink = io.BytesIO()  # gives its bytes away without a copy, which a buffer of Arrow does not
        # No dictionary of keys: looking for repeats where there are none doubles the time.
        repeating = [name for name in schema.names if name not in contract.key]
        self._writer = pq.ParquetWriter(self._sink, schema, compression="zstd", use_dictionary=repeating)

    @property
    def full(self) -> bool:
        """Whether the next row group belongs into another file."""
        return self.rows >= FILE_ROWS or self._sink.tell() >= FILE_BYTES

    def write(self, batch: pa.RecordBatch) -> None:
        """Add one row group."""
        self._writer.write_batch(batch, row_group_size=max(1, batch.num_rows))
        self.rows += batch.num_rows

    def close(self) -> dict[str, str | int]:
        """Write the object; returns its entry in a manifest."""
        self._writer.close()
        etag = self._store.write(self.key, self._sink.getvalue())
        return {"key": self.key, "etag": etag, "rows": self.rows}


@dataclass(frozen=True)
class LoadResult:
    """One table's full load; `position` is its `change_seq`, `load` the name of its folder."""

    table: str
    load: str
    position: str
    rows: int
    files: tuple[str, ...]
    manifest: str


def write_load(
    store: ObjectStore,
    contract: Contract,
    *,
    commit_lsn: int,
    ordinal: int,
    time: int,
    schema: pa.Schema | None = None,
    batches: Iterable[pa.RecordBatch] = (),
) -> LoadResult:
    """Write a full load: parts, and the manifest last. Without batches it is the load of an emptied table.

    Args:
        store: the lake.
        contract: of the table.
        commit_lsn: with `ordinal`, the load's position.
        ordinal: 0 for a snapshot, the truncate's own for a truncate.
        time: Unix µs, UTC; not after the commit time of any later change.
        schema: of the batches.
        batches: the rows.
    """
    position = change_seq(commit_lsn, ordinal)
    load = f"{utc(time):%Y%m%dT%H%M%SZ}-{position if ordinal else position[:16]}"
    folder = f"{root(contract)}/full_load/{contract.table}/{load}"
    files: list[dict[str, str | int]] = []
    current: ParquetFile | None = None
    for batch in batches:
        if current is None:
            current = ParquetFile(store, contract, f"{folder}/part-{len(files):05d}.parquet", schema or batch.schema)
        current.write(batch)
        if current.full:
            files.append(current.close())
            current = None
    if current is not None:
        files.append(current.close())
    rows = sum(int(file["rows"]) for file in files)
    manifest = {
        "load": load,
        "table": contract.table,
        "position": {"change_seq": position, "modified_date": utc(time).isoformat()},
        "files": files,
        "rows": rows,
    }
    key = f"{folder}/{MANIFEST}"
    store.write(key, json.dumps(manifest, indent=2).encode())
    return LoadResult(contract.table, load, position, rows, tuple(str(file["key"]) for file in files), key)


def delete_unfinished_loads(store: ObjectStore, contract: Contract) -> None:
    """Delete the parts of loads that capture began and never finished; loads of other producers stay."""
    prefix = f"{root(contract)}/full_load/{contract.table}/"
    loads: defaultdict[str, list[str]] = defaultdict(list)
    for found in store.list(prefix):
        load, _, file = found.key.removeprefix(prefix).partition("/")
        if file and _LOAD.fullmatch(load):
            loads[load].append(found.key)
    for load, keys in loads.items():
        if f"{prefix}{load}/{MANIFEST}" not in keys:
            _log.info("%s: load %s was interrupted; its %d files are deleted.", contract.name, load, len(keys))
            for key in keys:
                store.delete(key)


@dataclass(frozen=True)
class State:
    """What capture knows for certain, kept in the lake.

    Args:
        slot: name of the replication slot.
        system: identifier of the database cluster that the positions belong to.
        handover: whether the first full load is whole; before, only the intent to make the slot is recorded.
        tables: the tables with a full load.
        consistent_point: position of the first full load.
        confirmed_lsn: the watermark: commits that begin below it are in the lake.
        confirmed_at: a moment, ISO, UTC; what committed before it is in the lake.
    """

    slot: str
    system: int
    handover: bool = False
    tables: tuple[str, ...] = ()
    consistent_point: int = 0
    confirmed_lsn: int = 0
    confirmed_at: str = ""


def state_key(contract: Contract) -> str:
    """The key of the durable state."""
    return f"{root(contract)}/_capture/state.json"


def read_state(store: ObjectStore, key: str) -> State | None:
    """The durable state, or None before the first full load was begun.

    Raises:
        PermanentError: the object is not what `write_state` wrote.
    """
    try:
        body = store.read(key)
    except FileNotFoundError:
        return None
    try:
        content = json.loads(body)
        lsns = {name: _lsn(content[name]) for name in ("consistent_point", "confirmed_lsn")}
        return State(**content | lsns | {"tables": tuple(content["tables"])})
    except (ValueError, TypeError, KeyError) as error:
        raise PermanentError(
            f"capture: {store.uri(key)} is not a capture state ({error!r}). Restore the object; it holds the watermark."
        ) from error


def write_state(store: ObjectStore, key: str, state: State) -> None:
    """Make the state durable, whole or not at all; log positions are written as PostgreSQL writes them."""
    lsns = {name: lsn_text(getattr(state, name)) for name in ("consistent_point", "confirmed_lsn")}
    store.write(key, json.dumps(asdict(state) | lsns, indent=2).encode())


def _lsn(text: str) -> int:
    high, low = text.split("/")
    return int(high, 16) << 32 | int(low, 16)
