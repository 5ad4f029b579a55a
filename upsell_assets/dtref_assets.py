"""One asset per .sql file: features and gold, partitioned by dtRef, a range in one query.

Here: the factories. The rules are in the SQL; the IO manager replaces exactly the partitions of the run.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, date, datetime
from functools import lru_cache

import dagster as dg
from deltalake import DeltaTable
from sqlglot import exp

from upsell_assets.aggregates import AGGREGATES, refresh_aggregates
from upsell_assets.automation import Condition, on_change
from upsell_assets.dtref_files import COMPUTED, described
from upsell_assets.lake.engines import Engine, Query
from upsell_assets.lake.io_manager import IO_MANAGER, PARTITION_COLUMN, DeltaIOManager
from upsell_assets.lake.lakehouse import Lakehouse
from upsell_assets.lake.metadata import definition_metadata
from upsell_assets.lake.sql import DTREFS, SqlFile, load_sql
from upsell_assets.lake.tables import Lake
from upsell_assets.partitions import dtrefs
from upsell_assets.silver.assets import touched_key
from upsell_assets.silver.events import event_days, local_day
from upsell_assets.silver.touched import existing


def daily_sql_asset(lakehouse: Lakehouse, sql: SqlFile, *, group: str) -> dg.AssetsDefinition:
    """The asset of one file of ours: silver says which dtRefs a change touches; those that do not exist stay empty."""
    touched = touched_key(sql.name)

    def exist(days: list[date], now: datetime) -> list[date]:
        exists = existing(sql.name, event_days(lakehouse.lake, now), local_day(now), None)
        return [day for day in days if exists and day in exists]

    return sql_asset(
        lakehouse,
        sql,
        group=group,
        deps=[touched, *(dg.AssetKey(name.split(".")) for name in sorted(sql.tables) if name != DTREFS)],
        condition=on_change(of=touched),
        calendar=dtrefs(lakehouse.settings),
        exist=exist,
    )


def sql_asset(
    lakehouse: Lakehouse,
    sql: SqlFile,
    *,
    group: str,
    deps: Sequence[dg.AssetKey | dg.AssetDep],
    condition: Condition,
    calendar: dg.DailyPartitionsDefinition | None,
    exist: Callable[[list[date], datetime], list[date]] = lambda days, _: days,
    io_manager: DeltaIOManager | None = None,
) -> dg.AssetsDefinition:
    """The asset of one file: the dtRefs of the run in one query, or without a calendar the table as a whole.

    Args:
        lakehouse: where the table is.
        sql: its query.
        group: its group in Dagster.
        deps: what it is made from.
        condition: when it runs by itself.
        calendar: its dtRefs; None: it has none, and is replaced whole.
        exist: those of some dtRefs that have rows at a moment; all, by default.
        io_manager: what writes it; None: the code location's `delta_io_manager`.
    """
    kept = load_sql(sql.path, tables=AGGREGATES)

    @dg.asset(
        key=sql.name.split("."),
        description=sql.description,
        deps=deps,
        partitions_def=calendar,
        backfill_policy=dg.BackfillPolicy.single_run() if calendar else None,
        automation_condition=condition,
        io_manager_key=None if io_manager else IO_MANAGER,
        io_manager_def=io_manager,
        group_name=group,
        kinds={"deltalake", "sql"},
        owners=["team:upsell"],
        code_version=sql.code_version,
        pool=sql.name,
        metadata={**definition_metadata(lakehouse, sql.name), **({PARTITION_COLUMN: "dtRef"} if calendar else {})},
    )
    def table(context: dg.AssetExecutionContext) -> Query:
        now = datetime.now(UTC)
        tables = current_tables(lakehouse.lake, lakehouse.engine, kept)
        query = timed_query(kept, now, tables)
        if calendar:
            query = query.over(exist([date.fromisoformat(key) for key in context.partition_keys], now))
        return replace(query, sql=described(sql))

    return table


def current_tables(lake: Lake, engine: Engine, kept: SqlFile) -> dict[str, DeltaTable]:
    """The tables that a query reads, after its aggregates were brought up to date with silver."""
    aggregates = refresh_aggregates(lake, engine, kept.tables & AGGREGATES.keys())
    return aggregates | {name: lake.open(name) for name in kept.tables - aggregates.keys() - {DTREFS}}


def daily_query(sql: SqlFile, days: list[date], now: datetime, tables: dict[str, DeltaTable] | None = None) -> Query:
    """The query of a daily table for a set of dtRefs, each row with the time of its computation (UTC)."""
    return timed_query(sql, now, tables).over(days)


def timed_query(sql: SqlFile, now: datetime, tables: dict[str, DeltaTable] | None = None) -> Query:
    """The query of a file, each row with the time of its computation (UTC)."""
    params = {"computed_at": now, **({"now": now} if "now" in sql.parameters else {})}
    return Query(_with_time(sql.tree), params, {}, tables or {}, described(sql))


@lru_cache(maxsize=32)
def _with_time(tree: exp.Query) -> exp.Query:
    return exp.select("q.*", exp.alias_(exp.Placeholder(this="computed_at"), COMPUTED)).from_(tree.subquery("q"))
