"""The snapshot that a stream of changes can follow without a gap.

Here: the slot with its exported snapshot, and the tables read in it, in bounded memory. Not here: when a load is due,
and that the slot of a dead one is dropped first (`job`).

A slot's consistent point divides all transactions in two: those that the exported snapshot sees, and those that the
slot streams, whose commit records begin at or after it. A load at that position therefore neither misses nor repeats
anything.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import pyarrow as pa
from psycopg import sql
from pyarrow import csv

from upsell_assets.capture.landing import LoadResult, change_seq, delete_unfinished_loads, write_load
from upsell_assets.capture.pgoutput import Column
from upsell_assets.capture.setup import source_identifier
from upsell_assets.capture.values import SESSION, Layout
from upsell_assets.contracts import Contract
from upsell_assets.errors import PermanentError
from upsell_assets.lake.store import ObjectStore
from upsell_assets.source.database import Connection, connect, database_errors

Progress = Callable[[str, int], None]
"""Called with a table's name and its rows so far."""

_CHUNK_BYTES = 4 << 20


@dataclass(frozen=True)
class Snapshot:
    """A slot's consistent point and the snapshot of it; `time` (Unix µs) is before all later commits."""

    consistent_point: int
    time: int
    connection: Connection

    @property
    def position(self) -> str:
        """The position of a load taken from it."""
        return change_seq(self.consistent_point, 0)


@contextmanager
def snapshot(
    dsn: str, contracts: Mapping[str, Contract], *, slot: str, temporary: bool, schema: str
) -> Iterator[Snapshot]:
    """Create a slot, and hold a transaction that sees the database as of its consistent point.

    Args:
        dsn: of a role that may replicate.
        contracts: the tables that will be read.
        slot: the slot's name; it must not exist.
        temporary: whether the slot ends with the snapshot.
        schema: where the source tables are by default.
    """
    options = sql.SQL("TEMPORARY " if temporary else "")
    # As PostgreSQL 14 spells it; later ones take that too.
    create = sql.SQL("CREATE_REPLICATION_SLOT {} {}LOGICAL pgoutput EXPORT_SNAPSHOT")
    with (
        database_errors(f"taking the snapshot of slot {slot}"),
        connect(dsn) as reader,
        connect(dsn) as guard,
        connect(dsn, replication="database") as replication,
        guard.transaction(),
    ):
        # A table rewritten by ALTER TABLE looks empty to a snapshot that is older: no rewrite until all is read.
        tables = sql.SQL(", ").join(source_identifier(contract, schema) for contract in contracts.values())
        guard.execute(sql.SQL("LOCK TABLE {} IN ACCESS SHARE MODE").format(tables))
        # Before the slot, so that no commit that it streams is older than the load.
        time = _now(guard)
        created = replication.execute(create.format(sql.Identifier(slot), options)).fetchone()
        assert created is not None
        high, low = created[1].split("/")
        reader.execute(SESSION)
        with reader.transaction():
            reader.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY")
            reader.execute(sql.SQL("SET TRANSACTION SNAPSHOT {}").format(sql.Literal(created[2])))
            yield Snapshot(int(high, 16) << 32 | int(low, 16), time, reader)


def _now(connection: Connection) -> int:
    row = connection.execute("SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::bigint").fetchone()
    assert row is not None
    return int(row[0])


def load_table(
    taken: Snapshot, store: ObjectStore, contract: Contract, *, schema: str, progress: Progress | None = None
) -> LoadResult:
    """Write one table, as the snapshot sees it, as a full load; parts of dead loads of it are deleted before.

    Raises:
        PermanentError: the table lacks a column of the key.
    """
    delete_unfinished_loads(store, contract)
    layout = Layout(contract, source_columns(taken.connection, contract, schema))
    return write_load(
        store,
        contract,
        commit_lsn=taken.consistent_point,
        ordinal=0,
        time=taken.time,
        schema=layout.schema,
        batches=_batches(taken, layout, schema, progress),
    )


def source_columns(connection: Connection, contract: Contract, schema: str) -> list[Column]:
    """The columns that the stream sends too, in the same order (generated ones are not sent).

    Raises:
        PermanentError: there are none.
    """
    rows = connection.execute(
        "SELECT attname, atttypid::bigint, atttypmod FROM pg_attribute WHERE attrelid = %s::regclass AND attnum > 0 "
        "AND NOT attisdropped AND attgenerated = '' ORDER BY attnum",
        [source_identifier(contract, schema).as_string(connection)],
    )
    columns = [Column(*row) for row in rows]
    if not columns:
        raise PermanentError(f"{contract.name}: the source table has no columns. Correct the contract's source_table.")
    return columns


def _batches(taken: Snapshot, layout: Layout, schema: str, progress: Progress | None) -> Iterator[pa.RecordBatch]:
    names = sql.SQL(", ").join(sql.Identifier(column.name) for column in layout.columns)
    table = source_identifier(layout.contract, schema)
    query = sql.SQL("COPY (SELECT {} FROM {}) TO STDOUT (FORMAT csv)").format(names, table)
    position = taken.position
    done = 0
    for chunk in _chunks(taken.connection, query):
        texts = _parse(chunk, len(layout.columns))
        done += len(texts[0])
        yield layout.load_batch(texts, taken.time, position)
        if progress:
            progress(layout.contract.table, done)


def _chunks(connection: Connection, query: sql.Composed) -> Iterator[bytearray]:
    """Whole rows (one at a time is what the protocol delivers), some megabytes together."""
    chunk = bytearray()
    with connection.cursor() as cursor, cursor.copy(query) as copy:
        for row in copy:
            chunk += row  # at once: rows that are kept until they are joined miss the processor's cache, at 4x the time
            if len(chunk) >= _CHUNK_BYTES:
                yield chunk
                chunk = bytearray()
    if chunk:
        yield chunk


def _parse(data: bytearray, columns: int) -> list[pa.Array]:
    names = [str(index) for index in range(columns)]
    table = csv.read_csv(
        pa.BufferReader(data),
        read_options=csv.ReadOptions(column_names=names, block_size=len(data) + 1, use_threads=False),
        parse_options=csv.ParseOptions(newlines_in_values=True, ignore_empty_lines=False),
        convert_options=csv.ConvertOptions(
            column_types=dict.fromkeys(names, pa.string()),
            null_values=[""],
            strings_can_be_null=True,
            quoted_strings_can_be_null=False,  # PostgreSQL quotes an empty text, and not a null
        ),
    )
    return [column.combine_chunks() for column in table.columns]
