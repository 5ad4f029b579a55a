"""What `upsell status` and `upsell up` say: facts per table, and whether everything has flowed through."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from datetime import UTC, date, datetime, timedelta

import dagster as dg
import pyarrow as pa
import pytest
from daemon import Daemon
from dagster import AssetKey
from points_files import changed, land_changes, new_lakehouse, today, transaction
from pydantic import SecretStr

from upsell_assets.bronze.assets import report_retried
from upsell_assets.bronze.ingest import ingest, retry
from upsell_assets.contracts import Contract
from upsell_assets.definitions import build_defs
from upsell_assets.lake.lakehouse import Lakehouse
from upsell_assets.outlook import Outlook, look
from upsell_assets.raw.landing import EVER, landed_at
from upsell_assets.raw.ledger import Ledger, Record
from upsell_assets.services.embedded import Running
from upsell_assets.silver.refresh import refresh
from upsell_assets.silver.tables import silver_tables
from upsell_assets.status import TableStatus, capture_lag, table_statuses

pytestmark = pytest.mark.services

LANDED = datetime.now(UTC).date()
CUSTOMER = {"idCustomer": "ana", "PointsCustomer": 5, "flEmail": 1}
LINE = {"idTransactionCart": "l1", "idTransaction": "t1", "NameProduct": "ChatMessage", "QuantityProduct": 1}
TABLES = [
    "bronze.upsell.customers",
    "bronze.upsell.transactions",
    "bronze.upsell.transactions_product",
    "silver.upsell.cliente",
    "silver.upsell.cliente_historico",
    "silver.upsell.produtos",
    "silver.upsell.transacao_produto",
    "silver.upsell.transacoes",
    "feature_store.upsell.fs_dia_horario",
    "feature_store.upsell.fs_geral",
    "feature_store.upsell.fs_pontos",
    "feature_store.upsell.fs_transacoes",
    "gold.upsell.churn_report",
    "gold.upsell.daily_report",
    "gold.upsell.monthly_report",
    "feature_store.upsell.models",
]


def take_in(lakehouse: Lakehouse, contract: Contract) -> None:
    ingest(lakehouse.store, lakehouse.lake, contract, EVER)


def refresh_silver(lakehouse: Lakehouse, *names: str) -> None:
    for table in silver_tables(lakehouse.contracts):
        if not names or table.name in names:
            refresh(lakehouse.lake, lakehouse.engine, table)


def land_one_of_each(lakehouse: Lakehouse) -> None:
    sale = transaction(1, "ana", datetime.combine(today() - timedelta(2), datetime.min.time()).replace(hour=15))
    for table, row in (("customers", CUSTOMER), ("transactions", sale), ("transactions_product", LINE)):
        land_changes(lakehouse, table, [changed(row, 1)], "first")


def statuses(lakehouse: Lakehouse) -> dict[str, TableStatus]:
    return {status.table: status for status in table_statuses(lakehouse)}


def test_every_table_is_listed_before_it_is_made(lakehouse: Lakehouse) -> None:
    found = statuses(lakehouse)

    assert sorted(found) == sorted(TABLES)
    assert found["bronze.upsell.customers"] == TableStatus("bronze.upsell.customers", None, None, None, 0, 0)
    assert found["silver.upsell.cliente"] == TableStatus("silver.upsell.cliente", None, None, None, None, 0)
    assert found["gold.upsell.daily_report"] == TableStatus("gold.upsell.daily_report", None, None, None, None, 0)


def test_what_landed_and_was_not_taken_in_is_the_lag_of_bronze(lakehouse: Lakehouse) -> None:
    for number in range(2):
        land_changes(lakehouse, "customers", [changed(CUSTOMER, number)], f"file{number}")

    assert statuses(lakehouse)["bronze.upsell.customers"].lag == 2
    take_in(lakehouse, lakehouse.contracts["customers"])

    bronze = statuses(lakehouse)["bronze.upsell.customers"]
    assert (bronze.rows, bronze.lag, bronze.quarantined) == (1, 0, 0)
    assert bronze.version == lakehouse.lake.open("bronze.upsell.customers").version()


def test_a_quarantined_file_is_counted_and_is_no_lag(lakehouse: Lakehouse) -> None:
    lakehouse.store.write("raw/upsell/cdc/customers/broken.parquet", b"this is no parquet")
    land_changes(lakehouse, "customers", [changed(CUSTOMER, 1)], "sound")

    take_in(lakehouse, lakehouse.contracts["customers"])

    bronze = statuses(lakehouse)["bronze.upsell.customers"]
    assert (bronze.rows, bronze.lag, bronze.quarantined) == (1, 0, 1)


def test_a_file_to_be_retried_is_lag(lakehouse: Lakehouse) -> None:
    key = land_changes(lakehouse, "customers", [changed(CUSTOMER, 1)], "held")
    file = landed_at(lakehouse.store, lakehouse.contracts["customers"], key)
    assert file is not None
    Ledger(lakehouse.lake, lakehouse.contracts["customers"]).write([Record(file, "retry")])

    bronze = statuses(lakehouse)["bronze.upsell.customers"]
    assert (bronze.lag, bronze.quarantined) == (1, 0)


@pytest.fixture
def graph(open_lakehouse: Callable[..., Lakehouse]) -> Iterator[tuple[Lakehouse, Daemon]]:
    lakehouse = open_lakehouse(first_landing_day=LANDED, source_dsn=None)
    with dg.DagsterInstance.ephemeral() as instance:
        yield lakehouse, Daemon(build_defs(lakehouse.settings), instance)


def checked(daemon: Daemon) -> bool:
    """What the check says of customers after what the conditions ask of their bronze table."""
    table = AssetKey(["bronze", "upsell", "customers"])
    daemon.run({table: daemon.evaluate()[table]})
    return daemon.checks["no_quarantined_files", "customers"].passed


def test_a_repaired_file_clears_the_check_of_its_older_version(graph: tuple[Lakehouse, Daemon]) -> None:
    lakehouse, daemon = graph
    lakehouse.store.write("raw/upsell/cdc/customers/file.parquet", b"no parquet")
    daemon.sense("landing_sensor")
    assert not checked(daemon)

    land_changes(lakehouse, "customers", [changed(CUSTOMER, 1)], "file")
    daemon.sense("landing_sensor")

    assert checked(daemon)
    assert statuses(lakehouse)["bronze.upsell.customers"].quarantined == 0


def test_a_retry_outside_of_dagster_shows_in_the_check(graph: tuple[Lakehouse, Daemon]) -> None:
    lakehouse, daemon = graph
    contract = lakehouse.contracts["customers"]
    key = land_changes(lakehouse, "customers", [changed(CUSTOMER, 1)], "file")
    file = landed_at(lakehouse.store, contract, key)
    assert file is not None
    Ledger(lakehouse.lake, contract).write([Record(file, "quarantined", reason="the contract was another one")])
    daemon.sense("landing_sensor")
    assert not checked(daemon)

    assert [r.state for r in retry(lakehouse.store, lakehouse.lake, contract, [file])] == ["accepted"]
    assert daemon.sense("landing_sensor") == []
    report_retried(daemon.instance, lakehouse, contract, [file])

    assert checked(daemon)


def test_versions_that_silver_has_not_taken_in_are_its_lag(lakehouse: Lakehouse) -> None:
    for number, name in enumerate(("ana", "bia")):
        land_changes(lakehouse, "customers", [changed({**CUSTOMER, "idCustomer": name}, number)], name)
        take_in(lakehouse, lakehouse.contracts["customers"])
        assert statuses(lakehouse)["silver.upsell.cliente"].lag

        refresh_silver(lakehouse, "silver.upsell.cliente")
        assert statuses(lakehouse)["silver.upsell.cliente"].lag == 0


def test_newest_is_the_newest_event_change_or_dtref(lakehouse: Lakehouse) -> None:
    moments = [datetime(2024, 2, day, 23, 30, tzinfo=UTC) for day in (3, 9, 5)]
    rows = pa.table({"idTransacao": ["a", "b", "c"], "dtTransacao": pa.array(moments, pa.timestamp("us", tz="UTC"))})
    lakehouse.lake.replace("silver.upsell.transacoes", rows.to_reader(), partitions={})
    days = pa.table({"dtRef": pa.array([date(2024, 2, 3), date(2024, 2, 7)], pa.date32()), "n": [1, 2]})
    lakehouse.lake.replace(
        "gold.upsell.daily_report", days.to_reader(), partitions={"dtRef": ["2024-02-03", "2024-02-07"]}
    )

    found = statuses(lakehouse)

    assert found["silver.upsell.transacoes"].newest == datetime(2024, 2, 9, 23, 30, tzinfo=UTC)
    assert found["gold.upsell.daily_report"].newest == date(2024, 2, 7)
    assert found["gold.upsell.daily_report"].as_json()["newest"] == "2024-02-07"
    assert found["gold.upsell.daily_report"].rows == 2


def test_capture_lag_is_none_without_a_database_and_says_why_where_it_cannot_be_asked(
    open_lakehouse: Callable[..., Lakehouse],
) -> None:
    assert capture_lag(open_lakehouse(source_dsn=None)) is None

    lost = capture_lag(open_lakehouse(source_dsn=SecretStr("postgresql://nobody:secret@127.0.0.1:9/points")))

    assert lost is not None
    assert lost.keys() == {"error"}
    assert "secret" not in str(lost["error"])


@pytest.fixture(scope="module")
def flown(services: Running) -> Lakehouse:
    """A lake without a database, of which bronze and silver hold what landed."""
    lakehouse = new_lakehouse(services, first_day=today() - timedelta(3), first_landing_day=LANDED, source_dsn=None)
    land_one_of_each(lakehouse)
    for contract in lakehouse.contracts.values():
        take_in(lakehouse, contract)
    refresh_silver(lakehouse)
    return lakehouse


@pytest.fixture(scope="module")
def defs(flown: Lakehouse) -> dg.Definitions:
    return build_defs(flown.settings)


@pytest.fixture
def daemon(defs: dg.Definitions) -> Iterator[Daemon]:
    """An instance that believes every asset to be made, once."""
    with dg.DagsterInstance.ephemeral() as instance:
        daemon = Daemon(defs, instance)
        for key in daemon.graph.materializable_asset_keys:
            made(daemon, key)
        yield daemon


def made(daemon: Daemon, key: AssetKey, day: date | None = None) -> None:
    partitioned = daemon.graph.get(key).is_partitioned
    partition = str(day or today()) if partitioned else None
    daemon.instance.report_runless_asset_event(dg.AssetMaterialization(key, partition=partition))


def outlook(daemon: Daemon, lakehouse: Lakehouse, since: float = 0.0) -> Outlook:
    return look(
        daemon.instance, lakehouse, sorted(daemon.graph.materializable_asset_keys, key=str), since, closely=True
    )


def test_settled_when_everything_has_flowed_through(daemon: Daemon, flown: Lakehouse) -> None:
    found = outlook(daemon, flown)

    assert found.settled, found
    assert found.made == {
        "bronze": (3, 3),
        "silver": (5, 5),
        "feature_store": (5, 5),
        "gold": (3, 3),
        "model": (1, 1),
    }
    assert not found.failed


def test_not_settled_before_every_asset_was_made(defs: dg.Definitions, flown: Lakehouse) -> None:
    with dg.DagsterInstance.ephemeral() as instance:
        daemon = Daemon(defs, instance)
        keys = daemon.graph.materializable_asset_keys
        for key in keys - {AssetKey(["model", "upsell", "churn"])}:
            made(daemon, key)

        found = outlook(daemon, flown)

    assert found.made["model"] == (0, 1)
    assert not found.complete
    assert not found.settled


def test_not_settled_while_a_run_is_under_way(daemon: Daemon, flown: Lakehouse) -> None:
    job = daemon.defs.resolve_implicit_global_asset_job_def()
    run = daemon.instance.create_run_for_job(job, status=dg.DagsterRunStatus.STARTED)
    assert outlook(daemon, flown).runs == 1
    assert not outlook(daemon, flown).settled

    daemon.instance.report_run_canceled(run)
    assert outlook(daemon, flown).settled


def test_not_settled_while_a_touched_dtref_was_not_computed(daemon: Daemon, flown: Lakehouse) -> None:
    table = AssetKey(["gold", "upsell", "daily_report"])
    for day in (today() - timedelta(2), today() - timedelta(1)):
        made(daemon, AssetKey(["silver", "upsell", "_touched", "daily_report"]), day)
    made(daemon, table, today() - timedelta(2))

    assert outlook(daemon, flown).waiting == ["1 days of gold.upsell.daily_report"]
    made(daemon, table, today() - timedelta(1))

    assert outlook(daemon, flown).settled


def test_issued_scores_are_settled_though_they_were_touched_again(daemon: Daemon, flown: Lakehouse) -> None:
    made(daemon, AssetKey(["silver", "upsell", "_touched", "models"]), today())
    assert outlook(daemon, flown).settled

    made(daemon, AssetKey(["silver", "upsell", "_touched", "models"]), today() - timedelta(1))
    assert outlook(daemon, flown).waiting == ["1 days of feature_store.upsell.models"]


def test_not_settled_while_a_file_waits_or_silver_is_behind(daemon: Daemon, flown: Lakehouse) -> None:
    land_changes(flown, "customers", [changed({**CUSTOMER, "PointsCustomer": 9}, 9)], "late")
    assert outlook(daemon, flown).waiting == ["1 files of upsell.customers"]

    take_in(flown, flown.contracts["customers"])
    assert set(outlook(daemon, flown).waiting) == {"silver.upsell.cliente", "silver.upsell.cliente_historico"}

    refresh_silver(flown, "silver.upsell.cliente", "silver.upsell.cliente_historico")
    assert outlook(daemon, flown).settled


def test_a_failed_run_is_told_with_its_own_words_until_it_was_made_good(
    daemon: Daemon, open_lakehouse: Callable[..., Lakehouse]
) -> None:
    cliente = AssetKey(["silver", "upsell", "cliente"])
    lakehouse = open_lakehouse(first_day=today() - timedelta(3), first_landing_day=LANDED, source_dsn=None)
    broken = Daemon(build_defs(lakehouse.settings), daemon.instance)
    assert not broken.materialize([cliente], raise_on_error=False).success

    [reason] = outlook(broken, lakehouse).failed
    assert reason.startswith("silver__upsell__cliente: ")
    assert "bronze.upsell.customers: no such table" in reason
    assert outlook(broken, lakehouse, since=time.time() + 60).failed == []

    land_one_of_each(lakehouse)
    take_in(lakehouse, lakehouse.contracts["customers"])
    assert broken.materialize([cliente]).success
    assert outlook(broken, lakehouse).failed == []


def test_a_look_from_afar_asks_no_table(daemon: Daemon, open_lakehouse: Callable[..., Lakehouse]) -> None:
    nowhere = open_lakehouse(source_dsn=None).settings.model_copy(update={"s3_endpoint": "http://127.0.0.1:9"})
    keys = sorted(daemon.graph.materializable_asset_keys, key=str)

    found = look(daemon.instance, Lakehouse(nowhere), keys, 0.0, closely=False)

    assert found.complete
    assert found.waiting == []
