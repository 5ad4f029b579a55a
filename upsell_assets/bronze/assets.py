"""Bronze in Dagster: one asset per contract, partitioned by landing day, over `ingest`.

Grain: the live rows of the source table, latest per key. A partition is "what landed on this day was taken in";
a range of days is one run. Running a partition again changes nothing.
"""

from collections.abc import Iterable, Mapping
from datetime import UTC, date, datetime

import dagster as dg
from dagster._core.definitions.data_version import DATA_VERSION_TAG

from upsell_assets.automation import on_change
from upsell_assets.bronze.ingest import Ingested, ingest
from upsell_assets.bronze.repair import complaints
from upsell_assets.bronze.tables import table_name
from upsell_assets.contracts import Contract
from upsell_assets.freshness import follows_source
from upsell_assets.lake.checks import nothing_written, written_results, written_specs
from upsell_assets.lake.files import column_types
from upsell_assets.lake.lakehouse import Lakehouse
from upsell_assets.lake.metadata import Made, Metadata, definition_metadata, definition_of, table_metadata
from upsell_assets.lake.tables import UnknownTableError
from upsell_assets.partitions import first_day, landing_days, landing_partition
from upsell_assets.raw.assets import raw_key
from upsell_assets.raw.landing import LandedFile, Window
from upsell_assets.raw.ledger import Ledger
from upsell_assets.retries import retried


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
        freshness_policy=follows_source(lakehouse.settings),
        group_name="bronze",
        kinds={"deltalake"},
        owners=["team:upsell"],
        pool=name,
        metadata=definition_metadata(lakehouse, name),
        check_specs=[
            *written_specs(name, contract.key),
            dg.AssetCheckSpec(
                "no_quarantined_files",
                asset=name.split("."),
                description="No file of the table is in quarantine; those that are do not hold back the others.",
            ),
            dg.AssetCheckSpec(
                "contract_holds",
                asset=name.split("."),
                description="What came in keeps to the contract: its key is one, its immutable date stays, its order is told.",
            ),
        ],
    )
    @retried
    def bronze(context: dg.AssetExecutionContext) -> Made:
        days = context.partition_key_range
        first = date.fromisoformat(days.start)
        window = Window(None if first == first_day(calendar) else first, date.fromisoformat(days.end))
        done = ingest(
            lakehouse.store,
            lakehouse.lake,
            contract,
            window,
            progress=context.log.info,
            batch_rows=lakehouse.settings.merge_rows,
        )
        return dg.MaterializeResult(
            metadata={**_metadata(lakehouse, contract, done, definition_of(context)), **_decisions(done)},
            check_results=[
                *_written(context.instance, lakehouse, contract),
                _check(lakehouse, contract),
                _contract_check(contract, done),
            ],
        )

    return bronze


def _written(instance: dg.DagsterInstance, lakehouse: Lakehouse, contract: Contract) -> list[dg.AssetCheckResult]:
    """The merge keeps a key unique; the contract says which columns there are."""
    declared = column_types(contract.arrow_schema().empty_table())
    try:
        table = lakehouse.lake.open(table_name(contract))
    except UnknownTableError:
        return nothing_written(table_name(contract))
    return written_results(instance, lakehouse.lake, table, contract.key, declared)


def report_retried(
    instance: dg.DagsterInstance, lakehouse: Lakehouse, contract: Contract, files: Iterable[LandedFile]
) -> None:
    """Report landing days once more, whose files were taken in outside of Dagster.

    The table then runs for these days: what it finds is what the check says, and what stands behind it follows.
    """
    calendar = landing_days(lakehouse.settings)
    version = f"retried at {datetime.now(UTC).isoformat()}"
    for partition in sorted({landing_partition(file.day, calendar) for file in files}):
        instance.report_runless_asset_event(
            dg.AssetMaterialization(raw_key(contract), partition=partition, tags={DATA_VERSION_TAG: version})
        )


def _metadata(lakehouse: Lakehouse, contract: Contract, done: Ingested, definition: Mapping[str, object]) -> Metadata:
    taken: Metadata = {
        "files": done.files,
        "changes": done.rows,
        "rows_written": done.upserts,
        "rows_deleted": done.deletes,
        "full_loads_ended": ", ".join(done.loads) or "none",
        "files_quarantined": len(done.quarantined),
    }
    try:
        return taken | table_metadata(lakehouse, lakehouse.lake.open(table_name(contract), done.version), definition)
    except UnknownTableError:
        return taken


def _decisions(done: Ingested) -> dict[str, dg.MarkdownMetadataValue]:
    """What was made of columns that are not as the contract has them."""
    rows = "\n".join(f"| {decision} | {files} |" for decision, files in done.decisions.most_common(50))
    return {"decisions": dg.MetadataValue.md(f"| decision | files |\n|---|---|\n{rows}")} if rows else {}


def _contract_check(contract: Contract, done: Ingested) -> dg.AssetCheckResult:
    said = complaints(contract, done)
    return dg.AssetCheckResult(
        check_name="contract_holds",
        passed=not said,
        severity=dg.AssetCheckSeverity.WARN,
        metadata={"complaints": dg.MetadataValue.md("\n\n".join(said))} if said else {},
    )


def _check(lakehouse: Lakehouse, contract: Contract) -> dg.AssetCheckResult:
    held = Ledger(lakehouse.lake, contract).quarantined()
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
