"""The Dagster code location: assembles what the layers offer, nothing else."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path

import dagster as dg

from upsell_assets.bronze.assets import bronze_assets
from upsell_assets.bronze.tables import table_name
from upsell_assets.capture.assets import capture_job, capture_sensor, lag_checks
from upsell_assets.checks.audit import audit_checks
from upsell_assets.checks.compared import served_checks, skew_schedule, source_checks, verify_schedule
from upsell_assets.checks.schedule import checks_schedule
from upsell_assets.dtref_assets import daily_sql_asset, key_of, sql_files
from upsell_assets.feature_store.point_in_time import FEATURE_TABLES
from upsell_assets.lake.io_manager import DeltaIOManager
from upsell_assets.lake.lakehouse import Lakehouse
from upsell_assets.model.assets import SCORE_KEY, model_assets
from upsell_assets.pictures.assets import pictures_schedule
from upsell_assets.raw.assets import landing_sensor, raw_specs
from upsell_assets.settings import Settings, load_settings
from upsell_assets.silver.assets import new_day_sensor, silver_assets, touched_specs
from upsell_assets.silver.touched import SCORES

ROOT = Path(__file__).parent

# Dagster says "beta" of backfill policies, once per asset, wherever definitions are loaded.
warnings.filterwarnings("ignore", category=dg.BetaWarning)


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
    bronze = [table_name(contract) for contract in lakehouse.contracts.values()]
    models = model_assets(lakehouse) if set(FEATURE_TABLES) <= set(names) else []
    consumers = [*names, SCORES] if models else names
    sensors = [capture_sensor(lakehouse), landing_sensor(lakehouse), *([new_day_sensor(lakehouse)] if daily else [])]
    compared = source_checks(lakehouse)
    served = served_checks(lakehouse) if models else []
    keys: dict[str, Sequence[str]] = {sql.name: key_of(sql) for sql, _ in files}
    audited = audit_checks(lakehouse, {**keys, **({SCORES: SCORE_KEY} if models else {})})
    schedule = checks_schedule("audit", audited, lakehouse.settings.audit_schedule, "All rows of all tables.")
    automation = dg.AutomationConditionSensorDefinition(
        "automation",
        target=dg.AssetSelection.all(),
        minimum_interval_seconds=lakehouse.settings.sensor_seconds,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description="Runs what the assets' conditions ask for.",
    )
    return dg.Definitions(
        assets=[
            *raw_specs(lakehouse),
            *bronze_assets(lakehouse),
            *silver,
            *touched_specs(lakehouse, consumers),
            *daily,
            *models,
        ],
        asset_checks=[*lag_checks(lakehouse), *compared, *served, *audited],
        jobs=[capture_job(lakehouse)],
        schedules=[
            schedule,
            pictures_schedule(lakehouse, [*bronze, *sorted(made), *names, *([SCORES] if models else [])]),
            *([verify_schedule(lakehouse, compared)] if compared else []),
            *([skew_schedule(lakehouse, served)] if served else []),
        ],
        sensors=[*sensors, automation],
        resources={"delta_io_manager": DeltaIOManager(lakehouse)},
        executor=dg.in_process_executor,
    )


defs = build_defs()
