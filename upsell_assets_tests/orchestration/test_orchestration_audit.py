"""Checks in Dagster: what a run writes is checked in it, the audit looks at all rows, and a failure keeps its hold.

The tests share one lake and go on where the one before stopped.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import dagster as dg
import pyarrow as pa
import pytest
from daemon import Daemon
from dagster import AssetKey
from deltalake import write_deltalake
from PIL import Image
from points_files import changed, history, land_changes, new_lakehouse, today, transaction

from upsell_assets.bronze.tables import VERSION
from upsell_assets.definitions import build_defs
from upsell_assets.lake.lakehouse import Lakehouse
from upsell_assets.services.embedded import Running

pytestmark = pytest.mark.services

LANDED = datetime.now(UTC).date()
TRANSACOES = AssetKey(["silver", "upsell", "transacoes"])
REPORT = AssetKey(["gold", "upsell", "daily_report"])


@pytest.fixture(scope="module")
def lakehouse(services: Running) -> Lakehouse:
    first = today() - timedelta(4)
    lakehouse = new_lakehouse(services, first_day=first, first_landing_day=LANDED - timedelta(1), source_dsn=None)
    history(days=12, customers=12).land(lakehouse)
    return lakehouse


@pytest.fixture(scope="module")
def daemon(lakehouse: Lakehouse) -> Iterator[Daemon]:
    """All but model and scores (the history is too short for a label) has flowed through."""
    with dg.DagsterInstance.ephemeral() as instance:
        daemon = Daemon(build_defs(lakehouse.settings), instance)
        daemon.evaluate()
        daemon.sense("landing_sensor")
        for _ in range(20):
            asked = {key: days for key, days in daemon.evaluate().items() if key.path[0] != "model"}
            if not asked:
                break
            daemon.run(asked)
        yield daemon


def audit(daemon: Daemon) -> dict[tuple[str, str], dg.AssetCheckEvaluation]:
    """Run the job; what it says by check and table, and what it reports of keys."""
    job = daemon.defs.resolve_job_def("audit")
    done = job.execute_in_process(instance=daemon.instance)
    found = {(c.check_name, ".".join(c.asset_key.path)): c for c in done.get_asset_check_evaluations()}
    for key in daemon.graph.asset_check_keys:
        if key.name == "key_unique" and (newest := newest_of_check(daemon, key)) is not None:
            found[key.name, ".".join(key.asset_key.path)] = newest
    return found


def newest_of_check(daemon: Daemon, key: dg.AssetCheckKey) -> dg.AssetCheckEvaluation | None:
    for record in daemon.instance.event_log_storage.get_asset_check_execution_history(key, limit=10):
        if isinstance(record.evaluation, dg.AssetCheckEvaluation):
            return record.evaluation
    return None


def text(check: dg.AssetCheckEvaluation, name: str) -> str:
    value = check.metadata[name].value
    assert isinstance(value, str)
    return value


def test_each_run_says_whether_its_table_has_one_row_a_key_and_the_declared_columns(daemon: Daemon) -> None:
    answered = {(check, table) for check, table in daemon.checks if check in ("key_unique", "columns_declared")}
    tables = {key.path[-1] for key in daemon.graph.materializable_asset_keys} - {"churn", "models"}

    assert answered == {(check, table) for check in ("key_unique", "columns_declared") for table in tables}
    assert all(daemon.checks[key].passed for key in answered)
    assert daemon.checks["no_event_in_future", "transacoes"].passed


def test_the_audit_of_a_lake_that_is_well_passes(daemon: Daemon) -> None:
    found = audit(daemon)

    assert [key for key, check in found.items() if not check.passed] == []
    assert {table for check, table in found if check == "reconciled"} == {
        "bronze.upsell.customers",
        "bronze.upsell.transactions",
        "bronze.upsell.transactions_product",
        "silver.upsell.cliente",
        "silver.upsell.transacoes",
        "silver.upsell.transacao_produto",
        "gold.upsell.daily_report",
        "feature_store.upsell.fs_geral",
        "feature_store.upsell.fs_pontos",
        "feature_store.upsell.fs_transacoes",
        "feature_store.upsell.fs_dia_horario",
    }
    assert "silver.upsell.transacoes" in text(found["reconciled", "gold.upsell.daily_report"], "sides")
    assert text(found["volume_as_usual", "feature_store.upsell.models"], "rows") == "no table yet"


def test_a_backfill_takes_the_audit_along_and_does_not_wait_for_it(
    daemon: Daemon, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = audit(daemon)["reconciled", "gold.upsell.daily_report"]

    def refuse(*_: object) -> None:
        raise AssertionError("all rows would be looked at")

    monkeypatch.setattr("upsell_assets.checks.audit.doubled_in_table", refuse)
    first, last = (str(today() - timedelta(back)) for back in (3, 2))
    done = daemon.defs.resolve_implicit_global_asset_job_def().execute_in_process(
        instance=daemon.instance,
        asset_selection=[REPORT],
        tags={"dagster/asset_partition_range_start": first, "dagster/asset_partition_range_end": last},
    )

    again = {check.check_name: check for check in done.get_asset_check_evaluations()}
    assert again.keys() == {"key_unique", "columns_declared", "reconciled", "volume_as_usual"}
    assert again["reconciled"].metadata == before.metadata


def test_the_pictures_are_observed_on_the_assets(daemon: Daemon) -> None:
    assert daemon.defs.resolve_job_def("pictures").execute_in_process(instance=daemon.instance).success

    for key, plots in {
        REPORT: {"growth"},
        AssetKey(["feature_store", "upsell", "fs_pontos"]): {"growth", "features"},
    }.items():
        [record] = daemon.instance.fetch_observations(key, limit=1).records
        observed = record.asset_observation
        assert observed is not None
        assert set(observed.metadata) == plots
        for value in observed.metadata.values():
            data = str(value.value).removeprefix("![](data:image/png;base64,").removesuffix(")")
            with Image.open(io.BytesIO(base64.b64decode(data))) as picture:
                assert picture.width > 600
                assert len(picture.getcolors(64) or ()) > 3, "there is something to see"


def test_an_event_of_tomorrow_is_told_and_stops_nothing(daemon: Daemon, lakehouse: Lakehouse) -> None:
    ahead = transaction(900, "c001", datetime.now(UTC).replace(tzinfo=None) + timedelta(days=30))
    key = land_changes(lakehouse, "transactions", [changed(ahead, 900)], "ahead", LANDED)
    daemon.sense("landing_sensor")
    daemon.run({k: days for k, days in daemon.evaluate().items() if k.path[0] == "bronze"})

    assert daemon.materialize([TRANSACOES]).success

    check = daemon.checks["no_event_in_future", "transacoes"]
    assert not check.passed
    assert check.severity == dg.AssetCheckSeverity.WARN
    assert "| t900 |" in text(check, "latest")
    assert key in text(check, "latest")


def test_a_day_with_a_doubled_key_is_found_by_the_audit_and_held_against_later_runs(
    daemon: Daemon, lakehouse: Lakehouse
) -> None:
    good = lakehouse.lake.open(".".join(REPORT.path)).version()
    rows = lakehouse.lake.open(".".join(REPORT.path)).to_pyarrow_table().slice(0, 1)
    write_deltalake(lakehouse.lake.open(".".join(REPORT.path)), rows, mode="append")
    broken = rows["dtRef"][0].as_py()
    days = lakehouse.lake.open(".".join(REPORT.path)).to_pyarrow_table()["dtRef"].to_pylist()
    other = max(day for day in days if day != broken)

    found = audit(daemon)["key_unique", "gold.upsell.daily_report"]
    assert not found.passed
    assert found.blocking
    assert str(broken) in text(found, "keys")

    # A run of another day writes well; the table is still not what it must be.
    failed = daemon.materialize([REPORT], str(other), raise_on_error=False)
    assert not failed.success
    assert not daemon.checks["key_unique", "daily_report"].passed
    assert text(daemon.checks["key_unique", "daily_report"], "rows") == "all"

    # The day itself, made anew, is well again.
    assert daemon.materialize([REPORT], str(broken)).success
    assert daemon.checks["key_unique", "daily_report"].passed
    assert lakehouse.lake.open(".".join(REPORT.path)).version() > good


def test_silver_refuses_doubled_keys_and_the_check_names_them_and_their_file(
    daemon: Daemon, lakehouse: Lakehouse
) -> None:
    before = lakehouse.lake.open("silver.upsell.transacoes").version()
    table = lakehouse.lake.open("bronze.upsell.transactions")
    rows: dict[str, Any] = table.to_pyarrow_table().filter(pa.compute.field("idTransaction") == "t900").to_pylist()[0]
    rows[VERSION] = table.version() + 1
    write_deltalake(table, pa.Table.from_pylist([rows, rows], pa.schema(table.schema().to_arrow())), mode="append")

    failed = daemon.materialize([TRANSACOES], raise_on_error=False)

    assert not failed.success
    assert lakehouse.lake.open("silver.upsell.transacoes").version() == before
    check = newest_of_check(daemon, dg.AssetCheckKey(TRANSACOES, "key_unique"))
    assert check is not None
    assert not check.passed
    assert "| t900 |" in text(check, "keys")
    assert "ahead.parquet" in text(check, "raw_files")
    assert "Nothing was written" in str(check.description)
