"""Decoded changes on their way to raw files: one row each, with its operation, time and position.

Here: what a change becomes (a changed key is a delete and an insert, a truncate an empty full load), the numbering
within a transaction, and one open file per table, in bounded memory. Not here: where messages come from, and when the
watermark moves (`stream`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime

import pyarrow as pa

from upsell_assets.capture.landing import ParquetFile, change_seq, root, write_load
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
from upsell_assets.capture.setup import source_name
from upsell_assets.capture.values import Layout
from upsell_assets.contracts import Contract
from upsell_assets.errors import PermanentError
from upsell_assets.lake.store import ObjectStore

_BATCH_ROWS, _BATCH_BYTES = 50_000, 16 << 20
"""Rows of a table that wait as text become a row group when they reach one of these."""


@dataclass
class _Sink:
    """Where one table's changes go: rows wait as text, then as row groups of a file, then the file is written.

    Values wait one after another in one list, row after row: a list for each row is one more thing that the garbage
    collector looks at again and again, at a third of the time of a drain.
    """

    store: ObjectStore
    contract: Contract
    layout: Layout
    files: list[str] = field(default_factory=list)
    _values: Row = field(default_factory=list)
    _operations: list[str] = field(default_factory=list)
    _times: list[int] = field(default_factory=list)
    _positions: list[str] = field(default_factory=list)
    _bytes: int = 0
    _file: ParquetFile | None = None

    def add(self, row: Row, operation: str, time: int, position: str, size: int) -> None:
        """Take one row; `size` is what it occupies, in bytes, roughly."""
        self._values += row
        self._operations.append(operation)
        self._times.append(time)
        self._positions.append(position)
        self._bytes += size
        if len(self._positions) >= _BATCH_ROWS or self._bytes >= _BATCH_BYTES:
            self._write_rows()

    def _write_rows(self) -> None:
        if self._file is None:
            key = f"{root(self.contract)}/cdc/{self.contract.table}/{_today()}/{self._positions[0]}.parquet"
            self._file = ParquetFile(self.store, self.contract, key, self.layout.schema)
        width = len(self.layout.columns)
        texts = [pa.array(self._values[index::width], pa.string()) for index in range(width)]
        operations, times = pa.array(self._operations, pa.string()), pa.array(self._times, pa.int64())
        self._file.write(self.layout.batch(texts, operations, times, pa.array(self._positions, pa.string())))
        self._values, self._operations, self._times, self._positions, self._bytes = [], [], [], [], 0
        if self._file.full:
            self._close_file()

    def _close_file(self) -> None:
        if self._file is not None:
            self._file.close()
            self.files.append(self._file.key)
            self._file = None

    def flush(self) -> None:
        """Write what waits."""
        if self._positions:
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
        self._sinks: dict[str, _Sink] = {}
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

    def _add(self, sink: _Sink, row: Row, operation: str, size: int) -> None:
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

    def _sink(self, relation: Relation) -> _Sink | None:
        contract = self._contracts.get((relation.schema, relation.table))
        if contract is None:
            return None
        sink = self._sinks.get(contract.table)
        if sink is None:
            sink = self._sinks[contract.table] = _Sink(self._store, contract, Layout(contract, relation.columns))
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
