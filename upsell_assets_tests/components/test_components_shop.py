"""The worked example, run as its daemons would: a shop's files land, bronze and the tables of its queries follow.

The tests share one lake and go on where the one before stopped; each of them also passes alone.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Iterator
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from daemon import Daemon
from dagster import AssetKey
from points_files import new_lakehouse, parquet

from upsell_assets.lake.lakehouse import Lakehouse
from upsell_assets.services.embedded import Running

pytestmark = pytest.mark.services

SHOP = Path(__file__).parents[2] / "examples" / "shop"
ORDERS = AssetKey(["bronze", "shop", "orders"])
DAILY = AssetKey(["gold", "shop", "daily_sales"])
VALUE = AssetKey(["gold", "shop", "customer_value"])


@pytest.fixture(scope="module")
def lakehouse(services: Running) -> Lakehouse:
    return new_lakehouse(services, source_dsn=None, contracts=SHOP / "shop" / "defs" / "tables" / "contracts")


@pytest.fixture(scope="module")
def defs(services: Running, lakehouse: Lakehouse) -> Iterator[dg.Definitions]:
    """The example's own definitions; that there is a database beside the bucket must not matter to it."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in Running(lakehouse.settings).environment().items():
            if name.startswith("UPSELL_S3_"):
                patch.setenv(name, value)
        assert services.settings.source_dsn is not None
        patch.setenv("UPSELL_SOURCE_DSN", services.settings.source_dsn.get_secret_value())
        patch.syspath_prepend(SHOP)
        yield importlib.import_module("shop.definitions").defs()


@pytest.fixture(scope="module")
def daemon(lakehouse: Lakehouse, defs: dg.Definitions) -> Iterator[Daemon]:
    """What first landed has flowed through."""
    land(lakehouse, "customers", "2026/03/01/a", [customer("ana", "PT"), customer("bo", "SE")])
    land(
        lakehouse,
        "orders",
        "2026/03/02/a",
        [
            order(1, "ana", "2026-02-27 10:00", 5.0),
            order(2, "bo", "2026-02-27 23:30", 7.0),
            order(3, "eve", "2026-02-28 12:00", 2.0),
            order(4, "ana", "2026-02-28 12:00", 100.0),
        ],
    )
    # A late file: what it says of order 1 is older, of order 4 newer.
    land(
        lakehouse,
        "orders",
        "2026/03/03/a",
        [order(1, "ana", "2026-02-27 10:00", 1.0, "U", hour=1), order(4, "ana", "2026-02-28 12:00", 0.0, "D", hour=9)],
    )
    with dg.DagsterInstance.ephemeral() as instance:
        daemon = Daemon(defs, instance)
        daemon.sense("tables_landing_sensor")
        daemon.settle()
        yield daemon


def customer(name: str, country: str) -> dict[str, Any]:
    return {"OP": "I", "modified_date": datetime(2026, 3, 1, 6, tzinfo=UTC), "customer": name, "country": country}


def order(number: int, who: str, at: str, amount: float, operation: str = "I", hour: int = 6) -> dict[str, Any]:
    return {
        "OP": operation,
        "modified_date": datetime(2026, 3, 2, hour, tzinfo=UTC),
        "order_id": number,
        "customer": who,
        "placed_at": datetime.fromisoformat(at).replace(tzinfo=UTC),
        "amount": amount,
    }


def land(lakehouse: Lakehouse, table: str, name: str, rows: list[dict[str, Any]]) -> None:
    lakehouse.store.write(f"raw/shop/cdc/{table}/{name}.parquet", parquet(rows))


def rows(lakehouse: Lakehouse, key: AssetKey, *columns: str) -> list[tuple[Any, ...]]:
    table = lakehouse.lake.open(".".join(key.path)).to_pyarrow_table().select(list(columns))
    return sorted((tuple(row.values()) for row in table.to_pylist()), key=repr)


def test_bronze_holds_the_latest_rows_of_another_schema(daemon: Daemon, lakehouse: Lakehouse) -> None:
    assert {(1, "ana", 5.0), (2, "bo", 7.0), (3, "eve", 2.0)} <= set(
        rows(lakehouse, ORDERS, "order_id", "customer", "amount")
    )
    assert all(check.passed for check in daemon.checks.values())


def test_a_daily_table_has_the_local_days_of_its_zone(daemon: Daemon, lakehouse: Lakehouse) -> None:
    # Half past eleven at night in UTC is the same day in a winter of Lisbon, and not in Stockholm.
    assert {
        (date(2026, 2, 27), "PT", 1, 5.0),
        (date(2026, 2, 27), "SE", 1, 7.0),
        (date(2026, 2, 28), None, 1, 2.0),
    } <= set(rows(lakehouse, DAILY, "dtRef", "country", "orders", "amount"))


def test_every_day_of_the_calendar_has_been_computed(daemon: Daemon) -> None:
    calendar = daemon.graph.get(DAILY).partitions_def
    assert calendar is not None

    assert daemon.instance.get_materialized_partitions(DAILY) == set(calendar.get_partition_keys())


def test_a_query_without_dtrefs_makes_a_table_without_partitions(daemon: Daemon, lakehouse: Lakehouse) -> None:
    assert daemon.graph.get(VALUE).partitions_def is None
    assert {("bo", 1, 7.0), ("eve", 1, 2.0)} <= set(rows(lakehouse, VALUE, "customer", "days", "amount"))


def test_an_order_that_comes_late_reaches_both_tables_and_then_nothing_is_due(
    daemon: Daemon, lakehouse: Lakehouse
) -> None:
    land(lakehouse, "orders", "late", [order(9, "ana", "2026-01-31 09:00", 11.0)])

    daemon.sense("tables_landing_sensor")
    daemon.settle()

    assert (date(2026, 1, 31), "PT", 1, 11.0) in rows(lakehouse, DAILY, "dtRef", "country", "orders", "amount")
    assert ("ana", 2, 16.0) in rows(lakehouse, VALUE, "customer", "days", "amount")
    assert daemon.evaluate() == {}


def test_the_tables_show_their_columns_and_where_they_come_from(daemon: Daemon) -> None:
    event = daemon.instance.get_latest_materialization_event(DAILY)
    assert event is not None
    assert event.asset_materialization is not None
    metadata = event.asset_materialization.metadata

    described = {column.name: column.description for column in metadata["dagster/column_schema"].value.columns}
    assert described["dtRef"] == "the local day"
    sources = metadata["dagster/column_lineage"].value.deps_by_column["country"]
    assert [(dep.asset_key, dep.column_name) for dep in sources] == [
        (AssetKey(["bronze", "shop", "customers"]), "country")
    ]


def test_without_a_source_in_the_attributes_there_is_no_capture(defs: dg.Definitions) -> None:
    assert os.environ["UPSELL_SOURCE_DSN"]
    assert not list(defs.jobs or ())
    assert {sensor.name for sensor in defs.sensors or ()} == {
        "tables_landing_sensor",
        "tables_automation",
        "reports_gold_automation",
    }
