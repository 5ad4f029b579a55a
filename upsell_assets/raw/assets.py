"""Raw in Dagster: what landed, as external assets with daily partitions, and the sensor that reports it.

The sensor lists and tells; it reads no file and opens no table. A day whose set of files (keys and etags) changed
is reported with the digest of that set as its data version; what did not change is not reported again.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime, timedelta

import dagster as dg

from upsell_assets.contracts import Contract
from upsell_assets.lake.lakehouse import Lakehouse
from upsell_assets.partitions import first_day, landing_days, landing_partition
from upsell_assets.raw.landing import EVER, LandedFile, Window, landed
from upsell_assets.raw.loads import manifests


def raw_key(contract: Contract) -> dg.AssetKey:
    """The asset of a table's raw files."""
    return dg.AssetKey(["raw", contract.schema_name, contract.table])


def raw_specs(lakehouse: Lakehouse) -> list[dg.AssetSpec]:
    """One external asset per contract."""
    return [
        dg.AssetSpec(
            raw_key(contract),
            description=f"Files of {contract.name} as they landed: full loads and changes (OP, modified_date).",
            group_name="raw",
            kinds={"s3", "parquet"},
            owners=["team:upsell"],
            partitions_def=landing_days(lakehouse.settings),
            metadata={
                "dagster/uri": lakehouse.store.uri(f"raw/{contract.schema_name}"),
                "dagster/table_name": f"raw.{contract.name}",
            },
        )
        for contract in lakehouse.contracts.values()
    ]


def landing_sensor(lakehouse: Lakehouse) -> dg.SensorDefinition:
    """Reports landing days whose files changed; recent days at each tick, all others by a periodic sweep."""
    settings = lakehouse.settings

    @dg.sensor(
        name="landing_sensor",
        description="Lists what landed in raw and reports the landing days whose files changed.",
        minimum_interval_seconds=settings.sensor_seconds,
        default_status=dg.DefaultSensorStatus.RUNNING,
    )
    def sense(context: dg.SensorEvaluationContext) -> dg.SensorResult | dg.SkipReason:
        now = datetime.now(UTC)
        cursor = json.loads(context.cursor) if context.cursor else {"swept": None, "seen": {}}
        swept = datetime.fromisoformat(cursor["swept"]) if cursor["swept"] else None
        sweep = swept is None or now - swept >= timedelta(minutes=settings.sweep_minutes)
        window = EVER if sweep else Window(now.date() - timedelta(settings.recent_days), now.date())
        calendar = landing_days(settings)
        events: list[dg.AssetMaterialization] = []
        seen = cursor["seen"]
        for contract in lakehouse.contracts.values():
            files = [*landed(lakehouse.store, contract, window), *manifests(lakehouse.store, contract, window)]
            known = seen.setdefault(contract.table, {})
            for day, digest in _digests(files, calendar, window).items():
                if known.get(day) != digest:
                    known[day] = digest
                    events.append(_landed_event(contract, day, digest, files, calendar))
        cursor = {"swept": (now if sweep else swept or now).isoformat(), "seen": seen}
        if not events:
            context.update_cursor(json.dumps(cursor))
            return dg.SkipReason("nothing new landed")
        return dg.SensorResult(asset_events=events, cursor=json.dumps(cursor))

    return sense


def _digests(files: Iterable[LandedFile], calendar: dg.DailyPartitionsDefinition, window: Window) -> Mapping[str, str]:
    days: dict[str, list[str]] = {}
    for file in files:
        days.setdefault(landing_partition(file.day, calendar), []).append(f"{file.key} {file.etag}")
    if window != EVER and window.first is not None and window.first <= first_day(calendar):
        # The first partition also holds what landed before it, which only a sweep sees whole.
        days.pop(first_day(calendar).isoformat(), None)
    return {day: hashlib.sha256("\n".join(sorted(lines)).encode()).hexdigest()[:16] for day, lines in days.items()}


def _landed_event(
    contract: Contract, day: str, digest: str, files: list[LandedFile], calendar: dg.DailyPartitionsDefinition
) -> dg.AssetMaterialization:
    mine = [file for file in files if landing_partition(file.day, calendar) == day]
    return dg.AssetMaterialization(
        raw_key(contract),
        partition=day,
        metadata={"files": len(mine), "bytes": sum(file.size for file in mine)},
        tags={"dagster/data_version": digest},
    )
