"""DuckDB as the lake uses it: in memory, in UTC, never reaching for the network by itself."""

from __future__ import annotations

import duckdb
import pyarrow as pa
from pyarrow.dataset import Dataset

_EMPTY = {pa.string(): "''", pa.binary(): "''::BLOB"}


def connect() -> duckdb.DuckDBPyConnection:
    """A new in-memory connection whose session is in UTC."""
    connection = duckdb.connect(config={"autoinstall_known_extensions": "false", "autoload_known_extensions": "false"})
    connection.execute("SET TimeZone = 'UTC'")
    return connection


def register(connection: duckdb.DuckDBPyConnection, name: str, rows: Dataset) -> None:
    """Make the rows of a table (`Lake.rows`) readable under a name; files and partitions that cannot match are not read.

    Conditions on text are not pushed into the scan: a MERGE of delta-rs marks the text of the files that it writes as
    string views, an append does not, and Arrow cannot compare the two. Columns that are expressions are not pushed.
    """
    hidden = [
        f"{quote(column.name)} || {_EMPTY[column.type]} AS {quote(column.name)}"
        for column in rows.schema
        if column.type in _EMPTY
    ]
    connection.register(f"{name}_files", rows)
    columns = f"* REPLACE ({', '.join(hidden)})" if hidden else "*"
    connection.execute(
        f"CREATE TEMP VIEW {quote(name)} AS SELECT {columns} FROM {quote(f'{name}_files')}"  # noqa: S608 (quoted)
    )


def quote(name: str) -> str:
    """An identifier, quoted."""
    return '"' + name.replace('"', '""') + '"'
