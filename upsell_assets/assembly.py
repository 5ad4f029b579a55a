"""What a database's tables become in Dagster: the part that our code location and the components have in common.

Here: which definitions belong together. Not here: how each is made (the layers), and what is made of the points system
alone (`definitions`).
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import dagster as dg

from upsell_assets import automation
from upsell_assets.automation_sensor import AutomationSensor
from upsell_assets.bronze.assets import bronze_assets
from upsell_assets.capture.assets import capture_assets, capture_job, capture_sensor, lag_checks
from upsell_assets.checks.compared import source_checks, verify_schedule
from upsell_assets.lake.lakehouse import Lakehouse
from upsell_assets.raw.assets import landing_sensor, raw_key, raw_specs
from upsell_assets.ticks import TURN_SECONDS, interval

# Dagster says so of backfill policies and of mapped specs, once per asset, wherever definitions are loaded.
warnings.filterwarnings("ignore", category=dg.BetaWarning)
warnings.filterwarnings("ignore", category=dg.PreviewWarning)


def tables_defs(lakehouse: Lakehouse, following: Sequence[dg.AssetsDefinition] = ()) -> dg.Definitions:
    """Raw and bronze of every contract, the sensor that reports what landed, and capture where there is a source.

    Args:
        lakehouse: where everything is.
        following: what a run that captured goes on to after bronze.

    Raises:
        ContractError: a contract is not valid.
    """
    bronze, captured, compared = bronze_assets(lakehouse), capture_assets(lakehouse), source_checks(lakehouse)
    written = {key for asset in captured for key in asset.keys}
    taken_in = _made_of(written, [*bronze, *following])
    landing = [contract for contract in lakehouse.contracts.values() if raw_key(contract) not in written]
    return dg.Definitions(
        assets=[*raw_specs(lakehouse, landing), *captured, *bronze],
        asset_checks=[*lag_checks(lakehouse), *compared],
        jobs=[capture_job(lakehouse, taken_in)] if captured else [],
        schedules=[verify_schedule(lakehouse, compared)] if compared else [],
        sensors=[landing_sensor(lakehouse), *([capture_sensor(lakehouse, taken_in)] if captured else [])],
    )


def _made_of(keys: set[dg.AssetKey], assets: Sequence[dg.AssetsDefinition]) -> list[dg.AssetsDefinition]:
    """Those of the assets that are made of these, and of each other, alone."""
    found: list[dg.AssetsDefinition] = []
    while more := [
        asset
        for asset in assets
        if asset not in found and {*asset.dependency_keys} <= keys.union(*(one.keys for one in found))
    ]:
        found += more
    return found


def automation_sensor(lakehouse: Lakehouse, target: dg.AssetSelection) -> AutomationSensor:
    """Runs what the conditions of these assets ask for."""
    return AutomationSensor(
        lakehouse.named(automation.SENSOR),
        target=target,
        minimum_interval_seconds=interval(TURN_SECONDS),
        description="Runs what the assets' conditions ask for.",
    )
