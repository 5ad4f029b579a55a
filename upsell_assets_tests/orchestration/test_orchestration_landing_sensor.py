"""The landing sensor: what landed is reported once, late or early, and again when it changes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta

import dagster as dg
import pytest
from points_files import land_changes, land_load

from upsell_assets.lake.lakehouse import Lakehouse
from upsell_assets.raw.assets import landed_on, landing_sensor

FIRST_DAY = date(2024, 6, 1)
NOW = datetime(2024, 6, 20, 12, tzinfo=UTC)


@dataclass
class Sensor:
    """The sensor with its cursor, at an hour that the test sets."""

    lakehouse: Lakehouse
    instance: dg.DagsterInstance
    now: datetime = NOW
    cursor: str | None = None
    said: list[dg.AssetMaterialization] = field(default_factory=list)

    def tick(self) -> list[tuple[str, str | None]]:
        """(table, landing partition) of what a tick reports, which is recorded as the daemon does."""
        context = dg.build_sensor_context(self.instance, cursor=self.cursor)
        done = landing_sensor(self.lakehouse, lambda: self.now).evaluate_tick(context)
        self.cursor = done.cursor
        self.said = [event for event in done.asset_events if isinstance(event, dg.AssetMaterialization)]
        for event in self.said:
            self.instance.report_runless_asset_event(event)
        return [(event.asset_key.path[-1], event.partition) for event in self.said]

    def versions(self) -> dict[str | None, str]:
        return {event.partition: (event.tags or {})["dagster/data_version"] for event in self.said}


@pytest.fixture
def sensor(open_lakehouse: Callable[..., Lakehouse]) -> Iterator[Sensor]:
    lakehouse = open_lakehouse(first_landing_day=FIRST_DAY, recent_days=3, sweep_minutes=15)
    with dg.DagsterInstance.ephemeral() as instance:
        yield Sensor(lakehouse, instance)


def land(sensor: Sensor, day: date, name: str = "a", table: str = "customers", ids: str = "x") -> str:
    return land_changes(sensor.lakehouse, table, [{"id": letter} for letter in ids], name, day)


def test_the_first_tick_reports_what_is_there_and_the_second_nothing(sensor: Sensor) -> None:
    land(sensor, date(2024, 6, 3))
    land(sensor, date(2024, 6, 20), table="transactions")

    assert sensor.tick() == [("customers", "2024-06-03"), ("transactions", "2024-06-20")]
    assert sensor.tick() == []


def test_an_empty_bucket_is_nothing_new(sensor: Sensor) -> None:
    assert sensor.tick() == []
    assert sensor.tick() == []


def test_a_day_is_reported_with_its_files_and_bytes(sensor: Sensor) -> None:
    keys = [land(sensor, date(2024, 6, 3), name) for name in "ab"]

    sensor.tick()

    sizes = [found.size for found in sensor.lakehouse.store.list("raw/") if found.key in keys]
    [event] = sensor.said
    assert {name: value.value for name, value in event.metadata.items()} == {"files": 2, "bytes": sum(sizes)}


def test_a_file_in_a_recent_folder_is_found_at_the_next_tick(sensor: Sensor) -> None:
    sensor.tick()
    sensor.now += timedelta(seconds=10)

    land(sensor, date(2024, 6, 17))

    assert sensor.tick() == [("customers", "2024-06-17")]


def test_a_late_file_in_an_old_folder_is_found_by_the_sweep(sensor: Sensor) -> None:
    sensor.tick()
    land(sensor, date(2024, 6, 16))

    sensor.now = NOW + timedelta(minutes=14, seconds=59)
    assert sensor.tick() == []
    sensor.now = NOW + timedelta(minutes=15)
    assert sensor.tick() == [("customers", "2024-06-16")]
    sensor.now = NOW + timedelta(minutes=30)
    assert sensor.tick() == []


def test_the_same_path_with_other_content_is_reported_with_another_version(sensor: Sensor) -> None:
    land(sensor, date(2024, 6, 19))
    sensor.tick()
    before = sensor.versions()

    land(sensor, date(2024, 6, 19), ids="xy")

    assert sensor.tick() == [("customers", "2024-06-19")]
    assert sensor.versions() != before


def test_only_the_day_whose_files_changed_is_reported(sensor: Sensor) -> None:
    for day in (17, 18, 19):
        land(sensor, date(2024, 6, day))
    sensor.tick()

    land(sensor, date(2024, 6, 18), "b")

    assert sensor.tick() == [("customers", "2024-06-18")]


def test_files_before_the_first_landing_day_count_to_the_first_partition(sensor: Sensor) -> None:
    land(sensor, date(2023, 11, 5))
    land(sensor, FIRST_DAY)

    assert sensor.tick() == [("customers", "2024-06-01")]
    before = sensor.versions()

    land(sensor, date(2023, 12, 24))
    sensor.now += timedelta(minutes=15)

    assert sensor.tick() == [("customers", "2024-06-01")]
    assert sensor.versions() != before


def test_the_end_of_a_full_load_is_reported_on_the_day_on_which_it_was_declared(sensor: Sensor) -> None:
    contract = sensor.lakehouse.contracts["customers"]
    sensor.now = datetime.now(UTC)
    sensor.tick()

    land_load(sensor.lakehouse.store, contract, [{"id": "x"}])
    days = {found.modified.date().isoformat() for found in sensor.lakehouse.store.list("raw/")}

    assert {partition for _, partition in sensor.tick()} == days
    before = sensor.versions()
    manifest = "raw/upsell/full_load/customers/first/_manifest.json"
    sensor.lakehouse.store.write(manifest, sensor.lakehouse.store.read(manifest) + b"\n")
    assert [table for table, _ in sensor.tick()] == ["customers"]
    assert sensor.versions() != before


def test_what_is_not_finished_is_not_reported(sensor: Sensor) -> None:
    land(sensor, date(2024, 6, 19), "_part-0")
    land(sensor, date(2024, 6, 19), ".hidden")

    assert sensor.tick() == []


def test_the_cursor_grows_with_days_not_with_files(sensor: Sensor) -> None:
    land(sensor, date(2024, 6, 19), "0")
    sensor.tick()
    one_file = len(sensor.cursor or "")

    for number in range(1, 20):
        land(sensor, date(2024, 6, 19), f"a-rather-long-name-of-a-file-{number}")
    sensor.tick()
    twenty_files = len(sensor.cursor or "")
    land(sensor, date(2024, 6, 18))
    sensor.tick()

    assert twenty_files == one_file
    assert len(sensor.cursor or "") - twenty_files < 50


def test_old_days_are_not_in_the_cursor(sensor: Sensor) -> None:
    sensor.tick()
    empty = len(sensor.cursor or "")

    for day in range(1, 17):
        land(sensor, date(2024, 6, day))
    sensor.now += timedelta(minutes=15)

    assert len(sensor.tick()) == 16
    assert len(sensor.cursor or "") == empty
    sensor.now += timedelta(minutes=15)
    assert sensor.tick() == []


def test_a_lost_cursor_repeats_nothing(sensor: Sensor) -> None:
    for day in (2, 18):
        land(sensor, date(2024, 6, day))
    sensor.tick()
    land(sensor, date(2024, 6, 2), "b")

    sensor.cursor = None

    assert sensor.tick() == [("customers", "2024-06-02")]


def a_capture(sensor: Sensor) -> dg.DagsterRun:
    """A run of the capture job that is under way."""
    job = dg.define_asset_job("capture").resolve(asset_graph=dg.Definitions([asset_of_nothing]).resolve_asset_graph())
    return sensor.instance.create_run_for_job(job, status=dg.DagsterRunStatus.STARTED)


@dg.asset
def asset_of_nothing() -> None:
    """So that there is a job."""


def test_what_a_capture_writes_is_not_reported_before_it_has_ended(sensor: Sensor) -> None:
    land(sensor, date(2024, 6, 18))
    sensor.tick()
    run = a_capture(sensor)

    land(sensor, date(2024, 6, 18), "b")
    land(sensor, date(2024, 6, 20))

    assert sensor.tick() == [("customers", "2024-06-18")], "what lands elsewhere does not wait"
    sensor.instance.report_run_canceled(run)
    assert sensor.tick() == [("customers", "2024-06-20")], "nor is it forgotten where the run did not report it"


def test_what_a_run_has_reported_is_not_reported_again(sensor: Sensor) -> None:
    contract = sensor.lakehouse.contracts["customers"]
    sensor.tick()

    land(sensor, date(2024, 6, 20))
    held = landed_on(sensor.lakehouse, contract, "2024-06-20")
    sensor.instance.report_runless_asset_event(held.event(contract, "2024-06-20"))
    assert sensor.tick() == []

    land(sensor, date(2024, 6, 20), "b")
    assert sensor.tick() == [("customers", "2024-06-20")]
