"""How fast capture brings a table and its changes into raw files, and in how much memory.

Three cases, each on an embedded PostgreSQL and S3 server, each capture in a process of its own, whose greatest memory
is `peak_mb`: `full load` (the snapshot of a filled table), `stream, one transaction` (as many inserts, committed at
once) and `stream, small transactions` (an insert and an update of a balance in each). Servers and capture share this
machine's cores. The oracle: what the raw files fold to equals the database, by counts and checksums of all columns.

    python benchmarks/bench_capture.py [--cases SUBSTRING] [--rows-scale F] [--repeat N]

Debezium's embedded engine is printed beside it as it was measured once, on such a machine; it is not run here.
"""

from __future__ import annotations

import argparse
import io
import json
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from rich.console import Console
from rich.table import Table

from upsell_assets.capture import setup
from upsell_assets.capture.job import Capture
from upsell_assets.contracts import Contract, load_contracts
from upsell_assets.lake.store import ObjectStore
from upsell_assets.services.embedded import CAPTURE_ROLE, Running, embedded
from upsell_assets.settings import Settings
from upsell_assets.source.database import TABLES, Connection, connect

OUT = Path(__file__).parent / "out" / "capture.json"
MILLION = 1_000_000
PEAK_MB = 300
DEBEZIUM = {"full load": "13k-18k", "stream": "2k-8k"}
DEBEZIUM_MB = "500-1100"


@dataclass(frozen=True)
class Case:
    """What is written before a capture begins, and after its full load; the capture of the latter, if any, is timed."""

    name: str
    rows: int
    before: Callable[[Connection, int], None]
    after: Callable[[Connection, int], None] | None = None


def many_rows(owner: Connection, rows: int) -> None:
    """Transactions at once, of which many are the same customer's."""
    owner.execute(
        "INSERT INTO transactions SELECT gen_random_uuid(), md5(mod(i, 20000)::text)::uuid, "
        f"timestamp '2024-01-01' + i * interval '0.37 seconds', mod(i, 120) - 20 FROM generate_series(1, {rows}) i"
    )


def customers(owner: Connection, _rows: int) -> None:
    """Those whose balances move."""
    owner.execute("INSERT INTO customers SELECT md5(i::text)::uuid, 0, mod(i, 2) FROM generate_series(0, 9999) i")


def many_commits(owner: Connection, rows: int) -> None:
    """Transactions of two changes each."""
    owner.execute("SET synchronous_commit TO off")
    owner.execute(f"""DO $$ BEGIN FOR i IN 1..{rows // 2} LOOP
        INSERT INTO transactions VALUES (gen_random_uuid(), md5(mod(i, 10000)::text)::uuid, clock_timestamp(), 5);
        UPDATE customers SET "PointsCustomer" = "PointsCustomer" + 5 WHERE "idCustomer" = md5(mod(i, 10000)::text)::uuid::text;
        COMMIT;
    END LOOP; END $$""")
    # Makes what was committed durable, so that it can be decoded.
    owner.execute("SET synchronous_commit TO on")
    owner.execute("CREATE TABLE IF NOT EXISTS made_durable ()")
    owner.execute("DROP TABLE made_durable")


CASES = (
    Case("full load", 2 * MILLION, many_rows),
    Case("stream", MILLION, customers, many_rows),
    Case("stream, small transactions", MILLION // 5, customers, many_commits),
)


@dataclass(frozen=True)
class Place:
    """One capture: its name, and what it takes to open it in another process."""

    name: str
    dsn: str
    store: ObjectStore
    contracts: dict[str, Contract]

    def open(self) -> Capture:
        return Capture(self.dsn, self.store, self.contracts, name=self.name, schema="public")


def timed(place: Place, load: bool) -> tuple[float, float]:
    """Take the full load, or drain; the seconds, and this process's greatest memory."""
    capture = place.open()
    began = time.perf_counter()
    if load:
        capture.ensure_full_load()
    else:
        capture.drain()
    return time.perf_counter() - began, peak_mb()


def peak_mb() -> float:
    """Greatest resident memory of this process, in MB of 10^6 bytes."""
    status = Path("/proc/self/status")
    if status.exists():  # Linux hands ru_maxrss down to a child
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) * 1024 / 1e6
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6


def right(place: Place, owner: Connection) -> bool:
    """Whether the newest version of each row in raw is the database's."""
    return all(in_raw(place, table) == in_database(owner, table) for table in TABLES)


def in_database(owner: Connection, table: str) -> tuple[object, ...] | None:
    texts = [
        f"to_char(\"{name}\", 'YYYY-MM-DD HH24:MI:SS.MS')" if kind == "timestamp" else f'"{name}"'
        for name, kind in TABLES[table].items()
    ]
    query = (
        f"SELECT count(*), sum(('x' || left(md5(concat_ws('|', {', '.join(texts)})), 8))::bit(32)::bigint) FROM {table}"
    )
    return owner.execute(query.encode()).fetchone()


def in_raw(place: Place, table: str) -> tuple[object, ...] | None:
    import duckdb

    contract = place.contracts[table]
    prefixes = [f"raw/{contract.schema_name}/{kind}/{table}/" for kind in ("full_load", "cdc")]
    keys = [found.key for prefix in prefixes for found in place.store.list(prefix) if found.key.endswith(".parquet")]
    if not keys:
        return 0, None
    rows = pa.concat_tables([pq.read_table(io.BytesIO(place.store.read(key))) for key in keys])
    columns = ", ".join(f'"{name}"' for name in TABLES[table])
    with duckdb.connect() as connection:
        connection.register("rows", rows)
        return connection.execute(f"""
            SELECT count(*), sum(('0x' || left(md5(concat_ws('|', {columns})), 8))::bigint)::bigint FROM (
                SELECT * FROM rows QUALIFY row_number() OVER (PARTITION BY "{contract.key[0]}" ORDER BY change_seq DESC) = 1
            ) WHERE OP <> 'D'
        """).fetchone()


def run(case: Case, rows: int, repeat: int, running: Running) -> dict[str, Any]:
    """Measure a case so often, each time into a new part of the lake."""
    seconds, peaks, verdicts = [], [], []
    with connect(str(running.owner_dsn)) as owner:
        for number in range(repeat):
            place = new_place(running, f"bench_{number}")
            owner.execute(f"TRUNCATE {', '.join(TABLES)}")
            setup.prepare(owner, place.contracts, name=place.name, schema="public", capture_role=CAPTURE_ROLE)
            case.before(owner, rows)
            if case.after:
                place.open().ensure_full_load()
                case.after(owner, rows)
            owner.execute("CHECKPOINT")  # so that the server does not write it while it is measured
            with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
                took, peak = pool.submit(timed, new_place(running, place.name), case.after is None).result()
            seconds.append(took)
            peaks.append(peak)
            verdicts.append(right(place, owner))
            setup.drop_slot(owner, place.name)
            setup.drop_publication(owner, place.name)
            for found in list(place.store.list(f"raw/{place.name}/")):
                place.store.delete(found.key)
    median = statistics.median(seconds)
    return {
        "case": case.name,
        "system": "upsell",
        "rows": rows,
        "median_s": median,
        "ratio": None,
        "rows_per_s": round(rows / median),
        "peak_mb": round(max(peaks)),
        "oracle": "right" if all(verdicts) else "wrong",
        "meets": all(verdicts) and max(peaks) <= PEAK_MB,
    }


def new_place(running: Running, name: str) -> Place:
    contracts = {
        table: contract.model_copy(update={"schema_name": name}) for table, contract in load_contracts().items()
    }
    assert running.settings.source_dsn
    dsn = running.settings.source_dsn.get_secret_value()
    return Place(name, dsn, ObjectStore.from_settings(running.settings), contracts)


def report(rows: list[dict[str, Any]]) -> None:
    """Print the table, with what is known of Debezium beside each case; write the rows."""
    table = Table(highlight=True)
    for column in ("case", "system", "rows", "median s", "rows/s", "peak MB", "oracle", "meets"):
        table.add_column(column, no_wrap=True)
    for row in rows:
        shown = f"{row['rows']:,}", f"{row['median_s']:.2f}", f"{row['rows_per_s']:,}", f"{row['peak_mb']}"
        table.add_row(row["case"], row["system"], *shown, row["oracle"], "yes" if row["meets"] else "NO")
        known = DEBEZIUM[row["case"].partition(",")[0]]
        table.add_row("", "debezium engine, measured before", "", "", known, DEBEZIUM_MB, "", "", style="dim")
        table.add_section()
    console = Console()
    console.width = max(console.width, 130)
    console.print(table)
    OUT.parent.mkdir(exist_ok=True)
    OUT.write_text(json.dumps(rows, indent=2))


def main() -> None:
    """Run the cases that were asked for, print, write; exit code 1 if anything is wrong."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--cases", default="", help="only cases with this text in their name")
    arguments.add_argument("--rows-scale", type=float, default=1.0, help="factor of all rows, for trying things out")
    arguments.add_argument("--repeat", type=int, default=3, help="captures of a case")
    given = arguments.parse_args()
    chosen = [case for case in CASES if given.cases.lower() in case.name]
    if not chosen:
        arguments.error(f"no case has {given.cases!r} in its name")
    with (
        tempfile.TemporaryDirectory(prefix="bench-capture-") as folder,
        embedded(Settings(home=Path(folder))) as running,
    ):
        rows = [run(case, max(100, round(case.rows * given.rows_scale)), given.repeat, running) for case in chosen]
    report(rows)
    if wrong := [row["case"] for row in rows if row["oracle"] != "right"]:
        sys.exit(f"raw is not the database: {', '.join(wrong)}")


if __name__ == "__main__":
    main()
