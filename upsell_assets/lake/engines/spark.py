"""The Spark engine: the same SQL on Spark, local or on a cluster, over the lake's Delta tables by S3A.

Here: how a query runs in the session. Not here: the session (`spark_session`), and files that are looked up and written
anew (`spark_files`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import TYPE_CHECKING

import pyarrow as pa
from deltalake import DeltaTable
from deltalake.transaction import AddAction

from upsell_assets.lake.engines import HOME, Query
from upsell_assets.lake.engines.embedded import EmbeddedEngine
from upsell_assets.lake.engines.spark_files import SparkFiles
from upsell_assets.lake.engines.spark_session import Spark, arrow_of, frame_of, refusals, spark_path
from upsell_assets.lake.sql import bind, source_tables, to_spark
from upsell_assets.lake.tables import Lake

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

    from upsell_assets.lake.store import ObjectStore
    from upsell_assets.settings import Settings


@dataclass
class SparkEngine:
    """One lake, and one Spark session from its first use until `close`.

    What reads few files, or none, DuckDB runs in this process, with the same result: see `Spark.min_files`.
    """

    lake: Lake
    spark: Spark

    @classmethod
    def from_settings(cls, settings: Settings, store: ObjectStore) -> SparkEngine:
        """The engine over a bucket; starts nothing."""
        spark = Spark.from_settings(settings, store)
        return cls(Lake.of(store, SparkFiles(spark)), spark)

    def run(self, query: Query) -> pa.RecordBatchReader:
        """See `Engine.run`; the query has run to its end when this returns, so that its errors come from here."""
        query = replace(query, tables=self._opened(query))  # once, whoever runs it
        if self.cluster(query) is None:
            return EmbeddedEngine(self.lake).run(query)
        with refusals():
            return arrow_of(self._frame(query)).to_reader()

    def cluster(self, query: Query) -> SparkEngine | None:
        """See `Engine.cluster`."""
        files = [file for table in self._opened(query).values() for file in table.file_uris()]
        return self if self.spark.are_many(files) else None

    def schema(self, query: Query) -> pa.Schema:
        """See `Cluster.schema`."""
        from pyspark.sql.pandas.types import to_arrow_schema

        with refusals():
            found = to_arrow_schema(self._frame(query).schema, timezone="UTC")
        return pa.schema([pa.field(column.name, column.type) for column in found])

    def write(
        self,
        table: DeltaTable,
        query: Query,
        *,
        by: Sequence[str] = (),
        homes: tuple[str, pa.Table] | None = None,
        without: Mapping[str, pa.Table] | None = None,
        most_rows: int = 0,
    ) -> list[tuple[dict[str, str | None], AddAction]]:
        """See `Cluster.write`."""
        with refusals():
            frame = self._frame(query, without or {})
            if homes:
                frame, by = _at_home(frame, *homes), [HOME]
            elif by:
                frame = frame.hint("rebalance", *by)
            return SparkFiles(self.spark).staged(self.lake, table, frame, by, most_rows=most_rows)

    def _frame(self, query: Query, without: Mapping[str, pa.Table] = MappingProxyType({})) -> DataFrame:
        # A session of its own for each query, so that its views meet nobody else's.
        session, tables = self.spark.session.newSession(), self._opened(query)
        names: dict[str, str] = {}
        for number, name in enumerate(sorted(source_tables(query.tree))):
            names[name] = f"input_{number}"
            rows = query.relations.get(name)
            frame = self._table(session, tables[name]) if rows is None else frame_of(session, rows)
            if (keys := without.get(name)) is not None:
                frame = frame.join(frame_of(session, keys), keys.column_names, "left_anti")
            frame.createTempView(names[name])
        return session.sql(to_spark(bind(query.tree, names, query.params)))

    def close(self) -> None:
        """Stop the session; the next query starts another."""
        self.spark.close()

    def _opened(self, query: Query) -> dict[str, DeltaTable]:
        names = source_tables(query.tree) - query.relations.keys()
        return {name: query.tables.get(name) or self.lake.open(name) for name in sorted(names)}

    def _table(self, session: SparkSession, table: DeltaTable) -> DataFrame:
        reader = session.read.format("delta").options(**self.spark.options).option("versionAsOf", table.version())
        return reader.load(spark_path(table.table_uri))


def _at_home(frame: DataFrame, column: str, numbers: pa.Table) -> DataFrame:
    """Rows with the number of their file, those of one number together."""
    from pyspark.sql import functions as f

    known = frame.join(f.broadcast(frame_of(frame.sparkSession, numbers)), column, "left")
    # No row is lost because nobody foresaw its value.
    home = f.coalesce(f.col(HOME), f.raise_error(f.lit(f"no file for a row's {column}")))
    return known.withColumn(HOME, home.cast("int")).repartition(max(len(numbers[HOME].unique()), 1), HOME)
