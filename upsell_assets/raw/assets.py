"""Raw in Dagster: what landed, as external assets with daily partitions, and the sensor that reports it.

The sensor lists and tells; it reads no file and opens no table. A day whose set of files (keys and etags) changed
is reported with the digest of that set as its data version; what did not change is not reported again.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping
from datetime import date, datetime, timedelta

import dagster as dg

from upsell_assets.clock import Clock, utc_now
from upsell_assets.contracts import Contract
from upsell_assets.contracts.files import OwnFiles
from upsell_assets.freshness import follows_source
from upsell_assets.lake.lakehouse import Lakehouse
from upsell_assets.partitions import landing_days, landing_partition
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
            kinds={"s3", "parquet" if isinstance(contract.files, OwnFiles) else contract.files.format},
            owners=["team:upsell"],
            partitions_def=landing_days(lakehouse.settings),
            freshness_policy=follows_source(lakehouse.settings),
            metadata={
                "dagster/uri": lakehouse.store.uri(_folder(contract)),
                "dagster/table_name": f"raw.{contract.name}",
            },
        )
        for contract in lakehouse.contracts.values()
    ]


def _folder(contract: Contract) -> str:
    return f"raw/{contract.schema_name}" if isinstance(contract.files, OwnFiles) else contract.files.path


def landing_sensor(lakehouse: Lakehouse, clock: Clock = utc_now) -> dg.SensorDefinition:
    """Reports landing days whose files changed; recent days at each tick, all others by a periodic sweep."""
    settings = lakehouse.settings

    @dg.sensor(
        name="landing_sensor",
        description="Lists what landed in raw and reports the landing days whose files changed.",
        minimum_interval_seconds=settings.sensor_seconds,
        default_status=dg.DefaultSensorStatus.RUNNING,
    )
    def sense(context: dg.SensorEvaluationContext) -> dg.SensorResult | dg.SkipReason:
        now = clock()
        cursor = json.loads(context.cursor) if context.cursor else {"swept": None, "seen": {}}
        swept = datetime.fromisoformat(cursor["swept"]) if cursor["swept"] else None
        sweep = swept is None or now - swept >= timedelta(minutes=settings.sweep_minutes)
        window = EVER if sweep else Window(now.date() - timedelta(settings.recent_days), now.date())
        calendar = landing_days(settings)
        events: list[dg.AssetMaterialization] = []
        for contract in lakehouse.contracts.values():
            files = [*landed(lakehouse.store, contract, window), *manifests(lakehouse.store, contract, window)]
            seen = cursor["seen"].setdefault(contract.table, {})
            changed = {day: digest for day, digest in _digests(files).items() if seen.get(day) != digest}
            seen |= changed
            partitions = sorted({_partition(day, calendar) for day in changed})
            events += [_landed_event(contract, partition, seen, files, calendar) for partition in partitions]
        cursor = {"swept": (now if sweep else swept or now).isoformat(), "seen": cursor["seen"]}
        if not events:
            context.update_cursor(json.dumps(cursor))
            return dg.SkipReason("nothing new landed")
        return dg.SensorResult(asset_events=events, cursor=json.dumps(cursor))

    return sense


def _digests(files: Iterable[LandedFile]) -> dict[str, str]:
    """Landing day -> what identifies the set of files that landed on it."""
    days: dict[str, list[str]] = {}
    for file in files:
        days.setdefault(file.day.isoformat(), []).append(f"{file.key} {file.etag}")
    return {day: _digest(lines) for day, lines in days.items()}


def _digest(lines: Iterable[str]) -> str:
    return hashlib.sha256("\n".join(sorted(lines)).encode()).hexdigest()[:16]


def _partition(day: str, calendar: dg.DailyPartitionsDefinition) -> str:
    return landing_partition(date.fromisoformat(day), calendar)


def _landed_event(
    contract: Contract,
    partition: str,
    seen: Mapping[str, str],
    files: Iterable[LandedFile],
    calendar: dg.DailyPartitionsDefinition,
) -> dg.AssetMaterialization:
    mine = [file for file in files if landing_partition(file.day, calendar) == partition]
    # The first partition has several days: what landed before the calendar begins counts to it.
    version = _digest(f"{day} {digest}" for day, digest in seen.items() if _partition(day, calendar) == partition)
    return dg.AssetMaterialization(
        raw_key(contract),
        partition=partition,
        metadata={"files": len(mine), "bytes": sum(file.size for file in mine)},
        tags={"dagster/data_version": version},
    )
