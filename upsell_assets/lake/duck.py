"""DuckDB as the lake uses it: in memory, in UTC, never reaching for the network by itself."""

from __future__ import annotations

import duckdb
from deltalake import DeltaTable


def connect() -> duckdb.DuckDBPyConnection:
    """A new in-memory connection whose session is in UTC."""
    connection = duckdb.connect(config={"autoinstall_known_extensions": "false", "autoload_known_extensions": "false"})
    connection.execute("SET TimeZone = 'UTC'")
    # The keys of a join would be pushed into Arrow's scans as filters that Arrow does not have
    # (https://github.com/duckdb/duckdb-python/issues/463).
    connection.execute("SET disabled_optimizers = 'join_filter_pushdown'")
    return connection


def register(connection: duckdb.DuckDBPyConnection, name: str, table: DeltaTable) -> None:
    """Make the rows of a Delta table readable under a name; files and partitions that cannot match are not read.

    Conditions on text are not pushed into the scan: a MERGE of delta-rs marks the text of the files that it writes as
    string views, an append does not, and Arrow cannot compare the two. Columns that are expressions are not pushed.
    """
    hidden = ", ".join(
        f"{column} || {empty} AS {column}"
        for column, kind in ((quote(field.name), str(field.type)) for field in table.schema().fields)
        if (empty := {'PrimitiveType("string")': "''", 'PrimitiveType("binary")': "''::BLOB"}.get(kind))
    )
    files = quote(f"{name} files")
    connection.register(files[1:-1], table.to_pyarrow_dataset())
    rows = f"SELECT * REPLACE ({hidden})" if hidden else "SELECT *"
    connection.execute(f"CREATE TEMP VIEW {quote(name)} AS {rows} FROM {files}")


def quote(name: str) -> str:
    """An identifier, quoted."""
    return '"' + name.replace('"', '""') + '"'
