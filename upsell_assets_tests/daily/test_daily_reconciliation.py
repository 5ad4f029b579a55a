"""Rows and sums between the layers: equal in a lake that is well, and what was broken is named, with its raw files.

Tables are made as the assets make them and then broken behind their backs, in the files.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pytest
from bronze_steps import CONTRACTS, SILVER, Change, take_in
from daily_tables import DailyTables, local_lakehouse
from deltalake import write_deltalake

from upsell_assets.checks.reconciliation import (
    AMOUNTS,
    FEATURES,
    REPORT,
    Side,
    features_and_silver,
    report_and_silver,
    silver_and_bronze,
)
from upsell_assets.lake.tables import Lake
from upsell_assets.silver.events import LINES, TRANSACTIONS

CONTRACT = CONTRACTS["transactions"]
FIRST = datetime(2024, 2, 1, 15, tzinfo=UTC)
RAW = "raw/upsell/cdc/transactions"


def transaction(number: int, customer: str, day: int, points: int, file: str = "f") -> Change:
    at = (FIRST + timedelta(days=day)).strftime("%Y-%m-%d %H:%M:%S")
    return Change("transactions", f"t{number:02}", "I", number, (customer, at, points), file=file)


@pytest.fixture
def made(tmp_path: Path) -> DailyTables:
    """Three customers over forty days, through all layers."""
    tables = DailyTables(local_lakehouse(tmp_path / "lake", FIRST.date()), datetime.now(UTC))
    changes = [
        transaction(day, ("ana", "bia", "caio")[day % 3], day, day - 5, "old" if day < 20 else "new")
        for day in range(40)
    ]
    lines = [Change("transactions_product", f"l{n}", "I", n, (f"t{n:02}", "ChatMessage", 1)) for n in range(5)]
    customers = [Change("customers", name, "I", n, (n * 10, 1)) for n, name in enumerate(("ana", "bia", "caio"))]
    take_in(tables.lakehouse.lake, *changes, *lines, *customers)
    touched = tables.refresh(["cliente", "cliente_historico", "transacao_produto", "transacoes", "produtos"])
    tables = DailyTables(tables.lakehouse, datetime.now(UTC))
    tables.make(touched)
    return tables


def rewrite(lake: Lake, name: str, change: Callable[[pa.Table], pa.Table]) -> None:
    """Change a table's rows and keep what its commits remember."""
    table = lake.open(name)
    rows = change(table.to_pyarrow_table())
    write_deltalake(table, rows, mode="overwrite", partition_by=table.metadata().partition_columns or None)


def more_points(column: str, where: pc.Expression) -> Callable[[pa.Table], pa.Table]:
    def change(rows: pa.Table) -> pa.Table:
        hit, rest = rows.filter(where), rows.filter(~where)
        at = rows.column_names.index(column)
        return pa.concat_tables([rest, hit.set_column(at, column, pc.add(hit[column], 1000))])

    return change


def test_a_lake_that_is_well_is_reconciled(made: DailyTables) -> None:
    lake = made.lakehouse.lake

    for name in AMOUNTS:
        found = silver_and_bronze(lake, SILVER[name.rpartition(".")[2]])
        assert found.equal
        assert (found.before.rows, found.before.total) == (found.after.rows, found.after.total)
    report = report_and_silver(lake, CONTRACT, made.now)
    assert report.equal
    assert report.after == Side(REPORT, 40, sum(day - 5 for day in range(40)))
    for name in FEATURES:
        found = features_and_silver(lake, name, CONTRACT)
        assert found.equal
        assert found.after.rows == 3
    assert features_and_silver(lake, "feature_store.upsell.fs_geral", CONTRACT).after.total == report.after.total


def test_a_row_that_silver_has_otherwise_is_named_with_its_file(made: DailyTables) -> None:
    lake = made.lakehouse.lake
    rewrite(lake, TRANSACTIONS, more_points("nrPontosTransacao", pc.field("idTransacao") == "t30"))

    found = silver_and_bronze(lake, SILVER["transacoes"])

    [row] = found.rows
    assert (row.key, row.before, row.after, row.files) == ("t30", 25, 1025, (f"{RAW}/new",))
    assert found.after.total - found.before.total == 1000


def test_two_faults_whose_sums_agree_are_found(made: DailyTables) -> None:
    lake = made.lakehouse.lake

    def swapped(rows: pa.Table) -> pa.Table:
        ids = pa.array([{"t01": "t02", "t02": "t01"}.get(key, key) for key in rows["idTransacao"].to_pylist()])
        return rows.set_column(rows.column_names.index("idTransacao"), "idTransacao", ids)

    rewrite(lake, TRANSACTIONS, swapped)

    found = silver_and_bronze(lake, SILVER["transacoes"])
    assert (found.before.rows, found.before.total) == (found.after.rows, found.after.total)
    assert [row.key for row in found.rows] == ["t01", "t02"]


def test_a_row_that_is_lost_and_one_that_is_too_many_are_named(made: DailyTables) -> None:
    lake = made.lakehouse.lake
    rewrite(lake, LINES, lambda rows: rows.filter(pc.field("idTransacaoProduto") != "l3"))
    rewrite(
        lake,
        "silver.upsell.cliente",
        lambda rows: pa.concat_tables([rows, rows.slice(0, 1).set_column(0, "idCliente", pa.array(["nobody"]))]),
    )

    [lost] = silver_and_bronze(lake, SILVER["transacao_produto"]).rows
    [more] = silver_and_bronze(lake, SILVER["cliente"]).rows

    assert (lost.key, lost.after, lost.files) == ("l3", "no row", ("raw/upsell/cdc/transactions_product/f",))
    assert (more.key, more.before, more.files) == ("nobody", "no row", ())


def test_silver_is_held_against_the_bronze_that_it_was_made_from(made: DailyTables) -> None:
    take_in(made.lakehouse.lake, transaction(90, "ana", 39, 7), Change("transactions", "t00", "D", 91))

    assert silver_and_bronze(made.lakehouse.lake, SILVER["transacoes"]).equal

    made.refresh(["transacoes"])
    found = silver_and_bronze(made.lakehouse.lake, SILVER["transacoes"])
    assert found.equal
    assert found.after.rows == 40


def test_a_day_that_the_report_has_otherwise_is_named_with_its_files(made: DailyTables) -> None:
    day = FIRST.date() + timedelta(30)
    total = (pc.field("dtRef") == day) & pc.field("descNomeProduto").is_null()
    rewrite(made.lakehouse.lake, REPORT, more_points("nrQuantidadePontos", total))

    found = report_and_silver(made.lakehouse.lake, CONTRACT, made.now)

    [row] = found.rows
    assert (row.key, row.before, row.after) == (day.isoformat(), "1 rows, 25 points", "1 rows, 1,025 points")
    assert row.files == (f"{RAW}/new",)
    assert found.behind == []


def test_a_report_that_has_not_followed_yet_is_behind_and_not_wrong(made: DailyTables) -> None:
    take_in(made.lakehouse.lake, transaction(90, "ana", 12, 7))
    touched = made.refresh(["transacoes"])

    found = report_and_silver(made.lakehouse.lake, CONTRACT, made.now)
    assert found.equal
    assert found.behind == [(FIRST.date() + timedelta(12)).isoformat()]
    features = features_and_silver(made.lakehouse.lake, "feature_store.upsell.fs_pontos", CONTRACT)
    assert features.equal
    assert features.behind

    DailyTables(made.lakehouse, datetime.now(UTC)).make({name: touched[name] for name in (REPORT, *FEATURES)})
    followed = report_and_silver(made.lakehouse.lake, CONTRACT, made.now)
    assert followed.equal
    assert followed.behind == []


@pytest.mark.parametrize("name", FEATURES)
def test_a_customer_whose_features_are_others_is_named_with_the_files(made: DailyTables, name: str) -> None:
    newest = made.existing()[name][-1]
    where = (pc.field("dtRef") == newest) & (pc.field("idCliente") == "bia")
    rewrite(made.lakehouse.lake, name, more_points(FEATURES[name][0], where))

    [row] = features_and_silver(made.lakehouse.lake, name, CONTRACT).rows

    assert row.key == "bia"
    assert row.after == int(row.before) + 1000  # type: ignore[call-overload]
    assert row.files == (f"{RAW}/new", f"{RAW}/old")
