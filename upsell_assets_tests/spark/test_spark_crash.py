"""kill -9 of an executor at any moment of a merge: Spark repeats what it was at, and the table is right."""

from __future__ import annotations

import logging
import random
import time
from pathlib import Path
from threading import Thread

import psutil
import pytest
from bronze_steps import Change, take_in
from proof import EXECUTOR_KILLS

from upsell_assets.bronze import layout
from upsell_assets.lake.engines.spark_files import SparkFiles
from upsell_assets.lake.engines.spark_session import Spark
from upsell_assets.lake.tables import Lake
from upsell_assets.services.spark_cluster import SparkCluster

LOG = logging.getLogger(__name__)
TABLE = "bronze.upsell.transactions"
KEYS, TOUCHED = 4_000, 600


def batch(number: int, keys: list[int]) -> list[Change]:
    """Updates and deletes of keys that lie in all files."""
    return [
        Change(
            "transactions",
            f"t{key}",
            "D" if number and key % 10 == number % 10 else "U",
            number * KEYS + place,
            () if number and key % 10 == number % 10 else ("a", f"2024-02-{1 + key % 28:02} 15:00:00", number),
        )
        for place, key in enumerate(keys)
    ]


def held(lake: Lake) -> list[tuple[str, int]]:
    rows = lake.rows(lake.open(TABLE)).to_table()
    return sorted(zip(rows["idTransaction"].to_pylist(), rows["pointsTransaction"].to_pylist(), strict=True))


def executors(cluster: SparkCluster) -> list[psutil.Process]:
    workers = [found.pid for name, found in cluster.state.processes().items() if name.startswith("spark.worker.")]
    return [child for pid in workers for child in psutil.Process(pid).children(recursive=True) if is_executor(child)]


def is_executor(process: psutil.Process) -> bool:
    try:
        return "CoarseGrainedExecutorBackend" in " ".join(process.cmdline())
    except psutil.Error:  # it has just ended
        return False


def test_an_executor_may_die_in_the_middle_of_a_merge(
    spark: Spark, cluster: SparkCluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(layout, "LEAST_ROWS", 200)
    monkeypatch.setattr(layout, "MOST_ROWS", 200)
    chosen = random.Random(11)
    plain, lake = Lake.at(tmp_path / "plain"), Lake.at(tmp_path / "spark", SparkFiles(spark))
    for each in (plain, lake):
        take_in(each, *batch(0, [*range(KEYS)]))
    seconds, killed = 0.0, 0
    for number in range(1, EXECUTOR_KILLS.count + 3):
        changes = batch(number, chosen.sample(range(KEYS), TOUCHED))
        take_in(plain, *changes)
        merging = Thread(target=take_in, args=(lake, *changes))
        began = time.monotonic()
        merging.start()
        if seconds:
            merging.join(chosen.uniform(0, 0.8 * seconds))
            if merging.is_alive() and (found := executors(cluster)):
                victim = chosen.choice(found)
                victim.kill()
                killed += 1
                LOG.info("merge %d: executor %d killed after %.1f s", number, victim.pid, time.monotonic() - began)
        merging.join()
        if number == 2:  # the first one starts the session, the second tells how long a merge takes
            seconds = time.monotonic() - began

        assert held(lake) == held(plain)

    assert killed > 0
