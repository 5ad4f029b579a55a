"""Skew: what features as served and features of now have apart, feature by feature and customer by customer."""

from __future__ import annotations

from collections.abc import Callable
from datetime import date, timedelta
from typing import Any

import dagster as dg
import pyarrow as pa
import pytest

from upsell_assets.checks.compared import served_checks, skew_schedule
from upsell_assets.feature_store.point_in_time import FEATURE_TABLES, FeatureStore
from upsell_assets.lake.engines.embedded import EmbeddedEngine
from upsell_assets.lake.lakehouse import Lakehouse
from upsell_assets.lake.tables import Lake
from upsell_assets.model.served import SERVED, Skew, as_served, compare, skews

DAY = date(2024, 3, 1)
SCHEMA = pa.schema(
    [
        pa.field("dtRef", pa.date32()),
        pa.field("idCliente", pa.string()),
        pa.field("nrSaldoPontos", pa.int64()),
        pa.field("nrPctPontosRLover", pa.float64()),
    ]
)


def features(rows: dict[str, tuple[int | None, float | None]], day: date = DAY) -> pa.Table:
    """Two features of some customers."""
    named = [dict(zip(SCHEMA.names, (day, customer, *values), strict=True)) for customer, values in rows.items()]
    return pa.Table.from_pylist(named, SCHEMA)


def of_now(**rows: tuple[int | None, float | None]) -> Skew:
    """Against one row as served, of ana, and one without any value, of bia."""
    served = as_served(features({"ana": (10, 0.1), "bia": (None, None)}), "churn", 3)
    return compare(DAY, served, features({"ana": (10, 0.1), "bia": (None, None), **rows}))


def test_the_same_rows_in_any_order_have_no_skew() -> None:
    rows = {"ana": (10, 0.1), "bia": (None, None), "caio": (0, 0.0)}
    served = as_served(features(rows), "churn", 3)

    assert compare(DAY, served, features(dict(reversed(rows.items())))) == Skew(DAY, 3, 0, 0, 0)
    assert compare(DAY, served, features(rows)).share == 0


@pytest.mark.parametrize("share", [0.1 + 1e-12, 0.1 - 1e-12])
def test_floats_that_differ_in_the_last_bits_are_the_same(share: float) -> None:
    assert of_now(ana=(10, share)).share == 0


@pytest.mark.parametrize(
    ("now", "feature"),
    [
        ({"ana": (11, 0.1)}, "nrSaldoPontos"),
        ({"ana": (None, 0.1)}, "nrSaldoPontos"),
        ({"bia": (0, None)}, "nrSaldoPontos"),
        ({"ana": (10, 0.1001)}, "nrPctPontosRLover"),
        ({"ana": (10, None)}, "nrPctPontosRLover"),
        ({"bia": (None, 0.0)}, "nrPctPontosRLover"),
    ],
)
def test_another_value_and_a_null_for_a_value_are_skew(now: dict[str, Any], feature: str) -> None:
    assert of_now(**now) == Skew(DAY, 2, differing=1, appeared=0, vanished=0, features={feature: 1})
    assert of_now(**now).share == 0.5


def test_a_customer_counts_once_however_many_features_differ() -> None:
    skew = of_now(ana=(11, 0.2), bia=(1, None))

    assert (skew.differing, skew.features) == (2, {"nrSaldoPontos": 2, "nrPctPontosRLover": 1})
    assert skew.share == 1


def test_customers_that_appeared_and_vanished_are_counted() -> None:
    served = as_served(features({"ana": (10, 0.1), "bia": (1, None)}), "churn", 3)

    skew = compare(DAY, served, features({"ana": (10, 0.1), "caio": (1, None), "davi": (1, None)}))

    assert (skew.served, skew.differing, skew.appeared, skew.vanished) == (2, 0, 2, 1)
    assert skew.share == 0.75


def test_nobody_now_and_nobody_then_are_no_fault() -> None:
    nobody, somebody = features({}), features({"ana": (1, None)})

    assert compare(DAY, as_served(somebody, "churn", 1), nobody) == Skew(DAY, 1, 0, 0, 1)
    assert compare(DAY, as_served(nobody, "churn", 1), somebody) == Skew(DAY, 0, 0, 1, 0)
    assert compare(DAY, as_served(nobody, "churn", 1), nobody).share == 0


def test_a_feature_that_one_side_does_not_have_is_named_not_compared() -> None:
    served = as_served(features({"ana": (10, 0.1)}), "churn", 3)
    renamed = features({"ana": (10, 0.1)}).rename_columns(["dtRef", "idCliente", "nrSaldoPontos", "nrPct"])

    assert compare(DAY, served, renamed) == Skew(DAY, 1, 0, 0, 0, {}, ("nrPct", "nrPctPontosRLover"))


# --- of the lake's tables ---


def put(lake: Lake, day: date, balances: dict[str, int], *, serve: bool, model: str = "churn") -> None:
    """Features of a dtRef (the balance in each table), and whether they are served."""
    rows = features({customer: (balance, None) for customer, balance in balances.items()}, day).select([0, 1, 2])
    for name in FEATURE_TABLES:
        of_table = rows.rename_columns(["dtRef", "idCliente", f"nr_{name.rpartition('.')[2]}"])
        lake.replace(name, of_table.to_reader(), partitions={"dtRef": [day]})
    if serve:
        joined = rows.select([0, 1])
        for name in FEATURE_TABLES:
            joined = joined.append_column(f"nr_{name.rpartition('.')[2]}", rows["nrSaldoPontos"])
        served = as_served(joined, model, 1)
        lake.replace(SERVED, served.to_reader(), partitions={"descModelName": [model], "dtRef": [day]})


def test_only_the_newest_dtrefs_of_the_model_are_compared(local_lake: Lake) -> None:
    days = [DAY + timedelta(number) for number in range(4)]
    for day in days:
        put(local_lake, day, {"ana": 1}, serve=True)
    put(local_lake, DAY + timedelta(9), {"ana": 1}, serve=True, model="other")
    put(local_lake, days[2], {"ana": 2}, serve=False)

    found = list(skews(FeatureStore(local_lake, EmbeddedEngine(local_lake), {}), "churn", newest=2))

    assert [(skew.dtref, skew.differing) for skew in found] == [(days[2], 1), (days[3], 0)]
    assert found[0].features == {f"nr_{name.rpartition('.')[2]}": 1 for name in FEATURE_TABLES}


def test_a_lake_that_served_nothing_has_no_skew(local_lake: Lake) -> None:
    assert list(skews(FeatureStore(local_lake, EmbeddedEngine(local_lake), {}), "churn", newest=28)) == []


@pytest.mark.services
@pytest.mark.parametrize(("limit", "passed"), [(0.01, False), (0.25, True)])
def test_the_scheduled_check_warns_beyond_the_limit(
    open_lakehouse: Callable[..., Lakehouse], limit: float, passed: bool
) -> None:
    lakehouse = open_lakehouse(skew_max_share=limit)
    customers = dict.fromkeys(["ana", "bia", "caio", "davi"], 5)
    for number in range(2):
        put(lakehouse.lake, DAY + timedelta(number), customers, serve=True)
    put(lakehouse.lake, DAY, {**customers, "bia": 6}, serve=False)
    checks = served_checks(lakehouse)
    defs = dg.Definitions(asset_checks=checks, schedules=[skew_schedule(lakehouse, checks)])

    with dg.DagsterInstance.ephemeral() as instance:
        [check] = defs.resolve_job_def("skew").execute_in_process(instance=instance).get_asset_check_evaluations()

    assert check.passed == passed
    assert check.severity == dg.AssetCheckSeverity.WARN
    assert check.metadata["dtrefs"].value == 2
    assert check.metadata["largest_share"].value == 0.25
    assert "| nr_fs_geral | 1 | 12.50% |" in str(check.metadata["features"].value)
    assert f"| {DAY} | 4 | 1 | 0 | 0 | 25.00% |" in str(check.metadata["by_dtref"].value)
