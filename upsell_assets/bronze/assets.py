"""Bronze in Dagster: one asset per contract, partitioned by landing day, over `ingest`.

Grain: the live rows of the source table, latest per key. A partition is "what landed on this day was taken in";
a range of days is one run. Running a partition again changes nothing.
"""

from datetime import date

import dagster as dg

from upsell_assets.automation import on_change
from upsell_assets.bronze.ingest import Ingested, ingest
from upsell_assets.bronze.merge import table_name
from upsell_assets.contracts import Contract
from upsell_assets.lake.lakehouse import Lakehouse
from upsell_assets.lake.metadata import Made, Metadata, definition_metadata, table_metadata
from upsell_assets.partitions import first_day, landing_days
from upsell_assets.raw.assets import raw_key
from upsell_assets.raw.landing import Window
from upsell_assets.raw.ledger import Ledger


def bronze_assets(lakehouse: Lakehouse) -> list[dg.AssetsDefinition]:
    """The assets of every contract."""
    return [_bronze_asset(lakehouse, contract) for contract in lakehouse.contracts.values()]


def _bronze_asset(lakehouse: Lakehouse, contract: Contract) -> dg.AssetsDefinition:
    name = table_name(contract)
    calendar = landing_days(lakehouse.settings)

    @dg.asset(
        key=name.split("."),
        description=f"{contract.description} Latest row per {', '.join(contract.key)}, whatever the order of arrival.",
        deps=[raw_key(contract)],
        partitions_def=calendar,
        backfill_policy=dg.BackfillPolicy.single_run(),
        automation_condition=on_change(),
        group_name="bronze",
        kinds={"deltalake"},
        owners=["team:upsell"],
        pool=name,
        metadata=definition_metadata(lakehouse, name),
        check_specs=[
            dg.AssetCheckSpec(
                "no_quarantined_files",
                asset=name.split("."),
                description="No file of the table is in quarantine; those that are do not hold back the others.",
            )
        ],
    )
    def bronze(context: dg.AssetExecutionContext) -> Made:
        days = context.partition_key_range
        first = date.fromisoformat(days.start)
        window = Window(None if first == first_day(calendar) else first, date.fromisoformat(days.end))
        done = ingest(lakehouse.store, lakehouse.lake, contract, window, progress=context.log.info)
        return dg.MaterializeResult(
            metadata=_metadata(lakehouse, contract, done), check_results=[_check(lakehouse, contract)]
        )

    return bronze


def _metadata(lakehouse: Lakehouse, contract: Contract, done: Ingested) -> Metadata:
    taken: Metadata = {
        "files": done.files,
        "changes": done.rows,
        "rows_written": done.upserts,
        "rows_deleted": done.deletes,
        "full_loads_ended": ", ".join(done.loads) or "none",
        "files_quarantined": len(done.quarantined),
    }
    if done.version is None:
        return taken
    return taken | table_metadata(lakehouse, lakehouse.lake.open(table_name(contract), done.version))


def _check(lakehouse: Lakehouse, contract: Contract) -> dg.AssetCheckResult:
    held = [r for r in Ledger(lakehouse.lake, contract).records().values() if r.state == "quarantined"]
    rows = "\n".join(f"| {record.file.key} | {record.reason} |" for record in held[:20])
    return dg.AssetCheckResult(
        check_name="no_quarantined_files",
        passed=not held,
        severity=dg.AssetCheckSeverity.WARN,
        metadata={
            "files": len(held),
            "quarantine": dg.MetadataValue.md(f"| file | reason |\n|---|---|\n{rows}" if held else "empty"),
        },
    )
