"""`upsell quarantine`: what is held back, why, and once more; by the command, on a real object store."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from upsell_assets.cli import app
from upsell_assets.errors import PermanentError
from upsell_assets.lake.lakehouse import Lakehouse
from upsell_assets.services.embedded import Running

CONTRACT = "schema: shop\ntable: orders\nkey: [id]\ncolumns: {id: string, points: bigint}\n"
NOON = datetime(2024, 6, 13, 12, tzinfo=UTC)


def parquet(**columns: Any) -> bytes:
    sink = io.BytesIO()
    pq.write_table(pa.table({"OP": ["I"], "id": ["a"], "points": [1], "modified_date": [NOON]} | columns), sink)
    return sink.getvalue()


@dataclass
class Shop:
    """Another database's raw folder, and the command run over it."""

    lakehouse: Lakehouse

    def put(self, path: str, body: bytes) -> str:
        self.lakehouse.store.write(f"raw/shop/cdc/orders/{path}", body)
        return f"raw/shop/cdc/orders/{path}"

    def run(self, *arguments: str, code: int = 0) -> str:
        done = CliRunner().invoke(app, list(arguments))
        if isinstance(done.exception, PermanentError):
            raise done.exception
        assert done.exit_code == code, done.output
        return done.stdout

    def held(self) -> list[dict[str, Any]]:
        return list(json.loads(self.run("quarantine", "list", "--json")))


@pytest.fixture
def shop(
    services: Running, open_lakehouse: Callable[..., Lakehouse], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Shop:
    (tmp_path / "orders.yaml").write_text(CONTRACT, encoding="utf-8")
    lakehouse = open_lakehouse(contracts=tmp_path)
    for name, value in services.environment().items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("UPSELL_S3_BUCKET", lakehouse.settings.bucket)
    monkeypatch.setenv("UPSELL_CONTRACTS", str(tmp_path))
    return Shop(lakehouse)


def test_the_list_says_which_file_where_when_and_why(shop: Shop) -> None:
    assert shop.run("quarantine", "list").splitlines() == ["table\tfile\tlanded\tbytes\tat (UTC)\treason"]
    key = shop.put("2024/06/13/a.parquet", parquet(OP=["Z"]))
    shop.put("2024/06/13/b.parquet", parquet())
    shop.run("ingest")

    [held] = shop.held()
    reason = "operation 'Z' in row 0 is none of D, I, U"
    assert (held["table"], held["key"], held["landed"]) == ("shop.orders", key, "2024-06-13")
    assert (held["size"], held["reason"]) == (len(parquet(OP=["Z"])), reason)
    assert datetime.fromisoformat(held["at"]).date() >= date(2024, 6, 13)
    assert reason in shop.run("quarantine", "list")


def test_a_file_is_shown_with_its_records_columns_and_first_rows(shop: Shop) -> None:
    key = shop.put("a.parquet", parquet(points=["x"], coupon=["k"]))
    shop.run("ingest")

    found = json.loads(shop.run("quarantine", "show", "a.parquet", "--json"))

    assert (found["key"], found["unreadable"], found["rows"]) == (key, None, 1)
    assert [record["state"] for record in found["records"]] == ["quarantined"]
    assert found["present"]["etag"] == found["records"][0]["etag"]
    assert {column["name"]: (column["file"], column["contract"]) for column in found["columns"]} == {
        "OP": ("string", "operation"),
        "id": ("string", "string"),
        "points": ("string", "bigint"),
        "modified_date": ("timestamp[us, tz=UTC]", "order"),
        "coupon": ("string", None),
    }
    assert found["head"][0]["points"] == "x"
    assert "quarantined" in shop.run("quarantine", "show", "a.parquet")


def test_files_of_another_producer_are_shown_with_the_names_of_the_contract(shop: Shop) -> None:
    """Generated as DMS writes changes by default: CSV without a header."""
    files = "files: {layout: dms, path: dms/orders, timestamp: committed_at}\n"
    (Path(shop.lakehouse.settings.contracts or "") / "orders.yaml").write_text(CONTRACT + files, encoding="utf-8")
    for name, points in (("1.csv", "x"), ("2.csv", "1,1")):
        line = f"I,2024-06-13 12:00:00.000000,a,{points}\n"
        shop.lakehouse.store.write(f"dms/orders/{name}", line.encode())
    shop.run("ingest")

    found = json.loads(shop.run("quarantine", "show", "1.csv", "--json"))
    assert {column["name"]: column["contract"] for column in found["columns"]} == {
        "OP": "operation",
        "modified_date": "order",
        "id": "string",
        "points": "bigint",
    }
    assert "Expected 4 columns, got 5" in json.loads(shop.run("quarantine", "show", "2.csv", "--json"))["unreadable"]


def test_an_unreadable_file_and_one_that_is_gone_are_shown(shop: Shop) -> None:
    key = shop.put("a.parquet", b"")
    shop.run("ingest")
    assert "not readable as parquet" in json.loads(shop.run("quarantine", "show", "a.parquet", "--json"))["unreadable"]

    shop.lakehouse.store.delete(key)

    assert json.loads(shop.run("quarantine", "show", "a.parquet", "--json"))["present"] is None
    assert "the object is gone" in shop.run("quarantine", "show", "a.parquet")
    with pytest.raises(PermanentError, match=r"a.parquet: is gone from the bucket. Put the repaired file there"):
        shop.run("quarantine", "retry", "a.parquet")


def test_what_was_decided_of_an_accepted_file_is_shown(shop: Shop) -> None:
    shop.put("a.parquet", parquet(points=["7"]))
    shop.run("ingest")

    [record] = json.loads(shop.run("quarantine", "show", "a.parquet", "--json"))["records"]
    assert record["decisions"] == ["points: string cast to bigint"]


def test_a_retry_says_how_it_ended(shop: Shop) -> None:
    key = shop.put("2024/06/13/a.parquet", b"no parquet")
    shop.run("ingest")

    assert shop.run("quarantine", "retry", "a.parquet", code=1).startswith(f"{key}: still in quarantine: not readable")
    shop.put("2024/06/13/a.parquet", parquet())
    assert shop.run("quarantine", "retry", "a.parquet") == f"{key}: taken in, 1 rows\n"
    assert shop.held() == []


def test_a_retry_of_all_goes_on_after_one_that_is_still_broken(shop: Shop) -> None:
    for day in (12, 13, 14):
        shop.put(f"2024/06/{day}/{day}.parquet", b"no parquet")
    shop.run("ingest")
    for day in (12, 14):
        shop.put(f"2024/06/{day}/{day}.parquet", parquet(id=[f"{day}"]))

    lines = shop.run("quarantine", "retry", "--all", code=1).splitlines()

    assert [line.partition(": ")[2][:8] for line in lines] == ["taken in", "still in", "taken in"]
    assert [held["key"][-10:] for held in shop.held()] == ["13.parquet"]


def test_a_retry_with_files_and_all_or_with_neither_is_a_usage_error(shop: Shop) -> None:
    shop.run("quarantine", "retry", code=2)
    shop.run("quarantine", "retry", "a", "--all", code=2)


def test_a_file_that_is_not_held_or_not_known_or_not_one_is_one_clear_line(shop: Shop) -> None:
    keys = [shop.put(name, parquet()) for name in ("x/a.parquet", "y/a.parquet", "y/za.parquet")]
    shop.run("ingest")

    with pytest.raises(PermanentError, match=f"{keys[0]}: is not in quarantine; it was taken in .1 rows"):
        shop.run("quarantine", "retry", "x/a.parquet")
    with pytest.raises(PermanentError, match=r"b.parquet: the ledger has no such file"):
        shop.run("quarantine", "show", "b.parquet")
    with pytest.raises(PermanentError, match=f"a.parquet: several files end so: {keys[0]}, {keys[1]}. Give more"):
        shop.run("quarantine", "show", "a.parquet")
    assert json.loads(shop.run("quarantine", "show", keys[2], "--json"))["key"] == keys[2]


def test_headers_in_any_case_dates_that_are_none_and_old_changes_of_another_database(shop: Shop) -> None:
    contract = CONTRACT.replace("points: bigint", "placed: string") + "immutable_date: placed\n"
    (Path(shop.lakehouse.settings.contracts or "") / "orders.yaml").write_text(contract, encoding="utf-8")
    old = {"modified_date": [NOON.replace(year=2019)]}
    shop.put("2024/06/13/a.parquet", parquet(points=[1], placed=["0000-00-00"]))
    shop.put("2024/06/13/b.parquet", parquet(id=["b"], placed=["soon"]))
    shop.run("ingest")
    shop.put("2024/06/14/c.parquet", parquet(**old, OP=["D"], placed=["0000-00-00"]))
    shop.put("2024/06/14/d.parquet", parquet(**old, id=["c"], placed=[None]))
    renamed = {"op": ["u"], "ID": ["b"], "Placed": ["soon"], "MODIFIED_DATE": [NOON.replace(day=14)], "POINTS": [2]}
    sink = io.BytesIO()
    pq.write_table(pa.table(renamed), sink)
    shop.put("2024/06/14/e.parquet", sink.getvalue())

    assert shop.run("ingest") == "shop.orders: 3 files, 3 changes, 2 written, 0 deleted, 0 quarantined\n"

    rows = json.loads(shop.run("query", "SELECT id, placed, points FROM bronze.shop.orders ORDER BY id", "--json"))
    assert rows == [
        {"id": "a", "placed": "0000-00-00", "points": 1},
        {"id": "b", "placed": "soon", "points": 2},
        {"id": "c", "placed": None, "points": 1},
    ]
