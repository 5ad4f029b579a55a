"""The new-day sensor: a dtRef begins with a local day, though nothing lands; and events whose time has come count."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, date, datetime

import dagster as dg
import pyarrow as pa
import pytest
from bronze_steps import SILVER, Change, take_in

from upsell_assets.lake.lakehouse import Lakehouse
from upsell_assets.silver.assets import new_day_sensor
from upsell_assets.silver.refresh import refresh

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


# What is taken in now comes before these times.
NOON = datetime(2100, 6, 20, 15, tzinfo=UTC)
NEXT_DAY = datetime(2100, 6, 21, 3, 0, 1, tzinfo=UTC)
GOLD = {"daily_report", "monthly_report", "churn_report"}


def announced(sensor: Sensor, *moments: datetime) -> None:
    """Transactions, through bronze and silver."""
    changes = [
        Change("transactions", f"t{number}", "I", number, ("ana", f"{at:%Y-%m-%d %H:%M:%S}", 1))
        for number, at in enumerate(moments)
    ]
    take_in(sensor.lakehouse.lake, *changes)
    refresh(sensor.lakehouse.lake, sensor.lakehouse.engine, SILVER["transacoes"])


def test_the_day_of_an_event_that_came_too_early_is_reported_when_it_has_ended(sensor: Sensor) -> None:
    announced(sensor, datetime(2100, 6, 19, 15, tzinfo=UTC), datetime(2100, 6, 20, 23, tzinfo=UTC))
    sensor.tick(NOON)

    begins = {(table, "2100-06-21") for table in {*FEATURES, "models"}}
    assert sensor.tick(NEXT_DAY) == begins | {(table, "2100-06-20") for table in GOLD}
    assert sensor.tick(NEXT_DAY) == set()


def test_days_up_to_an_event_that_came_days_too_early_begin_with_it(sensor: Sensor) -> None:
    """Nothing happened between: the days were none of the calendar's before the event's time came."""
    announced(sensor, datetime(2100, 6, 17, 15, tzinfo=UTC), datetime(2100, 6, 20, 23, tzinfo=UTC))
    sensor.tick(NOON)

    reported = sensor.tick(NEXT_DAY)

    assert {day for table, day in reported if table == "daily_report"} == {f"2100-06-{day}" for day in (18, 19, 20)}
    assert {day for table, day in reported if table == "fs_geral"} == {f"2100-06-{day}" for day in (19, 20, 21)}
    assert {day for table, day in reported if table == "models"} == {"2100-06-21"}


def test_an_event_whose_time_has_not_come_is_not_reported(sensor: Sensor) -> None:
    announced(sensor, datetime(2024, 6, 19, 15, tzinfo=UTC), datetime(2100, 6, 20, 23, tzinfo=UTC))
    sensor.tick(EVENING)

    assert sensor.tick(AFTER_MIDNIGHT) == set()
