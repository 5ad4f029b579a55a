"""How often sensors look, by Dagster's own rule, and that a tick opens no instance of its own."""

from __future__ import annotations

import dagster as dg
import pytest
from dagster._core.definitions.sensor_definition import SensorEvaluationContext

from upsell_assets.definitions import build_defs
from upsell_assets.settings import Settings
from upsell_assets.ticks import TURN_SECONDS, instance_of

LATE = 0.2
"""Seconds after the daemon's turn at which a tick has begun."""


def turns_between_looks(seconds: float) -> int:
    """How many turns of the daemon a sensor lets pass; a turn lets look whom `seconds` have passed since it began."""
    return next(turn for turn in range(1, 100) if turn * TURN_SECONDS - LATE >= seconds)


def test_capture_and_conditions_are_looked_at_in_every_turn_and_the_object_store_in_every_third() -> None:
    settings = Settings(
        s3_endpoint="http://127.0.0.1:9", s3_bucket="nowhere", source_dsn="postgresql://a:b@127.0.0.1/c"
    )

    sensors = build_defs(settings).get_repository_def().sensor_defs

    looks = {sensor.name: turns_between_looks(sensor.minimum_interval_seconds or 30) for sensor in sensors}
    assert (looks["capture_sensor"], looks["automation"], looks["landing_sensor"]) == (1, 1, 3)


def context_of(instance: dg.DagsterInstance) -> SensorEvaluationContext:
    """As the code server has it: it is told where the instance is."""
    return dg.build_sensor_context(instance_ref=instance.get_ref())


def test_ticks_share_an_instance_which_is_that_of_their_lake(monkeypatch: pytest.MonkeyPatch) -> None:
    with dg.DagsterInstance.local_temp() as one, dg.DagsterInstance.local_temp() as other:
        found = instance_of(context_of(one))

        assert instance_of(context_of(one)) is found
        assert found.root_directory == one.root_directory
        assert instance_of(context_of(other)).root_directory == other.root_directory


def test_an_instance_that_is_handed_over_is_asked() -> None:
    with dg.DagsterInstance.ephemeral() as instance:
        assert instance_of(dg.build_sensor_context(instance)) is instance
