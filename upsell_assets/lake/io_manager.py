"""The IO manager: asset key = table name, Delta on S3, lazy loads, writes that replace a run's partitions only.

Here: how an asset's rows become a table and how a table is handed to the next asset. Not here: tables that are
merged (bronze, silver); their assets commit themselves and return no rows. On load the table is trusted, not the
event log: a materialization is a claim about the object store, not the object store.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypeAlias

import dagster as dg
import pyarrow as pa
from deltalake import DeltaTable
from sqlglot import exp

from upsell_assets.lake.checks import report_doubled
from upsell_assets.lake.engines import Query
from upsell_assets.lake.keys import DoubledKeysError
from upsell_assets.lake.lakehouse import Lakehouse
from upsell_assets.lake.metadata import table_metadata
from upsell_assets.lake.portions import Counted, replace_by_query
from upsell_assets.retries import RETRIES, tried_again

IO_MANAGER = "delta_io_manager"
"""The resource key under which the code location has it."""

PARTITION_COLUMN = "partition_expr"
"""Metadata key under which an asset names the column that its partitions are (Dagster's own convention)."""

KEY = "key"
"""Metadata key under which an asset with partitions names the columns, by commas, of which each combination has one row."""

Rows: TypeAlias = Query | pa.Table | pa.RecordBatchReader


class DeltaIOManager(dg.IOManager):
    """Reads and writes the lake's tables for Dagster."""

    def __init__(self, lakehouse: Lakehouse) -> None:
        self._lakehouse = lakehouse

    def handle_output(self, context: dg.OutputContext, obj: Rows) -> None:
        """Write what an asset returned: a query runs only here.

        Raises:
            DoubledKeysError: several rows have one key; nothing was written, and the check says which.
            PermanentError: the engine refuses the query; nothing was written.
            RetryRequested: somebody else wrote the table meanwhile, or the store did not answer.
        """
        with tried_again(_earlier_attempts(context)):
            self._write(context, obj)

    def _write(self, context: dg.OutputContext, obj: Rows) -> None:
        name = ".".join(context.asset_key.path)
        definition = context.definition_metadata or {}
        column = definition.get(PARTITION_COLUMN)
        partitions = {str(column): context.asset_partition_keys} if column and context.has_asset_partitions else {}
        key = str(definition.get(KEY, "")) if partitions else ""
        try:
            table, rows = self._replace(name, obj, partitions, key.split(", ") if key else [])
        except DoubledKeysError as error:
            report_doubled(context.step_context.instance, error)
            raise
        sql = obj.sql if isinstance(obj, Query) else None
        told = table_metadata(self._lakehouse, table, definition, sql)
        context.add_output_metadata({"rows_written": rows, **told})

    def _replace(
        self, name: str, rows: Rows, partitions: Mapping[str, Sequence[str]], key: Sequence[str]
    ) -> tuple[DeltaTable, int]:
        """Write rows in the place of partitions, or of the table; how many there were."""
        if isinstance(rows, Query):
            return replace_by_query(self._lakehouse.engine, name, rows, partitions, key)
        counted = Counted(rows.to_reader() if isinstance(rows, pa.Table) else rows)
        return self._lakehouse.lake.replace(name, counted.reader, partitions=partitions, key=key), counted.rows

    def load_input(self, context: dg.InputContext) -> object:
        """Hand over a table: lazily as a `Query`, or as the input's annotation asks (Arrow table, reader, DeltaTable).

        The newest version at this moment is pinned. Of a partitioned asset only the run's partitions are read.

        Raises:
            UnknownTableError: the table has not been made.
        """
        name = ".".join(context.asset_key.path)
        table = self._lakehouse.lake.open(name)
        wanted = context.dagster_type.typing_type
        if wanted is DeltaTable:
            return table
        tree = exp.select("*").from_(exp.to_table(name, dialect="spark"))
        upstream = context.upstream_output
        column = (upstream.definition_metadata or {}).get(PARTITION_COLUMN) if upstream else None
        if column and context.has_asset_partitions:
            days = [exp.cast(exp.Literal.string(key), "date") for key in context.asset_partition_keys]
            tree = tree.where(exp.column(str(column)).isin(*days))
        query = Query(tree, tables={name: table})
        if wanted is pa.RecordBatchReader:
            return self._lakehouse.engine.run(query)
        return self._lakehouse.engine.run(query).read_all() if wanted is pa.Table else query


def _earlier_attempts(context: dg.OutputContext) -> int:
    """How many attempts of the step failed before; outside of a run nobody makes another one."""
    try:
        return context.step_context.previous_attempt_count
    except dg.DagsterInvariantViolationError:
        return RETRIES
