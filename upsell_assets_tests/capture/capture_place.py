"""A source database with its part of the lake, and the fold that judges what was captured from it."""

from __future__ import annotations

import io
import json
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from psycopg import sql

from upsell_assets.capture import setup
from upsell_assets.capture.job import Capture
from upsell_assets.contracts import Contract
from upsell_assets.lake.store import ObjectStore
from upsell_assets.source.database import Connection, connect

CAPTURE_ROLE, APP_ROLE, PASSWORD = "capture_tests", "capture_tests_app", "only of this test"
TABLES = {
    "customers": ("idCustomer", ["idCustomer", "PointsCustomer", "flEmail"]),
    "transactions": ("idTransaction", ["idTransaction", "idCustomer", "dtTransaction", "pointsTransaction"]),
    "transactions_product": (
        "idTransactionCart",
        ["idTransactionCart", "idTransaction", "NameProduct", "QuantityProduct"],
    ),
}


@dataclass
class Place:
    """A source database of its own, and the part of the lake that is captured from it."""

    owner_dsn: str
    dsn: str
    store: ObjectStore
    name: str
    contracts: dict[str, Contract]
    owner: Connection = field(init=False)

    def __post_init__(self) -> None:
        self.owner = connect(self.owner_dsn)

    @property
    def prefix(self) -> str:
        return f"raw/{self.name}"

    def prepare(self) -> None:
        setup.prepare(self.owner, self.contracts, name=self.name, schema="public", capture_role=CAPTURE_ROLE)

    def capture(self, *, resync: bool = False) -> Capture:
        return Capture(self.dsn, self.store, self.contracts, name=self.name, schema="public", resync=resync)

    def keys(self, below: str = "") -> list[str]:
        return [found.key for found in self.store.list(f"{self.prefix}/{below}")]

    def parquet(self, key: str) -> pa.Table:
        return pq.read_table(io.BytesIO(self.store.read(key)))

    def loads(self, table: str) -> list[dict[str, Any]]:
        keys = [key for key in self.keys(f"full_load/{table}/") if key.endswith("_manifest.json")]
        return [json.loads(self.store.read(key)) for key in keys]

    def changes(self, table: str) -> list[dict[str, Any]]:
        """All rows of change files, by position."""
        rows = [row for key in self.keys(f"cdc/{table}/") for row in self.parquet(key).to_pylist()]
        return sorted(rows, key=lambda row: str(row["change_seq"]))

    def fold(self, table: str) -> list[dict[str, Any]]:
        """The table, from its raw files alone; fails on any change that does not follow from the one before."""
        key = TABLES[table][0]
        load = max(self.loads(table), key=lambda found: found["position"]["change_seq"])
        floor = load["position"]["change_seq"]
        loaded = [row for file in load["files"] for row in self.parquet(file["key"]).to_pylist()]
        assert {row["OP"] for row in loaded} <= {"I"}
        assert {row["change_seq"] for row in loaded} <= {floor}
        live = {row[key]: row for row in loaded}
        assert len(live) == len(loaded) == load["rows"]
        changes = [row for row in self.changes(table) if row["change_seq"] > floor]
        assert len({row["change_seq"] for row in changes}) == len(changes), "a position was given twice"
        for row in changes:
            if row["OP"] == "I":
                assert row[key] not in live, "inserted twice"
            else:
                assert row[key] in live, "changed before it was inserted, or after it was deleted"
            if row["OP"] == "D":
                del live[row[key]]
            else:
                live[row[key]] = row
        columns = TABLES[table][1]
        return sorted(({c: row[c] for c in columns} for row in live.values()), key=lambda row: str(row[key]))

    def source(self, table: str) -> list[dict[str, Any]]:
        """The table as the database has it, timestamps as ISO text with milliseconds."""
        key, columns = TABLES[table]
        selected = [
            sql.SQL("to_char({}, 'YYYY-MM-DD HH24:MI:SS.MS')").format(sql.Identifier(c))
            if c == "dtTransaction"
            else sql.Identifier(c)
            for c in columns
        ]
        query = sql.SQL('SELECT {} FROM {} ORDER BY {} COLLATE "C"').format(
            sql.SQL(", ").join(selected), sql.Identifier(table), sql.Identifier(key)
        )
        return [dict(zip(columns, row, strict=True)) for row in self.owner.execute(query)]
