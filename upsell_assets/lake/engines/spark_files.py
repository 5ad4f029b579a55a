"""The data files of tables, read and written by Spark's executors.

Files that are written lie in a folder of their own below the table. Spark writes them as a small Delta table, whose log
names just the files of the tasks that ended well, with their statistics; that log is read and deleted, and the caller
commits these files to the table itself. So whatever becomes of an executor or of this process, no reader sees a file
that was not committed, and a second writer is refused as it is by the embedded engine.

Not here: the session (`spark_session`), queries (`spark`).
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import count
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote
from uuid import uuid4

import duckdb
import pyarrow as pa
import pyarrow.compute as pc
import sqlglot
from deltalake import DeltaTable
from deltalake.transaction import AddAction
from sqlglot import exp

from upsell_assets.lake.data import DuckFiles
from upsell_assets.lake.duck import quote
from upsell_assets.lake.engines import HOME
from upsell_assets.lake.engines.spark_session import Spark, arrow_of, frame_of, lake_path, refusals, spark_path
from upsell_assets.lake.files import NewFile, folder_of, root_of, write_files
from upsell_assets.lake.sql import bind, to_spark
from upsell_assets.lake.vacuum import delete_files

if TYPE_CHECKING:
    from pyspark.sql import Column, DataFrame, SparkSession

    from upsell_assets.lake.tables import Lake

_PLAIN = {
    # Whatever the user's defaults are: the files become those of another table.
    "delta.columnMapping.mode": "none",
    "delta.enableDeletionVectors": "false",
    "delta.enableRowTracking": "false",
    "delta.checkpointPolicy": "classic",
    "delta.dataSkippingNumIndexedCols": "-1",
}

_BROADCAST_ROWS = 1_000_000
"""Keys up to which each executor gets all of them."""

_NAMES = count()


@dataclass(frozen=True)
class SparkFiles:
    """Spark reads and writes them; a step that concerns few files is left to DuckDB."""

    spark: Spark
    keys_first: bool = field(default=False, init=False)

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
        """See `DataFiles.rows`; the rows come to this process at once.

        Raises:
            PermanentError: Spark refused to read them.
        """
        if not paths or not self.spark.are_many(paths):
            return DuckFiles().rows(lake, connection, paths, shape, columns, keys=keys, on=on, where=where)
        frame = self._read(paths, shape, columns or shape.names).alias("r")
        if keys:
            known = connection.table(keys).select(", ".join(map(quote, on))).distinct().to_arrow_table()
            frame = frame.join(self._keys(known), [*on], "left_semi").alias("r")
        if where:
            frame = frame.where(sqlglot.transpile(where, read="duckdb", write="spark")[0])
        with refusals():
            found = arrow_of(frame)
        files = pa.array([lake_path(path) for path in found["filename"].to_pylist()], pa.string())
        name = f"found_{next(_NAMES)}"
        connection.register(name, found.set_column(found.column_names.index("filename"), "filename", files))
        return name

    def write(self, lake: Lake, table: DeltaTable, new: Sequence[NewFile]) -> list[AddAction]:
        """See `DataFiles.write`. Rows that are in this process are written by it.

        Raises:
            PermanentError: Spark refused to write them.
        """
        taking = [file for file in new if file.kept]
        if not taking or not self.spark.are_many({path for file in taking for path in file.kept}):
            return write_files(lake, table, new)
        added = write_files(lake, table, [file for file in new if not file.kept])
        with refusals():
            written = self.staged(lake, table, self._taken_over(table, taking), [HOME])
        for values, action in written:
            action.partition_values = dict(taking[int(values[HOME] or 0)].partition)
            added.append(action)
        return added

    def ask(self, lake: Lake, paths: Sequence[str], shape: pa.Schema, query: exp.Query) -> pa.Table:
        """See `DataFiles.ask`.

        Raises:
            PermanentError: Spark refused the query.
        """
        if not self.spark.are_many(paths):
            return DuckFiles().ask(lake, paths, shape, query)
        with refusals():
            session = self.spark.session.newSession()
            self._read(paths, shape, shape.names, session).createTempView("rows_of_files")
            return arrow_of(session.sql(to_spark(bind(query, {"rows": "rows_of_files"}, {}))))

    def quantiles(self, lake: Lake, paths: Sequence[str], column: str, pieces: int) -> list[datetime]:
        """See `DataFiles.quantiles`; about so."""
        from pyspark.sql import functions as f

        if not self.spark.are_many(paths):
            return DuckFiles().quantiles(lake, paths, column, pieces)
        shape = pa.schema([pa.field(column, pa.timestamp("us", tz="UTC"))])
        moments = self._read(paths, shape, [column]).select(f.unix_micros(f.col(_tick(column))).alias("at"))
        cuts = moments.approxQuantile("at", [number / pieces for number in range(1, pieces)], 0.01)
        return [datetime.fromtimestamp(cut / 1_000_000, UTC) for cut in sorted(set(cuts))]

    def staged(
        self, lake: Lake, table: DeltaTable, frame: DataFrame, by: Sequence[str], *, most_rows: int = 0
    ) -> list[tuple[dict[str, str | None], AddAction]]:
        """Write a frame's rows as files below a table, none of them with rows of two values of `by`.

        Args:
            lake: where the table lies.
            table: the table.
            frame: its rows, with the columns `by`, which the files do not have.
            by: columns.
            most_rows: rows of a file; 0: as they come.

        Returns:
            The values of `by` as texts, and the file, which is of no partition.
        """
        folder = f"spark-{uuid4()}"
        options = {**_PLAIN, **self.spark.options, **({"maxRecordsPerFile": str(most_rows)} if most_rows else {})}
        writer = frame.write.format("delta").mode("errorifexists").options(**options).partitionBy(*by)
        writer.save(spark_path(f"{root_of(table)}/{folder}"))
        entries = _log(lake, table, folder)
        now = time.time_ns() // 1_000_000
        return [
            (
                add["partitionValues"],
                AddAction(f"{folder}/{unquote(add['path'])}", add["size"], {}, now, True, add["stats"]),
            )
            for add in (entry["add"] for entry in entries if "add" in entry)
            if json.loads(add["stats"])["numRecords"]
        ]

    def _taken_over(self, table: DeltaTable, new: Sequence[NewFile]) -> DataFrame:
        """The rows of files, with the number of each (`HOME`), those of one number together."""
        from pyspark.sql import functions as f

        partitions = table.metadata().partition_columns
        shape = pa.schema([c for c in pa.schema(table.schema().to_arrow()) if c.name not in partitions])
        kept = self._read(sorted({path for file in new for path in file.kept}), shape, shape.names)
        planned = kept.join(f.broadcast(self._plan(kept, new)), "filename", "left")
        # No row is lost because its file was not found again.
        number = f.coalesce(f.col(HOME), f.raise_error(f.concat(f.lit("not planned: "), f.col("filename"))))
        frame = planned.withColumn(HOME, number.cast("int")).drop("filename")
        column = next((file.within[0] for file in new if file.within), None)
        if column:
            frame = frame.where(_within(f.col(_tick(column))))
        gone = _one([file.gone for file in new if file.gone is not None])
        if gone is not None:
            frame = frame.join(self._keys(gone), gone.column_names, "left_anti")
        frame = frame.select(*map(_tick, shape.names), HOME)
        own = [
            file.rows.append_column(HOME, pa.repeat(pa.scalar(number, pa.int32()), file.rows.num_rows))
            for number, file in enumerate(new)
            if file.rows is not None and file.rows.num_rows
        ]
        if own:
            rows = pa.concat_tables(own, promote_options="default")
            frame = frame.unionByName(frame_of(self.spark.session, rows), allowMissingColumns=True)
        return frame.repartition(len(new), HOME).select(*map(_tick, shape.names), HOME)

    def _plan(self, kept: DataFrame, new: Sequence[NewFile]) -> DataFrame:
        """Which file's rows go to which new one, and between which moments these lie (excluded, included)."""
        # As Spark spells them itself, which what it says of a row's file is compared with.
        spelled = {lake_path(path): path for path in kept.inputFiles()}
        rows = [
            {"filename": spelled[path], HOME: number, "_after": within[1], "_until": within[2]}
            for number, file in enumerate(new)
            for within in [file.within or ("", None, None)]
            for path in file.kept
        ]
        instant = pa.timestamp("us", tz="UTC")
        kinds = {"filename": pa.string(), HOME: pa.int32(), "_after": instant, "_until": instant}
        return frame_of(self.spark.session, pa.Table.from_pylist(rows, pa.schema(kinds)))

    def _read(
        self, paths: Sequence[str], shape: pa.Schema, columns: Sequence[str], session: SparkSession | None = None
    ) -> DataFrame:
        from pyspark.sql import functions as f
        from pyspark.sql.pandas.types import from_arrow_schema

        kinds = from_arrow_schema(pa.schema([shape.field(name) for name in columns]), prefer_timestamp_ntz=True)
        reader = (session or self.spark.session).read.schema(kinds).options(**self.spark.options)
        rows = reader.parquet(*map(spark_path, paths))
        # As `inputFiles` spells a path of this machine.
        file = f.regexp_replace(f.col("_metadata.file_path"), "^file:/+", "file:///")
        return rows.select("*", file.alias("filename"))

    def _keys(self, keys: pa.Table) -> DataFrame:
        from pyspark.sql import functions as f

        frame = frame_of(self.spark.session, keys)
        return f.broadcast(frame) if keys.num_rows <= _BROADCAST_ROWS else frame


def _within(column: Column) -> Column:
    from pyspark.sql import functions as f

    after, until = f.col("_after"), f.col("_until")
    return (after.isNull() | (column > after)) & (until.isNull() | (column <= until))


def _one(keys: Iterable[pa.Table]) -> pa.Table | None:
    """Keys that are gone, of all files: where several say so, they say the same."""
    found = {id(table): table for table in keys}
    if not found:
        return None
    every = pa.concat_tables(found.values())
    return every.group_by(every.column_names).aggregate([]).filter(_present(every.column_names))


def _present(columns: Iterable[str]) -> pc.Expression:
    """No key has a null."""
    conditions = [pc.field(name).is_valid() for name in columns]
    found = conditions[0]
    for condition in conditions[1:]:
        found &= condition
    return found


def _log(lake: Lake, table: DeltaTable, folder: str) -> list[Mapping[str, Any]]:
    """What the log of a staged table says; then it is deleted."""
    log = f"{folder}/_delta_log"
    with lake.files().open_input_stream(f"{folder_of(table)}/{log}/{0:020}.json") as stream:
        entries = [json.loads(line) for line in stream.read().splitlines()]
    delete_files(lake, table, log)
    return entries


def _tick(name: str) -> str:
    return "`" + name.replace("`", "``") + "`"
