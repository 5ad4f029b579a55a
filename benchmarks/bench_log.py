"""What a table's log costs who opens it: by the number of its files, and by the commits since the last checkpoint.

The files are named in the log and are not there: nothing here reads one. docs/scale.md goes on from these figures.

    python benchmarks/bench_log.py [--files 1000,10000,100000] [--repeat N]
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from bench_bronze import peak_mb
from deltalake.transaction import AddAction
from rich.console import Console
from rich.table import Table

from upsell_assets.bronze.layout import Files, partition_by
from upsell_assets.bronze.tables import live_schema, table_name
from upsell_assets.contracts import load_contracts
from upsell_assets.lake.files import exchange
from upsell_assets.lake.tables import Lake

OUT = Path(__file__).parent / "out" / "log.json"
CONTRACT = load_contracts()["transactions"]
NAME = table_name(CONTRACT)
COMMITS = 9
"""After the checkpoint, which is made at each tenth."""


def statistics_of(number: int) -> str:
    """As a file of transactions has them, of 250,000 rows."""
    at = f"2024-{1 + number % 12:02}-01T00:00:00.{number % 1000:03}Z"
    texts = {"idTransaction": f"{number:036}", "idCustomer": f"{number:036}", "dtTransaction": at, "_op": "I"}
    texts |= {
        "_change_seq": f"{number:016X}-0000000001",
        "_file": f"raw/upsell/cdc/transactions/2024/01/01/{number:016X}.parquet",
    }
    bounds = {
        **texts,
        "pointsTransaction": number,
        "_modified_date": at,
        "_row": 0,
        "_ingested_at": at,
        "_date": at,
        "_version": number,
    }
    return json.dumps(
        {"numRecords": 250_000, "minValues": bounds, "maxValues": bounds, "nullCount": dict.fromkeys(bounds, 0)}
    )


def add(number: int) -> AddAction:
    month = {"_month": f"{2000 + number // 1200}-{1 + number // 100 % 12:02}"}
    return AddAction(
        f"part-{number:08}-0000-0000-0000-000000000000.parquet", 12_000_000, month, 0, True, statistics_of(number)
    )


def build(folder: Path, files: int) -> None:
    """One commit of all files, a checkpoint, and nine small ones."""
    table = Lake.at(folder).open_or_create(NAME, live_schema(CONTRACT), partition_by=partition_by(CONTRACT))
    exchange(table, map(add, range(files)), [])
    table.create_checkpoint()
    for number in range(COMMITS):
        exchange(table, [add(files + number)], [])


def look(folder: Path, repeat: int) -> dict[str, Any]:
    """Open the table, and list its files as a merge does."""
    lake, opened, listed, count = Lake.at(folder), [], [], 0
    for _ in range(repeat):
        began = time.perf_counter()
        table = lake.open(NAME)
        opened.append(time.perf_counter() - began)
        count = Files.of(table).table.num_rows
        listed.append(time.perf_counter() - began)
    log = [*Path(lake.uri(NAME), "_delta_log").glob("*.checkpoint*.parquet")]
    return {
        "open_s": statistics.median(opened),
        "median_s": statistics.median(listed),
        "peak_mb": round(peak_mb()),
        "files": count,
        "checkpoint_bytes": max(path.stat().st_size for path in log),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--files", default="1000,10000,100000")
    parser.add_argument("--repeat", type=int, default=5)
    given = parser.parse_args()
    rows = []
    for files in map(int, given.files.split(",")):
        with tempfile.TemporaryDirectory() as folder, ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
            build(Path(folder), files)
            found = pool.submit(look, Path(folder), given.repeat).result()
        oracle = "right" if found["files"] == files + COMMITS else "wrong"
        rows.append({"case": f"{files:,} files", "system": "upsell", "ratio": None, "oracle": oracle, **found})
    first = rows[0]["median_s"]
    OUT.parent.mkdir(exist_ok=True)
    OUT.write_text(json.dumps([{**row, "ratio": row["median_s"] / first} for row in rows], indent=1) + "\n")
    table = Table("case", "open s", "open and list s", "checkpoint MB", "peak MB", "oracle")
    for row in rows:
        table.add_row(
            row["case"],
            f"{row['open_s']:.3f}",
            f"{row['median_s']:.3f}",
            f"{row['checkpoint_bytes'] / 1e6:.2f}",
            str(row["peak_mb"]),
            row["oracle"],
        )
    Console().print(table)
    return 0 if all(row["oracle"] == "right" for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
