"""Is bronze what the source database holds: compared at one known position, key by key.

Every other check compares two ends of our own pipe. Neither table is carried over: both sides are reduced to a count
and a checksum for each of some thousand buckets of keys, and only of buckets that differ are keys looked at. The
database is read only, as of a snapshot; the texts that are summed are made by each side for itself. Not here: when it is
done (`checks`), and how it is shown (`cli`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import duckdb
import pyarrow as pa
from deltalake import DeltaTable
from psycopg import sql

from upsell_assets.bronze.ingest import ingest
from upsell_assets.bronze.tables import live_schema, table_name
from upsell_assets.capture.assets import open_capture
from upsell_assets.capture.full_load import source_columns
from upsell_assets.capture.pgoutput import Column
from upsell_assets.capture.setup import source_identifier
from upsell_assets.capture.values import source_type
from upsell_assets.contracts import Contract
from upsell_assets.errors import PermanentError
from upsell_assets.lake.duck import connect, quote
from upsell_assets.lake.lakehouse import Lakehouse
from upsell_assets.source.database import Connection, database_errors

SHOWN = 20
"""Keys that are named where tables differ."""

_BUCKET_DIGITS = 3
_BUCKETS_AT_ONCE = 64
_BETWEEN = " || chr(31) || "

Progress = Callable[[str], None]
Kind = Literal["missing in bronze", "not in the database", "differs"]


@dataclass(frozen=True)
class Verified:
    """How a table compares.

    Attributes:
        table: schema and name.
        position: the place in the database's log at which both were looked at.
        version: of the bronze table.
        source_rows, bronze_rows: how many rows each has.
        differing: what differs, at most `SHOWN` keys of it: the key's values as text, by kind.
    """

    table: str
    position: str
    version: int
    source_rows: int
    bronze_rows: int
    differing: tuple[tuple[Kind, tuple[str | None, ...]], ...]

    @property
    def equal(self) -> bool:
        """Whether both hold the same rows."""
        return not self.differing and self.source_rows == self.bronze_rows


def verify(lakehouse: Lakehouse, contracts: Iterable[Contract], progress: Progress | None = None) -> Iterator[Verified]:
    """Compare tables with the database, as of the moment when this begins.

    Everything committed until then is captured and taken into bronze first; capture waits until that is done, and no
    longer.

    Raises:
        PermanentError: there is no database to compare with, or it cannot be captured.
        RetryableError: another capture is at work, or database or store cannot be reached.
    """
    wanted = {contract.table: contract for contract in contracts}
    capture = open_capture(lakehouse)
    if capture is None:
        raise PermanentError("verify: there is no database to compare with. Set UPSELL_SOURCE_DSN.")
    if others := wanted.keys() - lakehouse.captured.keys():
        raise PermanentError(
            f"verify: {', '.join(sorted(others))}: other producers write these tables, not our capture."
        )
    with capture.reached(wanted) as (taken, let_go):
        versions = {table: _taken_in(lakehouse, contract, progress) for table, contract in wanted.items()}
        let_go()
        for table, contract in wanted.items():
            yield _compare(lakehouse, contract, versions[table], taken.connection, taken.position)


def _taken_in(lakehouse: Lakehouse, contract: Contract, progress: Progress | None) -> DeltaTable:
    ingest(lakehouse.store, lakehouse.lake, contract, progress=progress)
    return lakehouse.lake.open_or_create(table_name(contract), live_schema(contract))


def _compare(
    lakehouse: Lakehouse, contract: Contract, bronze: DeltaTable, source: Connection, position: str
) -> Verified:
    schema = lakehouse.settings.source_schema
    with database_errors(f"comparing {contract.name}"), connect() as connection:
        columns = {column.name.lower(): column for column in source_columns(source, contract, schema)}
        there = _Source(source, contract, columns, schema)
        here = _Bronze(connection, lakehouse, contract, bronze)
        sums = there.sums(), here.sums()
        unequal = sorted(
            bucket for bucket in sums[0].keys() | sums[1].keys() if sums[0].get(bucket) != sums[1].get(bucket)
        )
        differing: list[tuple[Kind, tuple[str | None, ...]]] = []
        while unequal and len(differing) < SHOWN:
            some, unequal = unequal[:_BUCKETS_AT_ONCE], unequal[_BUCKETS_AT_ONCE:]
            differing += _differences(there.rows(some), here.rows(some))
    rows_there, rows_here = (sum(count for count, _ in side.values()) for side in sums)
    return Verified(contract.name, position, bronze.version(), rows_there, rows_here, tuple(differing[:SHOWN]))


Sums = dict[str, tuple[int, str]]
"""Bucket -> rows, and the sum of their checksums."""

Rows = dict[tuple[str | None, ...], int]
"""Key -> checksum of its row."""


def _differences(there: Rows, here: Rows) -> Iterator[tuple[Kind, tuple[str | None, ...]]]:
    for key in sorted(there.keys() | here.keys(), key=str):
        if key not in here:
            yield "missing in bronze", key
        elif key not in there:
            yield "not in the database", key
        elif there[key] != here[key]:
            yield "differs", key


class _Source:
    """The database's side."""

    def __init__(self, connection: Connection, contract: Contract, columns: Mapping[str, Column], schema: str) -> None:
        self._connection = connection
        texts = {name: _source_text(columns.get(name.lower()), kind) for name, kind in contract.columns.items()}
        keys = [texts[name] for name in contract.key]
        self._rows = sql.SQL(
            "SELECT substr(md5(convert_to({key}, 'UTF8')), 1, {digits}) AS bucket, ARRAY[{keys}] AS key, "
            "('x' || substr(md5(convert_to({row}, 'UTF8')), 1, 15))::bit(60)::bigint AS checksum FROM {table}"
        ).format(
            key=sql.SQL(_BETWEEN).join(map(_told, keys)),
            digits=sql.Literal(_BUCKET_DIGITS),
            keys=sql.SQL(", ").join(keys),
            row=sql.SQL(_BETWEEN).join(map(_told, texts.values())),
            table=source_identifier(contract, schema),
        )

    def sums(self) -> Sums:
        query = sql.SQL("SELECT bucket, count(*), sum(checksum)::text FROM ({}) AS r GROUP BY bucket")
        return {bucket: (count, total) for bucket, count, total in self._connection.execute(query.format(self._rows))}

    def rows(self, buckets: Sequence[str]) -> Rows:
        query = sql.SQL("SELECT key, checksum FROM ({}) AS r WHERE bucket = ANY(%s)").format(self._rows)
        return {tuple(key): checksum for key, checksum in self._connection.execute(query, [buckets])}


def _told(text: sql.Composable) -> sql.Composed:
    """A text that tells a null from every value."""
    return sql.SQL("coalesce('=' || {}, '-')").format(text)


def _source_text(column: Column | None, kind: str) -> sql.Composable:
    """The text of a source column as the contract's type has it: what bronze must hold."""
    if column is None:
        return sql.SQL("NULL::text")
    source, name = source_type(column), sql.SQL("{}").format(sql.Identifier(column.name))
    if kind == "string":
        return sql.SQL(_AS_STRING.get(source, "{0}::text")).format(name, sql.Literal(_fraction(column)))
    if kind in ("timestamp", "date") and source not in ("timestamp", "date"):
        name = sql.SQL("{}::timestamptz").format(name)
    return sql.SQL(_AS_TYPE.get(kind.partition("(")[0], "{0}::text")).format(
        name, sql.SQL(kind.replace("decimal", "numeric"))
    )


_LIKELY = "isfinite({0}) AND {0} >= '0001-01-01' AND {0} < '10000-01-01'"
"""Times that have four digits of a year; the others capture writes as they are into text, and as null into times."""

_AS_STRING = {
    "timestamp": f"CASE WHEN {_LIKELY} THEN to_char({{0}}, 'YYYY-MM-DD HH24:MI:SS.' || {{1}}) "
    r"ELSE regexp_replace({0}::text, '\+00( BC)?$', '\1') END",
    "boolean": "CASE WHEN {0} THEN 't' WHEN NOT {0} THEN 'f' END",
}
_AS_TYPE = {
    "decimal": "{0}::{1}::text",
    # The bits: two programs do not write one number alike.
    "double": "('x' || encode(float8send({0}::float8), 'hex'))::bit(64)::bigint::text",
    "float": "('x' || encode(float4send({0}::float4), 'hex'))::bit(32)::int::text",
    "date": f"CASE WHEN {_LIKELY} THEN to_char({{0}}, 'YYYY-MM-DD') END",
    "timestamp": f"CASE WHEN {_LIKELY} THEN (extract(epoch FROM {{0}}) * 1000000)::bigint::text END",
    "binary": "encode({0}, 'hex')",
} | dict.fromkeys(
    ("tinyint", "smallint", "int", "bigint"),
    "CASE {0}::text WHEN 'true' THEN '1' WHEN 'false' THEN '0' ELSE {0}::text END",
)


def _fraction(column: Column) -> str:
    return "MS" if 0 <= column.type_modifier <= 3 else "US"


class _Bronze:
    """The lake's side."""

    def __init__(
        self, connection: duckdb.DuckDBPyConnection, lakehouse: Lakehouse, contract: Contract, table: DeltaTable
    ) -> None:
        self._connection = connection
        self._dataset = lakehouse.lake.rows(table)
        self._columns = [*contract.columns]
        texts = {name: _bronze_text(quote(name), kind) for name, kind in contract.columns.items()}
        keys = [texts[name] for name in contract.key]
        self._rows = (
            f"SELECT substr(md5({_BETWEEN.join(map(_told_here, keys))}), 1, {_BUCKET_DIGITS}) AS bucket, "
            f"[{', '.join(keys)}] AS key, "
            f"('0x' || substr(md5({_BETWEEN.join(map(_told_here, texts.values()))}), 1, 15))::BIGINT AS checksum FROM rows"
        )

    def _read(self) -> None:
        """Make `rows` readable, once."""
        reader = self._dataset.scanner(columns=self._columns, batch_size=65_536).to_reader()
        schema = pa.schema([pa.field(field.name, _BITS.get(field.type, field.type)) for field in reader.schema])
        bits = (
            pa.record_batch(
                [
                    column.view(kind) if kind in _BITS.values() and column.type in _BITS else column
                    for column, kind in zip(batch.columns, schema.types, strict=True)
                ],
                schema=schema,
            )
            for batch in reader
        )
        self._connection.register("rows", pa.RecordBatchReader.from_batches(schema, bits))

    def sums(self) -> Sums:
        self._read()
        query = f"SELECT bucket, count(*), sum(checksum::HUGEINT)::VARCHAR FROM ({self._rows}) GROUP BY bucket"
        return {bucket: (count, total) for bucket, count, total in self._connection.execute(query).fetchall()}

    def rows(self, buckets: Sequence[str]) -> Rows:
        self._read()
        query = f"SELECT key, checksum FROM ({self._rows}) WHERE list_contains(?, bucket)"
        return {tuple(key): checksum for key, checksum in self._connection.execute(query, [buckets]).fetchall()}


_BITS = {pa.float64(): pa.int64(), pa.float32(): pa.int32()}


def _told_here(text: str) -> str:
    return f"coalesce('=' || {text}, '-')"


def _bronze_text(name: str, kind: str) -> str:
    if kind == "timestamp":
        return f"epoch_us({name})::VARCHAR"
    if kind == "date":
        return f"strftime({name}, '%Y-%m-%d')"
    return f"lower(hex({name}))" if kind == "binary" else f"{name}::VARCHAR"
