"""`upsell check`, `repair` and `tidy`: what a person does about a contract that lies; on a real object store."""

from __future__ import annotations

import io
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner, Result

from upsell_assets.cli import app
from upsell_assets.errors import PermanentError
from upsell_assets.lake.lakehouse import Lakehouse
from upsell_assets.services.embedded import Running

HONEST = "schema: shop\ntable: orders\nkey: [id]\ncolumns: {id: string, placed: string}\n"
LYING = f"{HONEST}immutable_date: placed\n"


def upsell(*arguments: str) -> Result:
    return CliRunner().invoke(app, list(arguments))


def test_a_date_that_moves_is_checked_refused_and_repaired(
    services: Running, open_lakehouse: Callable[..., Lakehouse], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    agreed = tmp_path / "orders.yaml"
    agreed.write_text(LYING, encoding="utf-8")
    lakehouse = open_lakehouse(contracts=tmp_path)
    for name, value in services.environment().items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("UPSELL_S3_BUCKET", lakehouse.settings.bucket)
    monkeypatch.setenv("UPSELL_CONTRACTS", str(tmp_path))

    def land(name: str, placed: str, hour: int) -> None:
        moment = datetime(2024, 6, 13, hour, tzinfo=UTC)
        sink = io.BytesIO()
        pq.write_table(pa.table({"OP": ["I"], "id": ["a"], "placed": [placed], "modified_date": [moment]}), sink)
        lakehouse.store.write(f"raw/shop/cdc/orders/2024/06/13/{name}", sink.getvalue())

    land("first", "2024-01-05", 1)
    upsell("ingest")
    land("second", "2024-03-05", 2)
    upsell("ingest")

    checked = upsell("check", "orders")
    assert (checked.exit_code, checked.stdout) == (1, "shop.orders: several rows of a\n")

    agreed.write_text(HONEST, encoding="utf-8")
    land("third", "2024-03-06", 3)
    refused = upsell("ingest")
    assert isinstance(refused.exception, PermanentError)
    assert "upsell repair orders" in str(refused.exception)

    assert upsell("repair", "orders").stdout == "shop.orders: 1 rows\n"
    assert "1 files" in upsell("ingest").stdout
    assert upsell("check").stdout == "shop.orders: one row a key\n"
    assert "bronze.shop.orders: 0 files written anew, 0 rows expired, 0 files and 0 of the log" in upsell("tidy").stdout
    unknown = upsell("repair", "order")
    assert isinstance(unknown.exception, PermanentError)
    assert "no contract for order; there are orders" in str(unknown.exception)
