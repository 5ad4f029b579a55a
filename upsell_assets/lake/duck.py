"""DuckDB as the lake uses it: in memory, in UTC, never reaching for the network by itself."""

from __future__ import annotations

import os
from collections.abc import Iterable
from functools import lru_cache
from importlib.resources import files as package_files
from threading import Lock
from typing import TYPE_CHECKING

import duckdb
import pyarrow as pa
from pyarrow.dataset import Dataset

from upsell_assets.errors import PermanentError

if TYPE_CHECKING:
    from upsell_assets.lake.tables import Lake

_EMPTY = {pa.string(): "''", pa.binary(): "''::BLOB"}


def connect() -> duckdb.DuckDBPyConnection:
    """A new in-memory connection whose session is in UTC."""
    connection = duckdb.connect(config={"autoinstall_known_extensions": "false", "autoload_known_extensions": "false"})
    connection.execute("SET TimeZone = 'UTC'")
    # What takes long says so itself; a bar of DuckDB's own would be drawn across it.
    connection.execute("SET enable_progress_bar = false")
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


def reader(lake: Lake) -> duckdb.DuckDBPyConnection:
    """A new connection that reads the lake's own parquet files (see `parquet`), with the credentials of this moment.

    Those of one process and lake share what is costly to begin: connections to the object store.
    """
    shared = _reader(lake.root, os.getpid())
    if lake.root.startswith("s3://"):
        shared.give_credentials(lake)
    connection = shared.connection.cursor()
    connection.execute("SET TimeZone = 'UTC'")
    connection.execute("SET enable_progress_bar = false")
    return connection


class _Reader:
    """A DuckDB instance for the files of one lake."""

    def __init__(self, root: str) -> None:
        self.connection = connect()
        self._lock = Lock()
        self._credentials = ""
        # Files are read once; what is kept of them would only grow.
        self.connection.execute("SET enable_external_file_cache = false")
        if root.startswith("s3://"):
            # The extension as DuckDB signed it, from a locked package: nothing is fetched when it is first needed.
            extension = package_files("duckdb_extension_httpfs") / "extensions" / f"v{duckdb.__version__}"
            self.connection.execute(f"LOAD {text(str(extension / 'httpfs.duckdb_extension'))}")
            # A file of a table never changes: what was learnt of it, its size and its footer, stays true.
            self.connection.execute("SET GLOBAL enable_http_metadata_cache = true")
            self.connection.execute("SET GLOBAL parquet_metadata_cache = true")

    def give_credentials(self, lake: Lake) -> None:
        """Make the store's settings of this moment those of the instance; threads that do so at once take turns."""
        options = lake.options()
        scheme, _, address = options.get("aws_endpoint", "").rpartition("://")
        named = {
            "KEY_ID": options["aws_access_key_id"],
            "SECRET": options["aws_secret_access_key"],
            "SESSION_TOKEN": options.get("aws_session_token"),
            "REGION": options["aws_region"],
            "ENDPOINT": address or None,
            "URL_STYLE": "path" if address else None,
            "USE_SSL": "false" if scheme == "http" else None,
            "SCOPE": lake.root,
        }
        given = ", ".join(f"{name} {text(value)}" for name, value in named.items() if value)
        with self._lock:
            if given == self._credentials:
                return
            try:
                self.connection.execute(f"CREATE OR REPLACE TEMPORARY SECRET {quote(lake.root)} (TYPE s3, {given})")
            except duckdb.Error:
                # Not the cause: its text has the key.
                raise PermanentError(f"{lake.root}: DuckDB did not take the object store's settings.") from None
            self._credentials = given


@lru_cache(maxsize=2)
def _reader(root: str, _process: int) -> _Reader:
    return _Reader(root)


def parquet(paths: Iterable[str]) -> str:
    """Relation: rows of parquet files, by their names of columns, and `filename`."""
    listed = ", ".join(text(path) for path in paths)
    return f"read_parquet([{listed}], filename = true, hive_partitioning = false, union_by_name = true)"


def text(value: str) -> str:
    """A literal."""
    return "'" + value.replace("'", "''") + "'"


def quote(name: str) -> str:
    """An identifier, quoted."""
    return '"' + name.replace('"', '""') + '"'
