"""What a merge into bronze costs, against plain delta-rs MERGE under the same law, and against a floor.

Three systems take turns on the same batches, each in a process of its own: `upsell` (our merge), `plain` (what a good
engineer writes in an afternoon) and `floor` (read the batch, probe all keys, write one parquet file). A turn reads
its batch too. `peak_mb` is the greatest memory of a worker, which opens a ready table.

    python benchmarks/bench_bronze.py [--cases SUBSTRING] [--rows-scale F] [--repeat N]

`--rows-scale` scales tables and batches, for trying things out. UPSELL_BENCH_50M=1 adds the cases of 50M rows.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import signal
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from itertools import groupby
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Protocol, TypeVar

import pyarrow as pa
import pyarrow.parquet as pq
from bronze_workloads import Result, base_rows, contract_of, judge, known_keys, write_batches
from deltalake import DeltaTable, write_deltalake
from pydantic import SecretStr
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from upsell_assets.bronze.ingest import ingest
from upsell_assets.bronze.merge import merge
from upsell_assets.bronze.tables import table_name, tombstones_name
from upsell_assets.contracts import Contract
from upsell_assets.lake.duck import connect, quote
from upsell_assets.lake.store import ObjectStore
from upsell_assets.lake.tables import Lake
from upsell_assets.raw.files import order_fields
from upsell_assets.raw.landing import Window, cdc_prefix, landed_changes
from upsell_assets.raw.ledger import Ledger, Record
from upsell_assets.services.embedded import embedded
from upsell_assets.settings import Settings

T = TypeVar("T")

OUT = Path(__file__).parent / "out"
MILLION = 1_000_000
PEAK_MB = 800
LOCAL = "upsell, local disk"
SPAWN = get_context("spawn")


@dataclass(frozen=True)
class Scenario:
    """Batches of one workload onto one table; `limits` gives the greatest ratio of each variant of our contract."""

    name: str
    table: str
    rows: int
    workload: str
    limits: dict[str, float]
    changes: int = 10_000
    merges: int | None = None
    floor_limit: float | None = None
    plain: bool = True
    on_s3: bool = False

    @property
    def untimed(self) -> int:
        """How many batches are not measured: the first one imports, and a duplicate needs what it repeats."""
        if self.merges:
            return 0
        return 2 if self.workload == "duplicate" else 1

    def case(self, variant: str) -> str:
        """The case's name, as the results spell it."""
        return self.name if self.merges else f"{self.name}, {variant}{', S3' if self.on_s3 else ''}"


def scenarios() -> list[Scenario]:
    """All but the idle tick, smallest tables first."""
    both = {"date": 0.10, "no date": 0.25}
    found = [
        Scenario("customers 200k", "customers", MILLION // 5, "hot", {"no date": 0.80}),
        Scenario("1M realistic", "transactions", MILLION, "realistic", {"date": 0.75, "no date": 0.80}),
        Scenario("1000th merge", "transactions", MILLION, "realistic", {"date": 1.3}, 200, merges=1000, plain=False),
        Scenario(
            "5M realistic", "transactions", 5 * MILLION, "realistic", {"date": 0.20, "no date": 0.40}, floor_limit=1
        ),
        Scenario("5M 100k changes", "transactions", 5 * MILLION, "realistic", {"date": 0.60}, 100_000),
        Scenario("5M inserts", "transactions", 5 * MILLION, "inserts", {"date": 0.08, "no date": 0.30}),
        Scenario("5M duplicate", "transactions", 5 * MILLION, "duplicate", {"date": 0.10, "no date": 0.30}),
        Scenario("5M tail", "transactions", 5 * MILLION, "tail", {"date": 0.50}),
        Scenario("5M uniform", "transactions", 5 * MILLION, "uniform", {"no date": 1.1}),
        Scenario("5M realistic", "transactions", 5 * MILLION, "realistic", {"date": 2}, plain=False, on_s3=True),
        Scenario("20M realistic", "transactions", 20 * MILLION, "realistic", both),
    ]
    if os.environ.get("UPSELL_BENCH_50M") == "1":
        found.append(Scenario("50M realistic", "transactions", 50 * MILLION, "realistic", both))
    return found


class System(Protocol):
    """What takes turns: merges a batch, and tells the versions of its tables."""

    def merge(self, batch: Path) -> dict[str, float]: ...

    def versions(self) -> tuple[int, int]: ...


class Upsell:
    """Our merge, on a lake in a folder or in a bucket."""

    def __init__(self, contract: Contract, place: Path | Settings) -> None:
        self.contract = contract
        self.lake = Lake.at(place) if isinstance(place, Path) else Lake.of(ObjectStore.from_settings(place))

    def merge(self, batch: Path) -> dict[str, float]:
        merged = merge(self.lake, self.contract, pq.read_table(batch))
        return dict(getattr(merged, "seconds", {}))

    def versions(self) -> tuple[int, int]:
        names = table_name(self.contract), tombstones_name(self.contract)
        live, tombstones = (self.lake.open(name).version() for name in names)
        return live, tombstones

    @staticmethod
    def result(contract: Contract, folder: Path) -> Result:
        lake = Lake.at(folder)
        return Result(Path(lake.uri(table_name(contract))), Path(lake.uri(tombstones_name(contract))))


class Plain:
    """MERGE of delta-rs with its defaults: reduced to one row a key, guarded by the order, tombstones beside it."""

    def __init__(self, contract: Contract, place: Path) -> None:
        self.contract = contract
        self.tables = self.result(contract, place)
        self.connection = connect()
        self.key = ", ".join(quote(name) for name in contract.key)

    def merge(self, batch: Path) -> dict[str, float]:
        live, tombstones = DeltaTable(self.tables.live), DeltaTable(self.tables.tombstones)
        self.connection.execute(f"""
            CREATE OR REPLACE TEMP TABLE newest AS SELECT * FROM read_parquet('{batch}')
            QUALIFY row_number() OVER (PARTITION BY {self.key} ORDER BY _change_seq DESC, _op = 'D' DESC) = 1
        """)
        self.connection.register("tombstones", tombstones.to_pyarrow_table())
        self.connection.execute(f"""
            CREATE OR REPLACE TEMP TABLE fresh AS
            SELECT n.*, b.buried IS NULL OR n._change_seq > b.buried AS _newer FROM newest AS n
            LEFT JOIN (SELECT {self.key}, max(_change_seq) AS buried FROM tombstones GROUP BY ALL) AS b USING ({self.key})
        """)
        order = ", ".join(name.name for name in order_fields(self.contract)[:2])
        buried = self._table(f"SELECT {self.key}, {order} FROM fresh WHERE _op = 'D' AND _newer")
        source = self._table("SELECT * EXCLUDE (_newer), now() AS _ingested_at FROM fresh WHERE _newer OR _op = 'D'")
        if buried.num_rows:
            write_deltalake(tombstones, buried, mode="append")
        same = " AND ".join(f"s.{quote(name)} = t.{quote(name)}" for name in self.contract.key)
        (
            live.merge(source, predicate=same, source_alias="s", target_alias="t")
            .when_matched_delete("s._op = 'D' AND s._change_seq >= t._change_seq")
            .when_matched_update_all("s._op <> 'D' AND s._change_seq > t._change_seq")
            .when_not_matched_insert_all("s._op <> 'D'")
            .execute()
        )
        return {}

    def _table(self, query: str) -> pa.Table:
        return self.connection.sql(query).to_arrow_table()

    def versions(self) -> tuple[int, int]:
        return DeltaTable(self.tables.live).version(), DeltaTable(self.tables.tombstones).version()

    @staticmethod
    def result(contract: Contract, folder: Path) -> Result:
        return Result(folder / contract.table, folder / "tombstones")


class Floor:
    """What no merge goes below that has to look at every key of the table."""

    def __init__(self, contract: Contract, place: Path) -> None:
        self.key = ", ".join(quote(name) for name in contract.key)
        self.files = DeltaTable(Plain.result(contract, place).live).file_uris()
        self.folder = place
        self.connection = connect()

    def merge(self, batch: Path) -> dict[str, float]:
        rows = pq.read_table(batch)
        self.connection.register("batch", rows)
        base = self.connection.read_parquet(self.files)
        base.create_view("base", replace=True)
        known = self.connection.execute(f"""
            SELECT count(*) FROM (SELECT {self.key} FROM base) SEMI JOIN batch USING ({self.key})
        """).fetchone()
        pq.write_table(rows, self.folder / f"written-{batch.name}")
        return {"known": known[0] if known else 0}

    def versions(self) -> tuple[int, int]:
        return 0, 0


SYSTEMS: dict[str, Callable[[Contract, Any], System]] = {"upsell": Upsell, "plain": Plain, "floor": Floor}


@dataclass(frozen=True)
class Turn:
    """One batch merged by one system; `versions` are those of live table and tombstones afterwards."""

    seconds: float
    versions: tuple[int, int]
    detail: dict[str, float]


def serve(pipe: Connection, system: str, contract: Contract, place: Path | Settings) -> None:
    """A worker: merges the batches that it is sent, and in the end tells its greatest memory."""
    worker = SYSTEMS[system](contract, place)
    pipe.send(worker.versions())
    for batch in iter(pipe.recv, None):
        began = time.perf_counter()
        detail = worker.merge(batch)
        seconds = time.perf_counter() - began
        pipe.send(Turn(seconds, worker.versions(), detail))
    pipe.send(peak_mb())


def peak_mb() -> float:
    """Greatest resident memory of this process, in MB of 10^6 bytes.

    Linux hands ru_maxrss down to a child, VmHWM begins anew.
    """
    status = Path("/proc/self/status")
    if status.exists():
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) * 1024 / 1e6
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6


@dataclass
class Runner:
    """One system in a case: its worker, and what it has done so far.

    `variant` is that of our contract; None marks what others are compared with.
    """

    system: str
    variant: str | None
    contract: Contract
    place: Path | Settings
    folder: Path
    rows: int
    first: tuple[int, int] = (0, 0)
    turns: list[Turn] = field(default_factory=list)
    peak: float = 0.0
    verdict: str = ""

    def start(self) -> None:
        self.pipe, theirs = SPAWN.Pipe()
        arguments = theirs, self.system, self.contract, self.place
        self.process = SPAWN.Process(target=serve, args=arguments, daemon=True)
        self.process.start()
        theirs.close()
        self.first = self.pipe.recv()

    def turn(self, batch: Path) -> None:
        self.pipe.send(batch)
        self.turns.append(self.pipe.recv())

    def stop(self) -> None:
        self.pipe.send(None)
        self.peak = self.pipe.recv()
        self.process.join()

    def result(self) -> Result:
        return (Upsell if self.system == "upsell" else Plain).result(self.contract, self.folder)

    @property
    def name(self) -> str:
        return LOCAL if self.system == "upsell" and self.variant is None else self.system


def apart(work: Callable[..., T], *arguments: object) -> T:
    """Call a function in a process of its own."""
    with ProcessPoolExecutor(1, mp_context=SPAWN) as pool:
        return pool.submit(work, *arguments).result()


def build_plain(contract: Contract, rows: int, folder: Path) -> None:
    """Files of 100k rows in the order of time, and a checkpoint."""
    tables = Plain.result(contract, folder)
    for first in range(0, rows, 100_000):
        some = base_rows(contract, rows, first, min(first + 100_000, rows))
        taken = pa.repeat(pa.scalar(datetime.now(UTC), pa.timestamp("us", tz="UTC")), some.num_rows)
        write_deltalake(tables.live, some.append_column("_ingested_at", taken), mode="append")
    DeltaTable(tables.live).create_checkpoint()
    keys = [some.schema.field(name) for name in contract.key]
    DeltaTable.create(tables.tombstones, pa.schema([*keys, *order_fields(contract)[:2]]))


def build_upsell(contract: Contract, plain: Path, folder: Path) -> None:
    """The same rows, merged 500k at a time."""
    lake = Lake.at(folder)
    table = DeltaTable(Plain.result(contract, plain).live)
    files = pa.table(table.get_add_actions(flatten=True)).sort_by("min._change_seq")["path"].to_pylist()
    for first in range(0, len(files), 5):
        some = [pq.read_table(f"{table.table_uri}/{path}") for path in files[first : first + 5]]
        merge(lake, contract, pa.concat_tables(some).drop_columns("_ingested_at"))


@dataclass
class Bases:
    """Tables at the start, built once a size and linked into each case: Delta never changes a file in place."""

    folder: Path

    def plain(self, contract: Contract, rows: int) -> Path:
        return self._built(f"plain-{contract.table}-{rows}", build_plain, contract, rows)

    def upsell(self, contract: Contract, rows: int) -> Path:
        dated = "date" if contract.immutable_date else "no-date"
        return self._built(
            f"upsell-{dated}-{contract.table}-{rows}", build_upsell, contract, self.plain(contract, rows)
        )

    def _built(self, name: str, build: Callable[..., None], contract: Contract, more: object) -> Path:
        base = self.folder / name
        if not base.exists():
            base.mkdir(parents=True)
            apart(build, contract, more, base)
        return base

    def forget(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)


def link(base: Path, folder: Path) -> Path:
    """A copy that costs no space."""
    return shutil.copytree(base, folder, copy_function=os.link)


@dataclass
class Bench:
    """One run: where it works, how often, and what it has found."""

    folder: Path
    bases: Bases
    progress: Progress
    wanted: Callable[[str], bool]
    scale: float
    repeat: int
    s3: Settings
    rows: list[dict[str, Any]] = field(default_factory=list)

    def run(self, scenario: Scenario) -> None:
        """Race the systems of a scenario, judge what they leave, keep the rows."""
        variants = [variant for variant in scenario.limits if self.wanted(scenario.case(variant))]
        size = max(100, round(scenario.rows * self.scale))
        changes = max(100, round(scenario.changes * self.scale))
        merges = max(40, round(scenario.merges * min(1, self.scale))) if scenario.merges else self.repeat
        count = scenario.untimed + merges
        task = self.progress.add_task(scenario.case(variants[0]), total=None, note="base")
        some = contract_of(scenario.table, dated=False)
        base = self.bases.plain(some, size)
        with self.place() as folder:
            batches = write_batches(
                folder / "batches", some, rows=size, changes=changes, workload=scenario.workload, count=count
            )
            runners = list(self.runners(scenario, variants, size, folder))
            self.progress.update(task, total=count * len(runners), note="")
            self.race(runners, batches, task)
            self.progress.update(task, note="oracle")
            self.judge(runners, base, batches)
            self.keep(scenario, runners, batches)
        self.progress.update(task, note="")

    @contextmanager
    def place(self) -> Iterator[Path]:
        folder = Path(tempfile.mkdtemp(dir=self.folder))
        yield folder
        shutil.rmtree(folder)

    def runners(self, scenario: Scenario, variants: Sequence[str], size: int, folder: Path) -> Iterator[Runner]:
        if scenario.plain:
            contract = contract_of(scenario.table, dated=False)
            for system in ("plain", "floor"):
                mine = link(self.bases.plain(contract, size), folder / system)
                yield Runner(system, None, contract, mine, mine, size)
        for variant in variants:
            contract = contract_of(scenario.table, dated=variant == "date")
            base = self.bases.upsell(contract, size)
            mine = link(base, folder / variant.replace(" ", "-"))
            yield Runner("upsell", None if scenario.on_s3 else variant, contract, mine, mine, size)
            if scenario.on_s3:
                upload(ObjectStore.from_settings(self.s3), base)
                yield Runner("upsell", variant, contract, self.s3, folder / "s3", size)

    def race(self, runners: Sequence[Runner], batches: Sequence[Path], task: Any) -> None:
        """Each batch is merged by one system after the other; who begins changes from batch to batch."""
        for runner in runners:
            runner.start()
        for number, batch in enumerate(batches):
            first = number % len(runners)
            for runner in [*runners[first:], *runners[:first]]:
                runner.turn(batch)
                self.progress.advance(task)
        for runner in runners:
            runner.stop()

    def judge(self, runners: Sequence[Runner], base: Path, batches: Sequence[Path]) -> None:
        tables = [runner for runner in runners if runner.system != "floor"]
        for runner in tables:
            if isinstance(runner.place, Settings):
                download(ObjectStore.from_settings(runner.place), runner.folder)
        contract = runners[0].contract
        table = Plain.result(contract, base).live
        results = {str(number): runner.result() for number, runner in enumerate(tables)}
        verdicts = apart(judge, contract, table, batches, results)
        for number, runner in enumerate(tables):
            runner.verdict = verdicts[str(number)]
        for runner in runners:
            if runner.system == "floor":
                known = apart(known_keys, contract, table, batches)
                found = [turn.detail["known"] for turn in runner.turns]
                runner.verdict = "right" if found == known else f"wrong: found {found}, not {known}"

    def keep(self, scenario: Scenario, runners: Sequence[Runner], batches: Sequence[Path]) -> None:
        """Make the rows of each case; what all its variants are compared with stands in each."""
        rows = [(runner, measured(runner, batches, scenario.untimed)) for runner in runners]
        references = {runner.name: row for runner, row in rows if runner.variant is None}
        if floor := references.get("floor"):
            for _, row in rows:
                row["floor_ratio"] = row["median_s"] / floor["median_s"]
        for runner, row in rows:
            if runner.variant is None:
                continue
            if scenario.merges:
                row["median_s"] = median(runner.turns[-10:])
                row["ratio"] = row["median_s"] / median(runner.turns[5:15])
            else:
                against = references["plain" if scenario.plain else LOCAL]
                row["ratio"] = row["median_s"] / against["median_s"]
            row["limit"] = scenario.limits[runner.variant]
            row["meets"] = meets(row, scenario, runner.variant)
            for system, shown in {"upsell": row, **references}.items():
                self.add(scenario.case(runner.variant), system, shown)

    def idle(self) -> None:
        """The tick that finds nothing new."""
        task = self.progress.add_task("idle tick", total=1, note="10,000 files")
        contract = contract_of("customers", dated=False)
        apart(land, self.s3, contract)
        self.progress.update(task, note="")
        self.add("idle tick", "upsell", apart(idle, self.s3, contract, max(5, self.repeat)))
        self.progress.advance(task)

    def add(self, case: str, system: str, row: dict[str, Any]) -> None:
        row = {"case": case, "system": system} | row
        self.rows.append(row)
        if system == "upsell":
            ratio = f"  ratio {row['ratio']:.2f} (limit {row['limit']})" if row["ratio"] is not None else ""
            self.progress.console.print(
                f"{case}: {row['median_s']:.3f} s{ratio}  {row['peak_mb']:.0f} MB  {row['oracle']}", highlight=False
            )


def meets(row: dict[str, Any], scenario: Scenario, variant: str) -> bool:
    """Whether a row of ours is right and keeps the limits of its case."""
    return bool(
        row["oracle"] == "right"
        and row["peak_mb"] <= PEAK_MB
        and row["ratio"] <= scenario.limits[variant]
        and (scenario.floor_limit is None or variant != "date" or row["floor_ratio"] <= scenario.floor_limit)
        and (scenario.workload != "duplicate" or row["commits"] == 0)
    )


def median(turns: Sequence[Turn]) -> float:
    return statistics.median(turn.seconds for turn in turns)


def measured(runner: Runner, batches: Sequence[Path], untimed: int) -> dict[str, Any]:
    """The numbers of one system: medians over the timed turns, and what it wrote in them."""
    turns, batches = runner.turns[untimed:], batches[untimed:]
    row: dict[str, Any] = {
        "rows": runner.rows,
        "median_s": median(turns),
        "ratio": None,
        "floor_ratio": None,
        "peak_mb": runner.peak,
        "oracle": runner.verdict,
        "batches": len(turns),
        "seconds": [round(turn.seconds, 4) for turn in turns[-100:]],
    }
    if runner.system == "floor":
        return row
    before = runner.turns[untimed - 1].versions if untimed else runner.first
    actions = [
        action
        for table, version in zip((runner.result().live, runner.result().tombstones), before, strict=True)
        for action in log(table, version)
    ]
    written = sum(action["add"]["size"] for action in actions if "add" in action)
    phases = dict.fromkeys(phase for turn in turns for phase in turn.detail)
    return row | {
        "commits": sum(turns[-1].versions) - sum(before),
        "files_touched": sum("add" in action or "remove" in action for action in actions) / len(turns),
        "write_amplification": written / sum(batch.stat().st_size for batch in batches),
        "phases": {phase: statistics.median(turn.detail.get(phase, 0) for turn in turns) for phase in phases},
    }


def log(table: Path, after: int) -> Iterator[dict[str, Any]]:
    """The actions of a table's commits after a version."""
    for commit in sorted((table / "_delta_log").glob("*.json")):
        if commit.stem.isdigit() and int(commit.stem) > after:
            yield from (json.loads(line) for line in commit.read_text().splitlines())


def upload(store: ObjectStore, folder: Path) -> None:
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        store.write(path.relative_to(folder).as_posix(), path.read_bytes())


def download(store: ObjectStore, folder: Path) -> None:
    for entry in store.list("bronze/"):
        path = folder / entry.key
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(store.read(entry.key))


IDLE_FILES, IDLE_DAYS, IDLE_SECONDS = 10_000, 100, 0.3


def land(s3: Settings, contract: Contract) -> None:
    """Land 10,000 files of one change each over a hundred days, today the last: in bronze and in the ledger.

    Their rows are merged as one batch, which is the same by the law and does not take minutes.
    """
    store = ObjectStore.from_settings(s3)
    rows = base_rows(contract, IDLE_FILES, 0, IDLE_FILES)
    today = datetime.now(UTC).date()

    def one(number: int) -> None:
        day = today - timedelta(days=number % IDLE_DAYS)
        write_file(store, f"{cdc_prefix(contract)}{day:%Y/%m/%d}/{number:05d}.parquet", rows.slice(number, 1))

    with ThreadPoolExecutor(4) as threads:
        list(threads.map(one, range(IDLE_FILES)))
    lake = Lake.of(store)
    merge(lake, contract, rows)
    Ledger(lake, contract).write(Record(file, "accepted", 1) for file in landed_changes(store, contract))


def write_file(store: ObjectStore, key: str, rows: pa.Table) -> None:
    """A raw file with these changes, in the words of the producer."""
    named = {"_op": "OP", "_modified_date": "modified_date", "_change_seq": "change_seq"}
    body = pa.BufferOutputStream()
    pq.write_table(rows.drop_columns(["_file", "_row"]).rename_columns(named), body)
    store.write(key, body.getvalue().to_pybytes())


def idle(s3: Settings, contract: Contract, repeat: int) -> dict[str, Any]:
    """Ticks with nothing new over the recent days, as the sensor lists them, and over all; then one with a new file."""
    opened: list[str] = []
    for method in ("open", "open_or_create"):
        watch(method, opened)
    store = ObjectStore.from_settings(s3)
    lake, today = Lake.of(store), datetime.now(UTC).date()
    recent = Window(today - timedelta(days=Settings.model_fields["recent_days"].default), today)

    def tick(window: Window) -> tuple[float, int]:
        began = time.perf_counter()
        files = ingest(store, lake, contract, window).files
        return time.perf_counter() - began, files

    tick(recent)
    opened.clear()
    commits = count_commits(store)
    ticks = [tick(recent) for _ in range(repeat)]
    # The ledger says what is new; no table of rows may be opened to know that nothing is.
    reads = [name for name in opened if not name.endswith("._ledger")]
    of_ledger = len(opened) - len(reads)
    sweeps = [tick(Window()) for _ in range(repeat)]
    commits = count_commits(store) - commits
    news = base_rows(contract, IDLE_FILES, IDLE_FILES, IDLE_FILES + 1)
    write_file(store, f"{cdc_prefix(contract)}{today:%Y/%m/%d}/new.parquet", news)
    right = [files for _, files in [*ticks, *sweeps, tick(recent), tick(recent)]] == [0] * 2 * repeat + [1, 0]
    row: dict[str, Any] = {
        "median_s": statistics.median(seconds for seconds, _ in ticks),
        "ratio": None,
        "floor_ratio": None,
        "peak_mb": peak_mb(),
        "oracle": "right" if right else "wrong: took in what it had, or missed what was new",
        "commits": commits,
        "table_reads": len(reads) / repeat,
        "ledger_reads": of_ledger / repeat,
        "tables_read": sorted(set(reads)),
        "sweep_s": statistics.median(seconds for seconds, _ in sweeps),
        "limit": IDLE_SECONDS,
    }
    kept = row["median_s"] < IDLE_SECONDS and not reads and not commits and row["peak_mb"] <= PEAK_MB
    return row | {"meets": right and kept}


def watch(method: str, opened: list[str]) -> None:
    """Note the table of each call of a method of `Lake`."""
    original = getattr(Lake, method)

    def noted(lake: Lake, name: str, *arguments: Any, **named: Any) -> Any:
        opened.append(name)
        return original(lake, name, *arguments, **named)

    setattr(Lake, method, noted)


def count_commits(store: ObjectStore) -> int:
    return sum("/_delta_log/" in entry.key and entry.key.endswith(".json") for entry in store.list(""))


COLUMNS = {
    "case": "case",
    "system": "system",
    "median_s": "median s",
    "ratio": "ratio",
    "limit": "limit",
    "floor_ratio": "x floor",
    "peak_mb": "peak MB",
    "write_amplification": "write ampl.",
    "files_touched": "files",
    "commits": "commits",
    "table_reads": "reads",
    "oracle": "oracle",
    "meets": "meets",
    "phases": "where the time goes, ms",
}


def report(rows: Sequence[dict[str, Any]]) -> None:
    """Print the table; write the rows and the growth curve."""
    table = Table(highlight=True)
    for column in COLUMNS.values():
        table.add_column(column, no_wrap=True)
    for case, group in groupby(rows, key=lambda row: row["case"]):
        for number, row in enumerate(group):
            shown = row | {"case": case if number == 0 else ""}
            table.add_row(*(text(shown.get(name)) for name in COLUMNS))
        table.add_section()
    console = Console()
    console.width = max(console.width, 200)
    console.print(table)
    OUT.mkdir(exist_ok=True)
    (OUT / "bronze.json").write_text(json.dumps(rows, indent=2))
    draw(rows)


def text(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "NO"
    if isinstance(value, float):
        return f"{value:.3g}" if value < 100 else f"{value:.0f}"
    if isinstance(value, dict):
        return " ".join(f"{name} {seconds * 1000:.0f}" for name, seconds in value.items())
    return "" if value is None else str(value)


def draw(rows: Sequence[dict[str, Any]]) -> None:
    """The growth curve: median seconds of 10k realistic changes against the rows of the table."""
    import matplotlib as mpl

    mpl.use("agg")
    from matplotlib import pyplot as plt

    curves: dict[str, dict[float, float]] = {}
    for row in rows:
        variant = row["case"].partition("M realistic, ")[2]
        if variant in ("date", "no date"):
            name = f"upsell, {variant}" if row["system"] == "upsell" else row["system"]
            curves.setdefault(name, {})[row["rows"] / MILLION] = row["median_s"]
    if not curves:
        return
    figure, axes = plt.subplots(figsize=(7, 4.5), layout="constrained")
    for name, curve in sorted(curves.items()):
        axes.plot(list(curve), list(curve.values()), marker="o", label=name)
    sizes = sorted({size for curve in curves.values() for size in curve})
    axes.set(xscale="log", yscale="log", xlabel="rows of the table, millions", ylabel="seconds")
    axes.set_xticks(sizes, [f"{size:g}" for size in sizes])
    axes.minorticks_off()
    axes.set_title("Seconds to merge a batch of realistic changes")
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(OUT / "bronze.png", dpi=150)


def main() -> None:
    """Run the cases that were asked for, print, write; exit code 1 if anything is wrong."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--cases", default="", help="only cases with this text in their name")
    arguments.add_argument("--rows-scale", type=float, default=1.0, help="factor of all rows, for trying things out")
    arguments.add_argument("--repeat", type=int, default=7, help="timed batches of a case")
    given = arguments.parse_args()

    def wanted(case: str) -> bool:
        return given.cases.lower() in case.lower()

    chosen = [one for one in scenarios() if any(wanted(one.case(variant)) for variant in one.limits)]
    if not chosen and not wanted("idle tick"):
        arguments.error(f"no case has {given.cases!r} in its name")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # as Ctrl-C does: the S3 server and the folder go
    columns = (
        TextColumn("{task.description:>22}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("[dim]{task.fields[note]}"),
    )
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-bronze-")))
        # Last in, first out: the S3 server ends before its folder goes.
        s3 = Settings(home=folder / "home", source_dsn=SecretStr("postgresql://"))  # no database is needed
        progress = stack.enter_context(Progress(*columns, console=Console(stderr=True)))
        if wanted("idle tick") or any(one.on_s3 for one in chosen):
            s3 = stack.enter_context(embedded(s3)).settings
        bench = Bench(folder, Bases(folder / "bases"), progress, wanted, given.rows_scale, given.repeat, s3)
        for _, same_base in groupby(chosen, key=lambda one: (one.table, one.rows)):
            for scenario in same_base:
                bench.run(scenario)
            bench.bases.forget()
        if wanted("idle tick"):
            bench.idle()
    report(bench.rows)
    if wrong := [f"{row['case']}, {row['system']}: {row['oracle']}" for row in bench.rows if row["oracle"] != "right"]:
        sys.exit("\n".join(wrong))


if __name__ == "__main__":
    main()
