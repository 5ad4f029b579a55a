"""How old the lake is: from a commit in PostgreSQL to its row in silver, and what the lake costs while nothing happens.

Everything runs as `upsell up` has it (database, object store, code location, daemon, web interface), over a small history.

- `idle`: processor time of all its processes while nobody does anything, in percent of one core.
- `commit to silver`: one transaction at a time is committed, at moments that keep no step with the sensors, and silver
  is read until it is there. Between them customers chat, as in every `upsell up`, so that features and reports run too.

The oracle: silver has every row as it was committed, and bronze equals the database.

    python benchmarks/bench_freshness.py [--changes N] [--idle-seconds N] [--customers N] [--days N]
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import uuid4

import dagster as dg
import psutil
import psycopg
import pyarrow.compute as pc
from bench_up import tree_mb
from rich.console import Console
from rich.table import Table

from upsell_assets.lake.lakehouse import Lakehouse
from upsell_assets.lake.tables import Lake
from upsell_assets.pictures.assets import JOB as PICTURES
from upsell_assets.runs import UNDER_WAY
from upsell_assets.services.embedded import embedded
from upsell_assets.settings import Settings

UPSELL = Path(sys.executable).parent / "upsell"
OUT = Path(__file__).parent / "out" / "freshness.json"
SILVER = "silver.upsell.transacoes"
EVERY_SECONDS = 6.0
"""Between two changes, on average; several are on their way at once."""

P50_LIMIT, P95_LIMIT, CPU_LIMIT = 20.0, 45.0, 15.0
GIVE_UP_SECONDS = 300
QUIET_SECONDS = 60
"""Without a new run for so long, everything has flowed through."""

Row = dict[str, Any]


@dataclass
class Committed:
    """One change: when it was committed (monotonic seconds), and when silver was seen to have it."""

    key: str
    points: int
    at: float
    seen: float | None = field(default=None)


@contextmanager
def running_lake(home: Path, *options: str) -> Iterator[None]:
    """`upsell up`, from its complete graph on, once its tables are drawn (a new lake's are at once)."""
    log = home.with_suffix(".log")
    with log.open("ab") as out:
        begins = log.stat().st_size
        process = subprocess.Popen([UPSELL, "up", *options], env=environment(home), stdout=out, stderr=out)
        try:
            while b"complete after" not in log.read_bytes()[begins:] or not drawn(home):
                if process.poll() is not None:
                    sys.exit(log.read_text())
                time.sleep(0.5)
            yield
        finally:
            process.send_signal(signal.SIGINT)
            process.wait(120)


def drawn(home: Path) -> bool:
    done = dg.RunsFilter(job_name=PICTURES, statuses=[dg.DagsterRunStatus.SUCCESS, dg.DagsterRunStatus.FAILURE])
    with dg.DagsterInstance.from_config(str(home / "dagster")) as instance:
        return instance.get_runs_count(done) > 0


def settle(home: Path) -> None:
    """Wait until what came before has flowed through: no run is under way, and none was asked for of late."""
    under_way = dg.RunsFilter(statuses=UNDER_WAY)
    with dg.DagsterInstance.from_config(str(home / "dagster")) as instance:
        while instance.get_runs_count(under_way) or time.time() - newest(instance) < QUIET_SECONDS:
            time.sleep(1)


def newest(instance: dg.DagsterInstance) -> float:
    """When the newest run was asked for (seconds since 1970)."""
    [record] = instance.get_run_records(limit=1)
    return record.create_timestamp.timestamp()


def say(what: str) -> None:
    """Progress, on stderr."""
    print(f"{datetime.now(UTC):%H:%M:%S} {what}", file=sys.stderr, flush=True)


def process_all(home: Path, *options: str) -> None:
    """`upsell up --once`."""
    done = subprocess.run([UPSELL, "up", "--once", *options], env=environment(home), capture_output=True, text=True)
    if done.returncode:
        sys.exit(done.stderr)


def environment(home: Path) -> dict[str, str]:
    return {**os.environ, "UPSELL_HOME": str(home)}


def processes(home: Path) -> list[psutil.Process]:
    """Those of the lake: the command, what it started, and its services."""
    found = []
    for process in psutil.process_iter():
        try:
            if str(home) in process.environ().get("UPSELL_HOME", "") + " ".join(process.cmdline()):
                found.append(process)
        except (psutil.AccessDenied, psutil.NoSuchProcess):
            continue
    return found


def processor_seconds(home: Path) -> float:
    """Of all processes that run now, and of those that they have waited for."""
    total = 0.0
    for process in processes(home):
        try:
            total += sum(process.cpu_times()[:4])
        except psutil.NoSuchProcess:
            continue
    return total


def idle(home: Path, seconds: float) -> Row:
    """The cost of doing nothing; `runs` that began all the same are told."""
    with running_lake(home, "--no-activity"):
        say("waiting until nothing runs")
        settle(home)
        say(f"idle for {seconds:g} s")
        before, began, asked = processor_seconds(home), time.monotonic(), datetime.now(UTC)
        time.sleep(seconds)
        spent, lasted = processor_seconds(home) - before, time.monotonic() - began
        memory = tree_mb(str(home))
        with dg.DagsterInstance.from_config(str(home / "dagster")) as instance:
            runs = instance.get_runs_count(dg.RunsFilter(created_after=asked))
    return row("idle", cpu_percent=round(100 * spent / lasted, 1), runs=runs, peak_mb=round(memory))


def commit_to_silver(home: Path, changes: int) -> Row:
    """Commit changes one by one, and watch silver."""
    moments, chance = [], random.Random(7)
    with running_lake(home), embedded(Settings(home=home)) as running:
        assert running.app_dsn is not None
        lake = Lakehouse(running.settings).lake
        with psycopg.connect(running.app_dsn, autocommit=True) as connection:
            following, version = time.monotonic(), -1
            while len(moments) < changes or any(one.seen is None for one in moments):
                now = time.monotonic()
                if len(moments) < changes and now >= following:
                    moments.append(commit(connection))
                    following = now + chance.uniform(0.5, 1.5) * EVERY_SECONDS
                    if len(moments) % 10 == 0:
                        say(f"{len(moments)} of {changes} changes committed")
                version = look(lake, [one for one in moments if one.seen is None], version)
                if late := [one.key for one in moments if one.seen is None and now - one.at > GIVE_UP_SECONDS]:
                    sys.exit(f"not in {SILVER} after {GIVE_UP_SECONDS} s: {', '.join(late)}")
                time.sleep(0.25)
        wrong = judged(lake, moments)
        memory = tree_mb(str(home))
    lags = sorted(one.seen - one.at for one in moments if one.seen is not None)
    p50, p95 = statistics.median(lags), statistics.quantiles(lags, n=20)[-1]
    return row(
        "commit to silver",
        oracle="wrong" if wrong or not agrees(home) else "right",
        median_s=round(p50, 2),
        p50_s=round(p50, 2),
        p95_s=round(p95, 2),
        max_s=round(lags[-1], 2),
        changes=len(lags),
        peak_mb=round(memory),
    )


def commit(connection: psycopg.Connection) -> Committed:
    """One transaction of a customer, as the application writes it."""
    key, points = str(uuid4()), random.randint(1, 50)
    connection.execute(
        'INSERT INTO transactions VALUES (%s, (SELECT "idCustomer" FROM customers LIMIT 1), %s, %s)',
        [key, datetime.now(UTC).replace(tzinfo=None), points],
    )
    return Committed(key, points, time.monotonic())


def look(lake: Lake, waiting: list[Committed], seen: int) -> int:
    """Note which changes silver has by now, and its version; where that was seen before, the table is not read again."""
    table = lake.open(SILVER)
    if table.version() == seen:
        return seen
    wanted = pc.field("idTransacao").isin([one.key for one in waiting])
    held = set(lake.rows(table).to_table(["idTransacao"], filter=wanted)["idTransacao"].to_pylist())
    for one in waiting:
        if one.key in held:
            one.seen = time.monotonic()
    return table.version()


def judged(lake: Lake, moments: list[Committed]) -> list[str]:
    """The changes that silver has other than they were committed."""
    expected = {one.key: one.points for one in moments}
    wanted = pc.field("idTransacao").isin([*expected])
    rows = lake.rows(lake.open(SILVER)).to_table(["idTransacao", "nrPontosTransacao"], filter=wanted).to_pylist()
    held = {found["idTransacao"]: found["nrPontosTransacao"] for found in rows}
    return [key for key, points in expected.items() if held.get(key) != points]


def agrees(home: Path) -> bool:
    """Whether bronze is what the database holds, at one position of its log."""
    return subprocess.run([UPSELL, "verify"], env=environment(home), capture_output=True, check=False).returncode == 0


def row(case: str, **more: Any) -> Row:
    return {
        "case": case,
        "system": "upsell",
        "median_s": None,
        "ratio": None,
        "peak_mb": None,
        "oracle": "right",
        **more,
    }


def report(rows: list[Row]) -> None:
    """Print the table and write the rows."""
    table = Table(highlight=True)
    for column in ("case", "p50 s (limit)", "p95 s (limit)", "max s", "cpu % (limit)", "MB", "oracle"):
        table.add_column(column)
    for one in rows:
        if one["case"] == "idle":
            table.add_row(
                "idle", "", "", "", f"{one['cpu_percent']} ({CPU_LIMIT:g})", str(one["peak_mb"]), one["oracle"]
            )
        else:
            p50, p95 = f"{one['p50_s']} ({P50_LIMIT:g})", f"{one['p95_s']} ({P95_LIMIT:g})"
            table.add_row(one["case"], p50, p95, str(one["max_s"]), "", str(one["peak_mb"]), one["oracle"])
    Console().print(table)
    OUT.parent.mkdir(exist_ok=True)
    OUT.write_text(json.dumps(rows, indent=2))


def main() -> None:
    """Run both cases, print, write; exit code 1 if anything is wrong."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--changes", type=int, default=50)
    arguments.add_argument("--idle-seconds", type=float, default=120)
    arguments.add_argument("--customers", type=int, default=500, help="of the history that the lake begins with")
    arguments.add_argument("--days", type=int, default=60)
    given = arguments.parse_args()
    with tempfile.TemporaryDirectory(prefix="bench-freshness-") as folder:
        home = Path(folder) / "home"
        say("a lake of its own: upsell up --once")
        process_all(home, "--customers", str(given.customers), "--days", str(given.days))
        rows = [commit_to_silver(home, given.changes), idle(home, given.idle_seconds)]
    report(rows)
    if wrong := [one["case"] for one in rows if one["oracle"] == "wrong"]:
        sys.exit(f"wrong: {', '.join(wrong)}")


if __name__ == "__main__":
    main()
