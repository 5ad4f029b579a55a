"""The new-day sensor: a dtRef begins with a local day, though nothing lands."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, date, datetime

import dagster as dg
import pyarrow as pa
import pytest

from upsell_assets.lake.lakehouse import Lakehouse
from upsell_assets.silver.assets import new_day_sensor

EVENING = datetime(2024, 6, 20, 22, tzinfo=UTC)  # 19:00 in Sao Paulo
BEFORE_MIDNIGHT = datetime(2024, 6, 21, 2, 59, 59, tzinfo=UTC)
AFTER_MIDNIGHT = datetime(2024, 6, 21, 3, 0, 1, tzinfo=UTC)
FEATURES = {"fs_dia_horario", "fs_geral", "fs_pontos", "fs_transacoes"}


@dataclass
class Sensor:
    lakehouse: Lakehouse
    cursor: str | None = None

    def tick(self, now: datetime) -> set[tuple[str, str | None]]:
        """(consumer, dtRef) of what a tick reports."""
        with dg.DagsterInstance.ephemeral() as instance:
            context = dg.build_sensor_context(instance, cursor=self.cursor)
            done = new_day_sensor(self.lakehouse, lambda: now).evaluate_tick(context)
        self.cursor = done.cursor or self.cursor
        return {
            (event.asset_key.path[-1], event.partition)
            for event in done.asset_events
            if isinstance(event, dg.AssetMaterialization)
        }


@pytest.fixture
def sensor(lakehouse: Lakehouse) -> Sensor:
    return Sensor(lakehouse)


def happened(sensor: Sensor, *moments: datetime) -> None:
    table = pa.table(
        {
            "idTransacao": [f"t{number}" for number in range(len(moments))],
            "dtTransacao": pa.array(moments, pa.timestamp("us", tz="UTC")),
        }
    )
    sensor.lakehouse.lake.replace("silver.upsell.transacoes", table.to_reader(), partitions={})


def test_the_first_tick_reports_nothing_since_silver_did(sensor: Sensor) -> None:
    happened(sensor, EVENING)

    assert sensor.tick(EVENING) == set()


def test_after_local_midnight_features_and_scores_have_a_new_dtref(sensor: Sensor) -> None:
    happened(sensor, EVENING)
    sensor.tick(EVENING)

    assert sensor.tick(BEFORE_MIDNIGHT) == set()
    assert sensor.tick(AFTER_MIDNIGHT) == {(table, "2024-06-21") for table in {*FEATURES, "models"}}


def test_a_day_is_reported_once(sensor: Sensor) -> None:
    happened(sensor, EVENING)
    sensor.tick(EVENING)
    sensor.tick(AFTER_MIDNIGHT)

    assert sensor.tick(AFTER_MIDNIGHT) == set()
    assert sensor.tick(datetime(2024, 6, 21, 20, tzinfo=UTC)) == set()


def test_a_day_that_the_newest_event_does_not_reach_is_no_dtref(sensor: Sensor) -> None:
    happened(sensor, datetime(2024, 6, 19, 22, tzinfo=UTC))
    sensor.tick(EVENING)

    assert sensor.tick(AFTER_MIDNIGHT) == set()


def test_without_any_event_no_day_is_reported(sensor: Sensor) -> None:
    sensor.tick(EVENING)

    assert sensor.tick(AFTER_MIDNIGHT) == set()


def test_nights_that_were_slept_through_are_made_up_for(sensor: Sensor) -> None:
    """The machine was off for two nights; only the dtRef that the events reach is new."""
    happened(sensor, EVENING)
    sensor.tick(EVENING)

    assert {day for _, day in sensor.tick(datetime(2024, 6, 23, 12, tzinfo=UTC))} == {"2024-06-21"}


def test_days_before_the_first_partition_are_not_reported(open_lakehouse: Callable[..., Lakehouse]) -> None:
    sensor = Sensor(open_lakehouse(first_day=date(2024, 6, 22)))
    happened(sensor, EVENING)
    sensor.tick(EVENING)

    assert sensor.tick(AFTER_MIDNIGHT) == set()
