"""The embedded engine: DuckDB runs the SQL, delta-rs reads and writes the tables; no JVM."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import duckdb
import pyarrow as pa

from upsell_assets.errors import PermanentError
from upsell_assets.lake.duck import connect, quote, register
from upsell_assets.lake.engines import Capabilities, Query
from upsell_assets.lake.sql import bind, source_tables, to_duckdb
from upsell_assets.lake.tables import Lake

BATCH_ROWS = 65_536


@dataclass
class EmbeddedEngine:
    """One lake, one in-memory DuckDB connection per query."""

    lake: Lake
    capabilities: Capabilities = field(default=Capabilities(writes=True), init=False)

    def run(self, query: Query) -> pa.RecordBatchReader:
        """See `Engine.run`."""
        connection = connect()
        names: dict[str, str] = {}
        for number, name in enumerate(sorted(source_tables(query.tree))):
            names[name] = f"input_{number}"
            if (rows := query.relations.get(name)) is not None:
                connection.register(names[name], rows)
            else:
                register(connection, names[name], self.lake.rows(self.lake.open(name, query.versions.get(name))))
        try:
            result = _as_spark_counts(connection.sql(to_duckdb(bind(query.tree, names, query.params))))
            reader = result.to_arrow_reader(BATCH_ROWS)
        except duckdb.Error as error:
            connection.close()
            raise PermanentError(f"the query was refused: {error}") from error
        return pa.RecordBatchReader.from_batches(reader.schema, _batches(connection, reader))

    def close(self) -> None:
        """Nothing is held between queries."""


def _as_spark_counts(rows: duckdb.DuckDBPyRelation) -> duckdb.DuckDBPyRelation:
    """A sum of bigint is bigint in Spark and wider in DuckDB; one that does not fit is refused by both."""
    kinds = [str(kind) for kind in rows.types]
    if "HUGEINT" not in kinds:
        return rows
    columns = (
        f"CAST({quote(name)} AS BIGINT) AS {quote(name)}" if kind == "HUGEINT" else quote(name)
        for name, kind in zip(rows.columns, kinds, strict=True)
    )
    return rows.project(", ".join(columns))


def _batches(connection: duckdb.DuckDBPyConnection, reader: pa.RecordBatchReader) -> Iterator[pa.RecordBatch]:
    try:
        yield from reader
    except OSError as error:  # what a row far down makes of the query
        raise PermanentError(f"the query was refused: {error}") from error
    finally:
        connection.close()
