"""Upkeep of a whole lake on a real object store: by `upsell tidy` and by Dagster's job, each says what it reclaimed."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace

import dagster as dg
import pytest
from points_files import changed, land_changes, transaction
from typer.testing import CliRunner, Result

from upsell_assets import upkeep as upkeeping
from upsell_assets.aggregates import AGGREGATES, refresh_aggregates
from upsell_assets.bronze.ingest import ingest
from upsell_assets.bronze.tables import table_name
from upsell_assets.cli import app
from upsell_assets.errors import PermanentError
from upsell_assets.lake.lakehouse import Lakehouse
from upsell_assets.raw.ledger import Ledger
from upsell_assets.services.embedded import Running
from upsell_assets.settings import Settings
from upsell_assets.silver.events import TRANSACTIONS
from upsell_assets.silver.refresh import refresh
from upsell_assets.silver.tables import silver_tables
from upsell_assets.upkeep import chosen, upkeep
from upsell_assets.upkeep_job import upkeep_job

pytestmark = pytest.mark.services

BRONZE = "bronze.upsell.transactions"
SHORT = timedelta(0)


@pytest.fixture
def lakehouse(open_lakehouse: Callable[..., Lakehouse]) -> Iterator[Lakehouse]:
    """A lake through which some changes have flowed, a batch at a time."""
    lakehouse = open_lakehouse(source_dsn=None)
    for number in range(3):
        flow(lakehouse, number)
    yield lakehouse
    lakehouse.engine.close()


def flow(lakehouse: Lakehouse, number: int) -> None:
    now = datetime.now(UTC)
    row = transaction(number % 2, "ana", now - timedelta(days=3), points=number)
    land_changes(lakehouse, "transactions", [changed(row, number, "U" if number > 1 else "I")], f"{number}")
    if number == 0:
        line = {"idTransactionCart": "l", "idTransaction": "t0", "NameProduct": "ChatMessage", "QuantityProduct": 1}
        land_changes(lakehouse, "transactions_product", [changed(line, number)], f"{number}")
        customer = {"idCustomer": "ana", "PointsCustomer": 1, "flEmail": 1}
        land_changes(lakehouse, "customers", [changed(customer, number)], f"{number}")
    for contract in lakehouse.contracts.values():
        ingest(lakehouse.store, lakehouse.lake, contract)
    for table in sorted(silver_tables(lakehouse.contracts), key=lambda table: table.contract is None):
        refresh(lakehouse.lake, lakehouse.engine, table)
    refresh_aggregates(lakehouse.lake, lakehouse.engine, AGGREGATES)


def versions(lakehouse: Lakehouse) -> dict[str, int]:
    return {name: lakehouse.lake.open(name).version() for name in lakehouse.tables(internal=True)}


def keep_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if all that was replaced had been so long ago."""
    vacuum = upkeeping.vacuum
    monkeypatch.setattr(
        upkeeping, "vacuum", lambda lake, name, keep, dry_run: vacuum(lake, name, SHORT, dry_run=dry_run)
    )


def test_a_lake_that_is_young_loses_nothing_but_days_that_all_have_taken_in(lakehouse: Lakehouse) -> None:
    before = versions(lakehouse)

    done = {one.table: one for one in upkeep(lakehouse, chosen(lakehouse, []))}

    assert set(done) == set(before)
    assert [name for name, one in done.items() if one] == ["silver.upsell._changed_days"]
    assert done["silver.upsell._changed_days"].tidied.expired > 0
    after = versions(lakehouse)
    assert {name for name in after if after[name] != before[name]} == {"silver.upsell._changed_days"}


def test_what_follows_upkeep_is_made_incrementally(lakehouse: Lakehouse, monkeypatch: pytest.MonkeyPatch) -> None:
    keep_nothing(monkeypatch)
    deleted = {one.table: one.deleted for one in upkeep(lakehouse, chosen(lakehouse, []))}
    assert deleted[BRONZE].files > 0
    assert deleted[BRONZE].bytes > 0
    monkeypatch.setattr("upsell_assets.aggregates._rebuild", lambda *_: pytest.fail("an aggregate was made anew"))

    flow(lakehouse, 3)

    assert lakehouse.lake.open(TRANSACTIONS).to_pyarrow_table().sort_by("idTransacao")[
        "nrPontosTransacao"
    ].to_pylist() == [2, 3]


def test_another_horizon_does_not_make_aggregates_anew(lakehouse: Lakehouse, monkeypatch: pytest.MonkeyPatch) -> None:
    longer = Lakehouse(lakehouse.settings.model_copy(update={"keep_days": 30}))
    monkeypatch.setattr("upsell_assets.aggregates._rebuild", lambda *_: pytest.fail("an aggregate was made anew"))

    list(upkeep(longer, chosen(longer, [])))
    again = versions(longer)
    list(upkeep(longer, chosen(longer, [])))

    assert (
        lakehouse.lake.open(TRANSACTIONS).metadata().configuration["delta.logRetentionDuration"] == "interval 720 hours"
    )
    assert versions(longer) == again
    flow(longer, 3)


def test_a_dry_run_tells_and_changes_nothing(lakehouse: Lakehouse, monkeypatch: pytest.MonkeyPatch) -> None:
    keep_nothing(monkeypatch)
    before, keys = versions(lakehouse), {entry.key for entry in lakehouse.store.list("")}

    would = {one.table: one for one in upkeep(lakehouse, chosen(lakehouse, []), dry_run=True)}

    assert would[BRONZE].deleted.files > 0
    assert would["silver.upsell._changed_days"].tidied.expired > 0
    assert (versions(lakehouse), {entry.key for entry in lakehouse.store.list("")}) == (before, keys)


def test_files_that_are_gone_from_raw_are_forgotten_and_their_rows_stay(
    lakehouse: Lakehouse, monkeypatch: pytest.MonkeyPatch
) -> None:
    contract = lakehouse.contracts["transactions"]
    first, *others = sorted(entry.key for entry in lakehouse.store.list("raw/upsell/cdc/transactions/"))
    body = lakehouse.store.read(first)
    lakehouse.store.delete(first)
    held = lakehouse.lake.open(table_name(contract)).to_pyarrow_table().num_rows
    list(upkeep(lakehouse, ["raw.upsell._ledger"]))
    assert len(Ledger(lakehouse.lake, contract).records()) == len(others) + 1
    later = SimpleNamespace(now=lambda _zone: datetime.now(UTC) + timedelta(8))
    monkeypatch.setattr(upkeeping, "datetime", later)

    [done] = upkeep(lakehouse, ["raw.upsell._ledger"])

    assert done.tidied.expired == 1
    assert {key for key, _ in Ledger(lakehouse.lake, contract).records()} == set(others)
    lakehouse.store.write(first, body)
    assert ingest(lakehouse.store, lakehouse.lake, contract).files == 1
    assert lakehouse.lake.open(table_name(contract)).to_pyarrow_table().num_rows == held


def test_the_job_says_what_each_step_reclaimed(lakehouse: Lakehouse, monkeypatch: pytest.MonkeyPatch) -> None:
    keep_nothing(monkeypatch)

    with dg.DagsterInstance.ephemeral() as instance:
        job = upkeep_job(lakehouse, ["gold.upsell.daily_report"])
        done = job.execute_in_process(instance=instance)
        outputs = {
            event.step_key: event.step_output_data.metadata
            for event in done.all_events
            if event.event_type == dg.DagsterEventType.STEP_OUTPUT
        }

    assert done.success
    told = outputs["upkeep_bronze__upsell__transactions"]
    assert told["files_deleted"].value > 0
    assert f"| {BRONZE} |" in str(told["tables"].value)
    assert outputs["upkeep_silver"]["rows_expired"].value > 0
    assert "| raw.upsell._ledger |" in str(outputs["upkeep_others"]["tables"].value)


def upsell(lakehouse: Lakehouse, monkeypatch: pytest.MonkeyPatch, *arguments: str) -> Result:
    for name, value in Running(lakehouse.settings, embedded_store=True).environment().items():
        monkeypatch.setenv(name, value)
    return CliRunner().invoke(app, ["tidy", *arguments])


def test_the_command_tells_each_table(lakehouse: Lakehouse, monkeypatch: pytest.MonkeyPatch) -> None:
    keep_nothing(monkeypatch)

    would = upsell(lakehouse, monkeypatch, "transactions", "--dry-run")
    done = upsell(lakehouse, monkeypatch)
    unknown = upsell(lakehouse, monkeypatch, "nothing")

    assert re.match(
        rf"would be: {BRONZE}: 0 files written anew, 0 rows expired, [1-9] files and 0 of the log", would.stdout
    )
    assert TRANSACTIONS not in would.stdout
    assert f"\n{TRANSACTIONS}: " in done.stdout
    assert isinstance(unknown.exception, PermanentError)
    assert "tidy: no table nothing. Name one by its three parts, or a contract: customers" in str(unknown.exception)


def test_days_to_keep_are_whole_days() -> None:
    with pytest.raises(ValueError, match="greater than or equal to 1"):
        Settings(keep_days=0)
