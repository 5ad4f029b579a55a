"""A source database with its part of the lake, and what judges what was captured from it.

Two judges: `fold` reads the raw files by rules of its own, `differences` compares the database with bronze.
"""

from __future__ import annotations

import io
import itertools
import json
import reprlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from psycopg import sql
from psycopg.conninfo import make_conninfo

from upsell_assets.bronze.ingest import ingest
from upsell_assets.bronze.tables import table_name
from upsell_assets.capture import setup
from upsell_assets.capture.job import Capture
from upsell_assets.contracts import Contract, load_contracts
from upsell_assets.lake.store import ObjectStore
from upsell_assets.lake.tables import Lake
from upsell_assets.source.database import Connection, connect, create_roles, create_schema

CAPTURE_ROLE, APP_ROLE, PASSWORD = "capture_tests", "capture_tests_app", "only of this test"
TABLES = {
    "customers": ("idCustomer", ["idCustomer", "PointsCustomer", "flEmail"]),
    "transactions": ("idTransaction", ["idTransaction", "idCustomer", "dtTransaction", "pointsTransaction"]),
    "transactions_product": (
        "idTransactionCart",
        ["idTransactionCart", "idTransaction", "NameProduct", "QuantityProduct"],
    ),
}

_numbers = itertools.count(1)


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

    def reconnect(self) -> None:
        self.owner.close()
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

    def bronze(self, table: str) -> list[dict[str, Any]]:
        """The table as bronze has it, brought up to date first."""
        contract, lake = self.contracts[table], Lake.of(self.store)
        ingested = ingest(self.store, lake, contract)
        assert [record.reason for record in ingested.quarantined] == []
        return list(lake.open(table_name(contract)).to_pyarrow_table().select(TABLES[table][1]).to_pylist())

    def differences(self) -> list[str]:
        """What bronze and the database say differently of a row, or how often it is there."""
        found = []
        for table, (key, _) in TABLES.items():
            ours: dict[str, list[dict[str, Any]]] = {}
            theirs: dict[str, list[dict[str, Any]]] = {}
            for rows, by_key in ((self.bronze(table), ours), (self.source(table), theirs)):
                for row in rows:
                    by_key.setdefault(row[key], []).append(row)
            found += [
                f"{table} {value}: bronze {reprlib.repr(ours.get(value))}, database {reprlib.repr(theirs.get(value))}"
                for value in sorted(ours.keys() | theirs.keys())
                if ours.get(value) != theirs.get(value)
            ]
        return found


@contextmanager
def opened(cluster: str, store: ObjectStore) -> Iterator[Place]:
    """A database with empty tables of the points system, ready to be captured by a role that may do nothing else.

    Args:
        cluster: address of the server, as its owner.
        store: the lake.
    """
    name = f"capture_{next(_numbers)}"
    with connect(cluster) as server:
        server.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
    owner_dsn = make_conninfo(cluster, dbname=name)
    contracts = {
        table: contract.model_copy(update={"schema_name": name}) for table, contract in load_contracts().items()
    }
    dsn = make_conninfo(owner_dsn, user=CAPTURE_ROLE, password=PASSWORD)
    place = Place(owner_dsn, dsn, store, name, contracts)
    try:
        create_schema(place.owner)
        create_roles(
            place.owner,
            capture_role=CAPTURE_ROLE,
            capture_password=PASSWORD,
            app_role=APP_ROLE,
            app_password=PASSWORD,
        )
        place.prepare()
        yield place
    finally:
        place.owner.close()
    with connect(owner_dsn) as owner:
        setup.drop_slot(owner, name)
        setup.drop_publication(owner, name)
    with connect(cluster) as server:
        server.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))
