from __future__ import annotations

from datetime import datetime
from pathlib import Path

import pytest

from upsell_assets.errors import PermanentError
from upsell_assets.source.database import Connection, is_filled
from upsell_assets.source.loader import load_dump

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


def columns(connection: Connection, table: str) -> list[tuple[str, str]]:
    """Names and types, in order."""
    return connection.execute(
        "SELECT attname, format_type(atttypid, NULL) FROM pg_attribute WHERE attrelid = %s::regclass AND attnum > 0 "
        "AND NOT attisdropped ORDER BY attnum",
        [table],
    ).fetchall()


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


def test_extra_columns_are_added_to_the_table_with_the_type_of_their_values(
    connection: Connection, tmp_path: Path
) -> None:
    customers = (
        "City;idCustomer;Visits;Share;Since;Code;Empty;PointsCustomer\n"
        "São Paulo;ana;7;0.5;2024-01-27 10:00:00-03;007;;1\n"
        ";bia;;2;0000-00-00;8;;2\n"
    )

    load_dump(connection, dump(tmp_path, customers=customers))

    assert columns(connection, "customers")[3:] == [
        ("City", "text"),
        ("Visits", "bigint"),
        ("Share", "double precision"),
        ("Since", "timestamp without time zone"),
        ("Code", "text"),
        ("Empty", "text"),
    ]
    assert rows(connection, "customers") == [
        ("ana", 1, None, "São Paulo", 7, 0.5, datetime.fromisoformat("2024-01-27 13:00:00"), "007", None),
        ("bia", 2, None, None, None, 2.0, None, "8", None),
    ]


def test_columns_whose_names_the_lake_cannot_have_are_left_out_and_said(
    connection: Connection, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    long = "x" * 64
    header = f"idCustomer;PointsCustomer;Home City;_x;OP;change_seq;ctid;{long};;Kept"

    load_dump(connection, dump(tmp_path, customers=f"{header}\nana;1;a;b;c;d;e;f;g;h\n"))

    assert columns(connection, "customers")[3:] == [("Kept", "text")]
    assert (
        "customers.csv: columns were left out, since the lake cannot have these names: Home City, _x, OP, change_seq, "
        f"ctid, {long}, (no name)." in caplog.text
    )


def test_second_dump_fills_the_columns_that_the_first_one_added(connection: Connection, tmp_path: Path) -> None:
    none = {"transactions": TRANSACTIONS.partition("t1")[0], "products": PRODUCTS.partition("l1")[0]}
    load_dump(connection, dump(tmp_path, customers="idCustomer;PointsCustomer;Visits\nana;1;7\n", **none))

    load_dump(connection, dump(tmp_path, customers="VISITS;idCustomer;PointsCustomer\n8;bia;1\n", **none))

    assert rows(connection, "customers") == [("ana", 1, None, 7), ("bia", 1, None, 8)]
    dump(tmp_path, customers="Visits;idCustomer;PointsCustomer\n8;caio;1\nmany;duda;1\n", **none)
    with pytest.raises(PermanentError, match=r'customers.csv line 3: .* bigint: "many", column Visits\. Nothing was'):
        load_dump(connection, tmp_path)


def test_zero_dates_become_null_and_are_counted(
    connection: Connection, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    zeros = "t3;ana;0000-00-00 00:00:00;1\nt4;ana;0000-00-00;1\nt5;ana;0000-00-00 00:00:00.000 +0000 UTC;1\n"

    load_dump(connection, dump(tmp_path, transactions=TRANSACTIONS + zeros))

    found = connection.execute('SELECT "idTransaction" FROM transactions WHERE "dtTransaction" IS NULL ORDER BY 1')
    assert [name for (name,) in found] == ["t3", "t4", "t5"]
    assert "transactions.csv: zero dates of dtTransaction became null: 3." in caplog.text


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
        ("t3;ana;2024-00-00 00:00:00;1", "'2024-00-00 00:00:00' is not an ISO date"),
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


def test_refused_dump_adds_no_column(connection: Connection, tmp_path: Path) -> None:
    customers = "idCustomer;PointsCustomer;Visits\nana;1;7\n"

    refused(connection, dump(tmp_path, customers=customers, products=PRODUCTS + "l2;t1;Ponei;one\n"))

    assert [name for name, _ in columns(connection, "customers")] == ["idCustomer", "PointsCustomer", "flEmail"]


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
