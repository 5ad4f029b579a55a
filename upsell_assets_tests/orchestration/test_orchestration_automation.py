"""What runs by itself, and when: the conditions of the real assets, judged tick by tick without running anything.

A dependency that was made is reported to the instance; what an asset's own run does to its condition is judged by
assets that stand in for it, with the same conditions.
"""

from collections.abc import Callable, Iterator
from datetime import UTC, date, datetime, timedelta
from typing import Any

import dagster as dg
import pytest
from daemon import Daemon
from dagster import AssetKey
from points_files import today

from upsell_assets.automation import on_change, once_ready
from upsell_assets.definitions import build_defs
from upsell_assets.lake.lakehouse import Lakehouse
from upsell_assets.settings import Settings

LANDED = datetime.now(UTC).date()
BRONZE = [f"bronze/upsell/{table}" for table in ("customers", "transactions", "transactions_product")]
SILVER = [
    f"silver/upsell/{table}"
    for table in ("cliente", "cliente_historico", "produtos", "transacao_produto", "transacoes")
]
FEATURES = [f"feature_store/upsell/{table}" for table in ("fs_dia_horario", "fs_geral", "fs_pontos", "fs_transacoes")]
SCORES, CHURN = "feature_store/upsell/models", "model/upsell/churn"
DTREF = (today() - timedelta(1)).isoformat()
STARTED = datetime.now(UTC)
"""When ticks happen that do not say when: what is asked for by the clock is not asked for by chance."""


@pytest.fixture(scope="module")
def defs() -> dg.Definitions:
    """The real definitions; the conditions read the instance, not the lake, so that nobody answers for it."""
    return build_defs(
        Settings(
            s3_endpoint="http://127.0.0.1:9",
            s3_bucket="nowhere",
            first_day=today() - timedelta(9),
            first_landing_day=LANDED - timedelta(4),
        )
    )


@pytest.fixture
def daemon(defs: dg.Definitions) -> Iterator[Daemon]:
    with dg.DagsterInstance.ephemeral() as instance:
        yield Daemon(defs, instance)


def made(daemon: Daemon, *assets: str, day: str | date | None = None) -> None:
    """Report assets as made, partitions by day."""
    for asset in assets:
        key = AssetKey(asset.split("/"))
        daemon.instance.report_runless_asset_event(
            dg.AssetMaterialization(key, partition=str(day) if day else None, tags={"dagster/data_version": "1"})
        )


def asked(daemon: Daemon) -> dict[str, set[str | None]]:
    return {key.to_user_string(): days for key, days in daemon.evaluate(STARTED).items()}


def bronze_is_made(daemon: Daemon) -> None:
    made(daemon, *(table.replace("bronze", "raw") for table in BRONZE), day=LANDED)
    daemon.evaluate(STARTED)
    made(daemon, *BRONZE, day=LANDED)


def everything_is_made(daemon: Daemon) -> None:
    """All that flows from one landing, up to scores for one dtRef, with the requests of its own ticks."""
    bronze_is_made(daemon)
    while silver := asked(daemon):
        made(daemon, *silver)
    made(daemon, *(f"silver/upsell/_touched/{table.rpartition('/')[2]}" for table in FEATURES), day=DTREF)
    made(daemon, "silver/upsell/_touched/models", day=DTREF)
    daemon.evaluate(STARTED)
    made(daemon, *FEATURES, day=DTREF)
    assert asked(daemon) == {CHURN: {None}}
    made(daemon, CHURN)
    assert asked(daemon) == {SCORES: {DTREF}}
    made(daemon, SCORES, day=DTREF)
    assert asked(daemon) == {}


@pytest.fixture(scope="module")
def lived(defs: dg.Definitions) -> Iterator[Daemon]:
    with dg.DagsterInstance.ephemeral() as instance:
        daemon = Daemon(defs, instance)
        everything_is_made(daemon)
        yield daemon


@pytest.fixture
def settled(lived: Daemon) -> Daemon:
    """Everything was made and nothing is asked for, whatever the test before has left."""
    while left := asked(lived):
        for asset, days in left.items():
            for day in days:
                made(lived, asset, day=day)
    return lived


def test_nothing_landed_asks_for_nothing(daemon: Daemon) -> None:
    assert asked(daemon) == {}
    assert asked(daemon) == {}


@pytest.mark.parametrize("first_tick_before_landing", [True, False])
def test_what_landed_asks_bronze_for_its_landing_day_only(daemon: Daemon, first_tick_before_landing: bool) -> None:
    if first_tick_before_landing:
        daemon.evaluate(STARTED)

    made(daemon, "raw/upsell/customers", day=LANDED - timedelta(2))

    assert asked(daemon) == {"bronze/upsell/customers": {str(LANDED - timedelta(2))}}


def test_silver_follows_bronze_and_each_of_its_tables_is_asked_for_once(daemon: Daemon) -> None:
    bronze_is_made(daemon)

    ticks = []
    while tick := asked(daemon):
        ticks.append(tick.keys())
        made(daemon, *tick)

    assert sorted(table for tick in ticks for table in tick) == SILVER
    [lines, products] = [
        next(number for number, tick in enumerate(ticks) if f"silver/upsell/{table}" in tick)
        for table in ("transacao_produto", "produtos")
    ]
    assert lines < products


def test_a_landing_of_one_table_asks_for_that_table_down_to_silver(settled: Daemon) -> None:
    made(settled, "raw/upsell/customers", day=LANDED)
    assert asked(settled) == {"bronze/upsell/customers": {str(LANDED)}}
    made(settled, "bronze/upsell/customers", day=LANDED)

    assert asked(settled) == {"silver/upsell/cliente": {None}, "silver/upsell/cliente_historico": {None}}


@pytest.mark.parametrize("table", ["feature_store/upsell/fs_pontos", "gold/upsell/monthly_report"])
def test_a_touched_dtref_asks_for_exactly_that_dtref_of_exactly_that_table(settled: Daemon, table: str) -> None:
    days = [(today() - timedelta(back)).isoformat() for back in (8, 3)]

    for day in days:
        made(settled, f"silver/upsell/_touched/{table.rpartition('/')[2]}", day=day)

    assert asked(settled) == {table: set(days)}


def test_silver_alone_asks_no_dtref(settled: Daemon) -> None:
    made(settled, *SILVER)

    assert all(key.startswith("silver/") for key in asked(settled))


def test_the_same_dtref_touched_again_is_asked_for_again(settled: Daemon) -> None:
    for _ in range(2):
        made(settled, "silver/upsell/_touched/fs_geral", day=DTREF)
        assert asked(settled) == {"feature_store/upsell/fs_geral": {DTREF}}
        made(settled, "feature_store/upsell/fs_geral", day=DTREF)


def test_scores_wait_for_all_features_of_their_dtref(settled: Daemon) -> None:
    day = today().isoformat()

    made(settled, "silver/upsell/_touched/models", day=day)
    made(settled, *FEATURES[:-1], day=day)
    assert asked(settled) == {}

    made(settled, FEATURES[-1], day=day)
    assert asked(settled) == {SCORES: {day}}


def test_late_data_never_asks_for_scores_that_were_issued(settled: Daemon) -> None:
    made(settled, *FEATURES, day=DTREF)
    made(settled, "silver/upsell/_touched/models", day=DTREF)
    made(settled, CHURN)

    assert asked(settled) == {}


def test_late_data_never_asks_for_scores_of_a_past_dtref_that_had_none(settled: Daemon) -> None:
    past = (today() - timedelta(6)).isoformat()

    made(settled, *FEATURES, day=past)

    assert asked(settled) == {}


def test_the_model_is_trained_again_on_monday_morning_and_not_when_features_change(daemon: Daemon) -> None:
    everything_is_made(daemon)
    made(daemon, *FEATURES, day=DTREF)
    monday = datetime.now(UTC) + timedelta(days=7 - datetime.now(UTC).weekday())
    four_local = monday.replace(hour=7, minute=0, second=0, microsecond=0)  # 08:00 UTC is 05:00 in Sao Paulo

    asked_for = [
        CHURN in {key.to_user_string() for key in daemon.evaluate(at=at)}
        for at in (four_local, four_local + timedelta(hours=1, seconds=1), four_local + timedelta(hours=2))
    ]

    assert asked_for == [False, True, False]


def test_what_failed_is_asked_for_by_the_clock_and_not_at_once(open_lakehouse: Callable[..., Lakehouse]) -> None:
    lakehouse = open_lakehouse(first_day=today() - timedelta(9), first_landing_day=LANDED)
    cliente = AssetKey(["silver", "upsell", "cliente"])
    start = datetime.now(UTC).replace(minute=1, second=0, microsecond=0)
    with dg.DagsterInstance.ephemeral() as instance:
        daemon = Daemon(build_defs(lakehouse.settings), instance)
        daemon.evaluate(at=start)
        made(daemon, "bronze/upsell/customers", day=LANDED)  # a claim: the table is not there
        assert cliente in daemon.evaluate(at=start)

        assert not daemon.materialize([cliente], raise_on_error=False).success

        assert cliente not in daemon.evaluate(at=start + timedelta(minutes=1))
        assert cliente not in daemon.evaluate(at=start + timedelta(minutes=8))
        assert cliente in daemon.evaluate(at=start + timedelta(minutes=9, seconds=1))
        assert cliente not in daemon.evaluate(at=start + timedelta(minutes=10))


def test_what_failed_is_asked_for_when_there_is_news(open_lakehouse: Callable[..., Lakehouse]) -> None:
    lakehouse = open_lakehouse(first_day=today() - timedelta(9), first_landing_day=LANDED)
    cliente = AssetKey(["silver", "upsell", "cliente"])
    start = datetime.now(UTC).replace(minute=1, second=0, microsecond=0)
    with dg.DagsterInstance.ephemeral() as instance:
        daemon = Daemon(build_defs(lakehouse.settings), instance)
        made(daemon, "bronze/upsell/customers", day=LANDED)
        assert cliente in daemon.evaluate(at=start)
        assert not daemon.materialize([cliente], raise_on_error=False).success
        assert cliente not in daemon.evaluate(at=start + timedelta(minutes=1))

        made(daemon, "bronze/upsell/customers", day=LANDED)

        assert cliente in daemon.evaluate(at=start + timedelta(minutes=2))


DAYS = dg.DailyPartitionsDefinition("2024-02-01", end_date="2024-02-06")


class StandIns:
    """A source and what follows from it by our conditions, with a body that the test sets."""

    def __init__(self, instance: dg.DagsterInstance) -> None:
        self.instance = instance
        self.cursor: Any = None
        self.body: Callable[[], None] = lambda: None
        self.write(code="1")

    def change_code(self) -> None:
        """Load the code location with another code of the assets that run by changes."""
        self.write(code="2")

    def write(self, code: str) -> None:
        @dg.asset(deps=["source"], automation_condition=on_change(), code_version=code)
        def whole() -> None:
            self.body()

        @dg.asset(deps=["source"], partitions_def=DAYS, automation_condition=on_change(), code_version=code)
        def daily() -> None:
            self.body()

        @dg.asset(deps=["source", daily], partitions_def=DAYS, automation_condition=on_change(), code_version=code)
        def after() -> None:
            """Runs when nothing it depends on is being made."""

        @dg.asset(deps=[daily], partitions_def=DAYS, automation_condition=once_ready())
        def once() -> None:
            """Runs once."""

        self.assets = [dg.AssetSpec("source", partitions_def=DAYS), whole, daily, after, once]

    def tick(self, at: datetime | None = None) -> set[str]:
        """Which assets are asked for."""
        return {name for name, partitions in self.evaluate(at).items() if partitions}

    def requested(self, name: str) -> set[str | None]:
        """Which partitions of an asset are asked for."""
        return self.evaluate()[name]

    def evaluate(self, at: datetime | None = None) -> dict[str, set[str | None]]:
        """In two ticks: what is there for the first time counts from the second on."""
        asked: dict[str, set[str | None]] = {name: set() for name in ("whole", "daily", "after", "once")}
        for _ in range(2):
            result = dg.evaluate_automation_conditions(
                self.assets, self.instance, evaluation_time=at or STARTED, cursor=self.cursor
            )
            self.cursor = result.cursor
            for name, already in asked.items():
                days = set(result.get_requested_partitions(AssetKey(name)))
                assert already.isdisjoint(days), f"{name} is asked for twice"
                already |= days
        return asked

    def source_changes(self) -> None:
        self.instance.report_runless_asset_event(dg.AssetMaterialization("source", partition="2024-02-03"))

    def run(self, name: str, **options: bool) -> bool:
        job = dg.Definitions(self.assets).resolve_implicit_global_asset_job_def()
        done = job.execute_in_process(
            instance=self.instance,
            asset_selection=[AssetKey(name)],
            partition_key=None if name == "whole" else "2024-02-03",
            **options,
        )
        return done.success


@pytest.fixture
def stand_ins() -> Iterator[StandIns]:
    with dg.DagsterInstance.ephemeral() as instance:
        stand_ins = StandIns(instance)
        stand_ins.source_changes()
        assert stand_ins.tick() == {"whole", "daily"}
        yield stand_ins


@pytest.mark.parametrize("name", ["whole", "daily"])
def test_what_a_dependency_reports_while_the_asset_runs_is_not_forgotten(stand_ins: StandIns, name: str) -> None:
    during: list[set[str]] = []

    def body() -> None:
        stand_ins.source_changes()
        during.append(stand_ins.tick() & {name})

    stand_ins.body = body
    assert stand_ins.run(name)

    assert during == [set()], "it is being made"
    assert name in stand_ins.tick()


def test_an_asset_with_news_waits_while_a_dependency_is_being_made(stand_ins: StandIns) -> None:
    during: list[set[str]] = []
    assert stand_ins.run("daily")
    assert "after" in stand_ins.tick()
    assert stand_ins.run("after")
    assert "after" not in stand_ins.tick()

    def body() -> None:
        stand_ins.source_changes()
        during.append(stand_ins.tick() & {"after"})

    stand_ins.body = body
    assert stand_ins.run("daily")

    assert during == [set()]
    assert "after" in stand_ins.tick()


@pytest.mark.parametrize("name", ["whole", "daily"])
def test_another_code_asks_for_what_was_made_by_the_old_one_and_once(stand_ins: StandIns, name: str) -> None:
    assert stand_ins.run(name)
    assert name not in stand_ins.tick()

    stand_ins.change_code()

    assert stand_ins.requested(name) == ({None} if name == "whole" else {"2024-02-03"})
    assert stand_ins.run(name)
    assert name not in stand_ins.tick()


def test_another_code_is_not_forgotten_while_the_asset_waits(stand_ins: StandIns) -> None:
    during: list[set[str]] = []
    assert stand_ins.run("daily")
    assert "after" in stand_ins.tick()
    assert stand_ins.run("after")

    def body() -> None:
        stand_ins.change_code()
        during.append(stand_ins.tick() & {"after"})

    stand_ins.body = body
    assert stand_ins.run("daily")

    assert during == [set()], "what it depends on is being made"
    assert "after" in stand_ins.tick()


def test_once_is_once(stand_ins: StandIns) -> None:
    assert stand_ins.run("daily")
    assert "once" in stand_ins.tick()
    assert stand_ins.run("once")

    assert stand_ins.run("daily")

    assert "once" not in stand_ins.tick()


def test_what_never_came_is_asked_for_again_by_the_clock_alone(settled_start: datetime) -> None:
    start = settled_start
    with dg.DagsterInstance.ephemeral() as instance:
        stand_ins = StandIns(instance)
        stand_ins.source_changes()
        assert stand_ins.tick(start) == {"whole", "daily"}

        # As seen by an evaluation in whose middle the run ends, or after a run that somebody cancelled.
        assert stand_ins.tick(start + timedelta(minutes=1)) == set()
        assert stand_ins.tick(start + timedelta(minutes=8)) == set()
        assert stand_ins.tick(start + timedelta(minutes=9, seconds=1)) == {"whole", "daily"}
        assert stand_ins.tick(start + timedelta(minutes=10)) == set()


@pytest.fixture
def settled_start() -> datetime:
    """A minute after the clock of what failed has ticked."""
    return datetime.now(UTC).replace(minute=1, second=0, microsecond=0)


def test_a_failure_is_not_repeated_at_once(stand_ins: StandIns) -> None:
    def body() -> None:
        raise RuntimeError("on purpose")

    stand_ins.body = body
    assert not stand_ins.run("daily", raise_on_error=False)

    assert stand_ins.tick() & {"daily"} == set()
    assert stand_ins.tick() & {"daily"} == set()
