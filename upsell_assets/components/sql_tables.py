"""`SqlTables`: a table per `.sql` file of a folder, daily where the query asks for dtRefs."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import dagster as dg
from pydantic import Field, field_validator
from sqlglot import exp

from upsell_assets.assembly import automation_sensor
from upsell_assets.automation import Condition, on_change
from upsell_assets.components.lake import LakeModel, name_of
from upsell_assets.components.scaffold import SqlTablesScaffolder
from upsell_assets.dtref_assets import sql_asset
from upsell_assets.errors import PermanentError
from upsell_assets.lake.io_manager import DeltaIOManager
from upsell_assets.lake.lakehouse import Lakehouse
from upsell_assets.lake.sql import DTREFS, SqlFile, load_sql
from upsell_assets.partitions import dtrefs
from upsell_assets.settings import LOCAL_ZONE

DAY = "dtRef"


@dg.scaffold_with(SqlTablesScaffolder)
class SqlTables(LakeModel, dg.Component):
    """Makes a Delta table of each .sql file in a folder (Spark's dialect), from tables of the lake.

    A query that reads `dtrefs` is a daily table: a row of it has a dtRef, and a run asks for any range of days in one
    query. Any other table is replaced whole. Tables run by themselves when one that they read has changed.
    """

    folder: str = Field(
        "gold",
        description="Folder of .sql files beside defs.yaml; its name is the layer. A file that begins with _ is a view.",
        pattern=r"(^|/)(silver|feature_store|gold)$",
    )
    lake_schema: str = Field(
        description="Schema of the tables in the lake: gold/sales.sql becomes gold.<lake_schema>.sales.",
        pattern=r"^[A-Za-z][A-Za-z0-9_]*$",
    )
    recent_days: int | None = Field(
        None,
        ge=1,
        description="When something changed, only so many of the newest dtRefs are computed again; left out: all of "
        "them. Those that were never computed always are.",
    )
    time_zone: str = Field(
        LOCAL_ZONE.key, description="Zone in which a new dtRef begins; which day a row counts to is said by the query."
    )

    @field_validator("time_zone")
    @classmethod
    def _zone_exists(cls, value: str) -> str:
        try:
            ZoneInfo(value)
        except (ZoneInfoNotFoundError, ValueError):
            raise ValueError(f"there is no time zone {value!r}; write one such as America/Sao_Paulo or UTC") from None
        return value

    @classmethod
    def get_spec(cls) -> dg.ComponentTypeSpec:
        """What lists of components show."""
        return dg.ComponentTypeSpec(owners=["team:upsell"], tags=["lakehouse", "sql"], produces=["asset", "sensor"])

    def build_defs(self, context: dg.ComponentLoadContext) -> dg.Definitions:
        """An asset per file, and the sensor that runs them.

        Raises:
            PermanentError: an attribute, a file or an environment variable is not what it must be.
        """
        lakehouse = Lakehouse(self.settings(), f"{name_of(context)}_{self.folder}".replace("/", "_").lstrip("_"))
        assets = [self._asset(lakehouse, sql) for sql in self.files(context.path)]
        target = dg.AssetSelection.assets(*(asset.key for asset in assets))
        return dg.Definitions(assets=assets, sensors=[automation_sensor(lakehouse, target)])

    def files(self, folder: Path) -> list[SqlFile]:
        """The files of a `defs.yaml` in this folder, each looked through.

        Raises:
            PermanentError: there is none, or one is no query that can become a table; it is named, with what to do.
        """
        found = sorted((folder / self.folder).glob("[!_]*.sql"))
        if not found:
            raise PermanentError(
                f"{folder}/defs.yaml: folder: no .sql files in {folder / self.folder}. Write one SELECT a table."
            )
        return [_looked_through(load_sql(path, schema=self.lake_schema)) for path in found]

    def _asset(self, lakehouse: Lakehouse, sql: SqlFile) -> dg.AssetsDefinition:
        daily = DTREFS in sql.tables
        keys = [dg.AssetKey(name.split(".")) for name in _sources(sql)]
        # Which days of a table a query looks at is known to the query only.
        deps = [dg.AssetDep(key, partition_mapping=dg.AllPartitionMapping()) for key in keys] if daily else keys
        return sql_asset(
            lakehouse,
            sql,
            group=sql.name.partition(".")[0],
            deps=deps,
            condition=self._condition() if daily else on_change(),
            calendar=dtrefs(lakehouse.settings, ZoneInfo(self.time_zone)) if daily else None,
            io_manager=DeltaIOManager(lakehouse),
        )

    def _condition(self) -> Condition:
        if self.recent_days is None:
            return on_change()
        recent = dg.AutomationCondition.in_latest_time_window(timedelta(self.recent_days))
        return on_change() & (recent | dg.AutomationCondition.missing())


def _sources(sql: SqlFile) -> list[str]:
    """The tables of others that a query reads; what begins with `_` the lake keeps for itself."""
    return sorted(name for name in sql.tables - {DTREFS} if not name.rpartition(".")[2].startswith("_"))


def _looked_through(sql: SqlFile) -> SqlFile:
    if any(select.find(exp.Star) and not select.find(exp.Count) for select in sql.tree.selects):
        raise PermanentError(f"`{sql.path}`: SELECT * does not say which columns the table has. Name each of them.")
    if wrong := sorted(name for name in sql.tables - {DTREFS} if name.count(".") != 2):
        raise PermanentError(
            f"`{sql.path}`: {', '.join(wrong)} is no table of the lake. Write layer.schema.table, such as bronze.shop.orders."
        )
    if not _sources(sql):
        raise PermanentError(f"`{sql.path}`: it reads no table of the lake, so that nothing tells when to run it.")
    if DTREFS in sql.tables and DAY not in sql.columns:
        raise PermanentError(
            f"`{sql.path}`: it reads {DTREFS} and has no column {DAY}, by which the table is partitioned. Select it."
        )
    return sql
