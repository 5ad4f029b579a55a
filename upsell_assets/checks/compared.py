"""Checks in Dagster that run by the clock: bronze against the database, features as served against those of now.

Checks of what a run itself has made belong to that run's asset; what is compared here is done by `verify` and by
`model.served`.
"""

from collections import Counter
from collections.abc import Iterator

import dagster as dg

from upsell_assets.bronze.tables import table_name
from upsell_assets.checks.schedule import checks_schedule, said_last, taken_along
from upsell_assets.contracts import Contract
from upsell_assets.feature_store.point_in_time import FeatureStore
from upsell_assets.lake.lakehouse import Lakehouse
from upsell_assets.model.served import Skew, skews
from upsell_assets.silver.touched import SCORES
from upsell_assets.verify import SHOWN, Verified, verify

NAME = "equals_source"
SERVED_NAME = "served_equals_latest"

SERVED_DTREFS = 28
"""The newest scored dtRefs that are compared: late data comes within days, and each dtRef has its cost."""


def source_checks(lakehouse: Lakehouse) -> list[dg.AssetChecksDefinition]:
    """For each bronze table: whether it is what the database holds. None where no database is captured."""
    if lakehouse.settings.source_dsn is None or not lakehouse.captured:
        return []

    @dg.multi_asset_check(
        name=lakehouse.named(NAME),
        specs=[_spec(contract) for contract in lakehouse.captured.values()],
        can_subset=True,
        description="Bronze holds what the source database holds.",
    )
    def equals_source(context: dg.AssetCheckExecutionContext) -> Iterator[dg.AssetCheckResult]:
        if taken_along(context):
            yield from said_last(context)
            return
        asked = context.selected_asset_check_keys
        contracts = [c for c in lakehouse.captured.values() if _spec(c).key in asked]
        for done in verify(lakehouse, contracts, context.log.info):
            yield _result(done)

    return [equals_source]


def verify_schedule(lakehouse: Lakehouse, checks: list[dg.AssetChecksDefinition]) -> dg.ScheduleDefinition:
    """Compares all tables at the times that the settings name."""
    return checks_schedule(
        lakehouse.named("verify"), checks, lakehouse.settings.verify_schedule, "Bronze against the database."
    )


def served_checks(lakehouse: Lakehouse) -> list[dg.AssetChecksDefinition]:
    """Whether the features that scores were made from are still those that are known of their dtRefs."""

    @dg.asset_check(
        asset=SCORES.split("."),
        name=SERVED_NAME,
        description=f"The features that the newest {SERVED_DTREFS} scored dtRefs were served with are those of now, for "
        "all but a set share of each dtRef's customers: late data changes features, never issued scores.",
    )
    def served_equals_latest() -> dg.AssetCheckResult:
        from upsell_assets.model.registry import Registry

        model = Registry(lakehouse.store).name
        found = list(skews(FeatureStore.of(lakehouse), model, SERVED_DTREFS))
        return _skew_result(found, lakehouse.settings.skew_max_share)

    return [served_equals_latest]


def skew_schedule(lakehouse: Lakehouse, checks: list[dg.AssetChecksDefinition]) -> dg.ScheduleDefinition:
    """Compares what was served with what is known now, at the times that the settings name."""
    return checks_schedule("skew", checks, lakehouse.settings.skew_schedule, "Features as served against those of now.")


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


def _skew_result(found: list[Skew], limit: float) -> dg.AssetCheckResult:
    customers = sum(skew.served for skew in found)
    features = sum((Counter(skew.features) for skew in found), Counter[str]())
    dtrefs = "\n".join(
        f"| {skew.dtref} | {skew.served:,} | {skew.differing:,} | {skew.appeared:,} | {skew.vanished:,} | {skew.share:.2%} |"
        for skew in found
        if skew.share
    )
    by_feature = "\n".join(
        f"| {name} | {rows:,} | {rows / customers:.2%} |" for name, rows in features.most_common() if customers
    )
    uncompared = sorted({name for skew in found for name in skew.uncompared})
    return dg.AssetCheckResult(
        passed=all(skew.share <= limit for skew in found),
        severity=dg.AssetCheckSeverity.WARN,
        metadata={
            "dtrefs": len(found),
            "rows_served": customers,
            "largest_share": max((skew.share for skew in found), default=0.0),
            "limit": limit,
            "features": dg.MetadataValue.md(
                f"| feature | rows that differ | of those served |\n|---|---|---|\n{by_feature}"
                if by_feature
                else "none"
            ),
            "by_dtref": dg.MetadataValue.md(
                "| dtRef | served | differ | appeared | vanished | share |\n|---|---|---|---|---|---|\n" + dtrefs
                if dtrefs
                else "none"
            ),
            "not_compared": ", ".join(uncompared) or "none",
        },
    )
