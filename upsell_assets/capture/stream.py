"""Changes after the snapshot: read from the slot in commit order, written as raw files, and only then let go.

Here: one drain up to a fixed target. Not here: when to drain (`job`). Enforced here: the watermark in the lake is
moved after the files are written, and the slot after the watermark; commits below the watermark are skipped, since a
slot may fall back when the server crashes. A repeat after a crash begins at the same commit, so it writes files of the
same names, which reach at least as far.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime

import pyarrow as pa
from psycopg import sql

from upsell_assets.capture.full_load import Progress
from upsell_assets.capture.landing import (
    ParquetFile,
    State,
    change_seq,
    lsn_text,
    root,
    utc,
    write_load,
    write_state,
)
from upsell_assets.capture.pgoutput import (
    UNCHANGED,
    Begin,
    Commit,
    Decoder,
    Delete,
    Insert,
    Relation,
    Row,
    Truncate,
    Update,
)
from upsell_assets.capture.setup import Slot, find_slot, source_name
from upsell_assets.capture.values import Layout
from upsell_assets.contracts import Contract
from upsell_assets.errors import PermanentError
from upsell_assets.lake.store import ObjectStore
from upsell_assets.source.database import Connection, database_errors

ROUND_BYTES = 256 << 20
"""Log read between two moves of the watermark: the server keeps a round's changes in a temporary file."""

_BATCH_ROWS, _BATCH_BYTES = 50_000, 16 << 20
_FETCH_ROWS, _FETCH_BYTES = 10_000, 8 << 20

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Drained:
    """What a drain added: rows by table, the keys written (manifests of truncates among them), how far it came.

    Every change that sorts below `position` is in the lake.
    """

    changes: dict[str, int]
    files: list[str]
    position: str


@dataclass(frozen=True)
class Lag:
    """Log that the lake has not seen, in bytes, and the greatest age of an unseen commit, in seconds.

    Not all of the log is changes of the contracts' tables: a lag is what may be there.
    """

    bytes: int
    seconds: float


@dataclass
class Sink:
    """Where one table's changes go: rows wait as text, then as row groups of a file, then the file is written."""

    store: ObjectStore
    contract: Contract
    layout: Layout
    files: list[str] = field(default_factory=list)
    _rows: list[tuple[Row, str, int, str]] = field(default_factory=list)
    _bytes: int = 0
    _file: ParquetFile | None = None

    def add(self, row: Row, operation: str, time: int, position: str, size: int) -> None:
        """Take one row; `size` is what it occupies, in bytes, roughly."""
        self._rows.append((row, operation, time, position))
        self._bytes += size
        if len(self._rows) >= _BATCH_ROWS or self._bytes >= _BATCH_BYTES:
            self._write_rows()

    def _write_rows(self) -> None:
        rows, operations, times, positions = zip(*self._rows, strict=True)
        if self._file is None:
            key = f"{root(self.contract)}/cdc/{self.contract.table}/{_today()}/{positions[0]}.parquet"
            self._file = ParquetFile(self.store, key, self.layout.schema)
        texts = [pa.array(column, pa.string()) for column in zip(*rows, strict=True)]
        strings, moments = pa.array(operations, pa.string()), pa.array(times, pa.int64())
        self._file.write(self.layout.batch(texts, strings, moments, pa.array(positions, pa.string())))
        self._rows, self._bytes = [], 0
        if self._file.full:
            self._close_file()

    def _close_file(self) -> None:
        if self._file is not None:
            self._file.close()
            self.files.append(self._file.key)
            self._file = None

    def flush(self) -> None:
        """Write what waits."""
        if self._rows:
            self._write_rows()
        self._close_file()

    def relayout(self, layout: Layout) -> None:
        """The source table's columns changed: what follows goes to a file of its own."""
        self.flush()
        self.layout = layout


def _today() -> str:
    return f"{datetime.now(UTC):%Y/%m/%d}"  # landing days are UTC


class Round:
    """The changes of one stretch of the log, on their way to files."""

    def __init__(self, store: ObjectStore, contracts: Mapping[str, Contract], *, schema: str, confirmed: int) -> None:
        """Take changes from the watermark `confirmed` on."""
        self.changes: Counter[str] = Counter()
        self.confirmed = confirmed
        self._watermark = confirmed
        self._store = store
        self._contracts = {source_name(contract, schema): contract for contract in contracts.values()}
        self._sinks: dict[str, Sink] = {}
        self._loads: list[str] = []
        self._decoder = Decoder()
        self._commit = Begin(0, 0)
        self._ordinal = 0

    def take(self, data: bytes) -> None:
        """Take one message.

        Raises:
            PermanentError: a value was not sent, since the table does not log whole old rows.
        """
        message = self._decoder.decode(data)
        if isinstance(message, Begin):
            self._commit, self._ordinal = message, 0
        elif isinstance(message, Commit):
            self.confirmed = max(self.confirmed, message.end_lsn)
        elif message is None or self._commit.commit_lsn < self._watermark:
            return
        elif isinstance(message, Truncate):
            self._truncate(message)
        else:
            self._change(message, len(data))

    def finish(self) -> list[str]:
        """Write everything that waits; returns all keys written."""
        for sink in self._sinks.values():
            sink.flush()
        return [*self._loads, *(key for sink in self._sinks.values() for key in sink.files)]

    def _position(self) -> str:
        self._ordinal += 1
        return change_seq(self._commit.commit_lsn, self._ordinal)

    def _change(self, change: Insert | Update | Delete, size: int) -> None:
        sink = self._sink(change.relation)
        if sink is None:
            self._ordinal += 1  # numbers do not depend on which tables are wanted
            return
        words = sink.contract.operations
        if isinstance(change, Insert):
            self._add(sink, change.new, words.insert[0], size)
        elif isinstance(change, Delete):
            self._add(sink, change.old, words.delete[0], size)
        else:
            new = _completed(change, sink.layout)
            if change.old is not None and sink.layout.key_of(change.old) != sink.layout.key_of(new):
                self._add(sink, change.old, words.delete[0], size)
                self._add(sink, new, words.insert[0], size)
            else:
                self._add(sink, new, words.update[0], size)

    def _add(self, sink: Sink, row: Row, operation: str, size: int) -> None:
        self._ordinal += 1
        position = change_seq(self._commit.commit_lsn, self._ordinal)
        sink.add(row, operation, self._commit.commit_time, position, size)
        self.changes[sink.contract.table] += 1

    def _truncate(self, truncate: Truncate) -> None:
        self._ordinal += 1
        for relation in truncate.relations:
            contract = self._contracts.get((relation.schema, relation.table))
            if contract is not None:
                begin = self._commit
                load = write_load(
                    self._store,
                    contract,
                    commit_lsn=begin.commit_lsn,
                    ordinal=self._ordinal,
                    time=begin.commit_time,
                )
                self._loads.append(load.manifest)

    def _sink(self, relation: Relation) -> Sink | None:
        contract = self._contracts.get((relation.schema, relation.table))
        if contract is None:
            return None
        sink = self._sinks.get(contract.table)
        if sink is None:
            sink = self._sinks[contract.table] = Sink(self._store, contract, Layout(contract, relation.columns))
        elif sink.layout.columns != relation.columns:
            sink.relayout(Layout(contract, relation.columns))
        return sink


def _completed(update: Update, layout: Layout) -> Row:
    """The new row with the values that were not sent, since the update left them as they were."""
    if UNCHANGED not in update.new:
        return update.new
    if update.old is None or not update.old_is_whole:
        unsent = [c.name for c, value in zip(layout.columns, update.new, strict=True) if value is UNCHANGED]
        relation = update.relation
        raise PermanentError(
            f"{layout.contract.name}: a changed row came without {', '.join(unsent)}, since {relation.schema}."
            f"{relation.table} did not log whole old rows. Make its REPLICA IDENTITY FULL, then take a new full load."
        )
    return [old if new is UNCHANGED else new for old, new in zip(update.old, update.new, strict=True)]


def read_round(
    connection: Connection,
    store: ObjectStore,
    contracts: Mapping[str, Contract],
    *,
    name: str,
    schema: str,
    confirmed: int,
    upto: int,
    progress: Progress | None = None,
) -> tuple[Round, list[str]]:
    """Write the changes that commit between the watermark `confirmed` and `upto` to files; moves nothing.

    A commit record that begins below `upto` is read whole, even if it ends beyond.
    """
    taken = Round(store, contracts, schema=schema, confirmed=confirmed)
    with database_errors(f"reading slot {name}"), connection.transaction():
        for messages in _peek(connection, name, upto):
            for data in messages:
                taken.take(data)
            if progress:
                for table, rows in taken.changes.items():
                    progress(table, rows)
    taken.confirmed = max(taken.confirmed, upto)
    return taken, taken.finish()


def _peek(connection: Connection, name: str, upto: int) -> Iterator[list[bytes]]:
    """The slot's messages in portions of some megabytes (a transaction has no limit, and a fetch of all holds all)."""
    query = sql.SQL(
        "SELECT data FROM pg_logical_slot_peek_binary_changes({}, {}, NULL, 'proto_version', '1', "
        "'publication_names', {})"
    ).format(sql.Literal(name), sql.Literal(lsn_text(upto)), sql.Literal(f'"{name}"'))
    rows = 1_000
    with connection.cursor("capture_changes", binary=True) as cursor:
        cursor.execute(query)
        while fetched := cursor.fetchmany(rows):
            messages = [row[0] for row in fetched]
            yield messages
            mean = sum(map(len, messages)) // len(messages) + 1
            rows = max(1, min(_FETCH_ROWS, _FETCH_BYTES // mean))


def confirm(connection: Connection, store: ObjectStore, key: str, state: State) -> None:
    """Move the watermark in the lake, and only then the slot, so that the server may forget."""
    write_state(store, key, state)
    advance(connection, state)


def advance(connection: Connection, state: State) -> None:
    """Move the slot up to the watermark."""
    with database_errors(f"advancing slot {state.slot}"):
        connection.execute(
            "SELECT pg_replication_slot_advance(%s, %s::pg_lsn)", [state.slot, lsn_text(state.confirmed_lsn)]
        )


def drain(
    connection: Connection,
    store: ObjectStore,
    contracts: Mapping[str, Contract],
    *,
    key: str,
    schema: str,
    state: State,
    progress: Progress | None = None,
) -> Drained:
    """Bring everything into the lake that was committed when the drain began, then stop.

    Args:
        connection: with the session settings of `values`, in autocommit mode.
        store: the lake.
        contracts: by table.
        key: of the durable state.
        schema: where the source tables are by default.
        state: as it was read from there.
        progress: called with table and rows of the current round.

    Raises:
        PermanentError: the slot is gone or does not fit the watermark; a new full load is needed.
        RetryableError: another capture reads the slot, or the connection was lost.
    """
    target, now = _end_of_log(connection)
    slot = check_slot(connection, state, target)
    changes: Counter[str] = Counter()
    files: list[str] = []
    if slot.confirmed_lsn < state.confirmed_lsn:
        advance(connection, state)
    while state.confirmed_lsn < target:
        upto = min(target, state.confirmed_lsn + ROUND_BYTES)
        taken, written = read_round(
            connection,
            store,
            contracts,
            name=state.slot,
            schema=schema,
            confirmed=state.confirmed_lsn,
            upto=upto,
            progress=progress,
        )
        moment = now if upto == target else state.confirmed_at
        state = replace(state, confirmed_lsn=taken.confirmed, confirmed_at=moment)
        confirm(connection, store, key, state)
        changes += taken.changes
        files += written
    return Drained(dict(changes), files, change_seq(state.confirmed_lsn, 0))


def _end_of_log(connection: Connection) -> tuple[int, str]:
    """Up to where the log is durable, and a moment not after that.

    Decoding reads no further; advancing the slot beyond what was decoded would lose commits that are written, and not
    yet flushed (synchronous_commit = off).
    """
    with database_errors("asking for the end of the log"):
        row = connection.execute(
            "SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::bigint, "
            "(pg_current_wal_flush_lsn() - '0/0')::bigint"
        ).fetchone()
    assert row is not None
    return int(row[1]), utc(row[0]).isoformat()


def check_slot(connection: Connection, state: State, end_of_log: int) -> Slot:
    """The slot, if it can carry on from the watermark.

    Raises:
        PermanentError: it cannot; says why, and what to do.
    """
    slot = find_slot(connection, state.slot)
    where = lsn_text(state.confirmed_lsn)
    if end_of_log < state.confirmed_lsn:
        raise PermanentError(
            f"capture {state.slot}: the source database's log ends at {lsn_text(end_of_log)}, before {where}, which "
            "the lake already has: the database was restored to an earlier state. Restore a later one, or begin a new "
            "lake."
        )
    if slot is None:
        fault = "the replication slot is gone from the source database"
    elif slot.lost:
        fault = f"the replication slot cannot be read any more ({slot.lost})"
    elif slot.confirmed_lsn > state.confirmed_lsn:
        fault = f"the replication slot stands at {lsn_text(slot.confirmed_lsn)}: somebody else moved or made it"
    else:
        return slot
    raise PermanentError(
        f"capture {state.slot}: {fault}, so the changes after {where} cannot be read. Take a new full load."
    )


def lag(connection: Connection, state: State) -> Lag:
    """How far the lake is behind the database.

    Raises:
        PermanentError: the slot is gone or does not fit the watermark; a new full load is needed.
    """
    end, now = _end_of_log(connection)
    check_slot(connection, state, end)
    behind = end - state.confirmed_lsn
    age = datetime.fromisoformat(now) - datetime.fromisoformat(state.confirmed_at)
    return Lag(behind, max(0.0, age.total_seconds()) if behind else 0.0)
