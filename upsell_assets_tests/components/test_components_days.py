"""Which days of a daily table run when something changes, by the daemons' own sensors, one after the other."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import dagster as dg
import pytest
from daemon import Daemon
from dagster import AssetKey
from points_files import new_lakehouse, parquet, today
from projects import CONTRACT, DAILY, TABLES, WHOLE, load_project, sql_tables

from upsell_assets.lake.lakehouse import Lakehouse
from upsell_assets.services.embedded import Running

pytestmark = pytest.mark.services

FIRST = today() - timedelta(9)
RECENT = AssetKey(["gold", "shop", "recent"])
TREND = AssetKey(["gold", "shop", "trend"])
PRICES = AssetKey(["silver", "shop", "prices"])


@pytest.fixture
def lakehouse(services: Running) -> Lakehouse:
    return new_lakehouse(services, source_dsn=None)


@pytest.fixture
def daemon(tmp_path: Path, lakehouse: Lakehouse, monkeypatch: pytest.MonkeyPatch) -> Iterator[Daemon]:
    """A daily table of a whole one, of the three newest days; and a daily table of that, of all days."""
    for name, value in Running(lakehouse.settings).environment().items():
        if name.startswith("UPSELL_S3_"):
            monkeypatch.setenv(name, value)
    defs = load_project(
        tmp_path,
        {
            "shop/defs.yaml": TABLES,
            "shop/contracts/orders.yaml": CONTRACT.format(schema="shop"),
            "prices/defs.yaml": sql_tables(folder="silver"),
            "prices/silver/prices.sql": WHOLE,
            "recent/defs.yaml": sql_tables(first_day=FIRST, recent_days=3),
            "recent/gold/recent.sql": DAILY.replace("bronze.shop.orders", "silver.shop.prices"),
            "trend/defs.yaml": sql_tables(first_day=FIRST),
            "trend/gold/trend.sql": DAILY.replace("bronze.shop.orders", "gold.shop.recent"),
        },
    )
    with dg.DagsterInstance.ephemeral() as instance:
        yield Daemon(defs, instance)


def land(lakehouse: Lakehouse, number: int) -> None:
    change = {"OP": "I", "modified_date": datetime.now(UTC), "order_id": number, "amount": 1.0}
    lakehouse.store.write(f"raw/shop/cdc/orders/{number}.parquet", parquet([change]))


def test_days_that_were_never_computed_are_and_then_the_newest_when_something_changed(
    daemon: Daemon, lakehouse: Lakehouse
) -> None:
    days = {(FIRST + timedelta(number)).isoformat() for number in range(10)}
    newest = set(sorted(days)[-3:])
    land(lakehouse, 1)
    daemon.sense("shop_landing_sensor")
    daemon.settle()
    assert daemon.instance.get_materialized_partitions(RECENT) == days
    assert daemon.instance.get_materialized_partitions(TREND) == days
    before = len(daemon.requests)

    land(lakehouse, 2)
    daemon.sense("shop_landing_sensor")
    daemon.settle()

    asked = daemon.requests[before:]
    assert [found[PRICES] for found in asked if PRICES in found] == [{None}]
    assert [found[RECENT] for found in asked if RECENT in found] == [newest]
    # What a query makes of other days is known to it only: all of them.
    assert [found[TREND] for found in asked if TREND in found] == [days]
    rows = lakehouse.lake.open("gold.shop.recent").to_pyarrow_table().to_pylist()
    assert {row["dtRef"].isoformat(): row["n"] for row in rows} == {
        **dict.fromkeys(days, 1),
        **dict.fromkeys(newest, 2),
    }
