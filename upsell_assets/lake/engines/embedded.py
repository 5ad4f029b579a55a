"""The embedded engine: DuckDB runs the SQL, delta-rs reads and writes the tables; no JVM."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import duckdb
import pyarrow as pa
from deltalake import DeltaTable

from upsell_assets.errors import PermanentError
from upsell_assets.lake.duck import quote, reader, register
from upsell_assets.lake.engines import Capabilities, Query
from upsell_assets.lake.files import rows_of
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
        connection = reader(self.lake)
        names: dict[str, str] = {}
        for number, name in enumerate(sorted(source_tables(query.tree))):
            names[name] = f"input_{number}"
            if (rows := query.relations.get(name)) is not None:
                connection.register(names[name], rows)
            else:
                self._show(connection, names[name], self.lake.open(name, query.versions.get(name)))
        try:
            result = _as_spark_counts(connection.sql(to_duckdb(bind(query.tree, names, query.params))))
            found = result.to_arrow_reader(BATCH_ROWS)
        except duckdb.Error as error:
            connection.close()
            raise PermanentError(f"the query was refused: {error}") from error
        return pa.RecordBatchReader.from_batches(found.schema, _batches(connection, found))

    def _show(self, connection: duckdb.DuckDBPyConnection, name: str, table: DeltaTable) -> None:
        """Make a table readable under a name: by DuckDB itself, which holds little of it in memory at a time.

        Of a partitioned table Arrow reads the files of those partitions only that a condition asks for.
        """
        if table.metadata().partition_columns:
            register(connection, name, self.lake.rows(table))
        else:
            connection.execute(f"CREATE TEMP VIEW {quote(name)} AS {rows_of(connection, name, table)}")

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
