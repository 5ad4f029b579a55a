"""What can go wrong at the command line: one clear line, a non-zero exit, nothing half-done."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest
from lake import UserLake

from upsell_assets.services.embedded import Running

CUSTOMERS = "idCustomer;PointsCustomer\na;1\n"
LINES = "idTransactionCart;idTransaction;NameProduct;QuantityProduct\n"


@pytest.fixture
def beside(services: Running, tmp_path: Path) -> UserLake:
    """Commands against the tests' own running services, as somebody has who brings their own."""
    return UserLake(tmp_path / "home", services.environment() | {"UPSELL_HOME": str(tmp_path / "home")})


def one_line(text: str) -> str:
    lines = text.strip().splitlines()
    assert "Traceback" not in text
    return lines[-1]


def test_a_port_that_is_taken_is_named(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]

        done = UserLake(tmp_path / "home").command("up", "--once", "--port", str(port))

    assert done.returncode == 1
    assert f"port {port} is taken" in one_line(done.stderr)
    assert not (tmp_path / "home").exists()


def test_an_unreachable_database_is_named_without_its_password(beside: UserLake) -> None:
    done = beside.command("capture", "--once", UPSELL_SOURCE_DSN="postgresql://me:hunter2@127.0.0.1:1/points")

    assert done.returncode == 1
    assert "127.0.0.1:1" in one_line(done.stderr)
    assert "UPSELL_SOURCE_DSN" in one_line(done.stderr)
    assert "hunter2" not in done.stderr


def test_a_wrong_s3_key_is_named(beside: UserLake) -> None:
    done = beside.command("status", UPSELL_S3_SECRET_ACCESS_KEY="not-the-secret")

    assert done.returncode == 1
    assert "UPSELL_S3_SECRET_ACCESS_KEY" in one_line(done.stderr)


def test_an_unknown_table_in_a_query_is_named_with_those_there_are(beside: UserLake) -> None:
    done = beside.command("query", "SELECT * FROM bronze.upsell.nope")

    assert done.returncode == 1
    assert "bronze.upsell.nope: no such table" in one_line(done.stderr)
    assert "There are: " in one_line(done.stderr)


def test_a_query_that_is_no_select_is_refused(beside: UserLake) -> None:
    done = beside.command("query", "DELETE FROM bronze.upsell.customers")

    assert done.returncode == 1
    assert "expected one SELECT" in one_line(done.stderr)


def test_a_broken_contract_is_named_with_its_file(beside: UserLake, tmp_path: Path) -> None:
    folder = tmp_path / "contracts"
    folder.mkdir()
    (folder / "orders.yaml").write_text("schema: shop\ntable: orders\nkey: [id]\ncolumns:\n  name: string\n")

    done = beside.command("ingest", UPSELL_CONTRACTS=str(folder))

    assert done.returncode == 1
    assert str(folder / "orders.yaml") in one_line(done.stderr)
    assert "key column 'id' is not among columns" in one_line(done.stderr)


def test_a_setting_that_is_no_number_is_named(beside: UserLake) -> None:
    done = beside.command("status", UPSELL_SENSOR_SECONDS="soon")

    assert done.returncode == 1
    assert "UPSELL_SENSOR_SECONDS" in one_line(done.stderr)


def test_a_home_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")

    done = UserLake(tmp_path / "file" / "home").command("up", "--once")

    assert done.returncode == 1
    assert "UPSELL_HOME" in one_line(done.stderr)


def test_a_dump_without_a_column_is_named_and_a_mended_one_goes_on_in_the_same_home(tmp_path: Path) -> None:
    lake, dump = UserLake(tmp_path / "home"), tmp_path / "dump"
    dump.mkdir()
    (dump / "customers.csv").write_text(CUSTOMERS)
    (dump / "transactions.csv").write_text("idTransaction;idCustomer;dtTransaction\nt;a;2024-01-01 00:00:00\n")
    (dump / "transactions_product.csv").write_text(LINES)

    done = lake.command("up", "--once", "--seed-from", dump)

    assert done.returncode == 1
    assert "transactions.csv" in one_line(done.stderr)
    assert "pointsTransaction" in one_line(done.stderr)


def test_usage_errors_exit_with_2(tmp_path: Path) -> None:
    assert UserLake(tmp_path / "home").command("up", "--nonsense").returncode == 2
