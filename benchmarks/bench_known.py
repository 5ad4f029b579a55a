"""What it costs to keep every change, and to ask for features as they were known at a dtRef.

Transactions of a year, each with a line and an update of its customer's balance, arrive in batches of ten days; some
change or go later, and a full load ends in the middle.

    python benchmarks/bench_known.py [--transactions N] [--dtrefs N]
"""

from __future__ import annotations

import argparse
import resource
import tempfile
import time
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa

from upsell_assets.bronze.history import remember
from upsell_assets.bronze.merge import end_load, merge
from upsell_assets.contracts import Contract, load_contracts
from upsell_assets.feature_store.point_in_time import FeatureStore
from upsell_assets.lake.engines.embedded import EmbeddedEngine
from upsell_assets.lake.tables import Lake
from upsell_assets.raw.files import FILE, MODIFIED, OP, ROW, SEQUENCE, Position, change_schema

START = datetime(2025, 1, 1, tzinfo=UTC)
DAYS, STEP = 360, 10
CUSTOMERS = 20_000


def changes(contract: Contract, columns: dict[str, object], op: object, at: np.ndarray, seq: np.ndarray) -> pa.Table:
    count = len(at)
    rows = {
        **columns,
        OP: op,
        MODIFIED: pa.array(at, pa.timestamp("us")),
        SEQUENCE: [f"{number:012d}" for number in seq],
        FILE: pa.repeat("raw/upsell/cdc/f", count),
        ROW: pa.array(range(count), pa.int64()),
    }
    return pa.table({name: pa.array(values) for name, values in rows.items()}).cast(change_schema(contract))


def batch(first: int, count: int, day: int, chance: np.random.Generator) -> dict[str, pa.Table]:
    """New transactions of some days; one in fifty corrects an older one, one in two hundred deletes one."""
    contracts = load_contracts()
    micros = np.sort(chance.integers(0, STEP * 86_400_000_000, count))
    at = np.datetime64(START.replace(tzinfo=None) + timedelta(days=day), "us") + micros.astype("timedelta64[us]")
    number = np.arange(first, first + count)
    older = chance.random(count) < 0.025
    number[older] = chance.integers(0, max(first, 1), older.sum())
    op = np.where(older, np.where(chance.random(count) < 0.2, "D", "U"), "I")
    who = [f"customer {n}" for n in chance.integers(0, CUSTOMERS, count) ** 2 // CUSTOMERS]
    seq = np.arange(first, first + count)
    ids = [f"transaction-{n:030d}" for n in number]
    points = pa.array(chance.integers(-50, 50, count))
    texts = [str(moment).replace("T", " ") for moment in at]
    return {
        "customers": changes(
            contracts["customers"], {"idCustomer": who, "PointsCustomer": points, "flEmail": pa.repeat(1, count)},
            pa.repeat("U", count), at, seq,
        ),
        "transactions": changes(
            contracts["transactions"],
            {"idTransaction": ids, "idCustomer": who, "dtTransaction": texts, "pointsTransaction": points},
            op, at, seq,
        ),
        "transactions_product": changes(
            contracts["transactions_product"],
            {"idTransactionCart": [f"line-{n:030d}" for n in number], "idTransaction": ids,
             "NameProduct": pa.repeat("ChatMessage", count), "QuantityProduct": pa.repeat(1, count)},
            op, at, seq,
        ),
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--transactions", type=int, default=1_000_000)
    parser.add_argument("--dtrefs", type=int, default=8)
    wanted = parser.parse_args()
    contracts, chance = load_contracts(), np.random.default_rng(1)
    per_batch = wanted.transactions // (DAYS // STEP)
    with tempfile.TemporaryDirectory() as folder:
        lake = Lake.at(Path(folder))
        spent = {"keep": 0.0, "merge": 0.0}
        for number, day in enumerate(range(0, DAYS, STEP)):
            arrival = START + timedelta(days=day + STEP)
            for table, rows in batch(number * per_batch, per_batch, day, chance).items():
                began = time.perf_counter()
                remember(lake, contracts[table], rows, lambda at=arrival: at)
                kept = time.perf_counter()
                if table == "transactions":
                    merge(lake, contracts[table], rows)
                    spent["merge"] += time.perf_counter() - kept
                    spent["keep"] += kept - began
        for table, contract in contracts.items():
            end_load(lake, contract, Position(START, "000000000000"), f"load of {table}", lambda: START)
        batches = DAYS // STEP
        print(f"a batch of {per_batch:,} transactions: kept in {spent['keep'] / batches:.3f} s, "
              f"merged in {spent['merge'] / batches:.3f} s")  # fmt: skip
        size = sum(
            file.stat().st_size for file in Path(lake.uri("bronze.upsell._transactions_changes")).rglob("*.parquet")
        )
        print(f"{wanted.transactions:,} changes of transactions: {size / 2**20:.0f} MB with what compaction replaced")
        store = FeatureStore(lake, EmbeddedEngine(lake), contracts)
        pins = store.pins("dtref")
        for count in (1, wanted.dtrefs):
            days = [date(2025, 12, 22) - timedelta(weeks=3 * n) for n in range(count)]
            keys = pa.table({"dtRef": pa.array(days, pa.date32())})
            began = time.perf_counter()
            found = store.training_set(keys, pins=pins, known_at="dtref")
            print(f"{count} dtRefs, {found.num_rows:,} rows: {time.perf_counter() - began:.1f} s")
        print(f"peak memory {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.0f} MB")


if __name__ == "__main__":
    main()
