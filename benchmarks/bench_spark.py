"""What a merge and a range of features cost on Spark, against plain delta-spark in the same session, and embedded.

Systems take turns on the same batches. `upsell spark` leaves no step to the driver; `upsell spark, as shipped` leaves
steps of few files to it (UPSELL_SPARK_MIN_FILES); `upsell embedded` has no Spark. `plain spark` is what a good engineer
writes in an afternoon: MERGE INTO under the same law, with a table of tombstones; and of features, the query over all
events that overwrites its partitions.

    python benchmarks/bench_spark.py [--cases SUBSTRING] [--millions 1,5,20] [--repeat N] [--cluster]

With `--cluster` the session is one of a standalone cluster of two workers on this machine, else it is local. JVMs, those
of the cluster too, are part of `peak_mb`, but not of what is embedded.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import psutil
import pyarrow.parquet as pq
from bench_bronze import Bases, link
from bronze_workloads import Result, contract_of, judge, write_batches
from features_workload import LAST_DTREF, fill_silver, wrong_features
from pyspark.sql import SparkSession
from rich.console import Console
from rich.table import Table

from upsell_assets.aggregates import AGGREGATES
from upsell_assets.bronze.merge import merge
from upsell_assets.bronze.tables import table_name, tombstones_name
from upsell_assets.contracts import Contract
from upsell_assets.dtref_assets import current_tables, daily_query
from upsell_assets.lake.engines import Engine
from upsell_assets.lake.engines.embedded import EmbeddedEngine
from upsell_assets.lake.engines.spark import SparkEngine
from upsell_assets.lake.engines.spark_files import SparkFiles
from upsell_assets.lake.engines.spark_session import Spark, spark_config
from upsell_assets.lake.portions import replace_by_query
from upsell_assets.lake.sql import bind, load_sql, source_tables, to_spark
from upsell_assets.lake.tables import Lake
from upsell_assets.services.spark_cluster import Size, SparkCluster
from upsell_assets.services.state import State
from upsell_assets.settings import Settings

OUT = Path(__file__).parent / "out" / "spark.json"
FEATURES = Path(__file__).parent.parent / "upsell_assets" / "feature_store"
MILLION = 1_000_000
CHANGES = 10_000
DAYS = 28
SHIPPED = Settings().spark_min_files

Merge = Callable[[Path], None]


def upsell(lake: Lake, contract: Contract) -> Merge:
    return lambda batch: merge(lake, contract, pq.read_table(batch)) and None


def plain(session: SparkSession, contract: Contract, tables: Result) -> Merge:
    """MERGE INTO, guarded by the order; batches are reduced to one row a key first."""
    [key] = contract.key

    def run(batch: Path) -> None:
        session.read.parquet(f"file://{batch}").createOrReplaceTempView("batch")
        session.sql(f"""
            CREATE OR REPLACE TEMP VIEW fresh AS
            SELECT n.*, b.buried IS NULL OR n._change_seq > b.buried AS newer FROM (
                SELECT *, row_number() OVER (PARTITION BY {key} ORDER BY _change_seq DESC, _op = 'D' DESC) AS place
                FROM batch
            ) AS n LEFT JOIN (
                SELECT {key}, max(_change_seq) AS buried FROM delta.`{tables.tombstones}` GROUP BY {key}
            ) AS b USING ({key}) WHERE n.place = 1
        """)
        session.sql(f"""
            INSERT INTO delta.`{tables.tombstones}`
            SELECT {key}, _modified_date, _change_seq FROM fresh WHERE _op = 'D' AND newer
        """)
        columns = [*contract.columns, "_op", "_modified_date", "_change_seq", "_file", "_row", "_ingested_at"]
        session.sql(f"""
            MERGE INTO delta.`{tables.live}` AS t
            USING (SELECT *, current_timestamp() AS _ingested_at FROM fresh WHERE newer OR _op = 'D') AS s
            ON s.{key} = t.{key}
            WHEN MATCHED AND s._op = 'D' AND s._change_seq >= t._change_seq THEN DELETE
            WHEN MATCHED AND s._op <> 'D' AND s._change_seq > t._change_seq
                THEN UPDATE SET {", ".join(f"t.{name} = s.{name}" for name in columns)}
            WHEN NOT MATCHED AND s._op <> 'D'
                THEN INSERT ({", ".join(columns)}) VALUES ({", ".join(f"s.{name}" for name in columns)})
        """)

    return run


@dataclass
class Memory:
    """The greatest memory of this process and the JVM that it started, looked at after each turn."""

    peak: dict[str, float] = field(default_factory=dict)

    def look(self, system: str) -> None:
        own = psutil.Process()
        processes = [own] if "embedded" in system else [own, *own.children(recursive=True)]
        now = sum(process.memory_info().rss for process in processes if process.is_running()) / 1e6
        self.peak[system] = max(self.peak.get(system, 0), now)


@dataclass
class Bench:
    """One run: the session, where tables lie, and what was found."""

    folder: Path
    spark: Spark
    where: str
    repeat: int
    rows: list[dict[str, Any]] = field(default_factory=list)

    @property
    def reference(self) -> str:
        return f"plain spark, {self.where}"

    def on_spark(self, min_files: int = 0) -> Spark:
        found = Spark(self.spark.config, {}, min_files)
        found._session = self.spark.session
        return found

    def realistic_merge(self, millions: int) -> None:
        """Inserts, updates and deletes as a points system makes them, 10,000 a batch."""
        size, bases = millions * MILLION, Bases(self.folder / "bases")
        undated, dated = contract_of("transactions", dated=False), contract_of("transactions", dated=True)
        base = bases.plain(undated, size)
        with self.place() as place:
            batches = write_batches(
                place / "batches", undated, rows=size, changes=CHANGES, workload="realistic", count=self.repeat + 1
            )
            theirs = link(base, place / "plain")
            tables = Result(theirs / undated.table, theirs / "tombstones")
            systems: dict[str, Merge] = {self.reference: plain(self.spark.session, undated, tables)}
            results = {self.reference: tables}
            for variant, contract in (("date", dated), ("no date", undated)):
                for system, data in (
                    (f"upsell spark, {self.where}", SparkFiles(self.on_spark())),
                    (f"upsell spark, as shipped, {self.where}", SparkFiles(self.on_spark(SHIPPED))),
                    ("upsell embedded", None),
                ):
                    name = f"{system}, {variant}"
                    lake = Lake.at(link(bases.upsell(contract, size), place / name.replace(" ", "-")), data)
                    systems[name] = upsell(lake, contract)
                    live, tombstones = table_name(contract), tombstones_name(contract)
                    results[name] = Result(Path(lake.uri(live)), Path(lake.uri(tombstones)))
            spent, memory = self.race(systems, batches)
            verdicts = judge(undated, base / undated.table, batches, results)
        self.keep("realistic merge", millions, spent, memory, verdicts)

    def feature_range(self, millions: int) -> None:
        """All four feature tables at 28 dtRefs, from aggregates that are brought up to date before the first turn."""
        days = [LAST_DTREF - timedelta(number) for number in range(DAYS)]
        with self.place() as place:
            fill_silver(Lake.at(place / "silver"), millions * MILLION)
            systems: dict[str, Merge] = {}
            lakes: dict[str, Lake] = {}
            for system, spark in (
                (self.reference, None),
                (f"upsell spark, {self.where}", self.on_spark()),
                (f"upsell spark, as shipped, {self.where}", self.on_spark(SHIPPED)),
                ("upsell embedded", None),
            ):
                root = link(place / "silver", place / system.replace(" ", "-"))
                lakes[system] = Lake.at(root, SparkFiles(spark) if spark else None)
                engine = SparkEngine(lakes[system], spark) if spark else EmbeddedEngine(lakes[system])
                systems[system] = (
                    plain_features(self.spark.session, lakes[system], days)
                    if system == self.reference
                    else features(engine, days)
                )
            spent, memory = self.race(systems, [place / f"{number}" for number in range(3)])
            verdicts = {
                system: "wrong" if wrong_features(lake, days[:2]) else "right" for system, lake in lakes.items()
            }
        self.keep("feature range", millions, spent, memory, verdicts)

    @contextmanager
    def place(self) -> Iterator[Path]:
        folder = Path(tempfile.mkdtemp(dir=self.folder))
        yield folder
        shutil.rmtree(folder)

    def race(self, systems: dict[str, Merge], turns: Sequence[Path]) -> tuple[dict[str, list[float]], dict[str, float]]:
        """Each batch is taken by one system after the other, who begins changes; the first one warms up."""
        spent: dict[str, list[float]] = {system: [] for system in systems}
        memory = Memory()
        for number, turn in enumerate(turns):
            names = [*systems]
            for system in [*names[number % len(names) :], *names[: number % len(names)]]:
                began = time.perf_counter()
                systems[system](turn)
                spent[system].append(time.perf_counter() - began)
                memory.look(system)
                print(f"  {system}: {spent[system][-1]:.2f} s", file=sys.stderr, flush=True)
        return {system: seconds[1:] for system, seconds in spent.items()}, memory.peak

    def keep(
        self,
        case: str,
        millions: int,
        spent: dict[str, list[float]],
        memory: dict[str, float],
        verdicts: dict[str, str],
    ) -> None:
        base = statistics.median(spent[self.reference])
        for system, seconds in spent.items():
            median = statistics.median(seconds)
            self.rows.append(
                {
                    "case": case,
                    "millions": millions,
                    "system": system,
                    "median_s": round(median, 3),
                    "ratio": round(median / base, 3),
                    "peak_mb": round(memory[system]),
                    "oracle": verdicts[system],
                    "turns": len(seconds),
                }
            )


def features(engine: Engine, days: Sequence[date]) -> Merge:
    """As the assets do."""

    def run(_turn: Path) -> None:
        for path in sorted(FEATURES.glob("fs_*.sql")):
            kept = load_sql(path, tables=AGGREGATES)
            query = daily_query(kept, [*days], datetime.now(UTC), current_tables(engine.lake, engine, kept))
            replace_by_query(engine, kept.name, query, {"dtRef": [str(day) for day in days]})

    return run


def plain_features(session: SparkSession, lake: Lake, days: Sequence[date]) -> Merge:
    """The query of each table over silver's events; Delta replaces the partitions that it gives."""

    def run(_turn: Path) -> None:
        own = session.newSession()
        for path in sorted(FEATURES.glob("fs_*.sql")):
            query = daily_query(load_sql(path), [*days], datetime.now(UTC))
            names = {}
            for number, name in enumerate(sorted(source_tables(query.tree))):
                names[name] = f"plain_{number}"
                rows = query.relations.get(name)
                frame = own.read.format("delta").load(lake.uri(name)) if rows is None else own.createDataFrame(rows)
                frame.createOrReplaceTempView(names[name])
            written = own.sql(to_spark(bind(query.tree, names, query.params))).write.format("delta").mode("overwrite")
            assert query.sql is not None
            written.option("partitionOverwriteMode", "dynamic").partitionBy("dtRef").save(lake.uri(query.sql.name))

    return run


@contextmanager
def session_at(master: str) -> Iterator[Spark]:
    spark = Spark(spark_config(Settings(engine="spark", spark_master=master)), {}, 0)
    try:
        yield spark
    finally:
        spark.close()


@contextmanager
def chosen(given: argparse.Namespace, folder: Path) -> Iterator[tuple[Spark, str]]:
    if not given.cluster:
        with session_at("local[2]") as spark:
            yield spark, "local"
        return
    state = State.open(folder / "home")
    cluster = SparkCluster(state)
    with state.lock():
        cluster.start(Size(workers=2, cores=1, memory_mb=1024))
    try:
        # The session finds the cluster's secret by it.
        os.environ["SPARK_CONF_DIR"] = cluster.environment()["SPARK_CONF_DIR"]
        with session_at(cluster.url) as spark:
            yield spark, "cluster"
    finally:
        with state.lock():
            cluster.stop()


def of(row: dict[str, Any]) -> tuple[str, int, str]:
    """What a row is the result of: a later run of the same takes its place."""
    return row["case"], row["millions"], row["system"]


def show(rows: Sequence[dict[str, Any]]) -> None:
    table = Table("case", "rows", "system", "seconds", "ratio", "peak MB", "oracle")
    for row in rows:
        table.add_row(
            row["case"],
            f"{row['millions']}M",
            row["system"],
            f"{row['median_s']:.2f}",
            f"{row['ratio']:.2f}",
            f"{row['peak_mb']:,}",
            row["oracle"],
        )
    Console(width=140).print(table)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--cases", default="", help="run only cases whose name has this in it")
    parser.add_argument("--millions", default="1,5,20", help="sizes of the tables")
    parser.add_argument("--repeat", type=int, default=5, help="batches that are measured")
    parser.add_argument("--cluster", action="store_true", help="on a standalone cluster of two workers")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="bench-spark-") as name, chosen(given, Path(name)) as (spark, where):
        bench = Bench(Path(name), spark, where, given.repeat)
        for millions in map(int, given.millions.split(",")):
            for case, run in (("realistic merge", bench.realistic_merge), ("feature range", bench.feature_range)):
                if given.cases in f"{case}, {millions}M":
                    print(f"{case}, {millions}M, {where}", file=sys.stderr, flush=True)
                    run(millions)
        OUT.parent.mkdir(exist_ok=True)
        known = json.loads(OUT.read_text()) if OUT.exists() else []
        mine = {of(row) for row in bench.rows}
        OUT.write_text(json.dumps([*(row for row in known if of(row) not in mine), *bench.rows], indent=1) + "\n")
    show(bench.rows)
    return 0 if all(row["oracle"] == "right" for row in bench.rows) else 1


if __name__ == "__main__":
    sys.exit(main())
