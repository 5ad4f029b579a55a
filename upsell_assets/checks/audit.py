"""The daily audit in Dagster: all rows of all tables, once a day, in one run.

Per table: `key_unique` (the same check as the runs of its asset answer, here of all rows), `reconciled` (against the
layer before) and `volume_as_usual` (against its own past). Not here: the comparisons themselves.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial

import dagster as dg

from upsell_assets.bronze.tables import table_name
from upsell_assets.checks.accepted import Accepted, accepted
from upsell_assets.checks.reconciliation import (
    AMOUNTS,
    FEATURES,
    REPORT,
    Reconciled,
    features_and_silver,
    report_and_silver,
    silver_and_bronze,
)
from upsell_assets.checks.schedule import said_last, taken_along
from upsell_assets.checks.volume import Volume, dtref_rows, event_rows, judge, landed_files, landed_rows, yesterday
from upsell_assets.contracts import Contract
from upsell_assets.lake.checks import key_evaluation
from upsell_assets.lake.keys import doubled_in_table
from upsell_assets.lake.lakehouse import Lakehouse
from upsell_assets.lake.tables import UnknownTableError
from upsell_assets.silver.events import TRANSACTIONS, local_day
from upsell_assets.silver.tables import SilverTable, silver_tables

RECONCILED, VOLUME = "reconciled", "volume_as_usual"

Result = dg.AssetCheckResult


@dataclass(frozen=True)
class Audited:
    """A table, its key, and what is asked of it beside that."""

    name: str
    key: tuple[str, ...]
    reconciled: Callable[[datetime], Result] | None
    volume: Callable[[datetime], Result] | None


def audit_checks(lakehouse: Lakehouse, daily: Mapping[str, Sequence[str]]) -> list[dg.AssetChecksDefinition]:
    """The audit of every table that there is to be; `daily` are those by dtRef, with their keys."""
    tables = [*_bronze(lakehouse), *_silver(lakehouse), *_daily(lakehouse, daily)]

    @dg.multi_asset_check(
        name="audit_tables",
        specs=[spec for table in tables for spec in _specs(table)],
        can_subset=True,
        description="Unique keys of all rows, sums between the layers, and rows a day against a table's own past.",
    )
    def audit(context: dg.AssetCheckExecutionContext) -> Iterator[dg.AssetCheckResult]:
        if taken_along(context):
            yield from said_last(context)
            return
        now, asked_for = datetime.now(UTC), context.selected_asset_check_keys
        for table in tables:
            if not asked_for & {spec.key for spec in _specs(table)}:
                continue
            context.log.info("auditing %s", table.name)
            try:
                found = doubled_in_table(lakehouse.lake, lakehouse.lake.open(table.name), table.key)
            except UnknownTableError:
                for spec in (spec for spec in _specs(table) if spec.key in asked_for):
                    yield Result(
                        check_name=spec.name, asset_key=spec.asset_key, passed=True, metadata={"rows": "no table yet"}
                    )
                continue
            # The check belongs to the asset, whose runs answer it too: no result of this run, but news all the same.
            context.instance.report_runless_asset_event(key_evaluation(table.name, table.key, found))
            for spec, ask in zip(_specs(table), filter(None, (table.reconciled, table.volume)), strict=True):
                if spec.key in asked_for:
                    yield ask(now)

    return [audit]


def _specs(table: Audited) -> list[dg.AssetCheckSpec]:
    said = {
        RECONCILED: (table.reconciled, "Rows and sums are those of the layer before; what differs is named."),
        VOLUME: (table.volume, "The newest whole day has as many rows as such a table has in a day."),
    }
    return [
        dg.AssetCheckSpec(name, asset=table.name.split("."), description=text)
        for name, (asked, text) in said.items()
        if asked is not None
    ]


def _bronze(lakehouse: Lakehouse) -> Iterator[Audited]:
    for contract in lakehouse.contracts.values():
        yield Audited(
            table_name(contract),
            contract.key,
            partial(_against_raw, lakehouse, contract),
            partial(_landed, lakehouse, contract),
        )


def _silver(lakehouse: Lakehouse) -> Iterator[Audited]:
    for table in silver_tables(lakehouse.contracts):
        compared = partial(_against_bronze, lakehouse, table) if table.name in AMOUNTS else None
        volume = partial(_events, lakehouse) if table.name == TRANSACTIONS else None
        yield Audited(table.name, table.key, compared, volume)


def _daily(lakehouse: Lakehouse, daily: Mapping[str, Sequence[str]]) -> Iterator[Audited]:
    for name, key in daily.items():
        compared = partial(_against_silver, lakehouse, name) if name == REPORT or name in FEATURES else None
        yield Audited(name, tuple(key), compared, partial(_dtrefs, lakehouse, name))


def _against_raw(lakehouse: Lakehouse, contract: Contract, now: datetime) -> Result:
    return _accepted_result(table_name(contract), accepted(lakehouse, contract, now))


def _against_bronze(lakehouse: Lakehouse, table: SilverTable, _: datetime) -> Result:
    return _reconciled_result(table.name, silver_and_bronze(lakehouse.lake, table))


def _against_silver(lakehouse: Lakehouse, name: str, now: datetime) -> Result:
    contract = lakehouse.contracts["transactions"]
    if name == REPORT:
        return _reconciled_result(name, report_and_silver(lakehouse.lake, contract, now))
    return _reconciled_result(name, features_and_silver(lakehouse.lake, name, contract))


def _landed(lakehouse: Lakehouse, contract: Contract, now: datetime) -> Result:
    day = yesterday(now)
    found = judge(landed_rows(lakehouse.lake, contract), day)
    files = [] if found.usual else landed_files(lakehouse.lake, contract, day)
    return _volume_result(table_name(contract), "changes that landed, by day in UTC", found, files)


def _events(lakehouse: Lakehouse, now: datetime) -> Result:
    found = judge(event_rows(lakehouse.lake, now), local_day(now) - timedelta(1))
    return _volume_result(TRANSACTIONS, "transactions by local day", found)


def _dtrefs(lakehouse: Lakehouse, name: str, now: datetime) -> Result:
    rows = dtref_rows(lakehouse.lake, name)
    # Features look back from the beginning of dtRef; a report of today is not finished.
    last = local_day(now) - timedelta(0 if name.startswith("feature_store.") else 1)
    day = max((d for d in rows if d <= last), default=last)
    return _volume_result(name, "rows by dtRef", judge(rows, day, every_day=False))


def _accepted_result(name: str, found: Accepted) -> Result:
    return Result(
        check_name=RECONCILED,
        asset_key=name.split("."),
        passed=not found.faults,
        metadata={
            "files_accepted": found.files,
            "changes_accepted": found.changes,
            "live_rows": found.live_rows,
            "files_read_again": found.files_read,
            "changes_read_again": found.changes_read,
            "faults": dg.MetadataValue.md("\n".join(f"- {fault}" for fault in found.faults) or "none"),
            "not_read": dg.MetadataValue.md("\n".join(f"- {said}" for said in found.not_read) or "none"),
        },
    )


def _reconciled_result(name: str, found: Reconciled) -> Result:
    sides = [f"| {side.table} | {side.rows:,} | {side.total:,} |" for side in (found.before, found.after)]
    rows = [f"| {row.key} | {row.before} | {row.after} | {', '.join(row.files) or 'unknown'} |" for row in found.rows]
    head = [f"| key | {found.before.table} | {found.after.table} | raw files |", "|---|---|---|---|"]
    return Result(
        check_name=RECONCILED,
        asset_key=name.split("."),
        passed=found.equal,
        metadata={
            "sides": dg.MetadataValue.md("\n".join([f"| table | rows | {found.amount} |", "|---|---:|---:|", *sides])),
            "differing": dg.MetadataValue.md("\n".join([*head, *rows]) if rows else "none"),
            "not_computed_yet": ", ".join(found.behind[:20]) or "nothing",
        },
    )


def _volume_result(name: str, what: str, found: Volume, files: Sequence[str] = ()) -> Result:
    return Result(
        check_name=VOLUME,
        asset_key=name.split("."),
        passed=found.usual,
        severity=dg.AssetCheckSeverity.WARN,
        metadata={
            "what": what,
            "day": str(found.day),
            "rows": found.rows,
            "median": found.median,
            "deviation": round(found.deviation, 1),
            "days": found.days,
            **({"raw_files": dg.MetadataValue.md("\n".join(f"- {file}" for file in files))} if files else {}),
        },
    )
