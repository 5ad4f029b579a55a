"""One asset per .sql file of a daily layer: features and gold, partitioned by dtRef, a range in one query.

Here: the factory. The rules are in the SQL; the IO manager replaces exactly the partitions of the run.
"""

from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, date, datetime
from pathlib import Path

import dagster as dg
from sqlglot import exp

from upsell_assets.aggregates import AGGREGATES, refresh_aggregates
from upsell_assets.automation import on_change
from upsell_assets.errors import PermanentError
from upsell_assets.freshness import each_day
from upsell_assets.lake.checks import written_results, written_specs
from upsell_assets.lake.comments import ColumnComment
from upsell_assets.lake.engines import Engine, Query
from upsell_assets.lake.io_manager import KEY, PARTITION_COLUMN
from upsell_assets.lake.lakehouse import Lakehouse
from upsell_assets.lake.metadata import definition_metadata
from upsell_assets.lake.sql import DTREFS, SqlFile, load_sql
from upsell_assets.lake.tables import Lake
from upsell_assets.partitions import dtrefs
from upsell_assets.silver.assets import touched_key
from upsell_assets.silver.events import event_days, local_day
from upsell_assets.silver.touched import existing

COMPUTED = "_computed_at"
KEYS = ("dtRef", "idCliente", "descNomeProduto")
"""What tells the rows of a daily table apart; every other column is a feature."""


def sql_files(folder: Path) -> list[SqlFile]:
    """The tables of a daily layer; files that begin with `_` are views, inlined where they are used.

    Raises:
        PermanentError: a file is not readable, or comments do not say all of a feature. The files come with the code,
            so that this stops nobody but a feature's author, and at once.
    """
    files = []
    for path in sorted(folder.glob("[!_]*.sql")):
        sql = load_sql(path)
        if vague := [c for c, said in sql.columns.items() if not (said.meaning if c in KEYS else said.formula)]:
            raise PermanentError(
                f"`{path}`: nothing says what {', '.join(vague)} are. Write `-- meaning | unit | window | formula` "
                f"above each feature, and a meaning above each key ({', '.join(KEYS)})."
            )
        files.append(sql)
    return files


def daily_sql_asset(lakehouse: Lakehouse, sql: SqlFile, *, group: str) -> dg.AssetsDefinition:
    """The asset of one file; dtRefs of the run that do not exist stay empty."""
    touched = touched_key(sql.name)
    tables = sorted(name for name in sql.tables if name != DTREFS)
    kept = load_sql(sql.path, tables=AGGREGATES)
    key = key_of(sql)

    @dg.asset(
        key=sql.name.split("."),
        description=sql.description,
        deps=[touched, *(dg.AssetKey(name.split(".")) for name in tables)],
        partitions_def=dtrefs(lakehouse.settings),
        backfill_policy=dg.BackfillPolicy.single_run(),
        automation_condition=on_change(of=touched),
        freshness_policy=each_day(),
        io_manager_key="delta_io_manager",
        group_name=group,
        kinds={"deltalake", "sql"},
        owners=["team:upsell"],
        code_version=sql.code_version,
        pool=sql.name,
        metadata={**definition_metadata(lakehouse, sql.name), PARTITION_COLUMN: "dtRef", KEY: ", ".join(key)},
        check_specs=written_specs(sql.name, key),
    )
    def daily(context: dg.AssetExecutionContext) -> Iterator[dg.Output[Query] | dg.AssetCheckResult]:
        now = datetime.now(UTC)
        wanted = [date.fromisoformat(key) for key in context.partition_keys]
        exists = existing(sql.name, event_days(lakehouse.lake, now), local_day(now), None)
        versions = current_versions(lakehouse.lake, lakehouse.engine, kept)
        query = daily_query(kept, [day for day in wanted if exists and day in exists], now, versions)
        # The IO manager writes it before what follows.
        yield dg.Output(replace(query, sql=described(sql)))
        made = lakehouse.lake.open(sql.name)
        declared = dict.fromkeys(described(sql).columns)
        yield from written_results(context.instance, lakehouse.lake, made, key, declared)

    return daily


def key_of(sql: SqlFile) -> list[str]:
    """The columns of a daily table of which a combination has one row."""
    return [column for column in KEYS if column in sql.columns]


def current_versions(lake: Lake, engine: Engine, kept: SqlFile) -> dict[str, int]:
    """The versions of the tables that a query reads, after its aggregates were brought up to date with silver."""
    versions = refresh_aggregates(lake, engine, kept.tables & AGGREGATES.keys())
    return versions | {name: lake.open(name).version() for name in kept.tables - versions.keys() - {DTREFS}}


def daily_query(sql: SqlFile, days: list[date], now: datetime, versions: dict[str, int] | None = None) -> Query:
    """The query of a daily table for a set of dtRefs, each row with the time of its computation (UTC)."""
    rows = exp.select("q.*", exp.alias_(exp.Placeholder(this="computed_at"), COMPUTED)).from_(sql.tree.subquery("q"))
    params = {"computed_at": now, **({"now": now} if "now" in sql.parameters else {})}
    return Query(rows, params, {}, versions or {}, described(sql)).over(days)


def described(sql: SqlFile) -> SqlFile:
    """The file with what is said of the columns that every daily table has besides its own."""
    return replace(sql, columns={**sql.columns, COMPUTED: ColumnComment("when the row was computed, UTC")})
