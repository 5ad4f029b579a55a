"""Upkeep in Dagster: one job by the clock, one step for each pool, so that nobody writes the tables that it looks after.

Here: the job and its schedule. What is done is `upkeep`'s.
"""

from collections.abc import Iterable

import dagster as dg

from upsell_assets.bronze.tables import table_name
from upsell_assets.lake.lakehouse import Lakehouse
from upsell_assets.retries import retried
from upsell_assets.settings import LOCAL_ZONE
from upsell_assets.silver.assets import POOL
from upsell_assets.upkeep import Reclaimed, bronze_names, upkeep

JOB = "upkeep"


def upkeep_job(lakehouse: Lakehouse, daily: Iterable[str]) -> dg.JobDefinition:
    """The job: the tables of each contract, silver, the `daily` tables that have pools of their names, and all others."""
    pools = {
        **{name: table_name(contract) for contract in lakehouse.contracts.values() for name in bronze_names(contract)},
        **{name: name for name in daily},
    }
    steps = [_step(lakehouse, pools, pool) for pool in (*dict.fromkeys(pools.values()), POOL, None)]

    @dg.job(
        name=JOB,
        description="Upkeep of every table: small files become few, rows and files that nobody needs any more go.",
    )
    def job() -> None:
        for step in steps:
            step()

    return job


def upkeep_schedule(lakehouse: Lakehouse, job: dg.JobDefinition) -> dg.ScheduleDefinition:
    """Runs the job at the times that the settings name."""
    return dg.ScheduleDefinition(
        name=JOB,
        job=job,
        cron_schedule=lakehouse.settings.upkeep_schedule,
        execution_timezone=str(LOCAL_ZONE),
        default_status=dg.DefaultScheduleStatus.RUNNING,
    )


def _step(lakehouse: Lakehouse, pools: dict[str, str], pool: str | None) -> dg.OpDefinition:
    @dg.op(
        name=f"{JOB}_{(pool or 'others').replace('.', '__')}",
        pool=pool,
        description=f"Upkeep of the tables that {f'the pool {pool} guards' if pool else 'no pool guards'}.",
    )
    @retried
    def step(context: dg.OpExecutionContext) -> None:
        there = lakehouse.tables(internal=True)
        done = list(upkeep(lakehouse, [name for name in there if _pool(pools, name) == pool]))
        for reclaimed in filter(None, done):
            context.log.info("%s", reclaimed)
        context.add_output_metadata(_metadata(done))

    return step


def _pool(pools: dict[str, str], name: str) -> str | None:
    return POOL if name.startswith("silver.") else pools.get(name)


def _metadata(done: list[Reclaimed]) -> dict[str, int | dg.MarkdownMetadataValue]:
    rows = "\n".join(
        f"| {one.table} | {one.tidied.replaced:,} | {one.tidied.expired:,} | {one.deleted.files:,} | "
        f"{one.deleted.log_files:,} | {one.deleted.bytes:,} |"
        for one in done
    )
    return {
        "files_replaced": sum(one.tidied.replaced for one in done),
        "rows_expired": sum(one.tidied.expired for one in done),
        "files_deleted": sum(one.deleted.files for one in done),
        "log_files_deleted": sum(one.deleted.log_files for one in done),
        "bytes_deleted": sum(one.deleted.bytes for one in done),
        "tables": dg.MetadataValue.md(
            "| table | files written anew | rows expired | files deleted | of the log | bytes |\n"
            f"|---|---|---|---|---|---|\n{rows}"
        ),
    }
