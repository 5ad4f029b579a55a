"""How checks come to run by the clock, and by the clock alone.

A backfill takes along every check of its assets, those of the clock too. A run that makes tables must not wait for a
look at all their rows: there such a check says again what it said last. It must be able to run for some of its tables
(`can_subset`); a backfill of one table would otherwise fail for the checks of the others.
"""

from collections.abc import Iterator
from typing import cast

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


def taken_along(context: dg.AssetCheckExecutionContext) -> bool:
    """Whether the run makes assets: a schedule, and a person who executes a check, ask for checks only."""
    return bool(context.run.asset_selection)


def said_last(context: dg.AssetCheckExecutionContext) -> Iterator[dg.AssetCheckResult]:
    """The last answer of each check that is asked; none where there is none yet."""
    for key in sorted(context.selected_asset_check_keys):
        for record in context.instance.event_log_storage.get_asset_check_execution_history(key, limit=10):
            if record.status.value in ("SUCCEEDED", "FAILED"):
                last = cast("dg.AssetCheckEvaluation", record.evaluation)
                yield dg.AssetCheckResult(
                    check_name=key.name,
                    asset_key=key.asset_key,
                    passed=last.passed,
                    severity=last.severity,
                    metadata=last.metadata,
                    description=last.description,
                )
                break
