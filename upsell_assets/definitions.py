"""The Dagster code location: assembles what the layers offer, nothing else."""

from __future__ import annotations

from pathlib import Path

import dagster as dg

from upsell_assets.alert_sensor import alert_sensor
from upsell_assets.assembly import automation_sensor, tables_defs
from upsell_assets.checks import served_checks, skew_schedule
from upsell_assets.dtref_assets import daily_sql_asset, sql_files
from upsell_assets.feature_store.point_in_time import FEATURE_TABLES
from upsell_assets.lake.io_manager import IO_MANAGER, DeltaIOManager
from upsell_assets.lake.lakehouse import Lakehouse
from upsell_assets.model.assets import model_assets
from upsell_assets.settings import Settings, load_settings
from upsell_assets.silver.assets import new_day_sensor, silver_assets, touched_specs
from upsell_assets.silver.touched import SCORES
from upsell_assets.upkeep_job import upkeep_job, upkeep_schedule

ROOT = Path(__file__).parent


def build_defs(settings: Settings | None = None) -> dg.Definitions:
    """Everything for one set of settings; layers whose inputs no contract declares are left out."""
    lakehouse = Lakehouse(settings or load_settings())
    silver = silver_assets(lakehouse)
    made = {key.to_user_string().replace("/", ".") for asset in silver for key in asset.keys}
    files = [
        (sql, layer)
        for layer in ("feature_store", "gold")
        for sql in sql_files(ROOT / layer)
        if {name for name in sql.tables if name.startswith("silver.")} <= made
    ]
    daily = [daily_sql_asset(lakehouse, sql, group=layer) for sql, layer in files]
    names = [sql.name for sql, _ in files]
    models = model_assets(lakehouse) if set(FEATURE_TABLES) <= set(names) else []
    consumers = [*names, SCORES] if models else names
    served = served_checks(lakehouse) if models else []
    upkeep = upkeep_job(lakehouse, consumers)
    return dg.Definitions.merge(
        tables_defs(lakehouse, silver),
        dg.Definitions(
            assets=[*silver, *touched_specs(lakehouse, consumers), *daily, *models],
            asset_checks=served,
            jobs=[upkeep],
            schedules=[upkeep_schedule(lakehouse, upkeep), *([skew_schedule(lakehouse, served)] if served else [])],
            sensors=[
                *([new_day_sensor(lakehouse)] if daily else []),
                automation_sensor(lakehouse, dg.AssetSelection.all()),
                alert_sensor(lakehouse),
            ],
            resources={IO_MANAGER: DeltaIOManager(lakehouse)},
            executor=dg.in_process_executor,
        ),
    )


defs = build_defs()
