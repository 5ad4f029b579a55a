"""What a database's tables become in Dagster: the part that our code location and the components have in common.

Here: which definitions belong together. Not here: how each is made (the layers), and what is made of the points system
alone (`definitions`).
"""

from __future__ import annotations

import warnings

import dagster as dg

from upsell_assets.bronze.assets import bronze_assets
from upsell_assets.capture.assets import capture_job, capture_sensor, lag_checks
from upsell_assets.checks import source_checks, verify_schedule
from upsell_assets.lake.lakehouse import Lakehouse
from upsell_assets.raw.assets import landing_sensor, raw_specs

# Dagster says "beta" of backfill policies, once per asset, wherever definitions are loaded.
warnings.filterwarnings("ignore", category=dg.BetaWarning)


def tables_defs(lakehouse: Lakehouse) -> dg.Definitions:
    """Raw and bronze of every contract, and the sensor that reports what landed.

    Raises:
        ContractError: a contract is not valid.
    """
    return dg.Definitions(
        assets=[*raw_specs(lakehouse), *bronze_assets(lakehouse)], sensors=[landing_sensor(lakehouse)]
    )


def capture_defs(lakehouse: Lakehouse) -> dg.Definitions:
    """Capture of the tables from their database, and the checks that compare the lake with it."""
    compared = source_checks(lakehouse)
    return dg.Definitions(
        asset_checks=[*lag_checks(lakehouse), *compared],
        jobs=[capture_job(lakehouse)],
        schedules=[verify_schedule(lakehouse, compared)] if compared else [],
        sensors=[capture_sensor(lakehouse)],
    )


def automation_sensor(lakehouse: Lakehouse, target: dg.AssetSelection) -> dg.AutomationConditionSensorDefinition:
    """Runs what the conditions of these assets ask for, as often as the settings say."""
    return dg.AutomationConditionSensorDefinition(
        lakehouse.named("automation"),
        target=target,
        minimum_interval_seconds=lakehouse.settings.sensor_seconds,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description="Runs what the assets' conditions ask for.",
    )
