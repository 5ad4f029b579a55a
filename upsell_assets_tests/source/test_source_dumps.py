"""Today's dump, as CSV files and as an SQLite file, and which dump a path holds."""

from __future__ import annotations

import csv
import re
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from upsell_assets.errors import PermanentError
from upsell_assets.source.database import Connection, is_filled
from upsell_assets.source.dump_files import SqliteFile
from upsell_assets.source.dumps import opened
from upsell_assets.source.loader import load_dump

pytestmark = pytest.mark.services

Table = tuple[list[str], list[list[Any]]]

TODAY: dict[str, Table] = {
    "clientes": (
        ["idCliente", "flEmail", "flTwitch", "qtdePontos", "DtCriacao"],
        [
            ["ana", 1, 0, 7, "2024-02-01T10:20:30.500Z"],
            ["bia", 0, 1, 0, "0000-00-00 00:00:00.000"],
        ],
    ),
    "transacoes": (
        ["IdTransacao", "IdCliente", "DtCriacao", "QtdePontos", "DescSistemaOrigem"],
        [
            ["t1", "ana", "2024-02-01 00:00:00 +0000 UTC", 1, "twitch"],
            ["t2", "zoe", "0000-00-00 00:00:00", -50, None],
        ],
    ),
    "transacao_produto": (
        ["idTransacaoProduto", "IdTransacao", "IdProduto", "QtdeProduto", "vlProduto"],
        [["l1", "t1", 5, 1, 1.5], ["l2", "t2", 99, 2, 3], ["l3", "t2", None, 1, None]],
    ),
    "produtos": (
        ["IdProduto", "DescNomeProduto", "DescCategoriaProduto"],
        [[5, "Lista de presença", "present"], [6, None, "nameless"]],
    ),
}
OLD: dict[str, Table] = {
    "customers": (["idCustomer", "PointsCustomer"], [["ana", 7]]),
    "transactions": (["idTransaction", "idCustomer", "dtTransaction", "pointsTransaction"], []),
    "transactions_product": (["idTransactionCart", "idTransaction", "NameProduct", "QuantityProduct"], []),
}


def write_csv(folder: Path, tables: dict[str, Table], separator: str = ",", suffix: str = ".csv") -> Path:
    folder.mkdir(exist_ok=True)
    for name, (columns, rows) in tables.items():
        with (folder / f"{name}{suffix}").open("w", encoding="utf-8", newline="") as file:
            csv.writer(file, delimiter=separator).writerows([columns, *rows])
    return folder


def write_sqlite(file: Path, tables: dict[str, Table], rest: str = "") -> Path:
    with closing(sqlite3.connect(file)) as connection, connection:
        for name, (columns, rows) in tables.items():
            declared = ", ".join([f"{columns[0]} TEXT PRIMARY KEY", *columns[1:]])
            connection.execute(f"CREATE TABLE {name} ({declared}) {rest}")
            connection.executemany(f"INSERT INTO {name} VALUES ({', '.join('?' * len(columns))})", rows)
    return file


def changed(table: str, *rows: list[Any]) -> dict[str, Table]:
    """Today's dump with more rows in a table."""
    columns, before = TODAY[table]
    return {**TODAY, table: (columns, [*before, *rows])}


@pytest.fixture(params=["comma", "semicolon", "upper case", "sqlite", "sqlite without rowids"])
def today(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """The same dump in every form."""
    form = request.param
    upper = {name.upper(): ([column.upper() for column in columns], rows) for name, (columns, rows) in TODAY.items()}
    if form.startswith("sqlite"):
        # A file that belongs to a course holds more than the dump.
        more = {"relatorio": (["dia"], [["2024-01-01"]])}
        return write_sqlite(tmp_path / "a 100%?.db", TODAY | more, "WITHOUT ROWID" if "without" in form else "")
    if form == "upper case":
        return write_csv(tmp_path / "dump", upper, suffix=".CSV")
    return write_csv(tmp_path / "dump", TODAY, ";" if form == "semicolon" else ",")


@pytest.fixture(params=["csv", "sqlite"])
def write(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Any]:
    """Writes a dump, in a folder or as an SQLite file."""
    if request.param == "csv":
        yield lambda tables: write_csv(tmp_path / "dump", tables)
    else:
        yield lambda tables: write_sqlite(tmp_path / "dump.sqlite", tables)


def rows(connection: Connection, table: str) -> list[dict[str, Any]]:
    """All rows, by the column names in lower case."""
    cursor = connection.execute(f"SELECT * FROM {table} ORDER BY 1")
    names = [column.name.lower() for column in cursor.description or ()]
    return [dict(zip(names, row, strict=True)) for row in cursor]


def refused(connection: Connection, path: Path) -> str:
    with pytest.raises(PermanentError) as error:
        load_dump(connection, path)
    assert not is_filled(connection)
    message = str(error.value)
    assert "\n" not in message
    return message


def not_opened(path: Path) -> str:
    with pytest.raises(PermanentError) as error, opened(path):
        pass
    return str(error.value)


def test_today_s_dump_becomes_our_tables_with_all_its_other_columns(
    connection: Connection, today: Path, caplog: pytest.LogCaptureFixture
) -> None:
    counts = load_dump(connection, today)

    assert counts == {"customers": 2, "transactions": 2, "transactions_product": 3}
    created = datetime.fromisoformat("2024-02-01 10:20:30.500")
    assert rows(connection, "customers") == [
        {"idcustomer": "ana", "pointscustomer": 7, "flemail": 1, "fltwitch": 0, "dtcriacao": created},
        {"idcustomer": "bia", "pointscustomer": 0, "flemail": 0, "fltwitch": 1, "dtcriacao": None},
    ]
    shared = {"pointstransaction": 1, "dttransaction": datetime.fromisoformat("2024-02-01")}
    assert rows(connection, "transactions") == [
        {"idtransaction": "t1", "idcustomer": "ana", **shared, "descsistemaorigem": "twitch"},
        {
            "idtransaction": "t2",
            "idcustomer": "zoe",
            "pointstransaction": -50,
            "dttransaction": None,
            "descsistemaorigem": None,
        },
    ]
    lines = [tuple(row.values()) for row in rows(connection, "transactions_product")]
    assert lines == [
        ("l1", "t1", "Lista de presença", 1, 5, 1.5),
        ("l2", "t2", None, 2, 99, 3.0),
        ("l3", "t2", None, 1, None, None),
    ]
    assert caplog.text.lower().count("zero dates of dtcriacao became null: 1.") == 2
    assert "products without a name, which is null in their lines: 99." in caplog.text
    assert "left out: desccategoriaproduto." in caplog.text.lower()


def test_an_sqlite_file_of_2024_s_tables_is_loaded_too(connection: Connection, tmp_path: Path) -> None:
    assert load_dump(connection, write_sqlite(tmp_path / "old.db", OLD))["customers"] == 1

    assert rows(connection, "customers") == [{"idcustomer": "ana", "pointscustomer": 7, "flemail": None}]


def test_an_sqlite_file_is_not_written_to(tmp_path: Path) -> None:
    file = write_sqlite(tmp_path / "dump.db", TODAY)

    with SqliteFile.opened(file) as dump, pytest.raises(sqlite3.OperationalError, match="readonly"):
        dump.connection.execute("CREATE TABLE more (id)")


def test_all_tables_of_an_sqlite_file_are_read_as_of_one_moment(tmp_path: Path) -> None:
    file = write_sqlite(tmp_path / "dump.db", TODAY)

    with opened(file) as dump:
        [*before] = dump.rows["clientes"]
        with closing(sqlite3.connect(file, timeout=0)) as writer:
            writer.execute("DELETE FROM clientes")
            with pytest.raises(sqlite3.OperationalError, match="lock"):
                writer.commit()
        assert [*dump.rows["clientes"]] == before


def test_whole_floats_of_sqlite_are_integers(connection: Connection, tmp_path: Path) -> None:
    tables = changed("clientes", ["caio", 1.0, 1.0, 30.0, None])

    load_dump(connection, write_sqlite(tmp_path / "dump.db", tables))

    assert rows(connection, "customers")[-1] == {
        "idcustomer": "caio", "pointscustomer": 30, "flemail": 1, "fltwitch": 1, "dtcriacao": None
    }  # fmt: skip


@pytest.mark.parametrize(
    ("table", "row", "reason"),
    [
        ("clientes", ["caio", 1, 0, "many", None], 'invalid input syntax for type bigint: "many", column qtdePontos'),
        ("transacoes", ["t3", "ana", "yesterday", 1, "twitch"], "'yesterday' is not an ISO date"),
        ("transacoes", ["t3", "ana", 1706356403, 1, "twitch"], "'1706356403' is not an ISO date"),
        ("transacoes", [None, "ana", "2024-02-01", 1, "twitch"], 'null value in column "idTransaction"'),
        ("transacoes", ["t3", "an\x00a", "2024-02-01", 1, "twitch"], "0x00"),
    ],
)
def test_bad_row_is_named_by_line_or_rowid_and_nothing_is_loaded(
    connection: Connection, write: Any, table: str, row: list[Any], reason: str
) -> None:
    path = write(changed(table, row))
    number = len(TODAY[table][1]) + 1

    message = refused(connection, path)

    where = f"{path / table}.csv line {number + 1}: " if path.is_dir() else f"{path} table {table} rowid {number}: "
    assert message.startswith(where)
    assert reason in message
    assert message.endswith("Nothing was loaded; correct the file and load again.")


def test_product_with_two_names_is_refused(connection: Connection, write: Any) -> None:
    two_names = (["DescNomeProduto", "IdProduto"], [["Ponei", 5], ["R Lover", 6], ["Chat", 5]])

    message = refused(connection, write(TODAY | {"produtos": two_names}))

    assert re.search(r"(line 4|rowid 3): IdProduto 5 has another name before, 'Ponei'\. Nothing was loaded", message)


def test_row_of_a_table_without_rowids_is_named_by_its_number(connection: Connection, tmp_path: Path) -> None:
    row = ["t3", "ana", "yesterday", 1, "twitch"]
    file = write_sqlite(tmp_path / "dump.db", changed("transacoes", row), "WITHOUT ROWID")

    assert refused(connection, file).startswith(f"{file} table transacoes row 3: 'yesterday' is not")


@pytest.mark.parametrize("sql", ["x'00ff'", "CAST(x'6a6fe36f' AS TEXT)"])
def test_bytes_in_an_sqlite_file_are_refused(connection: Connection, tmp_path: Path, sql: str) -> None:
    file = write_sqlite(tmp_path / "dump.db", TODAY)
    with closing(sqlite3.connect(file)) as writer, writer:
        writer.execute(f"UPDATE transacoes SET DescSistemaOrigem = {sql} WHERE IdTransacao = 't2'")

    message = refused(connection, file)

    assert f"{file} table transacoes rowid 2: column DescSistemaOrigem holds bytes that are no text." in message


def test_a_damaged_sqlite_file_is_refused(connection: Connection, tmp_path: Path) -> None:
    many = [[f"l{number}", "t1", 5, 1, 1] for number in range(2000)]
    file = write_sqlite(tmp_path / "dump.db", TODAY | {"transacao_produto": (TODAY["transacao_produto"][0], many)})
    content = bytearray(file.read_bytes())
    content[-40_000:] = bytes(40_000)
    file.write_bytes(content)

    message = refused(connection, file)

    assert f"{file}: SQLite cannot read it: " in message
    assert "Nothing was loaded" in message


def test_missing_column_of_today_s_dump_is_named(connection: Connection, write: Any) -> None:
    path = write(TODAY | {"transacoes": (["IdTransacao", "IdCliente", "QtdePontos"], [])})

    assert "column DtCriacao not found; the header is: IdTransacao, IdCliente, QtdePontos" in refused(connection, path)


def test_column_named_as_one_of_ours_is_left_out_and_said(
    connection: Connection, write: Any, caplog: pytest.LogCaptureFixture
) -> None:
    header = ["idCliente", "qtdePontos", "IDCUSTOMER", "flTwitch"]

    load_dump(connection, write(TODAY | {"clientes": (header, [["ana", 7, "other", 1]])}))

    assert rows(connection, "customers") == [{"idcustomer": "ana", "pointscustomer": 7, "flemail": None, "fltwitch": 1}]
    assert "columns were left out, since the lake cannot have these names: IDCUSTOMER." in caplog.text


def test_path_with_neither_dump_names_the_tables_of_both(write: Any) -> None:
    message = not_opened(write({"relatorio": (["dia"], [])}))

    assert "holds neither the dump of 2024 (" in message
    assert "customers" in message
    assert "nor the dump of today (" in message
    assert "transacao_produto" in message


def test_path_with_tables_of_both_dumps_names_them(write: Any) -> None:
    path = write(OLD | {"produtos": TODAY["produtos"]})

    spelled = "{}.csv" if path.is_dir() else "table {}"
    old = ", ".join(spelled.format(name) for name in OLD)
    assert f"of the dump of 2024 ({old}) and of the dump of today ({spelled.format('produtos')})" in not_opened(path)


def test_missing_table_of_today_s_dump_is_named(write: Any) -> None:
    path = write({name: table for name, table in TODAY.items() if name != "produtos"})

    missing = "produtos.csv" if path.is_dir() else "table produtos"
    assert f"{path}: {missing} not found. The dump of today is " in not_opened(path)


def test_files_that_differ_in_case_only_are_refused(tmp_path: Path) -> None:
    folder = write_csv(tmp_path / "dump", TODAY | {"Produtos": TODAY["produtos"]})

    assert f"{folder / 'Produtos.csv'} and {folder / 'produtos.csv'} are one table" in not_opened(folder)


def test_path_that_is_no_dump_is_refused(tmp_path: Path) -> None:
    (tmp_path / "clientes.csv").write_text("idCliente\n")

    assert "clientes.csv: not an SQLite file" in not_opened(tmp_path / "clientes.csv")
    assert "nowhere: no such folder or file" in not_opened(tmp_path / "nowhere")
