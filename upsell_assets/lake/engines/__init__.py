"""The engines that run the lake's SQL: embedded (DuckDB over delta-rs) and Spark, behind one interface.

An engine reads pinned versions of Delta tables and runs Spark-dialect queries over them, with equal results. Ask what
it can do (`Engine.cluster`), never its name. Which one is active is a setting.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import date, datetime
from typing import TYPE_CHECKING, Protocol

import pyarrow as pa
from sqlglot import exp

from upsell_assets.lake.sql import DTREFS, FIRST_DTREF, LAST_DTREF

if TYPE_CHECKING:
    from deltalake import DeltaTable
    from deltalake.transaction import AddAction

    from upsell_assets.lake.sql import SqlFile
    from upsell_assets.lake.store import ObjectStore
    from upsell_assets.lake.tables import Lake
    from upsell_assets.settings import Settings


@dataclass(frozen=True)
class Query:
    """A query that has not run yet: handed over lazily, run by whoever needs the rows.

    Attributes:
        tree: a Spark-dialect query over three-part table names.
        params: values of its `:name` markers.
        relations: rows that the query reads under names that are no tables of the lake, such as `dtrefs`, or in
            the place of a table (silver runs its SQL over the changed rows only).
        tables: table -> as it was opened, at the version that is read; others are read at their newest.
        sql: the file that the query comes from, for descriptions and lineage.
    """

    tree: exp.Query
    params: Mapping[str, bool | int | float | str | datetime | date | None] = field(default_factory=dict)
    relations: Mapping[str, pa.Table] = field(default_factory=dict)
    tables: Mapping[str, DeltaTable] = field(default_factory=dict)
    sql: SqlFile | None = None

    def over(self, days: Iterable[date]) -> Query:
        """The same query, asked for these dtRefs."""
        dtrefs = sorted(days)
        spine = pa.table({"dtRef": pa.array(dtrefs, pa.date32())})
        ends = {FIRST_DTREF: dtrefs[0] if dtrefs else None, LAST_DTREF: dtrefs[-1] if dtrefs else None}
        return replace(self, relations={**self.relations, DTREFS: spine}, params={**self.params, **ends})


class Engine(Protocol):
    """What every engine offers."""

    @property
    def lake(self) -> Lake:
        """The tables that it reads."""
        ...

    def run(self, query: Query) -> pa.RecordBatchReader:
        """Run a query; rows come as they are read. Timestamps are instants, in UTC.

        Raises:
            UnknownTableError: a table of the query is neither in the lake nor among the relations.
            PermanentError: the engine refuses the query; its own words are in the text.
        """
        ...

    def cluster(self, query: Query) -> Cluster | None:
        """What writes the rows of this query where they are computed; None: they may come to this process (`run`)."""
        ...

    def close(self) -> None:
        """Give back what the engine holds."""
        ...


class Cluster(Protocol):
    """Writes rows that no one process ever holds."""

    def schema(self, query: Query) -> pa.Schema:
        """The columns of a query.

        Raises:
            UnknownTableError, PermanentError: as `Engine.run`.
        """
        ...

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
        """Write a query's rows as files below a table; no reader sees them before `lake.files.exchange` names them.

        Args:
            table: the table, which may have other columns.
            query: its rows.
            by: columns that the files do not have; no file has rows of two values of them.
            homes: a column and, for each of its values, the number of the file that rows of it go to (`HOME`).
            without: table of the query -> keys of rows that it does not have, in the columns of its key.
            most_rows: rows of a file; 0: as they come.

        Returns:
            The values of `by` as texts, and the file, which is of no partition yet.

        Raises:
            UnknownTableError, PermanentError: as `Engine.run`.
        """
        ...


HOME = "_upsell_file"
"""The column of `Cluster.write` that says to which file a row goes."""


def open_engine(settings: Settings, store: ObjectStore) -> Engine:
    """The engine that the settings name."""
    from upsell_assets.lake.tables import Lake

    if settings.engine == "spark":
        from upsell_assets.lake.engines.spark import SparkEngine

        return SparkEngine.from_settings(settings, store)
    from upsell_assets.lake.engines.embedded import EmbeddedEngine

    return EmbeddedEngine(Lake.of(store))
