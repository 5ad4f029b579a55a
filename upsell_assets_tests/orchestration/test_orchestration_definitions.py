"""The code location: which assets there are, what each one says of itself, and what loading it costs."""

from __future__ import annotations

import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

import dagster as dg
import pytest
from dagster import AssetKey
from pydantic import SecretStr

from upsell_assets.contracts import SHIPPED
from upsell_assets.definitions import build_defs
from upsell_assets.settings import Settings

TABLES = {
    "raw/upsell": ["customers", "transactions", "transactions_product"],
    "bronze/upsell": ["customers", "transactions", "transactions_product"],
    "silver/upsell": ["cliente", "cliente_historico", "produtos", "transacao_produto", "transacoes"],
    "silver/upsell/_touched": [
        "churn_report",
        "daily_report",
        "fs_dia_horario",
        "fs_geral",
        "fs_pontos",
        "fs_transacoes",
        "models",
        "monthly_report",
    ],
    "feature_store/upsell": ["fs_dia_horario", "fs_geral", "fs_pontos", "fs_transacoes", "models"],
    "gold/upsell": ["churn_report", "daily_report", "monthly_report"],
    "model/upsell": ["churn"],
}
SHOP = """
schema: shop
table: orders
key: [id]
columns: {id: string, total: bigint}
"""
LOAD = """
import sys

def refuse(event, arguments):
    if event in ("socket.connect", "socket.getaddrinfo", "subprocess.Popen"):
        raise RuntimeError(f"{event} {arguments}")

sys.addaudithook(refuse)
import upsell_assets.definitions

upsell_assets.definitions.defs.resolve_asset_graph()
print(*sorted({name.partition(".")[0] for name in sys.modules}))
"""


@pytest.fixture(scope="module")
def settings() -> Settings:
    """Services that nobody answers for: loading definitions must not ask them."""
    return Settings(
        s3_endpoint="http://127.0.0.1:9",
        s3_bucket="nowhere",
        source_dsn=SecretStr("postgresql://nobody@127.0.0.1:9/points"),
        first_day=datetime.now(UTC).date() - timedelta(5),
    )


@pytest.fixture(scope="module")
def defs(settings: Settings) -> dg.Definitions:
    return build_defs(settings)


def test_the_assets_are_the_tables_of_the_lake(defs: dg.Definitions) -> None:
    keys = {key.to_user_string() for key in defs.resolve_asset_graph().get_all_asset_keys()}

    assert keys == {f"{folder}/{table}" for folder, tables in TABLES.items() for table in tables}


def test_every_asset_says_what_it_is_and_whose(defs: dg.Definitions) -> None:
    graph = defs.resolve_asset_graph()

    for key in graph.get_all_asset_keys():
        node = graph.get(key)
        assert node.group_name == ("touched" if "_touched" in key.path else key.path[0]), key
        assert node.owners == ["team:upsell"], key
        assert node.kinds, key
        assert node.description, key


def test_every_asset_that_writes_has_a_pool_so_that_one_run_at_a_time_does(defs: dg.Definitions) -> None:
    pools = {
        key.to_user_string(): asset.op.pool
        for asset in defs.assets or ()
        if isinstance(asset, dg.AssetsDefinition)
        for key in asset.keys
    }

    assert len(pools) == len(defs.resolve_asset_graph().materializable_asset_keys)
    assert {pool for key, pool in pools.items() if key.startswith("silver/")} == {"silver"}
    assert {pool for key, pool in pools.items() if key.startswith("raw/")} == {"capture"}
    others = [pool for key, pool in pools.items() if not key.startswith(("silver/", "raw/"))]
    assert all(others)
    assert len(set(others)) == len(others)


def test_upkeep_takes_the_pool_of_whoever_writes_the_tables(defs: dg.Definitions) -> None:
    [job] = [job for job in defs.jobs or () if isinstance(job, dg.JobDefinition) and job.name == "upkeep"]
    writers = {
        asset.op.pool
        for asset in defs.assets or ()
        if isinstance(asset, dg.AssetsDefinition) and asset.op.pool not in ("model", "capture")
    }

    assert {op.pool for op in job.all_node_defs if isinstance(op, dg.OpDefinition)} == {*writers, None}


def test_every_table_shows_its_name_and_address_before_it_is_made(defs: dg.Definitions) -> None:
    graph = defs.resolve_asset_graph()
    for key in graph.materializable_asset_keys - {AssetKey(["model", "upsell", "churn"])}:
        metadata = graph.get(key).metadata
        if key.path[0] == "raw":
            continue  # a folder of files, and of more than one table
        assert metadata["dagster/table_name"] == ".".join(key.path)
        assert metadata["dagster/uri"] == f"s3://nowhere/{'/'.join(key.path)}"


def test_features_and_gold_have_a_partition_per_local_day_today_included(
    defs: dg.Definitions, settings: Settings
) -> None:
    graph = defs.resolve_asset_graph()
    today = datetime.now(ZoneInfo("America/Sao_Paulo")).date()

    for folder in ("feature_store/upsell", "gold/upsell", "silver/upsell/_touched"):
        for table in TABLES[folder]:
            days = graph.get(AssetKey([*folder.split("/"), table])).partitions_def
            assert isinstance(days, dg.DailyPartitionsDefinition)
            assert days.timezone == "America/Sao_Paulo"
            assert days.get_first_partition_key() == str(settings.first_day)
            assert days.get_last_partition_key() == str(today)


def test_a_new_dtref_begins_at_local_midnight_not_at_utc_midnight(defs: dg.Definitions) -> None:
    days = defs.resolve_asset_graph().get(AssetKey(["gold", "upsell", "daily_report"])).partitions_def
    assert days is not None

    with dg.partition_loading_context(effective_dt=datetime(2031, 5, 2, 2, 59, tzinfo=UTC)):
        assert days.get_last_partition_key() == "2031-05-01"
    with dg.partition_loading_context(effective_dt=datetime(2031, 5, 2, 3, 0, tzinfo=UTC)):
        assert days.get_last_partition_key() == "2031-05-02"


def test_sensors_run_by_themselves(defs: dg.Definitions) -> None:
    sensors = {sensor.name: sensor for sensor in defs.sensors or ()}

    assert set(sensors) == {"capture_sensor", "landing_sensor", "new_day_sensor", "automation", "alert_sensor"}
    assert {sensor.default_status for sensor in sensors.values()} == {dg.DefaultSensorStatus.RUNNING}


def test_what_compares_by_the_clock_runs_by_itself(defs: dg.Definitions) -> None:
    schedules = [schedule for schedule in defs.schedules or () if isinstance(schedule, dg.ScheduleDefinition)]

    assert {schedule.name: schedule.cron_schedule for schedule in schedules} == {
        "audit": "0 4 * * *",
        "pictures": "0 4 * * *",
        "verify": "0 5 * * *",
        "skew": "0 6 * * *",
        "upkeep": "0 3 * * *",
    }
    assert {schedule.default_status for schedule in schedules} == {dg.DefaultScheduleStatus.RUNNING}
    assert {schedule.execution_timezone for schedule in schedules} == {"America/Sao_Paulo"}


def test_loading_opens_no_connection_and_imports_nothing_heavy() -> None:
    done = subprocess.run(
        [sys.executable, "-c", LOAD],
        env={"PYTHONPATH": ":".join(sys.path), "UPSELL_S3_ENDPOINT": "http://127.0.0.1:9", "UPSELL_S3_BUCKET": "b"},
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.returncode == 0, done.stderr
    loaded = set(done.stdout.split())
    assert "dagster" in loaded
    assert not loaded & {"pyspark", "sklearn", "skops", "matplotlib"}


def test_contracts_of_another_database_leave_raw_and_bronze(tmp_path: Path, settings: Settings) -> None:
    (tmp_path / "orders.yaml").write_text(SHOP)

    defs = build_defs(settings.model_copy(update={"contracts": tmp_path}))

    dg.Definitions.validate_loadable(defs)
    keys = {key.to_user_string() for key in defs.resolve_asset_graph().get_all_asset_keys()}
    assert keys == {"raw/shop/orders", "bronze/shop/orders"}
    assert {sensor.name for sensor in defs.sensors or ()} == {
        "capture_sensor",
        "landing_sensor",
        "automation",
        "alert_sensor",
    }
    assert [job.name for job in defs.jobs or ()] == ["capture", "upkeep"]


def test_without_a_database_nothing_captures(settings: Settings) -> None:
    defs = build_defs(settings.model_copy(update={"source_dsn": None}))

    assert {sensor.name for sensor in defs.sensors or ()} == {
        "landing_sensor",
        "new_day_sensor",
        "automation",
        "alert_sensor",
    }
    assert [job.name for job in defs.jobs or ()] == ["upkeep"]
    graph = defs.resolve_asset_graph()
    assert not any(graph.get(AssetKey(["raw", "upsell", table])).is_materializable for table in TABLES["raw/upsell"])


def test_a_capture_goes_on_to_silver_and_compares_nothing_with_the_database(defs: dg.Definitions) -> None:
    job = defs.resolve_job_def("capture")

    made = {key.to_user_string() for key in job.asset_layer.selected_asset_keys}
    steps = {node.name for node in job.nodes}
    layers = ("raw/upsell", "bronze/upsell", "silver/upsell")
    assert made == {f"{layer}/{table}" for layer in layers for table in TABLES[layer]}
    assert "equals_source" not in steps


def test_our_own_table_names_in_another_schema_are_another_database(tmp_path: Path, settings: Settings) -> None:
    (tmp_path / "transactions.yaml").write_text(SHOP.replace("orders", "transactions"))

    defs = build_defs(settings.model_copy(update={"contracts": tmp_path}))

    keys = {key.to_user_string() for key in defs.resolve_asset_graph().get_all_asset_keys()}
    assert keys == {"raw/shop/transactions", "bronze/shop/transactions"}


def test_with_transactions_alone_nothing_waits_for_tables_that_nobody_makes(tmp_path: Path, settings: Settings) -> None:
    (tmp_path / "transactions.yaml").write_text((SHIPPED / "transactions.yaml").read_text())

    graph = build_defs(settings.model_copy(update={"contracts": tmp_path})).resolve_asset_graph()

    assert graph.get_all_asset_keys() >= {AssetKey(["silver", "upsell", "transacoes"])}
    external = {key for key in graph.get_all_asset_keys() if not graph.get(key).is_materializable}
    assert {key.path[2] for key in external} == {"_touched"}


def test_without_customers_what_is_made_of_them_is_left_out(tmp_path: Path, settings: Settings) -> None:
    for table in ("transactions", "transactions_product"):
        (tmp_path / f"{table}.yaml").write_text((SHIPPED / f"{table}.yaml").read_text())

    defs = build_defs(settings.model_copy(update={"contracts": tmp_path}))

    keys = {key.to_user_string() for key in defs.resolve_asset_graph().get_all_asset_keys()}
    assert "feature_store/upsell/fs_pontos" in keys
    assert "silver/upsell/cliente" not in keys
    assert not keys & {f"feature_store/upsell/{table}" for table in ("fs_geral", "models")}
    assert "model/upsell/churn" not in keys
    dg.Definitions.validate_loadable(defs)
