"""Who reads and writes the data files of tables: DuckDB in this process, or the executors of a Spark cluster.

Here: what costs by the table (rows of many files looked up by their keys, files written anew), behind one interface.
What costs by the change alone stays with its caller, and so do commits: whoever wrote the files, `lake.files.exchange`
names them in one commit, which fails if anybody else committed meanwhile. Not here: queries (`lake.engines`).
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from itertools import count
from typing import TYPE_CHECKING, Protocol

import duckdb
import pyarrow as pa
from deltalake import DeltaTable
from deltalake.transaction import AddAction
from sqlglot import exp

from upsell_assets.lake.duck import parquet, quote, reader
from upsell_assets.lake.files import NewFile, write_files
from upsell_assets.lake.sql import render_duckdb

if TYPE_CHECKING:
    from upsell_assets.lake.tables import Lake


_NAMES = count()


class DataFiles(Protocol):
    """Reads and writes the files of a lake's tables."""

    @property
    def keys_first(self) -> bool:
        """Whether it is worth while to look for the files that have some keys, before more is read of those."""
        ...

    def rows(
        self,
        lake: Lake,
        connection: duckdb.DuckDBPyConnection,
        paths: Sequence[str],
        shape: pa.Schema,
        columns: Sequence[str] | None = None,
        *,
        keys: str | None = None,
        on: Sequence[str] = (),
        where: str | None = None,
    ) -> str:
        """Some rows of files, as a relation of a connection, with the file of each as `filename`.

        Args:
            lake: where the files lie.
            connection: of `duck.reader`.
            paths: the files, with their folder.
            shape: the columns of their table; what a file does not have of them, and another one has, is null.
            columns: those that are read; None: all that the table is not partitioned by.
            keys: a relation of the connection; only rows whose values of `on` it has are read. None: all.
            on: the columns of a key.
            where: a condition on `r`, in DuckDB's words, that both engines know.
        """
        ...

    def write(self, lake: Lake, table: DeltaTable, new: Sequence[NewFile]) -> list[AddAction]:
        """Write files beside those of a table; no reader sees them before `exchange` names them. None for no rows."""
        ...

    def ask(self, lake: Lake, paths: Sequence[str], shape: pa.Schema, query: exp.Query) -> pa.Table:
        """Run a query over the rows of files, which it names `rows`; what it gives is small.

        Args:
            lake: where the files lie.
            paths: the files, with their folder; one at least.
            shape: the columns that it reads.
            query: in Spark's dialect, see `lake.sql.parse_query`.
        """
        ...

    def quantiles(self, lake: Lake, paths: Sequence[str], column: str, pieces: int) -> list[datetime]:
        """Moments that cut the rows of files into so many pieces of about one size, in their order, none twice."""
        ...


class DuckFiles:
    """DuckDB reads and writes them, in this process."""

    keys_first = True

    def rows(
        self,
        lake: Lake,  # noqa: ARG002 (the connection has its credentials)
        connection: duckdb.DuckDBPyConnection,
        paths: Sequence[str],
        shape: pa.Schema,
        columns: Sequence[str] | None = None,
        *,
        keys: str | None = None,
        on: Sequence[str] = (),
        where: str | None = None,
    ) -> str:
        """See `DataFiles.rows`; nothing is read before the relation is."""
        found = "r.*" if columns is None else ", ".join([*(f"r.{quote(name)}" for name in columns), "r.filename"])
        if not paths:
            # Of its own name: the relation is read later, and others of other shapes may come before.
            none = f"no_files_{next(_NAMES)}"
            connection.register(none, shape.empty_table())
            return f"(SELECT {found} FROM (SELECT *, NULL::VARCHAR AS filename FROM {none}) AS r)"
        same = " AND ".join(f"r.{quote(name)} = k.{quote(name)}" for name in on)
        of_keys = f" SEMI JOIN {keys} AS k ON {same}" if keys is not None else ""
        return f"(SELECT {found} FROM {parquet(paths)} AS r{of_keys}{f' WHERE {where}' if where else ''})"

    def write(self, lake: Lake, table: DeltaTable, new: Sequence[NewFile]) -> list[AddAction]:
        """See `DataFiles.write`."""
        return write_files(lake, table, new)

    def ask(self, lake: Lake, paths: Sequence[str], shape: pa.Schema, query: exp.Query) -> pa.Table:  # noqa: ARG002
        """See `DataFiles.ask`."""
        with reader(lake) as connection:
            connection.execute(f"CREATE TEMP VIEW rows_of_files AS SELECT * EXCLUDE (filename) FROM {parquet(paths)}")
            return connection.sql(render_duckdb(query, {"rows": "rows_of_files"}, {})).to_arrow_table()

    def quantiles(self, lake: Lake, paths: Sequence[str], column: str, pieces: int) -> list[datetime]:
        """See `DataFiles.quantiles`."""
        shares = ", ".join(f"{number / pieces}" for number in range(1, pieces))
        with reader(lake) as connection:
            [(cuts,)] = connection.execute(
                f"SELECT list_sort(list_distinct(quantile_disc({quote(column)}, [{shares}]::DOUBLE[]))) "
                f"FROM {parquet(paths)}"
            ).fetchall()
        return list(cuts)
