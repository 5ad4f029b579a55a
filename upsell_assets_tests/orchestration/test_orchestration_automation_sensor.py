"""The automation sensor looks at the conditions where something happened or a step of the clock began, and only there."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from itertools import islice

import dagster as dg
import pytest
from dagster._core.remote_origin import GrpcServerCodeLocationOrigin, RemoteJobOrigin, RemoteRepositoryOrigin
from dagster._core.storage.tags import SENSOR_NAME_TAG
from dagster._utils.schedules import cron_string_iterator

from upsell_assets.automation import RETRY_CRON, on_change
from upsell_assets.automation_sensor import CLOCK_MINUTES, LONGEST_WAIT, LOOKS, AutomationSensor
from upsell_assets.definitions import build_defs
from upsell_assets.model.assets import RETRAIN
from upsell_assets.settings import Settings

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)


@dg.asset(deps=["source"], automation_condition=on_change())
def made() -> None:
    """Follows its source."""


@dataclass
class Ticks:
    """A sensor of one asset, and what its ticks gave."""

    instance: dg.DagsterInstance
    now: datetime = NOON
    cursor: str | None = None
    asked: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        sensor = AutomationSensor("automation", target=dg.AssetSelection.all(), clock=lambda: self.now)
        self.repository = dg.Definitions([dg.AssetSpec("source"), made], sensors=[sensor]).get_repository_def()
        self.sensor = self.repository.get_sensor_def("automation")

    def tick(self) -> bool:
        """Whether the conditions were looked at."""
        context = dg.build_sensor_context(self.instance, cursor=self.cursor, repository_def=self.repository)
        done = self.sensor.evaluate_tick(context)
        looked, self.cursor = done.cursor != self.cursor, done.cursor  # each look at the conditions has a number
        self.asked.append(len(done.run_requests or ()))
        return looked

    def queued(self, sensor: str) -> dg.DagsterRun:
        """A run that this sensor asked for, and that waits to be started."""
        job = self.repository.get_implicit_global_asset_job_def()
        server = GrpcServerCodeLocationOrigin("127.0.0.1", 9)
        return self.instance.create_run_for_job(
            job,
            status=dg.DagsterRunStatus.QUEUED,
            tags={SENSOR_NAME_TAG: sensor},
            remote_job_origin=RemoteJobOrigin(RemoteRepositoryOrigin(server, "__repository__"), job.name),
        )

    def quiet(self) -> None:
        while self.tick():
            pass


@pytest.fixture
def ticks() -> Iterator[Ticks]:
    with dg.DagsterInstance.local_temp() as instance:
        yield Ticks(instance)


def test_a_quiet_lake_is_looked_at_a_few_times_and_then_every_ten_minutes(ticks: Ticks) -> None:
    ticks.now += timedelta(minutes=7)
    assert [ticks.tick() for _ in range(LOOKS + 2)] == [True] * LOOKS + [False] * 2

    ticks.now = NOON + timedelta(minutes=10) - timedelta(microseconds=1)
    assert not ticks.tick()

    ticks.now = NOON + timedelta(minutes=10)
    assert [ticks.tick() for _ in range(3)] == [True, False, False]


def test_no_cron_of_a_condition_is_finer_than_the_steps_of_the_clock() -> None:
    defs = build_defs(Settings(s3_endpoint="http://127.0.0.1:9", s3_bucket="nowhere"))
    graph = defs.resolve_asset_graph()
    nodes = [graph.get(key) for key in graph.materializable_asset_keys]
    crons = {cron for node in nodes if node.automation_condition for cron in crons_of(node.automation_condition)}
    moments = {cron: list(islice(cron_string_iterator(NOON.timestamp(), cron, "UTC"), 200)) for cron in crons}
    assert {RETRY_CRON, RETRAIN} <= crons
    assert not [(cron, at) for cron, found in moments.items() for at in found if at.minute % CLOCK_MINUTES or at.second]


def crons_of(condition: dg.AutomationCondition) -> Iterator[str]:
    if cron := getattr(condition, "cron_schedule", None):
        yield cron
    for child in condition.children:
        yield from crons_of(child)


def test_what_happened_is_looked_at_until_it_is_answered_and_asked_for_once(ticks: Ticks) -> None:
    ticks.quiet()

    ticks.instance.report_runless_asset_event(dg.AssetMaterialization("source"))
    ticks.quiet()

    assert sum(ticks.asked) == 1


def test_what_comes_in_during_a_look_is_asked_for_once(ticks: Ticks, monkeypatch: pytest.MonkeyPatch) -> None:
    for table in ("source", "made"):
        ticks.instance.report_runless_asset_event(dg.AssetMaterialization(table))
    ticks.quiet()
    before = sum(ticks.asked)
    storage = ticks.instance.event_log_storage
    newest, asked = storage.get_maximum_record_id, []

    def and_then_something_happens() -> int | None:
        """The sensor asks what is the newest event, and so does the look that follows."""
        asked.append(newest())
        if len(asked) == 2:
            ticks.instance.report_runless_asset_event(dg.AssetMaterialization("source"))
        return asked[-1]

    monkeypatch.setattr(storage, "get_maximum_record_id", and_then_something_happens)
    ticks.instance.report_runless_asset_event(dg.AssetMaterialization("unrelated"))
    ticks.quiet()

    assert sum(ticks.asked) == before + 1


def test_a_run_that_begins_or_ends_is_looked_at(ticks: Ticks) -> None:
    ticks.quiet()
    run = ticks.instance.create_run_for_job(
        ticks.repository.get_implicit_global_asset_job_def(), status=dg.DagsterRunStatus.STARTED
    )
    assert ticks.tick()
    ticks.quiet()

    ticks.instance.report_run_canceled(run)

    assert ticks.tick()


def test_while_what_was_asked_for_is_queued_nothing_more_is_asked_for(ticks: Ticks) -> None:
    ticks.quiet()
    ticks.now = datetime.now(UTC)  # by which the instance dates its runs
    run = ticks.queued("automation")
    ticks.instance.report_runless_asset_event(dg.AssetMaterialization("source"))
    assert not any(ticks.tick() for _ in range(LOOKS + 1))

    ticks.instance.report_run_canceled(run)
    ticks.quiet()

    assert sum(ticks.asked) == 1, "what happened meanwhile was kept"


def test_a_run_that_waits_for_long_or_was_asked_for_by_others_holds_back_nobody(ticks: Ticks) -> None:
    ticks.quiet()
    ticks.now = datetime.now(UTC)
    ticks.queued("somebody else's")
    assert ticks.tick()
    ticks.queued("automation")
    assert not ticks.tick()

    ticks.now = datetime.now(UTC) + LONGEST_WAIT

    assert ticks.tick()


def test_a_new_process_looks_again(ticks: Ticks) -> None:
    ticks.quiet()
    assert Ticks(ticks.instance, cursor=ticks.cursor).tick()
