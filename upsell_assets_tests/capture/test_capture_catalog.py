"""Contracts proposed from a real database: keys, types and names, and tables that nobody had typed before."""

from __future__ import annotations

import io
import logging
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from capture_place import Place
from typer.testing import CliRunner, Result

from upsell_assets import up
from upsell_assets.bronze.ingest import ingest
from upsell_assets.bronze.tables import table_name
from upsell_assets.capture.catalog import propose_tables
from upsell_assets.cli import app as upsell_command
from upsell_assets.contracts import load_contracts
from upsell_assets.contracts.propose import Proposal, add
from upsell_assets.errors import PermanentError
from upsell_assets.lake.tables import Lake
from upsell_assets.services.embedded import Running
from upsell_assets.settings import Settings
from upsell_assets.source.database import connect

pytestmark = pytest.mark.services

Upsell = Callable[..., Result]


def propose(place: Place, *names: str, default_schema: str = "public") -> list[Proposal]:
    """By the role that captures: it may read no row of tables that nobody granted."""
    with connect(place.dsn) as connection:
        return propose_tables(connection, into=None, default_schema=default_schema, names=names)


def proposed(place: Place, ddl: str, name: str = "t") -> Proposal:
    place.owner.execute(ddl.encode())
    [proposal] = propose(place, name)
    return proposal


@pytest.fixture
def upsell(place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Upsell:
    """The command, against the place's database and the lake's bucket; contracts in a folder of its own."""
    variables = {
        "home": str(tmp_path / "home"),
        "source_dsn": place.dsn,
        "source_owner_dsn": place.owner_dsn,
        "capture_name": place.name,
        "contracts": str(tmp_path / "contracts"),
        "s3_endpoint": place.store.endpoint,
        "s3_bucket": place.store.bucket,
        "s3_access_key_id": place.store.access_key_id,
        "s3_secret_access_key": place.store.secret_access_key,
    }
    for name, value in variables.items():
        monkeypatch.setenv(f"UPSELL_{name.upper()}", value or "")
    return lambda *arguments: CliRunner().invoke(upsell_command, list(arguments))


def test_the_points_system_s_own_contracts_are_found_again(place: Place, tmp_path: Path) -> None:
    add(tmp_path, propose(place))
    found = load_contracts(tmp_path)

    assert list(found) == list(place.contracts)
    for table, contract in place.contracts.items():
        assert found[table].key == contract.key
        assert list(found[table].columns) == list(contract.columns)
        assert (found[table].order, found[table].change_seq_type) == (contract.order, contract.change_seq_type)
        assert found[table].schema_name == place.name
    assert found["transactions"].columns["dtTransaction"] == "timestamp"


def test_a_composite_key_stands_in_the_order_of_the_primary_key(place: Place) -> None:
    found = proposed(place, "CREATE TABLE t (line int, note text, order_id bigint, PRIMARY KEY (order_id, line))")

    assert (found.key, found.key_notes) == (("order_id", "line"), ())
    assert [column.name for column in found.columns] == ["line", "note", "order_id"]


def test_a_unique_index_without_nulls_is_a_key_and_says_so(place: Place) -> None:
    ddl = (
        "CREATE TABLE t (a int NOT NULL, b int NOT NULL, c int, d int NOT NULL UNIQUE); "
        "CREATE UNIQUE INDEX ON t (a, b) INCLUDE (c); CREATE UNIQUE INDEX ON t (c); "
        "CREATE UNIQUE INDEX ON t (a) WHERE b > 0; CREATE UNIQUE INDEX ON t ((b + 1))"
    )
    found = proposed(place, ddl)

    assert found.key == ("d",)
    assert found.key_notes == (
        "? no primary key: this is a unique index whose columns cannot be null; does it ever change for a row?",
        "? others are a, b",
    )


def test_a_table_without_a_key_is_a_draft_and_exit_code_1(place: Place, upsell: Upsell, tmp_path: Path) -> None:
    place.owner.execute("CREATE TABLE t (a int, b int UNIQUE)")

    done = upsell("contract", "init", "--from-database", "t", "customers")

    assert done.exit_code == 1
    assert "t.yaml.draft: no key found, 2 columns" in done.stdout
    assert list(load_contracts(tmp_path / "contracts")) == ["customers"]

    assert upsell("contract", "init", "--from-database", "t").exit_code == 1
    done = upsell("contract", "init", "--from-database", "t", "--key", "b", "--force")
    assert (done.exit_code, "t.yaml: key b" in done.stdout) == (0, True)
    assert load_contracts(tmp_path / "contracts")["t"].key == ("b",)


def test_types_are_named_as_capture_writes_them(place: Place) -> None:
    place.owner.execute("CREATE TYPE mood AS ENUM ('fine', 'so-so')")
    place.owner.execute("CREATE DOMAIN positive AS int CHECK (VALUE > 0)")
    found = proposed(
        place,
        "CREATE TABLE t (id uuid PRIMARY KEY, price numeric(10,2), exact numeric, wide numeric(50,1), doc jsonb, "
        "tags text[], how mood, size positive, at timestamptz, day date, ok boolean, raw bytea, name varchar(9), "
        "ratio real, twice int GENERATED ALWAYS AS (id::text::int * 2) STORED)".replace("id::text::int * 2", "2"),
    )

    assert {column.name: (column.type, column.note) for column in found.columns} == {
        "id": ("string", ""),
        "price": ("decimal(10,2)", ""),
        "exact": ("string", "? numeric, kept as text"),
        "wide": ("string", "? numeric(50,1), kept as text"),
        "doc": ("string", "? jsonb, kept as text"),
        "tags": ("string", "? text[], kept as text"),
        "how": ("string", "enum mood"),
        "size": ("string", "? domain positive, kept as text; int fits too"),
        "at": ("timestamp", ""),
        "day": ("date", ""),
        "ok": ("boolean", ""),
        "raw": ("binary", ""),
        "name": ("string", ""),
        "ratio": ("float", ""),
    }
    assert found.left_out == (("twice", "it is generated, and the database does not stream it"),)


def test_names_that_no_contract_can_have_are_left_out_with_the_reason(place: Place) -> None:
    found = proposed(
        place,
        'CREATE TABLE t ("select" int PRIMARY KEY, "Order Date" date, "quo""te" int, "_row" int, "OP" text, '
        '"Modified_Date" date, name text, "NAME" text, "ação" text, "null" text)',
    )

    assert found.key == ("select",)
    assert [column.name for column in found.columns] == ["select", "name", "ação", "null"]
    assert dict(found.left_out) == {
        "Order Date": "its name has more than letters, digits and '_'",
        'quo"te': "its name has more than letters, digits and '_'",
        "_row": "the lake keeps this name for itself",
        "OP": "the lake keeps this name for itself",
        "Modified_Date": "the lake keeps this name for itself",
        "NAME": "it differs from name only in case; declare one of the two",
    }


def test_a_primary_key_of_a_column_that_is_left_out_is_asked_about(place: Place) -> None:
    found = proposed(place, 'CREATE TABLE t ("Order Nr" int PRIMARY KEY, code text NOT NULL UNIQUE)')

    assert found.key == ("code",)
    assert found.key_notes[0].endswith("has a column that is left out: Order Nr")


def test_dates_of_birth_are_proposed_as_a_comment(place: Place) -> None:
    found = proposed(
        place,
        "CREATE TABLE t (id int PRIMARY KEY, created_at timestamp NOT NULL, dt_criacao date NOT NULL, "
        "updated_at timestamp NOT NULL, registered_at timestamp, created_by text NOT NULL)",
    )

    assert [name for name, _ in found.dates] == ["created_at", "dt_criacao"]
    assert "# immutable_date: created_at # ? does it never change" in found.text


def test_tables_of_another_schema_and_of_awkward_names_say_where_they_are(place: Place, tmp_path: Path) -> None:
    place.owner.execute(
        'CREATE SCHEMA "Sales"; CREATE TABLE "Sales"."Order ""Items""" (id int PRIMARY KEY); '
        'CREATE TABLE "o.dd" (id int PRIMARY KEY); CREATE TABLE "ação" (id int PRIMARY KEY)'
    )
    names = ('Sales.Order "Items"', "o.dd", "ação")

    add(tmp_path, propose(place, *names))

    assert {name: contract.source_table for name, contract in load_contracts(tmp_path).items()} == {
        "Order__Items_": 'Sales.Order "Items"',
        "acao": "ação",
        "o_dd": "public.o.dd",
    }
    [inside] = propose(place, default_schema="Sales")
    assert (inside.table, inside.source_table) == ("Order__Items_", 'Order "Items"')


def test_partitions_views_and_temporary_tables_are_no_tables_of_their_own(place: Place) -> None:
    place.owner.execute(
        "CREATE TABLE p (id int PRIMARY KEY) PARTITION BY RANGE (id); CREATE TABLE p1 PARTITION OF p DEFAULT; "
        "CREATE VIEW v AS SELECT 1 AS id; CREATE UNLOGGED TABLE u (id int PRIMARY KEY)"
    )

    assert {found.table for found in propose(place)} == {*place.contracts, "p"}
    assert next(found.key for found in propose(place) if found.table == "p") == ("id",)


def test_unknown_tables_and_empty_schemas_are_named(place: Place) -> None:
    with pytest.raises(PermanentError, match="has no table order; schema public has customers, transactions"):
        propose(place, "order")
    with pytest.raises(
        PermanentError, match=r"schema nowhere of database .* has no tables. Check UPSELL_SOURCE_SCHEMA"
    ):
        propose(place, default_schema="nowhere")


def test_without_a_folder_the_command_says_how_to_give_one(monkeypatch: pytest.MonkeyPatch, upsell: Upsell) -> None:
    monkeypatch.delenv("UPSELL_CONTRACTS")

    refused = upsell("contract", "init", "--from-database")

    assert isinstance(refused.exception, PermanentError)
    assert "Give --into FOLDER, or set UPSELL_CONTRACTS" in str(refused.exception)
    assert upsell("contract", "init").exit_code == 2
    assert upsell("contract", "init", "--from-files", "raw/x", "--schema", "y").exit_code == 2


def test_a_contract_is_written_from_files_too_with_the_key_that_a_person_knows(
    place: Place, upsell: Upsell, tmp_path: Path
) -> None:
    sink = io.BytesIO()
    pq.write_table(pa.table({"OP": ["I", "I"], "a": [1, 2], "b": [3, 4], "change_seq": [1, 2]}), sink)
    place.store.write(f"{place.prefix}/cdc/visits/f.parquet", sink.getvalue())

    done = upsell("contract", "init", "--from-files", place.prefix, "--key", "b")

    assert (done.exit_code, "visits.yaml: key b, 2 columns, 0 questions" in done.stdout) == (0, True)
    assert load_contracts(tmp_path / "contracts")["visits"].order == ("change_seq",)


def test_a_lake_of_another_database_comes_up_without_the_points_system_s_tables(place: Place, tmp_path: Path) -> None:
    place.owner.execute("DROP TABLE transactions; CREATE TABLE coupons (code text PRIMARY KEY)")
    add(tmp_path / "contracts", propose(place, "coupons"))
    settings = Settings(home=tmp_path, source_dsn=place.dsn, s3_bucket="any", contracts=tmp_path / "contracts")

    assert up._with_calendar(Running(settings)).settings.first_day is None


ORDERS = """
CREATE TYPE state AS ENUM ('open', 'paid');
CREATE TABLE "Order Items" (
    "order" bigint, "Line" int, price numeric(10,2), weight numeric, doc jsonb, tags text[], state state,
    at timestamptz, day date NOT NULL, "Unit Price" int, ok boolean, name text, PRIMARY KEY ("order", "Line")
);
"""
_AS_TEXT = (
    'SELECT "order", "Line", price, weight::text, doc::text, tags::text, state::text, at AT TIME ZONE \'UTC\', day, ok, '
    'name FROM "Order Items" ORDER BY 1, 2'
)


def bronze(place: Place, table: str) -> list[tuple[object, ...]]:
    """The live rows, in the order of the declared columns; instants without their zone."""
    contract, lake = place.contracts[table], Lake.of(place.store)
    ingested = ingest(place.store, lake, contract)
    assert not ingested.quarantined
    names = [*contract.columns]
    rows = lake.rows(lake.open(table_name(contract))).to_table(names).sort_by([(k, "ascending") for k in contract.key])
    return [
        tuple(v.replace(tzinfo=None) if hasattr(v, "tzinfo") else v for v in row.values()) for row in rows.to_pylist()
    ]


def test_an_unknown_table_goes_from_init_to_bronze_as_the_database_has_it(
    place: Place, upsell: Upsell, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    place.owner.execute(ORDERS.encode())
    place.owner.execute(
        "INSERT INTO \"Order Items\" SELECT i / 3, i % 3, i * 1.05, i / 7.0, jsonb_build_object('i', i), "
        "ARRAY['a', i::text], CASE i % 2 WHEN 0 THEN 'open' ELSE 'paid' END::state, "
        "timestamptz '2024-03-01 12:00:00.5-03' + i * interval '1 hour', date '2024-02-28' + i, i, i % 2 = 0, "
        "CASE WHEN i % 5 > 0 THEN E'ç \"' || i END FROM generate_series(0, 50) i"
    )

    done = upsell("contract", "init", "--from-database", "Order Items", "--schema", place.name)

    assert (done.exit_code, "key order, Line, 11 columns, 4 questions" in done.stdout) == (0, True), done.stdout
    place.contracts = load_contracts(tmp_path / "contracts")
    place.prepare()
    with caplog.at_level(logging.WARNING):
        place.capture().ensure_full_load()
    assert "source columns ['Unit Price'] are left out" in caplog.text
    assert bronze(place, "Order_Items") == place.owner.execute(_AS_TEXT).fetchall()

    place.owner.execute('UPDATE "Order Items" SET price = -price, doc = NULL, tags = \'{}\' WHERE "Line" = 1')
    place.owner.execute('DELETE FROM "Order Items" WHERE "Line" = 2')
    place.capture().drain()
    assert bronze(place, "Order_Items") == place.owner.execute(_AS_TEXT).fetchall()


def test_a_table_is_added_while_a_capture_runs(place: Place, upsell: Upsell, tmp_path: Path) -> None:
    """The way that the README shows, with a capture of the old contracts that goes on beside it."""
    folder = tmp_path / "contracts"
    upsell("contract", "init", "--from-database", "customers", "transactions", "--schema", place.name)
    place.contracts = load_contracts(folder)
    old = place.capture()
    old.ensure_full_load()
    place.owner.execute("INSERT INTO customers VALUES ('c1', 1, 1)")
    old.drain()
    place.owner.execute("CREATE TABLE coupons (code text PRIMARY KEY, points int)")
    place.owner.execute("INSERT INTO coupons VALUES ('a', 1), ('b', 2)")

    assert upsell("contract", "init", "--from-database", "coupons").exit_code == 0
    refused = upsell("capture", "--once")
    assert f"publication {place.name} lacks public.coupons" in str(refused.exception)
    assert "upsell capture --setup" in str(refused.exception)
    place.contracts = load_contracts(folder)
    assert upsell("capture", "--setup").exit_code == 0
    added = upsell("capture", "--once")

    assert (added.exit_code, "full load of coupons: 2 rows" in added.stderr) == (0, True)
    place.owner.execute("UPDATE coupons SET points = 20 WHERE code = 'b'")
    place.owner.execute("DELETE FROM coupons WHERE code = 'a'")
    place.owner.execute('UPDATE customers SET "PointsCustomer" = 7 WHERE "idCustomer" = \'c1\'')
    upsell("capture", "--once")
    assert bronze(place, "coupons") == [("b", 20)]
    assert bronze(place, "customers") == [("c1", 7, 1)]
