"""The engines that run the lake's SQL: embedded (DuckDB over delta-rs) and Spark, behind one interface.

An engine reads pinned versions of Delta tables and runs Spark-dialect queries over them, with equal results.
Ask `capabilities`, never the name. Which one is active is a setting.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import date, datetime
from typing import TYPE_CHECKING, Protocol

import pyarrow as pa
from sqlglot import exp

from upsell_assets.lake.sql import DTREFS, FIRST_DTREF, LAST_DTREF

if TYPE_CHECKING:
    from deltalake import DeltaTable

    from upsell_assets.lake.sql import SqlFile
    from upsell_assets.lake.store import ObjectStore
    from upsell_assets.settings import Settings


@dataclass(frozen=True)
class Capabilities:
    """What an engine can do; `writes`: whether it commits to tables itself."""

    writes: bool


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

    capabilities: Capabilities

    def run(self, query: Query) -> pa.RecordBatchReader:
        """Run a query; rows come as they are read. Timestamps are instants, in UTC.

        Raises:
            UnknownTableError: a table of the query is neither in the lake nor among the relations.
            PermanentError: the engine refuses the query; its own words are in the text.
        """
        ...

    def close(self) -> None:
        """Give back what the engine holds."""
        ...


def open_engine(settings: Settings, store: ObjectStore) -> Engine:
    """The engine that the settings name."""
    from upsell_assets.lake.tables import Lake

    if settings.engine == "spark":
        from upsell_assets.lake.engines.spark import SparkEngine

        return SparkEngine.from_settings(settings, store)
    from upsell_assets.lake.engines.embedded import EmbeddedEngine

    return EmbeddedEngine(Lake.of(store))
