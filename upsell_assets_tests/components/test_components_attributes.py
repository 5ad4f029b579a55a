"""What the components make of their attributes, and what they say of those that are wrong."""

from __future__ import annotations

import re
from pathlib import Path

import dagster as dg
import pytest
from dagster import AssetKey
from dagster._core.remote_representation.external_data import RepositorySnap
from dagster_shared.serdes import serialize_value
from projects import CONTRACT, DAILY, TABLES, WHOLE, load_project, sql_tables

from upsell_assets.components import LakeTables, SqlTables
from upsell_assets.errors import PermanentError

SHOP = {"shop/defs.yaml": TABLES, "shop/contracts/orders.yaml": CONTRACT.format(schema="shop")}
CAPTURED = """
type: upsell_assets.components.LakeTables
attributes:
  s3_bucket: {schema}-lake
  s3_endpoint: http://127.0.0.1:9
  s3_access_key_id_env: LAKE_KEY
  s3_secret_access_key_env: LAKE_SECRET
  source_dsn_env: {variable}
  source_schema: sales
  capture_name: {schema}
  first_landing_day: 2026-02-01
"""


@pytest.fixture(autouse=True)
def _a_bucket(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UPSELL_S3_BUCKET", "lake")


def keys(defs: dg.Definitions) -> set[str]:
    return {key.to_user_string() for key in defs.resolve_asset_graph().get_all_asset_keys()}


@pytest.mark.filterwarnings("ignore:Property `ScheduleDefinition.environment_vars`:DeprecationWarning")  # Dagster's own
def test_two_databases_fit_in_one_code_location(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LAKE_KEY", "key-of-the-lake")
    monkeypatch.setenv("LAKE_SECRET", "secret-of-the-lake")
    monkeypatch.setenv("SHOP_DSN", "postgresql://shop:hunter2@127.0.0.1:9/shop")
    monkeypatch.setenv("BANK_DSN", "postgresql://bank:swordfish@127.0.0.1:9/bank")

    defs = load_project(
        tmp_path,
        {
            "shop/defs.yaml": CAPTURED.format(schema="shop", variable="SHOP_DSN"),
            "shop/contracts/orders.yaml": CONTRACT.format(schema="shop"),
            "eu/bank/defs.yaml": CAPTURED.format(schema="bank", variable="BANK_DSN"),
            "eu/bank/contracts/orders.yaml": CONTRACT.format(schema="bank"),
        },
    )

    dg.Definitions.validate_loadable(defs)
    assert keys(defs) == {f"{layer}/{schema}/orders" for layer in ("raw", "bronze") for schema in ("shop", "bank")}
    assert {job.name for job in defs.jobs or ()} == {"shop_capture", "eu_bank_capture"}
    assert {sensor.name for sensor in defs.sensors or ()} == {
        f"{name}_{what}" for name in ("shop", "eu_bank") for what in ("capture_sensor", "landing_sensor", "automation")
    }
    checks = {key.to_user_string() for key in defs.resolve_asset_graph().asset_check_keys}
    assert {"bronze/shop/orders:equals_source", "raw/bank/orders:captured_in_time"} <= checks
    assert defs.resolve_asset_graph().get(AssetKey(["bronze", "bank", "orders"])).metadata["dagster/uri"] == (
        "s3://bank-lake/bronze/bank/orders"
    )
    shown = serialize_value(RepositorySnap.from_def(defs.get_repository_def()))
    assert "bank-lake" in shown
    assert not [secret for secret in ("hunter2", "swordfish", "secret-of-the-lake") if secret in shown]


def test_attributes_count_more_than_variables_and_the_rest_is_as_these_say(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "contracts").mkdir()
    (tmp_path / "contracts" / "orders.yaml").write_text(CONTRACT.format(schema="shop"))
    for name, value in {"S3_REGION": "eu-west-1", "FIRST_DAY": "2020-02-02", "CAPTURE_NAME": "of_others"}.items():
        monkeypatch.setenv(f"UPSELL_{name}", value)
    monkeypatch.setenv("SHOP_DSN", "postgresql://a/b")
    given = {"s3_bucket": "mine", "first_day": "2026-01-01", "source_dsn_env": "SHOP_DSN", "capture_name": "shop"}

    settings = LakeTables.from_attributes_dict(attributes=given).open(tmp_path).settings

    assert (settings.s3_bucket, settings.s3_region) == ("mine", "eu-west-1")
    assert (str(settings.first_day), settings.capture_name) == ("2026-01-01", "shop")


def test_only_the_tables_that_are_named_count(tmp_path: Path) -> None:
    refunds = CONTRACT.format(schema="shop").replace("orders", "refunds")
    defs = load_project(
        tmp_path,
        {
            **SHOP,
            "shop/contracts/refunds.yaml": refunds,
            "shop/defs.yaml": TABLES.replace("contracts}", "contracts, tables: [refunds]}"),
        },
    )

    assert keys(defs) == {"raw/shop/refunds", "bronze/shop/refunds"}


def test_queries_may_read_whole_and_daily_tables_of_other_queries(tmp_path: Path) -> None:
    defs = load_project(
        tmp_path,
        {
            **SHOP,
            "sums/defs.yaml": sql_tables(folder="queries/silver"),
            "sums/queries/silver/prices.sql": WHOLE,
            "reports/defs.yaml": sql_tables(first_day="2026-11-01"),
            "reports/gold/counts.sql": DAILY.replace("bronze.shop.orders", "silver.shop.prices"),
            "reports/gold/trend.sql": DAILY.replace("bronze.shop.orders", "gold.shop.counts"),
            "reports/gold/_view.sql": WHOLE,
        },
    )

    dg.Definitions.validate_loadable(defs)
    graph = defs.resolve_asset_graph()
    assert keys(defs) == {
        *("raw/shop/orders", "bronze/shop/orders", "silver/shop/prices", "gold/shop/counts", "gold/shop/trend")
    }
    assert graph.get(AssetKey(["gold", "shop", "trend"])).parent_keys == {AssetKey(["gold", "shop", "counts"])}
    assert graph.get(AssetKey(["silver", "shop", "prices"])).partitions_def is None


@pytest.mark.parametrize(
    ("attributes", "said"),
    [
        ({"source_dsn_env": "SHOP_DSN"}, "capture_name: a capture needs a name"),
        ({"source_dsn_env": "postgresql://me:pw@host/db", "capture_name": "shop"}, "source_dsn_env"),
        ({"first_day": "2026-02-30"}, "day is out of range"),
        ({"contract": "contracts"}, "Extra inputs are not permitted"),
    ],
)
def test_attributes_of_tables_that_are_wrong_are_named(attributes: dict[str, object], said: str) -> None:
    with pytest.raises(Exception, match=re.escape(said)):
        LakeTables.from_attributes_dict(attributes=attributes)


@pytest.mark.parametrize(
    ("attributes", "said"),
    [
        ({}, "lake_schema"),
        ({"lake_schema": "shop", "time_zone": "Sao Paulo"}, "there is no time zone 'Sao Paulo'"),
        ({"lake_schema": "shop", "folder": "reports"}, "folder"),
        ({"lake_schema": "shop", "recent_days": 0}, "recent_days"),
    ],
)
def test_attributes_of_queries_that_are_wrong_are_named(attributes: dict[str, object], said: str) -> None:
    with pytest.raises(Exception, match=re.escape(said)):
        SqlTables.from_attributes_dict(attributes=attributes)


@pytest.mark.parametrize(
    ("attributes", "said"),
    [
        (
            {"source_dsn_env": "SHOP_DSN", "capture_name": "shop"},
            "source_dsn_env: the environment variable SHOP_DSN is not set. Set it where Dagster's code location runs",
        ),
        ({"contracts": "elsewhere"}, "defs.yaml: contracts: no *.yaml in"),
        ({"s3_endpoint": "127.0.0.1:9000"}, "UPSELL_S3_ENDPOINT: Value error, expected a URL"),
        ({"tables": ["order"]}, "contracts: order is not among the tables of"),
    ],
)
def test_what_a_place_lacks_is_told(tmp_path: Path, attributes: dict[str, object], said: str) -> None:
    (tmp_path / "contracts").mkdir()
    (tmp_path / "contracts" / "orders.yaml").write_text(CONTRACT.format(schema="shop"))

    with pytest.raises(PermanentError, match=re.escape(said)):
        _ = LakeTables.from_attributes_dict(attributes=attributes).open(tmp_path).contracts


def test_a_lake_without_a_bucket_is_not_looked_for_in_somebody_elses(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("UPSELL_S3_BUCKET")

    with pytest.raises(PermanentError, match=r"SqlTables: no bucket is named\. Give s3_bucket in defs\.yaml"):
        SqlTables.from_attributes_dict(attributes={"lake_schema": "shop"}).settings()


@pytest.mark.parametrize(
    ("query", "said"),
    [
        ("SELECT * FROM bronze.shop.orders", "SELECT * does not say which columns"),
        ("SELECT o.* FROM bronze.shop.orders AS o", "SELECT * does not say which columns"),
        ("SELECT o.id FROM shop.orders AS o", "shop.orders is no table of the lake. Write layer.schema.table"),
        ("SELECT r.dtRef FROM dtrefs AS r", "it reads no table of the lake"),
        (DAILY.replace("r.dtRef, COUNT", "COUNT"), "it reads dtrefs and has no column dtRef"),
        ("SELECT 1; SELECT 2", "sales.sql"),
    ],
)
def test_a_query_that_can_be_no_table_is_named(tmp_path: Path, query: str, said: str) -> None:
    (tmp_path / "gold").mkdir()
    (tmp_path / "gold" / "sales.sql").write_text(query)

    with pytest.raises(PermanentError, match=re.escape(said)):
        SqlTables.from_attributes_dict(attributes={"lake_schema": "shop"}).files(tmp_path)


def test_a_folder_without_queries_is_named(tmp_path: Path) -> None:
    with pytest.raises(PermanentError, match=r"folder: no \.sql files in .*gold"):
        SqlTables.from_attributes_dict(attributes={"lake_schema": "shop"}).files(tmp_path)
