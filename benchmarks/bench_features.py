"""What features and reports cost: one dtRef, a range of them, and an event that comes late.

Three cases, at 1M transactions and (not the last) at 10M, on a lake in a folder of this machine:

- `one dtRef`: all features and reports of one dtRef, computed and committed, with the daily aggregates that they are
  made of up to date. Its reference, `floor`, runs the same queries in plain DuckDB over plain parquet files of the same
  aggregates, and writes parquet files. `events` runs them over the events themselves, without aggregates.
- `range`: 365 dtRefs in one range. Its reference is `upsell, day by day`: as many runs of one dtRef each (at most
  --days of them are run, spread over the range, and counted for the others). `floor` is the range in plain DuckDB, so
  many dtRefs a query as we take (48 are run, and counted for the others).
- `late event`: one transaction of 7 days ago (and of 300) from bronze through silver, aggregates, features and reports
  of just the dtRefs that see it. It has no reference; the aim is 2 seconds for the first.

Each system runs in a process of its own, whose greatest memory is `peak_mb`. The oracle: features of some customers
equal the tests' plain-Python reference, totals of reports equal counts over the events.

    python benchmarks/bench_features.py [--cases SUBSTRING] [--transactions 1000000,10000000] [--repeat N] [--days N]
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from datetime import UTC, date, datetime, timedelta
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from bench_capture import peak_mb
from features_workload import LAST_DTREF, NOW, as_changes, changes, fill_silver, wrong_features, wrong_reports
from rich.console import Console
from rich.table import Table

import upsell_assets
from upsell_assets.aggregates import AGGREGATES, refresh_aggregates
from upsell_assets.bronze.history import remember
from upsell_assets.bronze.merge import merge
from upsell_assets.bronze.tables import table_name
from upsell_assets.contracts import Contract, load_contracts
from upsell_assets.dtref_assets import current_tables, daily_query
from upsell_assets.dtref_files import sql_files
from upsell_assets.lake.duck import connect, quote
from upsell_assets.lake.engines.embedded import EmbeddedEngine
from upsell_assets.lake.portions import MOST_DAYS, run_by_portions
from upsell_assets.lake.sql import DTREFS, SqlFile, bind, load_sql, to_duckdb
from upsell_assets.lake.tables import Lake
from upsell_assets.silver import events
from upsell_assets.silver.difference import Difference
from upsell_assets.silver.refresh import refresh
from upsell_assets.silver.tables import SilverTable, silver_tables
from upsell_assets.silver.touched import Touched, touched

OUT = Path(__file__).parent / "out" / "features.json"
PACKAGE = Path(upsell_assets.__file__).parent
FILES = [sql for layer in ("feature_store", "gold") for sql in sql_files(PACKAGE / layer)]
KEPT = {sql.name: load_sql(sql.path, tables=AGGREGATES) for sql in FILES}
RANGE = 365
PEAK_MB = 1000

Measured = dict[str, Any]


def compute(lake: Lake, dtrefs: dict[str, list[date]]) -> dict[str, float]:
    """Bring tables up to date at these dtRefs, as their assets do; seconds by table, and of the aggregates."""
    engine = EmbeddedEngine(lake)
    spent = {}
    for name, days in dtrefs.items():
        began = time.perf_counter()
        tables = current_tables(lake, engine, KEPT[name])
        began_query = time.perf_counter()
        rows = run_by_portions(engine, daily_query(KEPT[name], days, datetime.now(UTC), tables))
        lake.replace(name, rows, partitions={"dtRef": days})
        spent["aggregates"] = spent.get("aggregates", 0.0) + began_query - began
        spent[name] = time.perf_counter() - began_query
    return spent


def everywhere(*days: date) -> dict[str, list[date]]:
    return {sql.name: list(days) for sql in FILES}


def before(number: int) -> date:
    return LAST_DTREF - timedelta(number)


# --- the systems; each is run in a process of its own ---


def aggregates(root: Path) -> Measured:
    lake = Lake.at(root)
    began = time.perf_counter()
    refresh_aggregates(lake, EmbeddedEngine(lake), AGGREGATES)
    return {"seconds": time.perf_counter() - began, "peak_mb": peak_mb()}


def one_dtref(root: Path, number: int) -> Measured:
    lake = Lake.at(root)
    # What a process pays once is not what a dtRef costs.
    compute(lake, everywhere(before(RANGE + 1 + number)))
    began = time.perf_counter()
    compute(lake, everywhere(before(number)))
    return {"seconds": time.perf_counter() - began, "peak_mb": peak_mb()}


def whole_range(root: Path, _number: int) -> Measured:
    days = [before(number) for number in range(RANGE)]
    began = time.perf_counter()
    compute(Lake.at(root), everywhere(*days))
    return {"seconds": time.perf_counter() - began, "peak_mb": peak_mb()}


def day_by_day(root: Path, days: int) -> Measured:
    lake = Lake.at(root)
    chosen = [round(number * (RANGE - 1) / (days - 1)) for number in range(days)]
    compute(lake, everywhere(before(RANGE + 1)))
    began = time.perf_counter()
    for number in chosen:
        compute(lake, everywhere(before(number)))
    seconds = (time.perf_counter() - began) * RANGE / days
    return {"seconds": seconds, "peak_mb": peak_mb(), "days_run": days}


def plain(root: Path, dtrefs: Sequence[Sequence[date]], *, kept: bool) -> Measured:
    """The same queries in plain DuckDB over plain parquet files, some dtRefs a query; the first are not timed."""
    out = root / "plain_out"
    out.mkdir(exist_ok=True)
    spent = []
    with connect() as connection:
        queries = [KEPT[sql.name] if kept else sql for sql in FILES]
        names = {name for sql in queries for name in sql.tables if name != DTREFS}
        for name in names:
            connection.execute(f"CREATE VIEW {quote(name)} AS FROM read_parquet('{root / 'plain' / name}.parquet')")
        for days in dtrefs:
            # Who writes plain DuckDB has the text of the query already.
            texts = {sql.name: as_text(sql, days, names) for sql in queries}
            began = time.perf_counter()
            connection.register("dtrefs_asked", pa.table({"dtRef": days}))
            for name, text in texts.items():
                connection.execute(f"COPY ({text}) TO '{out / name}.parquet' (FORMAT parquet, COMPRESSION zstd)")
            spent.append(time.perf_counter() - began)
    return {"seconds": sum(spent[1:]), "peak_mb": peak_mb()}


def as_text(sql: SqlFile, dtrefs: Sequence[date], names: set[str]) -> str:
    """The query of a table for some dtRefs, in DuckDB's words."""
    asked = daily_query(sql, [*dtrefs], datetime.now(UTC))
    return to_duckdb(bind(asked.tree, {name: quote(name) for name in names} | {DTREFS: "dtrefs_asked"}, asked.params))


def over_aggregates(root: Path, number: int) -> Measured:
    return plain(root, [[before(RANGE + 1 + number)], [before(number)]], kept=True)


def over_events(root: Path, number: int) -> Measured:
    return plain(root, [[before(RANGE + 1 + number)], [before(number)]], kept=False)


def range_over_aggregates(root: Path, days: int) -> Measured:
    portions = [[before(number + day) for day in range(MOST_DAYS)] for number in range(0, days, MOST_DAYS)]
    found = plain(root, [[before(RANGE + 1)], *portions], kept=True)
    return {**found, "seconds": found["seconds"] * RANGE / days, "days_run": days}


def late_event(root: Path, age: int, number: int) -> Measured:
    """One transaction of so many days ago, from bronze to the reports."""
    lake, contracts = Lake.at(root), load_contracts()
    engine = EmbeddedEngine(lake)
    for warm in range(2):
        contract = contracts["transactions"]
        with connect() as connection:
            connection.register("rows", lake.rows(lake.open(events.TRANSACTIONS)))
            (customer,) = connection.execute(
                "SELECT idCliente FROM rows WHERE dtTransacao > ? LIMIT 1", [NOW - timedelta(60)]
            ).fetchone() or (None,)
        at = f"{before(age)} 15:00:{number:02d}.{warm:03d}"
        change = as_changes(
            contract, [[f"late-{age}-{number}-{warm}"], [customer], [at], [5]], 900_000 + age * 100 + number * 2 + warm
        )
        began = time.perf_counter()
        take_in(lake, contract, change)
        bronze = time.perf_counter()
        asked = refresh_silver(lake, engine)
        silver = time.perf_counter()
        spent = compute(lake, {name: sorted(days) for name, days in asked.items() if name in KEPT})
        seconds = time.perf_counter() - began
    features = sum(taken for name, taken in spent.items() if name.startswith("feature_store"))
    gold = sum(taken for name, taken in spent.items() if name.startswith("gold"))
    return {
        "seconds": seconds,
        "peak_mb": peak_mb(),
        "dtrefs": max(map(len, asked.values())),
        "bronze_s": bronze - began,
        "silver_s": silver - bronze,
        "aggregates_s": spent["aggregates"],
        "features_s": features,
        "gold_s": gold,
    }


def refresh_silver(lake: Lake, engine: EmbeddedEngine) -> Touched:
    """As its assets do, product lines first; what it reports."""
    asked: Touched = {}
    tables = {table.name: table for table in silver_tables(load_contracts())}
    for name in (events.LINES, events.TRANSACTIONS):
        refresh(
            lake, engine, tables[name], lambda change, name=name: asked.update(touched_by(lake, tables[name], change))
        )
    return asked


def touched_by(lake: Lake, table: SilverTable, change: Difference) -> Touched:
    if table.name != events.TRANSACTIONS:
        return {}
    known, then = events.event_days(lake, NOW), events.event_days(lake, NOW, change)
    return touched(events.transaction_days(change, NOW), None, known, then, LAST_DTREF)


def take_in(lake: Lake, contract: Contract, rows: Any) -> None:
    if contract.history:
        remember(lake, contract, rows)
    merge(lake, contract, rows)


# --- the lakes ---


def fill(root: Path, transactions: int) -> None:
    """Silver with so many transactions, and the same as plain files; aggregates are made by who is measured."""
    fill_silver(Lake.at(root), transactions)


def copy_plain(root: Path) -> None:
    """What the plain queries read: one parquet file a table."""
    lake = Lake.at(root)
    (root / "plain").mkdir()
    for name in (*AGGREGATES, events.TRANSACTIONS, events.LINES, events.HISTORY):
        rows = lake.rows(lake.open(name))
        with pq.ParquetWriter(root / "plain" / f"{name}.parquet", rows.schema, compression="zstd") as writer:
            for batch in rows.to_batches():
                writer.write_batch(batch)


def fill_bronze(root: Path, transactions: int) -> None:
    """A lake that changes came into: bronze, silver, aggregates, and the newest dtRefs."""
    lake, contracts = Lake.at(root), load_contracts()
    for contract in contracts.values():
        for rows in changes(contract, transactions):
            take_in(lake, contract, rows)
        assert lake.exists(table_name(contract))
    for table in silver_tables(contracts):
        refresh(lake, EmbeddedEngine(lake), table)
    compute(lake, everywhere(*(before(number) for number in range(56))))


# --- cases ---


def apart(function: Callable[..., Any], *arguments: Any) -> Any:
    """Run in a process of its own, so that its greatest memory is its own."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(function, *arguments).result()


def row(case: str, system: str, transactions: int, runs: list[Measured], oracle: str, **more: Any) -> dict[str, Any]:
    kept = {name: value for name, value in runs[-1].items() if name not in ("seconds", "peak_mb")}
    return {
        "case": case,
        "system": system,
        "transactions": transactions,
        "median_s": statistics.median(run["seconds"] for run in runs),
        "ratio": None,
        "limit": None,
        "peak_mb": round(max(run["peak_mb"] for run in runs)),
        "oracle": oracle,
        **kept,
        **more,
    }


def judged(lake: Lake, dtrefs: list[date]) -> str:
    wrong = [*wrong_features(lake, dtrefs), *wrong_reports(lake, dtrefs)]
    for fault in wrong[:5]:
        print(f"wrong: {fault}", file=sys.stderr)
    return "wrong" if wrong else "right"


def related(rows: list[dict[str, Any]], reference: str, limit: float | None = None) -> list[dict[str, Any]]:
    """With each row's ratio to the reference."""
    base = next(row["median_s"] for row in rows if row["system"] == reference)
    return [
        {**row, "ratio": row["median_s"] / base, "limit": limit if row["system"] == "upsell" else None} for row in rows
    ]


def run_size(folder: Path, transactions: int, given: argparse.Namespace) -> list[dict[str, Any]]:
    """The cases of one size that need no bronze."""
    root = folder / f"lake-{transactions}"
    apart(fill, root, transactions)
    made = apart(aggregates, root)
    print(f"{transactions:,} transactions: aggregates made in {made['seconds']:.1f} s, {made['peak_mb']:.0f} MB")
    apart(copy_plain, root)
    found: list[dict[str, Any]] = []
    if given.cases in "one dtref":
        turns: dict[str, list[Measured]] = {"upsell": [], "floor": [], "events": []}
        for number in range(given.repeat):
            turns["upsell"].append(apart(one_dtref, root, number))
            turns["floor"].append(apart(over_aggregates, root, number))
            turns["events"].append(apart(over_events, root, number))
        oracle = judged(Lake.at(root), [before(number) for number in range(given.repeat)])
        rows = [
            row("one dtRef", name, transactions, runs, oracle if name == "upsell" else "")
            for name, runs in turns.items()
        ]
        found += told(related(rows, "floor", 2.0))
    if given.cases in "range":
        single = apart(day_by_day, root, given.days)
        ranged = apart(whole_range, root, 0)
        oracle = judged(Lake.at(root), [before(number) for number in (0, 1, 100, RANGE - 1)])
        rows = [
            row("range", "upsell", transactions, [ranged], oracle),
            row("range", "upsell, day by day", transactions, [single], ""),
            row("range", "floor", transactions, [apart(range_over_aggregates, root, 3 * MOST_DAYS)], ""),
        ]
        found += told(related(rows, "upsell, day by day", 0.1))
    shutil.rmtree(root)
    return found


def run_late(folder: Path, transactions: int, given: argparse.Namespace) -> list[dict[str, Any]]:
    root = folder / "lake-late"
    apart(fill_bronze, root, transactions)
    found = []
    for age, limit in ((7, 2.0), (300, None)):
        runs = [apart(late_event, root, age, number) for number in range(given.repeat if age == 7 else 1)]
        oracle = judged(Lake.at(root), [before(0), before(3)])
        found += told([row("late event", "upsell", transactions, runs, oracle, age_days=age, limit=limit)])
    shutil.rmtree(root)
    return found


def told(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """A line of each row, at once: all of them take half an hour."""
    for one in rows:
        said = f"{one['case']}, {one['transactions']:,}, {one['system']}: {one['median_s']:.2f} s"
        print(f"{said}, {one['peak_mb']} MB {one['oracle']}", file=sys.stderr, flush=True)
    return rows


def report(rows: list[dict[str, Any]]) -> None:
    """Print the table and write the rows."""
    table = Table(highlight=True)
    for column in ("case", "system", "transactions", "median s", "ratio (limit)", "peak MB", "oracle", "more"):
        table.add_column(column, no_wrap=column != "more")
    shown = ("age_days", "dtrefs", "bronze_s", "silver_s", "aggregates_s", "features_s", "gold_s", "days_run")
    for one in rows:
        limit = f" ({one['limit']:g})" if one["limit"] else ""
        ratio = f"{one['ratio']:.3f}" if one["ratio"] is not None else ""
        more = ", ".join(f"{name} {one[name]:.3g}" for name in shown if name in one)
        table.add_row(
            one["case"], one["system"], f"{one['transactions']:,}", f"{one['median_s']:.2f}", ratio + limit,
            f"{one['peak_mb']}", one["oracle"], more,
        )  # fmt: skip
    console = Console()
    console.width = max(console.width, 150)
    console.print(table)
    OUT.parent.mkdir(exist_ok=True)
    OUT.write_text(json.dumps(rows, indent=2))


def main() -> None:
    """Run the cases that were asked for, print, write; exit code 1 if anything is wrong."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--cases", default="", type=str.lower, help="only cases with this text in their name")
    arguments.add_argument("--transactions", default="1000000,10000000", help="sizes; the last case runs at the first")
    arguments.add_argument("--repeat", type=int, default=3, help="runs of a system")
    arguments.add_argument("--days", type=int, default=24, help="dtRefs that are run day by day")
    given = arguments.parse_args()
    sizes = [int(size) for size in given.transactions.split(",")]
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory(prefix="bench-features-") as folder:
        if given.cases in "late event":
            rows += run_late(Path(folder), sizes[0], given)
        if given.cases in "one dtref" or given.cases in "range":
            for size in sizes:
                rows += run_size(Path(folder), size, given)
    if not rows:
        arguments.error(f"no case has {given.cases!r} in its name")
    report(rows)
    if wrong := [row["case"] for row in rows if row["oracle"] == "wrong"]:
        sys.exit(f"wrong: {', '.join(wrong)}")


if __name__ == "__main__":
    main()
