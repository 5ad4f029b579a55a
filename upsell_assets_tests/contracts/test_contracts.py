"""Contracts: what a file may say, and that every fault is named together with its file."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pytest

from upsell_assets.bronze.merge import merge, table_name, tombstones_name
from upsell_assets.contracts import SHIPPED, arrow_type, load_contracts
from upsell_assets.contracts.files import DmsFiles
from upsell_assets.errors import ContractError
from upsell_assets.lake.lakehouse import Lakehouse
from upsell_assets.lake.tables import Lake
from upsell_assets.raw.files import change_schema
from upsell_assets.raw.landing import cdc_prefix, full_load_prefix
from upsell_assets.settings import Settings
from upsell_assets.silver.tables import silver_tables

ORDERS = """
schema: shop
table: orders
key: [orderId, line]
columns:
  orderId: bigint
  line: int
  amount: decimal(10,2)
  paid: timestamp
order: [modified_date]
"""

Write = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Writes one contract file and returns its folder."""

    def write_(text: str, name: str = "orders.yaml") -> Path:
        (tmp_path / name).write_text(text, encoding="utf-8")
        return tmp_path

    return write_


def test_the_shipped_contracts_are_the_points_system_s() -> None:
    contracts = load_contracts()

    assert {name: list(contract.columns) for name, contract in contracts.items()} == {
        "customers": ["idCustomer", "PointsCustomer", "flEmail"],
        "transactions": ["idTransaction", "idCustomer", "dtTransaction", "pointsTransaction"],
        "transactions_product": ["idTransactionCart", "idTransaction", "NameProduct", "QuantityProduct"],
    }
    assert {contract.order for contract in contracts.values()} == {("change_seq",)}
    assert all(contract.history for contract in contracts.values())


def test_a_contract_says_what_it_leaves_out_by_defaults(write: Write) -> None:
    orders = load_contracts(write(ORDERS))["orders"]

    assert (orders.name, orders.drift, orders.history, orders.immutable_date) == ("shop.orders", "evolve", False, None)
    assert (orders.operations.column, orders.operations.delete) == ("OP", ("D",))
    assert orders.arrow_schema() == pa.schema(
        [
            pa.field("orderId", pa.int64(), nullable=False),
            pa.field("line", pa.int32(), nullable=False),
            pa.field("amount", pa.decimal128(10, 2)),
            pa.field("paid", pa.timestamp("us", tz="UTC")),
        ]
    )


@pytest.mark.parametrize(
    ("name", "expected"),
    [("string", pa.string()), ("double", pa.float64()), ("tinyint", pa.int8()), ("decimal(38,0)", pa.decimal128(38))],
)
def test_types_are_spark_s_by_name(name: str, expected: pa.DataType) -> None:
    assert arrow_type(name) == expected


@pytest.mark.parametrize(
    ("said", "instead", "fault"),
    [
        ("schema: shop\n", "", r"schema: Field required"),
        ("table: orders", "table: _orders", r"table: String should match pattern"),
        ("table: orders", "table: or.ders", r"table: String should match pattern"),
        ("key: [orderId, line]", "key: []", r"key: Tuple should have at least 1 item"),
        ("key: [orderId, line]", "key: [orderID]", r"key column 'orderID' is not among columns"),
        ("key: [orderId, line]", "key: [line, line]", r"key names a column twice"),
        ("  line: int\n", "  line: int\n  LINE: int\n", r"columns differ only in case"),
        ("  paid: timestamp", "  Op: string", r"columns \['op'\] are names that the lake keeps for itself"),
        ("  paid: timestamp", "  _file: string", r"columns \['_file'\] are names that the lake keeps"),
        ("  paid: timestamp", "  change_seq: string", r"columns \['change_seq'\] are names that the lake keeps"),
        ("  paid: timestamp", "  paid at: timestamp", r"columns\.paid at\.\[key\]: String should match pattern"),
        ("  paid: timestamp", "  paid: datetime", r"columns\.paid: String should match pattern"),
        ("decimal(10,2)", "decimal(39,2)", r"columns\.amount: Value error, precision should be between 1 and 38"),
        ("decimal(10,2)", "decimal(2,10)", r"columns\.amount: .*more digits after the point than in all"),
        ("order: [modified_date]", "order: [paid]", r"order must be \[modified_date, change_seq\]"),
        ("order: [modified_date]", "order: [change_seq, modified_date]", r"order must be"),
        ("order: [modified_date]", "immutable_date: day", r"immutable_date 'day' is not among columns"),
        ("order: [modified_date]", "drift: ignore", r"drift: Input should be 'evolve' or 'freeze'"),
        ("order: [modified_date]", "ordre: [modified_date]", r"ordre: Extra inputs are not permitted"),
        (
            "order: [modified_date]",
            "operations: {insert: [c, r], update: [R]}",
            r"operations: .*R would mean more than",
        ),
        ("order: [modified_date]", "full_load: {files: 0}", r"full_load\.files: Input should be greater than"),
        ("order: [modified_date]", "full_load: {as_of: soon}", r"full_load\.as_of: Input should be a valid datetime"),
    ],
)
def test_a_fault_is_named_with_its_file(write: Write, said: str, instead: str, fault: str) -> None:
    assert said in ORDERS
    with pytest.raises(ContractError, match=rf"orders\.yaml: .*{fault}.*Correct the file\.") as error:
        load_contracts(write(ORDERS.replace(said, instead)))
    assert "\n" not in str(error.value)


def test_all_faults_of_a_file_are_named_at_once(write: Write) -> None:
    broken = ORDERS.replace("schema: shop\n", "").replace("int\n", "integer\n")

    with pytest.raises(ContractError, match=r"schema: Field required.*; columns\.orderId: .*; columns\.line: "):
        load_contracts(write(broken))


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("schema: [shop\ntable: orders", r"orders\.yaml line 2: not valid YAML"),
        ("- schema", r"orders\.yaml: expected a mapping with schema, table, key and columns"),
        ("", r"orders\.yaml: expected a mapping"),
    ],
)
def test_what_is_no_mapping_is_refused(write: Write, text: str, fault: str) -> None:
    with pytest.raises(ContractError, match=fault):
        load_contracts(write(text))


def test_text_that_is_not_utf_8_is_refused(tmp_path: Path) -> None:
    (tmp_path / "orders.yaml").write_bytes("description: é".encode("latin-1"))

    with pytest.raises(ContractError, match=r"orders\.yaml: not valid YAML"):
        load_contracts(tmp_path)


def test_a_table_declared_twice_names_the_second_file(write: Write) -> None:
    write(ORDERS)
    with pytest.raises(ContractError, match=r"orders2\.yaml: table 'orders' is declared twice"):
        load_contracts(write(ORDERS, "orders2.yaml"))


def test_a_folder_without_contracts_is_named(tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(ContractError, match=rf"no \*\.yaml in {folder}\. Point UPSELL_CONTRACTS to a folder"):
            load_contracts(folder)


def test_the_setting_points_to_another_folder(write: Write) -> None:
    assert list(Lakehouse(Settings(contracts=write(ORDERS))).contracts) == ["orders"]
    assert list(Lakehouse(Settings()).contracts) == [path.stem for path in sorted(SHIPPED.glob("*.yaml"))]


def test_another_database_has_its_own_bronze_and_no_silver(write: Write, local_lake: Lake) -> None:
    contracts = load_contracts(write(ORDERS))
    orders = contracts["orders"]
    change = {"orderId": 1, "line": 2, "_op": "I", "_modified_date": None, "_file": "f", "_row": 0}

    merge(local_lake, orders, pa.Table.from_pylist([change], change_schema(orders)))

    assert (table_name(orders), tombstones_name(orders)) == ("bronze.shop.orders", "bronze.shop._orders_tombstones")
    assert local_lake.open("bronze.shop.orders").to_pyarrow_dataset().to_table()["line"].to_pylist() == [2]
    assert (cdc_prefix(orders), full_load_prefix(orders)) == ("raw/shop/cdc/orders/", "raw/shop/full_load/orders/")
    assert silver_tables(contracts) == []


def test_a_table_of_another_database_is_no_source_of_silver(write: Write) -> None:
    foreign = (SHIPPED / "customers.yaml").read_text(encoding="utf-8").replace("schema: upsell", "schema: shop")

    assert silver_tables(load_contracts(write(foreign, "customers.yaml"))) == []


DMS = """
schema: shop
table: orders
key: [id]
columns: {id: bigint, status: string}
change_seq_type: decimal(38,0)
files:
  layout: dms
  path: dms/sales/orders
  timestamp: committed_at
  change_seq: dms_seq
"""
DEBEZIUM = """
schema: shop
table: orders
key: [id]
columns: {id: bigint, status: string}
order: [change_seq]
change_seq_type: string
files: {layout: debezium, path: topics/shop.public.orders, shape: flat}
"""


def test_files_of_dms_lie_where_and_look_as_its_documentation_says_by_default(write: Write) -> None:
    files = load_contracts(write(DMS))["orders"].files

    assert isinstance(files, DmsFiles)
    assert (files.format, files.header, files.delimiter, files.null_value) == ("csv", False, ",", "NULL")
    assert files.op_in_full_load is False


@pytest.mark.parametrize(("shape", "column"), [("flat", "__op"), ("envelope", "op")])
def test_debezium_s_words_for_operations_need_not_be_repeated(write: Write, shape: str, column: str) -> None:
    words = load_contracts(write(DEBEZIUM.replace("flat", shape)))["orders"].operations

    assert (words.column, words.insert, words.update, words.delete) == (column, ("c", "r"), ("u",), ("d",))


def test_words_that_the_contract_gives_are_kept(write: Write) -> None:
    said = f"{DEBEZIUM}operations: {{column: kind, insert: [new], update: [u], delete: [d]}}"

    assert load_contracts(write(said))["orders"].operations.column == "kind"


@pytest.mark.parametrize(
    ("contract", "said", "instead", "fault"),
    [
        (DMS, "layout: dms", "layout: fivetran", "files: Input tag 'fivetran' .* does not match any of the expected"),
        (DMS, "  path: dms/sales/orders\n", "", "files.dms.path: Field required"),
        (DMS, "dms/sales/orders", "/dms/sales/orders", "files.dms.path: String should match pattern"),
        (DMS, "  timestamp: committed_at\n", "", "files.dms.timestamp: Field required"),
        (DMS, "timestamp: committed_at", "timestamp: Status", "status: DMS adds such a column to those of the table"),
        (DMS, "decimal(38,0)", "bigint", r"change_seq_type must be decimal\(38,0\): the change sequence of DMS has 35"),
        (DMS, "files:", "order: [modified_date]\nfiles:", "files.change_seq is named, and order does not use it"),
        (DMS, "files:", "order: [change_seq]\nfiles:", "order must begin with modified_date: full loads of DMS"),
        (DMS, "path:", "format: parquet\n  null_value: x\n  path:", "null_value say something of csv, and format is"),
        (DMS, "path:", "delimiter: ab\n  path:", "files.dms.delimiter: String should have at most 1 character"),
        (DMS, "path:", "header: true\n  columns: [Op]\n  path:", "columns are those of files without a header"),
        (DMS, "path:", "columns: [Op, id, dms_seq]\n  path:", "columns lack committed_at"),
        (DMS, "path:", "columns: [id, committed_at, dms_seq]\n  path:", "files.columns must begin with OP"),
        (DMS, "path:", "day_folder: YYYY/MM\n  path:", "'YYYY/MM' must have YYYY, MM and DD once each; where folders"),
        (DMS, "path:", "day_folder: HH/YYYY/MM/DD\n  path:", "must have HH after YYYY, MM and DD"),
        (DEBEZIUM, "change_seq_type: string", "", "change_seq_type must be string: it is made of Debezium's"),
        (DEBEZIUM, "shape: flat", "sequence: seq", "sequence name columns of flat rows, and shape is envelope"),
        (DEBEZIUM, "shape: flat", "timestamp: at, format: avro", "files.debezium.format: Input should be 'parquet' or"),
    ],
)  # fmt: skip
def test_what_a_producer_cannot_mean_is_refused(
    write: Write, contract: str, said: str, instead: str, fault: str
) -> None:
    assert said in contract
    with pytest.raises(ContractError, match=rf"orders\.yaml: .*{fault}"):
        load_contracts(write(contract.replace(said, instead)))


def test_our_own_capture_leaves_tables_of_other_producers_alone(write: Write) -> None:
    write(ORDERS)
    folder = write(DMS.replace("table: orders", "table: bills"), "bills.yaml")

    assert list(Lakehouse(Settings(contracts=folder)).captured) == ["orders"]
