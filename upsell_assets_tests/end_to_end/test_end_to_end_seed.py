"""The real dump of 2024, from CSV files to scores, by the one command; checked by queries only."""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Iterator
from datetime import date
from pathlib import Path

import pytest
import reference
from lake import UserLake
from run_sql import assert_same

FEATURES = {
    "fs_geral": reference.fs_geral,
    "fs_pontos": reference.fs_pontos,
    "fs_transacoes": reference.fs_transacoes,
    "fs_dia_horario": reference.fs_dia_horario,
}


@pytest.fixture(scope="module")
def dump() -> Path:
    folder = reference.data_folder()
    if folder is None:
        pytest.skip("needs the real data of 2024, which is not part of the project")
    return folder


@pytest.fixture(scope="module")
def lake(dump: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[UserLake]:
    lake = UserLake(tmp_path_factory.mktemp("seed") / "home")
    done = lake.command("up", "--once", "--seed-from", dump)
    assert done.returncode == 0, done.stderr
    assert "complete after" in done.stderr
    yield lake
    assert lake.command("reset", "--yes").returncode == 0


def test_every_row_of_the_dump_is_in_bronze_and_silver(lake: UserLake) -> None:
    rows = {table["table"]: table["rows"] for table in lake.status()["tables"]}

    assert rows["bronze.upsell.customers"] == rows["silver.upsell.cliente"] == 791
    assert rows["bronze.upsell.transactions"] == rows["silver.upsell.transacoes"] == 23_502
    assert rows["bronze.upsell.transactions_product"] == rows["silver.upsell.transacao_produto"] == 23_502


def test_points_per_customer_equal_the_dump_also_of_customers_without_a_row(lake: UserLake, dump: Path) -> None:
    points: Counter[str] = Counter()
    with (dump / "transactions.csv").open(encoding="utf-8") as file:
        for row in csv.DictReader(file, delimiter=";"):
            points[row["idCustomer"]] += int(row["pointsTransaction"])

    found = lake.query("SELECT idCliente, SUM(nrPontosTransacao) AS points FROM silver.upsell.transacoes GROUP BY 1")
    known = {row["idCliente"] for row in lake.query("SELECT idCliente FROM silver.upsell.cliente")}

    assert {row["idCliente"]: row["points"] for row in found} == points
    assert set(points) - known, "the dump has transactions of customers without a row"


@pytest.mark.parametrize("day", [date(2024, 2, 20), date(2024, 3, 4)])
@pytest.mark.parametrize("table", FEATURES)
def test_features_equal_the_independent_reference(lake: UserLake, dump: Path, table: str, day: date) -> None:
    expected = FEATURES[table](reference.read_dump(dump), day)

    rows = lake.query(f"SELECT * FROM feature_store.upsell.{table} WHERE dtRef = date'{day}'")

    actual = {
        row["idCliente"]: {
            name: value for name, value in row.items() if name not in ("dtRef", "idCliente", "_computed_at")
        }
        for row in rows
    }
    assert actual
    assert_same(actual, expected, f"{table} {day}")


def test_features_exist_from_the_day_after_the_first_event_to_the_day_after_the_newest(lake: UserLake) -> None:
    ends = lake.query("SELECT MIN(dtRef) AS first, MAX(dtRef) AS last FROM feature_store.upsell.fs_geral")

    assert ends == [{"first": "2024-01-28", "last": "2024-03-05"}]


def test_scores_exist_for_the_newest_day_two_rows_a_customer(lake: UserLake) -> None:
    scores = lake.query("SELECT * FROM feature_store.upsell.models")
    population = lake.query("SELECT idCliente FROM feature_store.upsell.fs_geral WHERE dtRef = date'2024-03-05'")

    assert {row["dtRef"] for row in scores} == {"2024-03-05"}
    assert Counter(row["idCliente"] for row in scores) == {row["idCliente"]: 2 for row in population}
    sums: Counter[str] = Counter()
    for row in scores:
        sums[row["idCliente"]] += row["nrProbLabel"]
    assert all(abs(total - 1) < 1e-9 for total in sums.values())


def test_a_second_run_resumes_and_changes_nothing(lake: UserLake) -> None:
    before = lake.status()

    done = lake.command("up", "--once")

    assert done.returncode == 0, done.stderr
    assert [table["rows"] for table in lake.status()["tables"]] == [table["rows"] for table in before["tables"]]
    assert [table["version"] for table in lake.status()["tables"]] == [table["version"] for table in before["tables"]]
