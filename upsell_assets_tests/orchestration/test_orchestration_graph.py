"""The whole graph, run in this process as the daemons would: sixty days of a small points system, and late data.

The tests share one lake and go on where the one before stopped; each of them also passes alone.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, time, timedelta
from itertools import groupby
from typing import Any

import dagster as dg
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from daemon import Daemon
from dagster import AssetKey
from points_files import History, changed, history, land_changes, new_lakehouse, today, transaction

from upsell_assets.definitions import build_defs
from upsell_assets.lake.lakehouse import Lakehouse
from upsell_assets.services.embedded import Running

pytestmark = pytest.mark.services

LANDED = datetime.now(UTC).date()
FIRST_DTREF = today() - timedelta(45)
CHURN = AssetKey(["model", "upsell", "churn"])
SCORES = AssetKey(["feature_store", "upsell", "models"])
FEATURES = [
    AssetKey(["feature_store", "upsell", f"fs_{name}"]) for name in ("dia_horario", "geral", "pontos", "transacoes")
]
GOLD = [AssetKey(["gold", "upsell", f"{name}_report"]) for name in ("churn", "daily", "monthly")]


@pytest.fixture(scope="module")
def points() -> History:
    return history(days=60, customers=120)


@pytest.fixture(scope="module")
def lakehouse(services: Running, points: History) -> Lakehouse:
    lakehouse = new_lakehouse(services, first_day=FIRST_DTREF, first_landing_day=LANDED - timedelta(1), source_dsn=None)
    points.land(lakehouse)
    return lakehouse


@pytest.fixture(scope="module")
def daemon(lakehouse: Lakehouse) -> Iterator[Daemon]:
    """Everything that landed has flowed through."""
    with dg.DagsterInstance.ephemeral() as instance:
        daemon = Daemon(build_defs(lakehouse.settings), instance)
        assert daemon.evaluate() == {}
        daemon.sense("landing_sensor")
        daemon.settle()
        yield daemon


def contents(lakehouse: Lakehouse, key: AssetKey) -> pa.Table:
    """A table's rows in a settled order, without when they were computed."""
    table = lakehouse.lake.open(".".join(key.path)).to_pyarrow_table()
    named = table.select([name for name in table.column_names if not name.startswith("_")])
    return named.sort_by([(name, "ascending") for name in named.column_names])


def rows(lakehouse: Lakehouse, key: AssetKey, **where: object) -> list[dict[str, Any]]:
    """The rows with these values."""
    found = contents(lakehouse, key).to_pylist()
    return [row for row in found if all(row[name] == value for name, value in where.items())]


def touched(daemon: Daemon) -> list[tuple[str, str, float]]:
    """(consumer, dtRef, second) of every report, in order."""
    return [
        (key.path[-1], str(record.partition_key), record.timestamp)
        for key in daemon.graph.get_all_asset_keys()
        if "_touched" in key.path
        for record in daemon.instance.fetch_materializations(key, limit=2000, ascending=True).records
    ]


def test_one_landing_makes_every_table_once_and_in_the_order_of_the_layers(daemon: Daemon) -> None:
    cold = daemon.requests[1 : daemon.requests.index({}, 1)]

    layers = [layers for layers, _ in groupby({key.path[0] for key in tick} for tick in cold)]
    assert layers == [{"bronze"}, {"silver"}, {"feature_store", "gold"}, {"model"}, {"feature_store"}]
    assert sorted(key for tick in cold for key in tick) == sorted(daemon.graph.materializable_asset_keys)


def test_every_dtref_that_exists_was_made_and_no_other(daemon: Daemon) -> None:
    days = {str(FIRST_DTREF + timedelta(number)) for number in range(45)}

    for key in GOLD:
        assert daemon.instance.get_materialized_partitions(key) == days, key
    for key in FEATURES:
        assert daemon.instance.get_materialized_partitions(key) == days | {str(today())}, key
    assert daemon.instance.get_materialized_partitions(SCORES) == {str(today())}


def test_populations_and_scores_are_those_of_the_source(daemon: Daemon, lakehouse: Lakehouse, points: History) -> None:
    for day in (FIRST_DTREF, today()):
        for key in FEATURES:
            table = contents(lakehouse, key)
            assert set(table.filter(pc.field("dtRef") == day)["idCliente"].to_pylist()) == points.population(day)
    scores = rows(lakehouse, SCORES)
    assert {row["idCliente"] for row in scores} == points.population(today())
    assert len(scores) == 2 * len(points.population(today()))


def test_the_model_was_judged_on_later_dtrefs(daemon: Daemon) -> None:
    check = daemon.checks["judged_on_later_dtrefs", "churn"]

    assert check.passed
    assert 0 <= check.metadata["auc"].value <= 1
    made = daemon.instance.get_latest_materialization_event(CHURN)
    assert made is not None
    assert made.asset_materialization is not None
    assert "data:image/png;base64," in str(made.asset_materialization.metadata["reliability"].value)


def test_no_file_was_quarantined(daemon: Daemon) -> None:
    assert {
        table: check.passed for (name, table), check in daemon.checks.items() if name == "no_quarantined_files"
    } == {
        "customers": True,
        "transactions": True,
        "transactions_product": True,
    }


def test_touched_days_were_told_before_silver_was_committed(daemon: Daemon, lakehouse: Lakehouse) -> None:
    first_commit_with_rows = min(
        commit["timestamp"]
        for commit in lakehouse.lake.open("silver.upsell.transacoes").history()
        if commit["version"] > 0
    )

    early = {(consumer, day) for consumer, day, second in touched(daemon) if second * 1000 <= first_commit_with_rows}

    days = {str(FIRST_DTREF + timedelta(number)) for number in range(45)}
    assert early == {
        *((key.path[-1], day) for key in GOLD for day in days),
        *((key.path[-1], day) for key in FEATURES for day in {*days, str(today())}),
        ("models", str(today())),
    }


def test_running_a_partition_again_changes_nothing(daemon: Daemon, lakehouse: Lakehouse) -> None:
    keys = sorted(daemon.graph.materializable_asset_keys - {CHURN}, key=str)
    unversioned = {*FEATURES, *GOLD, SCORES}
    before = {key: contents(lakehouse, key) for key in keys}
    versions = {key: lakehouse.lake.open(".".join(key.path)).version() for key in keys if key not in unversioned}
    told = len(touched(daemon))

    for layer, day in (("bronze", str(LANDED)), ("silver", None)):
        assert daemon.materialize([key for key in keys if key.path[0] == layer], day).success
    days = (str(FIRST_DTREF + timedelta(number)) for number in (20, 22))
    assert daemon.materialize([*FEATURES, *GOLD], *days).success
    assert daemon.materialize([SCORES], str(today())).success

    for key in keys:
        assert contents(lakehouse, key).equals(before[key]), key
    assert {key: lakehouse.lake.open(".".join(key.path)).version() for key in versions} == versions
    assert len(touched(daemon)) == told
    daemon.settle()


def test_a_late_event_runs_exactly_the_dtrefs_that_see_it_and_no_score(
    daemon: Daemon, lakehouse: Lakehouse, points: History
) -> None:
    event = today() - timedelta(12)
    at = datetime.combine(event, time(15))  # UTC: around noon in Sao Paulo
    before = rows(lakehouse, GOLD[1], dtRef=event, descNomeProduto=None)[0]["nrQuantidadeTrasacoes"]
    scores = rows(lakehouse, SCORES)
    since = len(daemon.requests)

    land_changes(lakehouse, "transactions", [changed(transaction(90_001, "c000", at, 7), 1)], "late")
    daemon.sense("landing_sensor")
    daemon.settle()

    def days(first: int, last: int) -> set[str]:
        """dtRefs so many days after the event, as far as they exist."""
        return {str(event + timedelta(number)) for number in range(first, last + 1)}

    asked: dict[AssetKey, set[str | None]] = {}
    for tick in daemon.requests[since:]:
        for key, partitions in tick.items():
            if key.path[0] in ("feature_store", "gold", "model"):
                assert key not in asked, f"{key} was asked for twice"
                asked[key] = partitions
    lifetime = days(1, 12)
    assert asked == {
        **dict.fromkeys(FEATURES, lifetime),
        GOLD[0]: days(0, 11),
        GOLD[1]: days(0, 0),
        GOLD[2]: days(0, 11),
    }
    assert rows(lakehouse, GOLD[1], dtRef=event, descNomeProduto=None)[0]["nrQuantidadeTrasacoes"] == before + 1
    assert rows(lakehouse, SCORES) == scores


def test_what_a_late_event_has_changed_since_it_was_served_is_shown_by_the_check(
    daemon: Daemon, lakehouse: Lakehouse, points: History
) -> None:
    def skew() -> dg.AssetCheckEvaluation:
        [check] = (
            daemon.defs.resolve_job_def("skew")
            .execute_in_process(instance=daemon.instance)
            .get_asset_check_evaluations()
        )
        return check

    daemon.materialize([SCORES], str(today()))
    assert skew().passed

    at = datetime.combine(today() - timedelta(20), time(15))
    late = [transaction(95_000 + number, f"c{number:03}", at, 7) for number in range(30)]
    land_changes(lakehouse, "transactions", [changed(row, 20) for row in late], "late-and-many")
    daemon.sense("landing_sensor")
    daemon.settle()

    check = skew()
    assert not check.passed
    assert check.severity == dg.AssetCheckSeverity.WARN
    assert check.metadata["dtrefs"].value == 1
    assert f"| {today()} | {len(points.population(today()))} |" in str(check.metadata["by_dtref"].value)
    assert "| nrSaldoPontos | " in str(check.metadata["features"].value)
    daemon.materialize([SCORES], str(today()))
    assert skew().passed


def test_a_broken_file_is_shown_by_the_check_and_holds_back_no_other(daemon: Daemon, lakehouse: Lakehouse) -> None:
    lakehouse.store.write("raw/upsell/cdc/customers/broken.parquet", b"this is no parquet")
    new = {"idCustomer": "new", "PointsCustomer": 5, "flEmail": 1}
    land_changes(lakehouse, "customers", [changed(new, 2)], "sound")

    daemon.sense("landing_sensor")
    daemon.settle()

    check = daemon.checks["no_quarantined_files", "customers"]
    assert not check.passed
    assert check.severity == dg.AssetCheckSeverity.WARN
    assert "cdc/customers/broken.parquet" in str(check.metadata["quarantine"].value)
    assert "not readable as parquet" in str(check.metadata["quarantine"].value)
    assert rows(lakehouse, AssetKey(["silver", "upsell", "cliente"]), idCliente="new")


def test_dates_that_are_none_are_shown_by_the_check_until_they_are_gone(daemon: Daemon, lakehouse: Lakehouse) -> None:
    written = {94_001: "0000-00-00 00:00:00", 94_002: "yesterday | `noon`", 94_003: None}
    rows = [
        {**transaction(number, "c000", datetime.now(UTC)), "dtTransaction": text} for number, text in written.items()
    ]
    key = land_changes(lakehouse, "transactions", [changed(row, 10) for row in rows], "no-dates")
    daemon.sense("landing_sensor")
    daemon.settle()

    check = daemon.checks["dates_readable", "transacoes"]
    assert not check.passed
    assert check.severity == dg.AssetCheckSeverity.WARN
    assert [value.value for value in check.metadata.values()][:3] == [1, 1, 1]
    assert f"| {key} | 1 | 1 | `'yesterday ¦ 'noon''` |" in str(check.metadata["files"].value)

    land_changes(lakehouse, "transactions", [changed(row, 11, "D") for row in rows], "no-dates-gone")
    daemon.sense("landing_sensor")
    daemon.settle()

    assert daemon.checks["dates_readable", "transacoes"].passed


def test_training_without_a_mature_label_says_what_it_waits_for(services: Running) -> None:
    young = new_lakehouse(services, first_day=today() - timedelta(9), first_landing_day=LANDED, source_dsn=None)
    with dg.DagsterInstance.ephemeral() as instance:
        daemon = Daemon(build_defs(young.settings), instance)

        failed = daemon.materialize([CHURN], raise_on_error=False)

    [event] = [event for event in failed.all_events if event.is_step_failure]
    assert "no dtRef has a mature label yet" in str(event.step_failure_data.error)
