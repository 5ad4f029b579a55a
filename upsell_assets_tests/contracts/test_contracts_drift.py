"""`upsell contract diff`: each way in which database, files and bronze move away from a contract."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from uuid import uuid4

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from psycopg import sql
from psycopg.conninfo import make_conninfo
from typer.testing import CliRunner, Result

from upsell_assets.bronze.ingest import ingest
from upsell_assets.cli import app
from upsell_assets.contracts import Contract
from upsell_assets.drift import Drift, drifts, of_database
from upsell_assets.lake.lakehouse import Lakehouse
from upsell_assets.services.embedded import Running
from upsell_assets.source.database import Connection, connect

pytestmark = pytest.mark.services

NOON = datetime(2024, 6, 13, 12, tzinfo=UTC)
PRODUCER = {"schema": "shop", "table": "t", "key": ["id"], "columns": {"id": "bigint", "name": "string"}}
OURS = PRODUCER | {"order": ["change_seq"], "change_seq_type": "string"}


def contract(base: dict[str, object] = PRODUCER, **changed: object) -> Contract:
    return Contract.model_validate({**base, **changed})


@pytest.fixture
def database(services: Running) -> Iterator[Connection]:
    """An empty database."""
    assert services.owner_dsn is not None
    name = sql.Identifier(f"drift_{uuid4().hex[:8]}")
    with connect(services.owner_dsn) as server:
        server.execute(sql.SQL("CREATE DATABASE {}").format(name))
        with connect(make_conninfo(services.owner_dsn, dbname=name.as_string().strip('"'))) as connection:
            yield connection
        server.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(name))


@pytest.mark.parametrize(
    ("ddl", "declared", "what", "remedy"),
    [
        ("SELECT 1", {}, "table public.t is gone", "remove the contract"),
        (
            'CREATE TABLE t (id bigint PRIMARY KEY, name text, "new One" int, added numeric(8,2))',
            {},
            "column added is new",
            "declare it (until then it is added by itself): added: decimal(8,2)",
        ),
        (
            "CREATE TABLE t (id bigint PRIMARY KEY, name text, added int)",
            {"drift": "freeze"},
            "column added is new",
            "(until then it puts its files into quarantine): added: int",
        ),
        ("CREATE TABLE t (id bigint PRIMARY KEY)", {}, "column name is gone", "until then it is null"),
        (
            "CREATE TABLE t (id text PRIMARY KEY, name text)",
            {},
            "column id is string (text), the contract says bigint",
            "declare a type that holds both",
        ),
        (
            "CREATE TABLE t (id bigint, name text, PRIMARY KEY (id, name))",
            {},
            "the primary key is id, name, the contract's key id",
            "upsell repair t --from-raw",
        ),
        (
            "CREATE TABLE t (id bigint UNIQUE, name text)",
            {},
            "nothing keeps the key id unique and not null",
            "upsell check",
        ),
    ],
)
def test_the_database_s_drift_is_named_with_what_to_do(
    database: Connection, ddl: str, declared: dict[str, object], what: str, remedy: str
) -> None:
    database.execute(ddl.encode())

    [drift] = of_database(database, contract(OURS, **declared), "public")

    assert (drift.table, drift.where, drift.what) == ("shop.t", "database", what)
    assert remedy in drift.remedy


@pytest.mark.parametrize(
    ("ddl", "kind"),
    [
        ("CREATE TABLE t (id smallint PRIMARY KEY, name timestamp)", "bigint"),
        ('CREATE TABLE t ("ID" bigint PRIMARY KEY, name jsonb, "_x" int, "a b" int)', "bigint"),
        ("CREATE DOMAIN d AS int; CREATE TABLE t (id d NOT NULL UNIQUE, name text)", "int"),
    ],
)
def test_what_capture_writes_as_declared_is_no_drift(database: Connection, ddl: str, kind: str) -> None:
    database.execute(ddl.encode())

    assert list(of_database(database, contract(OURS, columns={"id": kind, "name": "string"}), "public")) == []


def put(lakehouse: Lakehouse, path: str, **columns: object) -> str:
    sink = io.BytesIO()
    pq.write_table(pa.table(columns), sink)
    lakehouse.store.write(key := f"raw/shop/{path}", sink.getvalue())
    return key


@pytest.mark.parametrize(
    ("columns", "declared", "what", "remedy"),
    [
        ({"added": [1]}, {}, "column added is new", "added: bigint"),
        ({"_row": [1]}, {}, "column _row is new", "have it left out: the lake keeps this name for itself"),
        ({"tags": [["x"]]}, {}, "column tags is new", "have it left out: the lake has no such type"),
        ({"name": None}, {}, "column name is gone", "until then it is null"),
        ({"id": None}, {}, "column id is gone", "correct the key"),
        ({"name": [1.5]}, {}, "column name is double, the contract says string", "declare a type that holds both"),
        ({"OP": None}, {}, "operation column OP is missing", "such files are quarantined"),
        ({"modified_date": None}, {"order": ["modified_date"]}, "order column modified_date is missing", "quarantined"),
        (
            {},
            {"order": ["modified_date", "change_seq"]},
            "order column change_seq is missing",
            "if no file will have it",
        ),
    ],
)
def test_the_files_drift_is_named_with_what_to_do(
    lakehouse: Lakehouse, columns: dict[str, object], declared: dict[str, object], what: str, remedy: str
) -> None:
    usual = {"OP": ["I"], "id": [1], "name": ["x"], "modified_date": [NOON]}
    wanted = {name: values for name, values in (usual | columns).items() if values is not None}
    key = put(lakehouse, "cdc/t/2024/06/13/f.parquet", **wanted)

    [drift] = drifts(lakehouse, contract(**{"order": ["modified_date"], **declared}), None)

    assert (drift.table, drift.where, drift.what) == ("shop.t", key, what)
    assert remedy in drift.remedy


def test_narrower_types_nulls_and_loads_without_operation_are_no_drift(lakehouse: Lakehouse) -> None:
    put(lakehouse, "cdc/t/1", op=["D"], ID=pa.array([1], pa.int8()), name=pa.nulls(1), Modified_Date=[NOON])
    put(lakehouse, "full_load/t/1", id=[1], name=["x"])

    assert drifts(lakehouse, contract(order=["modified_date"]), None) == []


def test_only_the_newest_file_says_what_is_gone(lakehouse: Lakehouse) -> None:
    put(lakehouse, "cdc/t/1", OP=["I"], id=[1], modified_date=[NOON], was=[1])
    put(lakehouse, "cdc/t/2", OP=["I"], id=[1], name=["x"], modified_date=[NOON], **{"is": [1]})
    lakehouse.store.write("raw/shop/cdc/t/3", b"not parquet")

    found = drifts(lakehouse, contract(order=["modified_date"]), None)

    assert [drift.what.partition(" (")[0] for drift in found] == [
        "not readable as parquet",
        "column is is new",
        "column was is new",
    ]


def test_columns_that_bronze_has_and_the_contract_does_not_are_drift(lakehouse: Lakehouse) -> None:
    declared = contract(order=["modified_date"])
    key = put(lakehouse, "cdc/t/f", OP=["I"], id=[1], name=["x"], modified_date=[NOON], added=[1])
    ingest(lakehouse.store, lakehouse.lake, declared)
    lakehouse.store.delete(key)

    [drift] = drifts(lakehouse, declared, None)

    assert drift == Drift(
        "shop.t",
        "bronze.shop.t",
        "column added is new",
        "declare it (until then it is added by itself): added: bigint",
    )


def test_the_database_is_not_asked_for_tables_of_other_producers(lakehouse: Lakehouse, database: Connection) -> None:
    assert drifts(lakehouse, contract(), database) == []
    assert len(drifts(lakehouse, contract(OURS), database)) == 1


def test_files_of_other_producers_are_not_held_against_our_own_layout(
    lakehouse: Lakehouse, database: Connection
) -> None:
    lakehouse.store.write("dms/t/20240613-1.csv", b"I,2024-06-13 12:00:00.0,1,Ana\n")
    of_dms = contract(files={"layout": "dms", "path": "dms/t", "timestamp": "at"}, order=["modified_date"])
    lakehouse.store.write("topics/t/1.json", b"{}\n")
    debezium = {"layout": "debezium", "path": "topics/t", "format": "json"}
    of_debezium = contract(OURS, files=debezium)

    assert drifts(lakehouse, of_dms, database) == []
    assert drifts(lakehouse, of_debezium, database) == []


def test_the_command_says_no_drift_or_what_drifted(
    services: Running, lakehouse: Lakehouse, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in services.environment().items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("UPSELL_S3_BUCKET", lakehouse.settings.bucket)
    upsell: Callable[..., Result] = lambda *arguments: CliRunner().invoke(app, ["contract", "diff", *arguments])  # noqa: E731

    assert (upsell().exit_code, upsell().stdout) == (0, "no drift\n")
    assert (upsell("--json", "customers").stdout) == "[]\n"

    (tmp_path / "orders.yaml").write_text(
        "schema: shop\ntable: orders\nkey: [id]\ncolumns: {id: string}\norder: [change_seq]\nchange_seq_type: string\n"
    )
    monkeypatch.setenv("UPSELL_CONTRACTS", str(tmp_path))
    drifted = upsell()
    assert drifted.exit_code == 1
    assert "shop.orders\tdatabase\ttable public.orders is gone\t" in drifted.stdout
    as_json = upsell("--json")
    assert as_json.exit_code == 1
    assert [drift["what"] for drift in json.loads(as_json.stdout)] == ["table public.orders is gone"]
    assert "no contract for order" in str(upsell("order").exception)
