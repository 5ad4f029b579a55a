"""A small points system as raw files: what its producers would land in the object store."""

from __future__ import annotations

import io
import json
import random
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import Any
from uuid import uuid4
from zoneinfo import ZoneInfo

import pyarrow as pa
import pyarrow.parquet as pq

from upsell_assets.contracts import Contract
from upsell_assets.lake.lakehouse import Lakehouse
from upsell_assets.lake.store import ObjectStore
from upsell_assets.services.embedded import Running
from upsell_assets.settings import Settings

Row = Mapping[str, Any]
LOCAL = ZoneInfo("America/Sao_Paulo")
LOAD_POSITION = "0"


def new_lakehouse(services: Running, **changed: object) -> Lakehouse:
    """A lake in a bucket of its own, for as long as a module's tests share it."""
    values = {name: getattr(services.settings, name) for name in Settings.model_fields}
    lakehouse = Lakehouse(Settings(**{**values, "s3_bucket": f"lake-{uuid4().hex[:12]}", **changed}))
    lakehouse.store.client.create_bucket(Bucket=lakehouse.settings.bucket)
    return lakehouse


def today() -> date:
    return datetime.now(LOCAL).date()


def parquet(rows: Iterable[Row]) -> bytes:
    buffer = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(list(rows)), buffer)
    return buffer.getvalue()


def transaction(number: int, customer: str, at: datetime, points: int = 1) -> dict[str, Any]:
    return {
        "idTransaction": f"t{number}",
        "idCustomer": customer,
        "dtTransaction": at.isoformat(sep=" ", timespec="milliseconds"),
        "pointsTransaction": points,
    }


def changed(row: Row, seq: int, operation: str = "I") -> dict[str, Any]:
    """A row as a change file has it."""
    return {**row, "OP": operation, "modified_date": datetime.now(UTC), "change_seq": str(seq)}


def land_changes(lakehouse: Lakehouse, table: str, rows: Iterable[Row], name: str, day: date | None = None) -> str:
    """A file of changes, in the folder of a landing day or (without) where its upload day counts; its key."""
    folder = f"{day:%Y/%m/%d}/" if day else ""
    key = f"raw/upsell/cdc/{table}/{folder}{name}.parquet"
    lakehouse.store.write(key, parquet(rows))
    return key


def land_load(store: ObjectStore, contract: Contract, rows: Iterable[Row]) -> None:
    """A full load of one file, with its manifest."""
    folder = f"raw/{contract.schema_name}/full_load/{contract.table}/first/"
    etag = store.write(f"{folder}part.parquet", parquet(rows))
    manifest = {"position": {"change_seq": LOAD_POSITION}, "files": [{"key": f"{folder}part.parquet", "etag": etag}]}
    store.write(f"{folder}_manifest.json", json.dumps(manifest).encode())


@dataclass(frozen=True)
class History:
    """Customers who come and go over some days, the last of them yesterday."""

    first: date
    tables: dict[str, list[dict[str, Any]]]

    def local_days(self) -> list[tuple[date, Row]]:
        """Every transaction with its local day."""
        return [
            (datetime.fromisoformat(row["dtTransaction"]).replace(tzinfo=UTC).astimezone(LOCAL).date(), row)
            for row in self.tables["transactions"]
        ]

    def population(self, dtref: date) -> set[str]:
        """Who was active in the 28 days before dtRef."""
        return {
            row["idCustomer"] for day, row in self.local_days() if dtref - timedelta(28) <= day <= dtref - timedelta(1)
        }

    def land(self, lakehouse: Lakehouse) -> None:
        for table, contract in lakehouse.contracts.items():
            land_load(lakehouse.store, contract, self.tables[table])


def history(days: int, customers: int, seed: int = 7) -> History:
    """A third of the customers leave for good on some day, so that there is churn to learn from."""
    rng = random.Random(seed)
    first = today() - timedelta(days)
    tables: dict[str, list[dict[str, Any]]] = {"customers": [], "transactions": [], "transactions_product": []}
    for number in range(customers):
        name = f"c{number:03}"
        tables["customers"].append({"idCustomer": name, "PointsCustomer": number, "flEmail": rng.choice([0, 1, None])})
        leaves = rng.randrange(days) if rng.random() < 0.35 else days
        for day in range(days):
            if (day < leaves and rng.random() < 0.25) or (day == days - 1 and number == 0):
                at = datetime(first.year, first.month, first.day, tzinfo=LOCAL) + timedelta(
                    days=day, minutes=rng.randrange(24 * 60)
                )
                at = at.astimezone(UTC).replace(tzinfo=None)
                count = len(tables["transactions"])
                tables["transactions"].append(transaction(count, name, at, rng.choice([1, 5, 50, -10])))
                tables["transactions_product"].append(
                    {
                        "idTransactionCart": f"l{count}",
                        "idTransaction": f"t{count}",
                        "NameProduct": rng.choice(["ChatMessage", "Lista de presença"]),
                        "QuantityProduct": 1,
                    }
                )
    return History(first, tables)
