"""A code location for `test_orchestration_automation_interrupted`: two assets that have nothing to do with each other."""

import dagster as dg

from upsell_assets.automation import on_change
from upsell_assets.automation_sensor import AutomationSensor


@dg.asset(deps=["source_of_first"], automation_condition=on_change())
def first() -> None:
    """Follows its source."""


@dg.asset(deps=["source_of_second"], automation_condition=on_change())
def second() -> None:
    """Follows its source."""


defs = dg.Definitions(
    assets=[dg.AssetSpec("source_of_first"), dg.AssetSpec("source_of_second"), first, second],
    sensors=[AutomationSensor("automation", target=dg.AssetSelection.all(), minimum_interval_seconds=1)],
)
