"""Queries over many dtRefs, run some dtRefs at a time: the rows are those of one run, memory is that of a portion."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import date

import pyarrow as pa
from deltalake import DeltaTable

from upsell_assets.lake.engines import Engine, Query
from upsell_assets.lake.partitions import PORTION_ROWS, replace_by_cluster
from upsell_assets.lake.sql import DTREFS

FIRST_DAYS = 2
"""dtRefs of the first portion; how many rows they have tells how many the next may take."""

MOST_DAYS = 16
"""However few rows they have: what is joined and counted for them may be much."""


def replace_by_query(
    engine: Engine, name: str, query: Query, partitions: Mapping[str, Sequence[str]], key: Sequence[str] = ()
) -> tuple[DeltaTable, int]:
    """Replace the named partitions of a table by the rows of a query; without any, the whole table.

    Returns:
        The table, and how many rows were written.

    Raises:
        UnknownTableError, PermanentError, DoubledKeysError, CommitFailedError: as `Engine.run` and `Lake.replace`.
    """
    if cluster := engine.cluster(query):
        return replace_by_cluster(engine.lake, name, cluster, query, partitions, key)
    counted = Counted(run_by_portions(engine, query))
    return engine.lake.replace(name, counted.reader, partitions=partitions, key=key), counted.rows


class Counted:
    """A reader that counts the rows which pass."""

    def __init__(self, source: pa.RecordBatchReader) -> None:
        self.rows = 0
        self.reader = pa.RecordBatchReader.from_batches(source.schema, self._pass(source))

    def _pass(self, source: pa.RecordBatchReader) -> Iterator[pa.RecordBatch]:
        for batch in source:
            self.rows += batch.num_rows
            yield batch


def run_by_portions(engine: Engine, query: Query) -> pa.RecordBatchReader:
    """Run a query; one that asks for dtRefs gives each of them whole in one batch, in their order.

    Raises:
        UnknownTableError, PermanentError: as `Engine.run`.
    """
    if DTREFS not in query.relations:
        return engine.run(query)
    days = query.relations[DTREFS]["dtRef"].to_pylist()
    first = engine.run(query.over(days[:FIRST_DAYS])).read_all()
    return pa.RecordBatchReader.from_batches(first.schema, _batches(engine, query, first, days[FIRST_DAYS:]))


def _batches(engine: Engine, query: Query, rows: pa.Table, days: list[date]) -> Iterator[pa.RecordBatch]:
    taken = FIRST_DAYS
    while True:
        yield from rows.sort_by("dtRef").combine_chunks().to_batches()
        if not days:
            return
        # By steps: days without rows say little of those that follow.
        taken = min(max(PORTION_ROWS * taken // max(rows.num_rows, 1), 1), 4 * taken, MOST_DAYS)
        rows = engine.run(query.over(days[:taken])).read_all()
        days = days[taken:]
