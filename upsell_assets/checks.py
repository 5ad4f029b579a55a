"""Checks in Dagster that look at more than one layer: bronze against the database that it came from.

Checks of what a run itself has made belong to that run's asset; what is compared here is done by `verify`.
"""

from collections.abc import Iterator

import dagster as dg

from upsell_assets.bronze.tables import table_name
from upsell_assets.contracts import Contract
from upsell_assets.lake.lakehouse import Lakehouse
from upsell_assets.settings import LOCAL_ZONE
from upsell_assets.verify import SHOWN, Verified, verify

NAME = "equals_source"


def source_checks(lakehouse: Lakehouse) -> list[dg.AssetChecksDefinition]:
    """For each bronze table: whether it is what the database holds. None where no database is captured."""
    if lakehouse.settings.source_dsn is None or not lakehouse.captured:
        return []

    @dg.multi_asset_check(
        name=NAME,
        specs=[_spec(contract) for contract in lakehouse.captured.values()],
        description="Bronze holds what the source database holds.",
    )
    def equals_source(context: dg.AssetCheckExecutionContext) -> Iterator[dg.AssetCheckResult]:
        for done in verify(lakehouse, lakehouse.captured.values(), context.log.info):
            yield _result(done)

    return [equals_source]


def verify_schedule(lakehouse: Lakehouse, checks: list[dg.AssetChecksDefinition]) -> dg.ScheduleDefinition:
    """Compares all tables at the times that the settings name."""
    return dg.ScheduleDefinition(
        name="verify",
        job=dg.define_asset_job(
            "verify", dg.AssetSelection.checks(*checks), description="Bronze against the database."
        ),
        cron_schedule=lakehouse.settings.verify_schedule,
        execution_timezone=str(LOCAL_ZONE),
        default_status=dg.DefaultScheduleStatus.RUNNING,
    )


def _spec(contract: Contract) -> dg.AssetCheckSpec:
    return dg.AssetCheckSpec(
        NAME,
        asset=table_name(contract).split("."),
        description="The table holds the rows that the source database holds, at one position of its log.",
    )


def _result(done: Verified) -> dg.AssetCheckResult:
    rows = "\n".join(f"| {kind} | {', '.join(map(str, key))} |" for kind, key in done.differing)
    return dg.AssetCheckResult(
        check_name=NAME,
        asset_key=dg.AssetKey(["bronze", *done.table.split(".")]),
        passed=done.equal,
        metadata={
            "rows_in_the_database": done.source_rows,
            "rows_in_bronze": done.bronze_rows,
            "delta_version": done.version,
            "position": done.position,
            "differing": dg.MetadataValue.md(
                f"At most {SHOWN} keys:\n\n| what | key |\n|---|---|\n{rows}" if rows else "nothing"
            ),
        },
    )
