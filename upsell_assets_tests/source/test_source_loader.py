from __future__ import annotations

from datetime import datetime
from pathlib import Path

import pytest

from upsell_assets.errors import PermanentError
from upsell_assets.source.database import Connection, is_filled
from upsell_assets.source.loader import load_dump, parse_instant

pytestmark = pytest.mark.services

CUSTOMERS = "idCustomer;PointsCustomer\nana;7\nbia;\n"
TRANSACTIONS = (
    "idTransaction;idCustomer;dtTransaction;pointsTransaction\n"
    "t1;ana;2024-01-27 11:53:23.774;1\n"
    "t2;zoe;2024-01-27 12:11:44.728;-500\n"
)
PRODUCTS = "idTransactionCart;idTransaction;NameProduct;QuantityProduct\nl1;t1;Lista de presença;1\n"


def dump(folder: Path, customers: str = CUSTOMERS, transactions: str = TRANSACTIONS, products: str = PRODUCTS) -> Path:
    (folder / "customers.csv").write_text(customers, encoding="utf-8")
    (folder / "transactions.csv").write_text(transactions, encoding="utf-8")
    (folder / "transactions_product.csv").write_text(products, encoding="utf-8")
    return folder


def rows(connection: Connection, table: str) -> list[tuple[object, ...]]:
    return connection.execute(f"SELECT * FROM {table} ORDER BY 1").fetchall()


def refused(connection: Connection, folder: Path) -> str:
    with pytest.raises(PermanentError) as error:
        load_dump(connection, folder)
    assert not is_filled(connection)
    return str(error.value)


def test_dump_is_loaded_as_it_stands(connection: Connection, tmp_path: Path) -> None:
    counts = load_dump(connection, dump(tmp_path))

    assert counts == {"customers": 2, "transactions": 2, "transactions_product": 1}
    assert rows(connection, "customers") == [("ana", 7, None), ("bia", None, None)]
    assert rows(connection, "transactions") == [
        ("t1", "ana", datetime.fromisoformat("2024-01-27 11:53:23.774000"), 1),
        ("t2", "zoe", datetime.fromisoformat("2024-01-27 12:11:44.728000"), -500),
    ]
    assert rows(connection, "transactions_product") == [("l1", "t1", "Lista de presença", 1)]


def test_header_is_found_without_case_in_any_order_by_comma_behind_a_bom(
    connection: Connection, tmp_path: Path
) -> None:
    load_dump(
        connection,
        dump(tmp_path, customers='\ufeffFLEMAIL,pointscustomer,IDCUSTOMER\r\n1,7,"a,""na"\r\n,8,bia\r\n\r\n'),
    )

    assert rows(connection, "customers") == [('a,"na', 7, 1), ("bia", 8, None)]


def test_extra_columns_are_left_out_and_said(
    connection: Connection, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    load_dump(connection, dump(tmp_path, customers="City;idCustomer;PointsCustomer\nSão Paulo;ana;7\n"))

    assert rows(connection, "customers") == [("ana", 7, None)]
    assert "customers.csv: columns that the table does not have were left out: City." in caplog.text


def test_progress_ends_with_the_rows_of_each_table(connection: Connection, tmp_path: Path) -> None:
    many = "idCustomer;PointsCustomer\n" + "".join(f"c{number};1\n" for number in range(10_001))
    seen: list[tuple[str, int]] = []

    load_dump(connection, dump(tmp_path, customers=many), progress=lambda table, count: seen.append((table, count)))

    assert seen == [("customers", 10_000), ("customers", 10_001), ("transactions", 2), ("transactions_product", 1)]


def test_missing_file_is_named(connection: Connection, tmp_path: Path) -> None:
    (dump(tmp_path) / "transactions.csv").unlink()

    assert f"{tmp_path}: transactions.csv not found" in refused(connection, tmp_path)


def test_missing_column_is_named_with_the_header(connection: Connection, tmp_path: Path) -> None:
    message = refused(connection, dump(tmp_path, products="idTransactionCart;idTransaction;Product\n"))

    assert "transactions_product.csv: column NameProduct, QuantityProduct not found" in message
    assert "idTransactionCart, idTransaction, Product" in message


def test_empty_file_is_refused(connection: Connection, tmp_path: Path) -> None:
    assert "customers.csv: column idCustomer, PointsCustomer not found; the header is: empty" in refused(
        connection, dump(tmp_path, customers="")
    )


def test_column_named_twice_is_refused(connection: Connection, tmp_path: Path) -> None:
    message = refused(connection, dump(tmp_path, customers="idCustomer;PointsCustomer;IDCUSTOMER\n"))

    assert "names a column twice" in message


@pytest.mark.parametrize(
    ("last_line", "reason"),
    [
        ("t3;ana;2024-01-27 11:53:23;1,5", 'invalid input syntax for type bigint: "1,5", column pointsTransaction'),
        ("t3;ana;2024-01-27 11:53:23;99999999999999999999", "out of range for type bigint, column pointsTransaction"),
        ("t3;ana;2024-02-30 11:53:23;1", "'2024-02-30 11:53:23' is not an ISO date"),
        ("t3;ana;0000-00-00 00:00:00;1", "'0000-00-00 00:00:00' is not an ISO date"),
        ("t3;ana;yesterday;1", "'yesterday' is not an ISO date"),
        ("t1;ana;2024-01-27 11:53:23;1", 'Key ("idTransaction")=(t1) already exists'),
        (";ana;2024-01-27 11:53:23;1", 'null value in column "idTransaction"'),
        ("t3;ana;2024-01-27 11:53:23", "3 values, but the header has 4 columns"),
        ("t3;ana;2024-01-27 11:53:23;1;", "5 values, but the header has 4 columns"),
        ('t3;"ana;2024-01-27 11:53:23;1', "unexpected end of data"),
        ("t3;an\x00a;2024-01-27 11:53:23;1", "0x00"),
    ],
)
def test_bad_row_is_named_and_nothing_is_loaded(
    connection: Connection, tmp_path: Path, last_line: str, reason: str
) -> None:
    message = refused(connection, dump(tmp_path, transactions=TRANSACTIONS + "\n" + last_line + "\n"))

    assert f"{tmp_path / 'transactions.csv'} line 5: " in message
    assert reason in message
    assert "\n" not in message


def test_line_numbers_count_the_lines_of_quoted_values(connection: Connection, tmp_path: Path) -> None:
    products = PRODUCTS + 'l2;t1;"two\nlines";1\nl3;t1;Ponei;one\n'

    assert "transactions_product.csv line 5: invalid input syntax" in refused(
        connection, dump(tmp_path, products=products)
    )


def test_text_that_is_not_utf8_is_named_by_line(connection: Connection, tmp_path: Path) -> None:
    (dump(tmp_path) / "customers.csv").write_bytes("idCustomer;PointsCustomer\nana;1\njoão;1\n".encode("latin-1"))

    assert "customers.csv line 3: not UTF-8" in refused(connection, tmp_path)


def test_dump_of_known_keys_changes_nothing(connection: Connection, tmp_path: Path) -> None:
    load_dump(connection, dump(tmp_path))

    with pytest.raises(PermanentError, match=r'customers.csv line 2: Key \("idCustomer"\)=\(ana\) already exists'):
        load_dump(connection, tmp_path)
    assert len(rows(connection, "transactions")) == 2


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2024-02-01", datetime.fromisoformat("2024-02-01 00:00:00")),
        ("2024-02-01 10:20", datetime.fromisoformat("2024-02-01 10:20:00")),
        ("2024-02-01T10:20:30.5Z", datetime.fromisoformat("2024-02-01 10:20:30.500000")),
        ("2024-02-01 00:00:00 +0000 UTC", datetime.fromisoformat("2024-02-01 00:00:00")),
        ("2024-02-01 00:00:00.123456789-03", datetime.fromisoformat("2024-02-01 03:00:00.123456")),
        ("2024-02-01 00:00:00+05:30", datetime.fromisoformat("2024-01-31 18:30:00")),
    ],
)
def test_dates_become_naive_utc(text: str, expected: datetime) -> None:
    assert parse_instant(text) == expected
