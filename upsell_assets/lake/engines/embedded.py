"""The embedded engine: DuckDB runs the SQL, delta-rs reads and writes the tables; no JVM."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import duckdb
import pyarrow as pa
from deltalake import DeltaTable

from upsell_assets.errors import PermanentError
from upsell_assets.lake.duck import quote, reader, register
from upsell_assets.lake.engines import Query
from upsell_assets.lake.files import rows_of
from upsell_assets.lake.sql import render_duckdb, source_tables
from upsell_assets.lake.tables import Lake

BATCH_ROWS = 65_536


@dataclass
class EmbeddedEngine:
    """One lake, one in-memory DuckDB connection per query."""

    lake: Lake

    def run(self, query: Query) -> pa.RecordBatchReader:
        """See `Engine.run`."""
        connection = reader(self.lake)
        names: dict[str, str] = {}
        for number, name in enumerate(sorted(source_tables(query.tree))):
            names[name] = f"input_{number}"
            if (rows := query.relations.get(name)) is not None:
                connection.register(names[name], rows)
            else:
                self._show(connection, names[name], query.tables.get(name) or self.lake.open(name))
        try:
            result = connection.execute(render_duckdb(query.tree, names, query.params))
            kinds = [str(kind) for _, kind, *_ in result.description or ()]
            found = result.to_arrow_reader(BATCH_ROWS)
        except duckdb.Error as error:
            connection.close()
            raise PermanentError(f"the query was refused: {error}") from error
        wide = zip(found.schema, kinds, strict=True)
        schema = pa.schema([field.with_type(pa.int64()) if kind == "HUGEINT" else field for field, kind in wide])
        return pa.RecordBatchReader.from_batches(schema, _batches(connection, found, schema))

    def _show(self, connection: duckdb.DuckDBPyConnection, name: str, table: DeltaTable) -> None:
        """Make a table readable under a name: by DuckDB itself, which holds little of it in memory at a time.

        Of a partitioned table Arrow reads the files of those partitions only that a condition asks for.
        """
        if table.metadata().partition_columns:
            register(connection, name, self.lake.rows(table))
        else:
            connection.execute(f"CREATE TEMP VIEW {quote(name)} AS {rows_of(connection, name, table)}")

    def cluster(self, query: Query) -> None:
        """There is none."""

    def close(self) -> None:
        """Nothing is held between queries."""


def _batches(
    connection: duckdb.DuckDBPyConnection, reader: pa.RecordBatchReader, schema: pa.Schema
) -> Iterator[pa.RecordBatch]:
    """A sum of bigint is bigint in Spark and wider in DuckDB; one that does not fit is refused by both."""
    try:
        for batch in reader:
            yield batch.cast(schema)
    except (OSError, pa.ArrowInvalid) as error:  # what a row far down makes of the query
        raise PermanentError(f"the query was refused: {error}") from error
    finally:
        connection.close()
