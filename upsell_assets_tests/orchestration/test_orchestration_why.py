"""Why an asset was made, and why it is not: asked of an instance on which our conditions were looked at and kept."""

import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from click.testing import Result
from dagster import AssetKey, DagsterRunStatus
from dagster._core.definitions.run_request import InstigatorType
from dagster._core.definitions.sensor_definition import SensorType
from dagster._core.remote_origin import GrpcServerCodeLocationOrigin, RemoteInstigatorOrigin, RemoteRepositoryOrigin
from dagster._core.scheduler.instigation import InstigatorState, InstigatorStatus, SensorInstigatorData
from dagster._core.utils import make_new_run_id
from typer.testing import CliRunner

from upsell_assets.automation import on_change, once_ready, weekly
from upsell_assets.cli import app
from upsell_assets.errors import PermanentError
from upsell_assets.resume import failed_runs
from upsell_assets.silver.assets import touched_events
from upsell_assets.up import ROOT
from upsell_assets.why import Why, find_asset, why

DAYS = dg.DailyPartitionsDefinition("2024-02-01", end_offset=1, timezone="America/Sao_Paulo")
LANDINGS = dg.DailyPartitionsDefinition("2024-02-01", end_offset=1, timezone="UTC")
RAW, BRONZE = "raw.upsell.transactions", "bronze.upsell.transactions"
SILVER, TOUCHED = "silver.upsell.transacoes", "silver.upsell._touched.daily_report"
REPORT, SCORES, MODEL = "gold.upsell.daily_report", "feature_store.upsell.models", "model.upsell.churn"
DAY, OTHER, THIRD = "2024-02-10", "2024-02-11", "2024-02-12"


def key(name: str) -> AssetKey:
    return AssetKey(name.split("."))


@dataclass
class Points:
    """The way of transactions through the lake, with our conditions, and bodies that the test sets.

    `tick` looks at the conditions and keeps what they said, as the daemon does: what changed, or asked for something.
    """

    instance: dg.DagsterInstance
    bodies: dict[str, Callable[[dg.AssetExecutionContext], None]] = field(default_factory=dict)
    cursor: Any = None
    number: int = 0

    def __post_init__(self) -> None:
        daily = {"partitions_def": DAYS, "backfill_policy": dg.BackfillPolicy.single_run()}
        self.defs = dg.Definitions(
            [
                dg.AssetSpec(key(RAW), partitions_def=LANDINGS),
                self._asset(
                    BRONZE,
                    [RAW],
                    on_change(),
                    partitions_def=LANDINGS,
                    backfill_policy=dg.BackfillPolicy.single_run(),
                ),
                self._asset(SILVER, [BRONZE], on_change()),
                dg.AssetSpec(key(TOUCHED), partitions_def=DAYS, deps=[key(SILVER)]),
                self._asset(REPORT, [TOUCHED, SILVER], on_change(of=key(TOUCHED)), **daily),
                self._asset(SCORES, [TOUCHED, MODEL], once_ready(), partitions_def=DAYS),
                self._asset(MODEL, [SILVER], weekly("0 5 * * 1", "America/Sao_Paulo")),
            ]
        )
        self.graph = self.defs.resolve_asset_graph()
        self.tick()
        self.sensor(datetime.now(UTC))

    def _asset(
        self, name: str, deps: list[str], condition: dg.AutomationCondition[Any], **options: Any
    ) -> dg.AssetsDefinition:
        @dg.asset(
            key=key(name), deps=[key(dep) for dep in deps], automation_condition=condition, pool="points", **options
        )
        def made(context: dg.AssetExecutionContext) -> None:
            self.bodies.get(name, lambda _: None)(context)

        return made

    def tick(self, at: datetime | None = None) -> dict[str, set[str | None]]:
        """What two looks ask for: what is there for the first time counts from the second on."""
        first = self.look(at)
        number = self.number
        second = self.look(at)
        self.number = number if first and not second else self.number  # a run names the look that asked for it
        return first | second

    def look(self, at: datetime | None) -> dict[str, set[str | None]]:
        """What is asked for."""
        found = dg.evaluate_automation_conditions(self.defs, self.instance, cursor=self.cursor, evaluation_time=at)
        before = (
            {node.key: node.result_value_hash for node in (self.cursor.previous_condition_cursors or ())}
            if (self.cursor)
            else {}
        )
        kept = [
            result.serializable_evaluation.with_run_ids(set())
            for result in found.results
            if before.get(result.key) != result.value_hash or not result.true_subset.is_empty
        ]
        self.cursor, self.number = found.cursor, found.cursor.evaluation_id
        assert self.instance.schedule_storage is not None
        self.instance.schedule_storage.add_auto_materialize_asset_evaluations(self.number, kept)
        self.sensor(datetime.now(UTC))
        asked = {
            name: set(found.get_requested_partitions(key(name))) for name in (BRONZE, SILVER, REPORT, SCORES, MODEL)
        }
        return {name: days for name, days in asked.items() if days}

    def sensor(self, at: datetime, status: InstigatorStatus = InstigatorStatus.DECLARED_IN_CODE) -> None:
        """The sensor of the conditions as the daemon notes it."""
        location = GrpcServerCodeLocationOrigin(host="127.0.0.1", port=9, location_name="upsell")
        state = InstigatorState(
            RemoteInstigatorOrigin(RemoteRepositoryOrigin(location, "__repository__"), "automation"),
            InstigatorType.SENSOR,
            status,
            SensorInstigatorData(
                min_interval=5, last_tick_start_timestamp=at.timestamp(), sensor_type=SensorType.AUTOMATION
            ),
        )
        known = self.instance.get_instigator_state(state.instigator_origin_id, state.selector_id)
        (self.instance.update_instigator_state if known else self.instance.add_instigator_state)(state)

    def report(self, name: str, *days: str | None) -> None:
        for day in days or (None,):
            self.instance.report_runless_asset_event(dg.AssetMaterialization(key(name), partition=day))

    def run(self, name: str, first: str | None = None, last: str | None = None, **tags: str) -> dg.DagsterRun:
        """One run; by the conditions of the newest tick unless other tags say how it came to be."""
        start, end = "dagster/asset_partition_range_start", "dagster/asset_partition_range_end"
        span = {start: first, end: last} if first and last else {}
        by = tags or {"dagster/from_automation_condition": "true", "dagster/asset_evaluation_id": str(self.number)}
        return (
            self.defs.resolve_implicit_global_asset_job_def()
            .execute_in_process(
                instance=self.instance,
                asset_selection=[key(name)],
                partition_key=None if last else first,
                tags=span | by,
                raise_on_error=False,
            )
            .dagster_run
        )

    def why(self, name: str, day: str | None = None, now: datetime | None = None) -> Why:
        return why(self.instance, self.graph, key(name), day, now or datetime.now(UTC))

    def silver_touches(self, *days: str) -> dg.DagsterRun:
        """Silver is made, and tells which dtRefs it touched."""

        def body(context: dg.AssetExecutionContext) -> None:
            touched = {"gold.upsell.daily_report": {datetime.fromisoformat(day).date() for day in days}}
            for event in touched_events(touched, context.run.run_id):
                context.log_event(event)

        self.bodies[SILVER] = body
        return self.run(SILVER)


@pytest.fixture(scope="module")
def empty_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home of Dagster, by our own settings, on which nothing has happened; only such a one keeps evaluations."""
    home = tmp_path_factory.mktemp("dagster") / "home"
    home.mkdir()
    shutil.copyfile(ROOT / "dagster.yaml", home / "dagster.yaml")
    with dg.DagsterInstance.from_config(str(home)) as instance:
        assert instance.get_runs() == []
        assert instance.schedule_storage is not None
        assert instance.all_instigator_state() == []
    return home


@pytest.fixture
def points(empty_home: Path, tmp_path: Path) -> Iterator[Points]:
    shutil.copytree(empty_home, tmp_path / "home")
    with dg.DagsterInstance.from_config(str(tmp_path / "home")) as instance:
        yield Points(instance)


def boom(_: dg.AssetExecutionContext) -> None:
    raise RuntimeError("the disk is full")


def landed(points: Points) -> None:
    """A file landed, and went on to silver, which touched a day; nothing but the report is left to do."""
    points.report(RAW, THIRD)
    points.tick()
    points.run(BRONZE, THIRD)
    assert points.tick() == {SILVER: {None}}
    points.silver_touches(DAY)


def test_the_days_that_silver_touched_are_the_reason_of_a_report_with_the_run_that_touched_them(points: Points) -> None:
    landed(points)
    [silver] = points.instance.get_runs(limit=1)
    assert points.tick()[REPORT] == {DAY}
    run = points.run(REPORT, DAY)

    [made] = points.why(REPORT, DAY).made

    assert made.run == run.run_id
    assert made.partitions == DAY
    news = next(line for line in made.because if line.startswith("news: a dependency was updated"))
    touched = made.because[made.because.index(news) + 1]
    assert touched.strip().startswith(f"{TOUCHED} {DAY} at ")
    assert f"run {silver.run_id}, {SILVER}" in touched
    assert not [line for line in made.because if line.startswith(("again", "tick", "code"))]


def test_news_of_an_earlier_look_is_the_reason_of_a_run_that_had_to_wait(points: Points) -> None:
    landed(points)
    points.tick()
    points.run(REPORT, DAY)
    points.tick()
    silver = points.silver_touches(DAY)
    during: list[Why] = []

    def body(_: dg.AssetExecutionContext) -> None:
        assert REPORT not in points.tick()
        during.append(points.why(REPORT, DAY))

    points.bodies[SILVER] = body
    points.run(SILVER)
    assert points.tick()[REPORT] == {DAY}
    points.run(REPORT, DAY)

    assert during[0].now == [f"it waits for {SILVER}, which is being made"]
    assert any(silver.run_id in line for line in points.why(REPORT, DAY).made[0].because)


def test_a_landing_is_the_reason_of_bronze(points: Points) -> None:
    points.report(RAW, THIRD)
    points.tick()
    points.run(BRONZE, THIRD)

    [made] = points.why(BRONZE).made

    assert any(f"{RAW} {THIRD}" in line and "the landing sensor reported" in line for line in made.because)
    assert points.why(RAW, THIRD).made[0].because == [f"the landing sensor reported the files of {THIRD}"]


@pytest.mark.parametrize(
    ("tags", "words"),
    [
        ({"dagster/sensor_name": "some_sensor"}, "the sensor some_sensor"),
        ({"dagster/schedule_name": "verify"}, "the schedule verify"),
        ({"dagster/backfill": "abc"}, "backfill abc"),
        ({"dagster/from_ui": "true"}, "by hand in the web interface"),
        (
            {"dagster/asset_evaluation_id": "987654"},
            "its condition asked for it (evaluation 987654, which is not kept any more)",
        ),
    ],
)
def test_how_a_run_was_started_is_told(points: Points, tags: dict[str, str], words: str) -> None:
    points.report(BRONZE, THIRD)
    points.run(SILVER, None, None, **tags)

    assert points.why(SILVER).made[0].because == [words]


def test_nothing_new_names_what_is_watched(points: Points) -> None:
    landed(points)
    points.tick()
    points.run(REPORT, DAY)
    points.tick()

    words = f"nothing new in {TOUCHED} since it was last asked for"
    assert points.why(REPORT, DAY).now == [words]
    assert points.why(REPORT).now == [words]
    assert points.why(SILVER).now == [f"nothing new in {BRONZE} since it was last asked for"]


def test_what_was_never_made_is_named_and_not_what_was(points: Points) -> None:
    points.report(TOUCHED, DAY)
    points.tick()

    assert points.why(REPORT, DAY).now == [f"it waits for {SILVER}, which was never made"]
    assert points.why(SCORES, DAY).now == [f"it waits for {MODEL}, which was never made"]
    assert points.why(REPORT).now == [f"{DAY}: it waits for {SILVER}, which was never made"]
    assert points.why(REPORT).made == []


def test_a_failure_is_told_in_its_own_words_and_when_it_is_tried_again(points: Points) -> None:
    landed(points)
    start = datetime.now(UTC).replace(minute=1, second=0, microsecond=0)
    points.tick()
    points.bodies[REPORT] = boom
    run = points.run(REPORT, DAY)
    points.tick()

    found = points.why(REPORT, DAY, start)

    [failed] = found.failed
    assert run.run_id in failed
    assert "gold__upsell__daily_report: RuntimeError: the disk is full" in failed.replace("\n", "")
    assert found.now == [
        f"it failed, and is tried again by the clock, next at {start + timedelta(minutes=9):%Y-%m-%d %H:%M:%S} UTC, "
        "or when there is news"
    ]
    assert points.why(REPORT).failed == found.failed

    points.bodies.clear()
    points.run(REPORT, DAY)
    assert points.why(REPORT, DAY).failed == []


def test_scores_are_made_once_and_the_model_by_the_clock(points: Points) -> None:
    landed(points)
    points.tick()
    points.run(MODEL)
    points.run(REPORT, DAY)
    points.tick()
    points.run(SCORES, DAY)
    points.tick()
    monday = datetime.now(UTC).replace(hour=8, minute=0, second=0, microsecond=0)  # 05:00 in Sao Paulo
    while monday.weekday() or monday < datetime.now(UTC):
        monday += timedelta(days=1)

    assert points.why(SCORES, DAY).now == ["it was made, and is made once only"]
    assert points.why(MODEL).now == [f"its time has not come, next at {monday:%Y-%m-%d} 08:00:00 UTC"]


def test_what_came_after_the_last_look_is_told_as_such(points: Points) -> None:
    landed(points)

    [line] = points.why(REPORT, DAY).now[-1:]

    assert f"{TOUCHED} was updated at" in points.why(REPORT, DAY).now[0]
    assert "after the last look" in line


def test_a_sensor_that_is_stopped_or_does_not_look_is_the_reason(points: Points) -> None:
    points.sensor(datetime.now(UTC) - timedelta(minutes=5))
    assert "has not looked since" in points.why(SILVER).now[0]
    assert "upsell up" in points.why(SILVER).now[0]

    points.sensor(datetime.now(UTC), InstigatorStatus.STOPPED)
    assert points.why(SILVER).now[0].startswith("the sensor automation is stopped")

    points.sensor(datetime.now(UTC))
    assert not [line for line in points.why(SILVER).now if "sensor" in line]


def test_a_run_under_way_is_told_with_what_holds_it(points: Points) -> None:
    during: list[Why] = []
    points.bodies[SILVER] = lambda _: during.append(points.why(SILVER))
    points.report(BRONZE, THIRD)
    points.tick()

    run = points.run(SILVER)

    assert during[0].now[0] == f"it is being made now: run {run.run_id}, started"
    assert points.why(SILVER).now[0] != during[0].now[0]


def test_a_day_that_does_not_exist_is_explained(points: Points) -> None:
    today = DAYS.get_last_partition_key()
    assert today is not None

    assert (
        "the first day of gold.upsell.daily_report is 2024-02-01 (UPSELL_FIRST_DAY)"
        in points.why(REPORT, "2024-01-31").now[0]
    )
    assert "UPSELL_FIRST_LANDING_DAY" in points.why(BRONZE, "2024-01-31").now[0]
    assert f"today is {today} (America/Sao_Paulo)" in points.why(REPORT, "2999-01-01").now[0]
    assert points.why(REPORT, today).now != []
    with pytest.raises(PermanentError, match="2024-2-3: is not a day"):
        points.why(REPORT, "2024-2-3")
    with pytest.raises(PermanentError, match=r"silver\.upsell\.transacoes: has no partitions"):
        points.why(SILVER, DAY)


def test_an_unknown_name_is_an_error_with_near_ones(points: Points) -> None:
    assert find_asset(points.graph, "gold/upsell/daily_report") == key(REPORT)
    assert find_asset(points.graph, REPORT) == key(REPORT)
    for name in ("daily_report", "gold.upsell.dayly_report"):
        with pytest.raises(PermanentError, match=rf"no such asset\. Near it: .*{REPORT}"):
            find_asset(points.graph, name)


def test_a_failed_range_is_made_good_by_all_of_its_days_only(points: Points) -> None:
    points.bodies[REPORT] = boom
    failed = points.run(REPORT, DAY, THIRD)
    points.bodies.clear()

    def left() -> list[str]:
        return [record.dagster_run.run_id for record in failed_runs(points.instance)]

    assert left() == [failed.run_id]
    points.run(REPORT, "2024-02-20", "2024-02-25")
    assert left() == [failed.run_id], "other days"
    points.run(REPORT, DAY, OTHER)
    assert left() == [failed.run_id], "one day is left"
    points.run(REPORT, THIRD)
    assert left() == []


def test_of_failures_with_the_same_work_the_newest_is_run_again_and_none_that_is_under_way(points: Points) -> None:
    points.bodies[REPORT] = boom
    points.run(REPORT, DAY)
    newest = points.run(REPORT, DAY)
    other = points.run(REPORT, OTHER)

    assert [record.dagster_run.run_id for record in failed_runs(points.instance)] == [newest.run_id, other.run_id]
    assert failed_runs(points.instance, datetime.now(UTC) + timedelta(hours=1)) == []

    again = points.instance.create_run_for_job(
        points.defs.resolve_implicit_global_asset_job_def().get_subset(asset_selection={key(REPORT)}),
        asset_selection=frozenset({key(REPORT)}),
        tags={"dagster/partition": DAY},
        status=DagsterRunStatus.STARTED,
    )
    left = [record.dagster_run.run_id for record in failed_runs(points.instance)]
    assert left == [other.run_id]
    points.instance.report_run_canceled(again)


def test_checks_that_failed_to_run_are_made_good_by_the_same_checks_only(points: Points) -> None:
    def ran(status: DagsterRunStatus, check: str) -> str:
        checks = frozenset({dg.AssetCheckKey(key(SILVER), check)})
        run = dg.DagsterRun(
            "checks", make_new_run_id(), asset_selection=frozenset(), asset_check_selection=checks, status=status
        )
        return points.instance.add_run(run).run_id

    broken = ran(DagsterRunStatus.FAILURE, "holds")
    ran(DagsterRunStatus.SUCCESS, "another")
    assert [record.dagster_run.run_id for record in failed_runs(points.instance)] == [broken]

    ran(DagsterRunStatus.SUCCESS, "holds")
    assert failed_runs(points.instance) == []


@pytest.fixture
def upsell(points: Points, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
    """The commands, on the records of the test; no lake runs there."""
    (tmp_path / "lake").mkdir()
    (tmp_path / "lake" / "dagster").symlink_to(tmp_path / "home")
    monkeypatch.setenv("UPSELL_HOME", str(tmp_path / "lake"))
    monkeypatch.delenv("DAGSTER_HOME", raising=False)
    return lambda *arguments: CliRunner().invoke(app, arguments)


def test_retry_says_what_it_would_run_and_refuses_where_no_lake_runs(
    points: Points, upsell: Callable[..., Result]
) -> None:
    assert upsell("retry", "--failed").output == "nothing failed that was not made good since\n"
    points.bodies[REPORT] = boom
    run = points.run(REPORT, DAY, OTHER)

    said = upsell("retry", "--failed", "--dry-run")

    assert said.exit_code == 0
    assert said.output.startswith(f"would launch again {run.run_id}: {REPORT}, 2 days from {DAY} to {OTHER}: ")
    assert "the disk is full" in said.output
    assert upsell("retry", run.run_id[:8], "--dry-run").output == said.output
    refused = upsell("retry", "--failed")
    assert isinstance(refused.exception, PermanentError)
    assert "no lake runs here" in str(refused.exception)
    assert "no such run" in str(upsell("retry", "beef").exception)
    assert upsell("retry").exit_code == 2


def test_why_prints_facts_and_json(points: Points, upsell: Callable[..., Result]) -> None:
    landed(points)
    points.tick()
    run = points.run(REPORT, DAY)

    lines = [line.split("\t") for line in upsell("why", REPORT, DAY).output.splitlines()]
    found = json.loads(upsell("why", "gold/upsell/daily_report", DAY, "--json").output)

    assert lines[0] == ["asset", f"{REPORT} {DAY}"]
    assert run.run_id in lines[1][1]
    assert [text for name, text in lines if name == "because"] == found["made"][0]["because"]
    assert [text for name, text in lines if name == "now"] == found["now"]
    assert found["made"][0]["run"] == run.run_id
    assert found["url"] is None
