"""Raw in Dagster: what landed, as assets with daily partitions, and the sensor that reports it.

The sensor lists and tells; it reads no file and opens no table. A day whose set of files (keys and etags) changed
is reported with the digest of that set as its data version; what did not change, or was reported already by the run
that wrote it (`capture`), is not reported again.
"""

import hashlib
import json
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta

import dagster as dg
from dagster._core.definitions.data_version import DATA_VERSION_TAG

from upsell_assets.clock import Clock, utc_now
from upsell_assets.contracts import Contract
from upsell_assets.contracts.files import OwnFiles
from upsell_assets.freshness import follows_source
from upsell_assets.lake.lakehouse import Lakehouse
from upsell_assets.partitions import first_day, landing_days, landing_partition
from upsell_assets.raw.landing import EVER, LandedFile, Window, landed
from upsell_assets.raw.loads import manifests
from upsell_assets.runs import under_way
from upsell_assets.ticks import instance_of, interval

CAPTURE = "capture"
"""The job that writes raw files, and takes them in."""


def raw_key(contract: Contract) -> dg.AssetKey:
    """The asset of a table's raw files."""
    return dg.AssetKey(["raw", contract.schema_name, contract.table])


def raw_specs(lakehouse: Lakehouse, contracts: Iterable[Contract]) -> list[dg.AssetSpec]:
    """One asset per contract; external, unless something of ours writes its files."""
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
        for contract in contracts
    ]


def _folder(contract: Contract) -> str:
    return f"raw/{contract.schema_name}" if isinstance(contract.files, OwnFiles) else contract.files.path


def landing_sensor(lakehouse: Lakehouse, clock: Clock = utc_now) -> dg.SensorDefinition:
    """Reports landing days whose files changed; recent days at each tick, all others by a periodic sweep.

    What was reported stands in the event log. The cursor has the recent days only, so that a tick with nothing new asks
    the object store alone.
    """
    settings, calendar, job = lakehouse.settings, landing_days(lakehouse.settings), lakehouse.named(CAPTURE)

    @dg.sensor(
        name=lakehouse.named("landing_sensor"),
        description="Lists what landed in raw and reports the landing days whose files changed.",
        minimum_interval_seconds=interval(settings.sensor_seconds),
        default_status=dg.DefaultSensorStatus.RUNNING,
    )
    def sense(context: dg.SensorEvaluationContext) -> dg.SensorResult | dg.SkipReason:
        now, instance = clock(), instance_of(context)
        cursor = json.loads(context.cursor) if context.cursor else {"swept": None, "seen": {}}
        swept = datetime.fromisoformat(cursor["swept"]) if cursor["swept"] else None
        sweep = swept is None or now - swept >= timedelta(minutes=settings.sweep_minutes)
        recent = Window(now.date() - timedelta(settings.recent_days), now.date())
        # What is being written is reported by the run that writes it.
        written = {_partition(now, back, calendar) for back in (0, 1)} if under_way(instance, job) else set()
        seen: dict[str, dict[str, str]] = {}
        events: list[dg.AssetMaterialization] = []
        for contract in lakehouse.contracts.values():
            known = cursor["seen"].get(contract.table, {})
            later = written if contract.table in lakehouse.captured else set()
            days = _landed_days(lakehouse, contract, EVER if sweep else recent, calendar)
            new = {day: held for day, held in days.items() if held.version != known.get(day) and day not in later}
            told = _reported(instance, contract, new)
            events += [held.event(contract, day) for day, held in sorted(new.items()) if held.version != told.get(day)]
            versions = {day: known.get(day) if day in later else held.version for day, held in days.items()}
            first = _partition(now, settings.recent_days, calendar)
            seen[contract.table] = {day: version for day, version in versions.items() if version and day >= first}
        cursor = json.dumps({"swept": (now if sweep else swept or now).isoformat(), "seen": seen})
        if not events:
            context.update_cursor(cursor)
            return dg.SkipReason("nothing new landed")
        return dg.SensorResult(asset_events=events, cursor=cursor)

    return sense


@dataclass(frozen=True)
class Landed:
    """What lies in one landing partition.

    Attributes:
        version: tells its set of files (keys and etags) from any other.
        files: how many.
        bytes: their size.
    """

    version: str
    files: int
    bytes: int

    @property
    def metadata(self) -> dict[str, int]:
        """As an asset's page shows it."""
        return {"files": self.files, "bytes": self.bytes}

    def event(self, contract: Contract, partition: str) -> dg.AssetMaterialization:
        """The report of it."""
        return dg.AssetMaterialization(
            raw_key(contract), partition=partition, metadata=self.metadata, tags={DATA_VERSION_TAG: self.version}
        )


def landed_on(lakehouse: Lakehouse, contract: Contract, partition: str) -> Landed:
    """What lies in one landing partition now."""
    day, calendar = date.fromisoformat(partition), landing_days(lakehouse.settings)
    return _landed_days(lakehouse, contract, Window(day, day), calendar).get(partition, _landed(()))


def _partition(now: datetime, days_back: int, calendar: dg.DailyPartitionsDefinition) -> str:
    return landing_partition(now.date() - timedelta(days_back), calendar)


def _landed_days(
    lakehouse: Lakehouse, contract: Contract, window: Window, calendar: dg.DailyPartitionsDefinition
) -> dict[str, Landed]:
    """Landing partition -> what lies in it, of a window of days."""
    start = first_day(calendar)
    if window.first is not None and window.first <= start:
        window = Window(None, window.last)  # what landed before the calendar begins counts to its first day
    partitions: dict[str, list[LandedFile]] = {}
    for file in [*landed(lakehouse.store, contract, window), *manifests(lakehouse.store, contract, window)]:
        partitions.setdefault(landing_partition(file.day, calendar), []).append(file)
    return {partition: _landed(files) for partition, files in partitions.items()}


def _landed(files: Sequence[LandedFile]) -> Landed:
    lines = sorted(f"{file.key} {file.etag}" for file in files)
    version = hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16]
    return Landed(version, len(files), sum(file.size for file in files))


def _reported(instance: dg.DagsterInstance, contract: Contract, partitions: Collection[str]) -> dict[str, str]:
    """Landing partition -> the version that was reported last."""
    if not partitions:
        return {}
    told = instance.event_log_storage.get_latest_tags_by_partition(
        raw_key(contract), dg.DagsterEventType.ASSET_MATERIALIZATION, [DATA_VERSION_TAG], [*partitions]
    )
    return {partition: tags[DATA_VERSION_TAG] for partition, tags in told.items()}
