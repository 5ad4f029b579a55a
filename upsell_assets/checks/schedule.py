"""How checks come to run by the clock."""

import dagster as dg

from upsell_assets.settings import LOCAL_ZONE


def checks_schedule(
    name: str, checks: list[dg.AssetChecksDefinition], cron: str, description: str
) -> dg.ScheduleDefinition:
    """A job of some checks, and the schedule that runs it."""
    return dg.ScheduleDefinition(
        name=name,
        job=dg.define_asset_job(name, dg.AssetSelection.checks(*checks), description=description),
        cron_schedule=cron,
        execution_timezone=str(LOCAL_ZONE),
        default_status=dg.DefaultScheduleStatus.RUNNING,
    )
