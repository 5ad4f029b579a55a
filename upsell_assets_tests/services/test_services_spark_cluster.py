"""A Spark cluster on this machine: real masters, workers, executors and drivers, each in a process of its own."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.request import ProxyHandler, Request, build_opener

import psutil
import pyarrow as pa
import pytest
from typer.testing import CliRunner

from upsell_assets.cli import app
from upsell_assets.errors import PermanentError
from upsell_assets.lake.lakehouse import Lakehouse
from upsell_assets.services import process as processes
from upsell_assets.services import spark_cluster
from upsell_assets.services.embedded import stop_all
from upsell_assets.services.spark_cluster import Size, SparkCluster, memory_mb
from upsell_assets.services.state import State
from upsell_assets.settings import Settings

SMALL = Size(workers=1, cores=1, memory_mb=512)

DRIVER = """
import sys
from upsell_assets.lake.engines import Query, open_engine
from upsell_assets.lake.sql import parse_query
from upsell_assets.lake.store import ObjectStore
from upsell_assets.settings import load_settings

settings = load_settings()
engine = open_engine(settings, ObjectStore.from_settings(settings))
spark = engine.spark.session.sparkContext


def executors(wanted):
    while len(infos := spark._jsc.sc().statusTracker().getExecutorInfos()) < wanted + 1:
        spark._jvm.Thread.sleep(50)
    return infos


def tasks():
    # Of each executor, without the driver, how many tasks it has done.
    found = spark._jsc.sc().statusStore().executorList(True)
    return sorted(found.apply(n).completedTasks() for n in range(found.size()) if found.apply(n).id() != "driver")


executors(2)
"""

COUNT = """
import sys
from pyspark.sql import SparkSession
print(SparkSession.builder.master(sys.argv[1]).getOrCreate().range(3).count(), flush=True)
sys.stdin.read()
"""

pytestmark = pytest.mark.spark


@pytest.fixture
def state(tmp_path: Path) -> Iterator[State]:
    """The home of a cluster of one test's own, which leaves nothing behind."""
    state = State.open(tmp_path / "a home")
    yield state
    with state.lock():
        SparkCluster(state).stop()


@contextmanager
def driver(cluster: SparkCluster, program: str, lakehouse: Lakehouse | None = None) -> Iterator[subprocess.Popen[str]]:
    """A process that uses the cluster, as a run of Dagster's does."""
    settings = lakehouse.settings if lakehouse else Settings(s3_bucket="none", s3_endpoint="http://127.0.0.1:1")
    secret = settings.s3_secret_access_key
    about = {
        "UPSELL_HOME": str(cluster.state.home),
        "UPSELL_S3_ENDPOINT": settings.s3_endpoint or "",
        "UPSELL_S3_BUCKET": settings.bucket,
        "UPSELL_SPARK_MIN_FILES": "0",
        "UPSELL_S3_ACCESS_KEY_ID": settings.s3_access_key_id or "",
        "UPSELL_S3_SECRET_ACCESS_KEY": secret.get_secret_value() if secret else "",
    }
    started = subprocess.Popen(
        [sys.executable, "-c", DRIVER + textwrap.dedent(program)],
        env={**os.environ, **about, **cluster.environment()},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        yield started
    finally:
        started.kill()
        started.communicate()


def said_by(driven: subprocess.Popen[str], told: str = "") -> str:
    """All that the driver prints, once it has ended well."""
    said, complaints = driven.communicate(told, timeout=500)
    assert driven.returncode == 0, complaints
    return said


def family(*roots: int) -> list[psutil.Process]:
    """Processes with all that they have started, of which something still runs."""
    known = [psutil.Process(pid) for pid in roots]
    return alive([*known, *(child for process in known for child in process.children(recursive=True))])


def of(cluster: SparkCluster) -> list[psutil.Process]:
    """Masters, workers and the executors that they have started."""
    return family(*(process.pid for process in cluster.state.processes().values() if process.alive))


def alive(known: list[psutil.Process]) -> list[psutil.Process]:
    return [process for process in known if process.is_running() and process.status() != psutil.STATUS_ZOMBIE]


@pytest.mark.services
def test_a_query_reads_a_delta_table_on_s3_on_two_executors(cluster: SparkCluster, lakehouse: Lakehouse) -> None:
    days = [f"2024-01-{day:02}" for day in range(1, 31)]
    rows = pa.table({"day": [day for day in days for _ in range(100)], "n": list(range(3_000))})
    lakehouse.lake.replace("gold.upsell.counted", rows.to_reader(), partitions={"day": days})

    program = """
    sql = "SELECT day, CAST(SUM(n) AS BIGINT) AS n, COUNT(*) AS rows FROM gold.upsell.counted GROUP BY day"
    found = engine.run(Query(parse_query(sql))).read_all().to_pylist()
    print(len(found), sum(row["n"] for row in found), sum(row["rows"] for row in found), tasks())
    """
    with driver(cluster, program, lakehouse) as driven:
        groups, total, counted, tasks = said_by(driven).split(maxsplit=3)

    assert (int(groups), int(total), int(counted)) == (30, sum(range(3_000)), 3_000)
    first, second = map(int, tasks.strip("[]\n").split(","))
    assert first > 0
    assert second > 0


def test_a_job_ends_though_a_worker_is_killed_and_up_brings_another(cluster: SparkCluster) -> None:
    program = """
    import threading
    from pyspark.sql import functions as f

    def watch():
        stages = spark.statusTracker()
        while not any(
            (info := stages.getStageInfo(stage)) and info.numActiveTasks == 2 and info.numCompletedTasks >= 2
            for stage in stages.getActiveStageIds()
        ):
            spark._jvm.Thread.sleep(20)
        print("running", flush=True)

    threading.Thread(target=watch, daemon=True).start()
    rows = engine.spark.session.range(0, 200_000_000, 1, 40).select(f.sum(f.abs(f.hash("id")) % 7 * 0 + 1).alias("n"))
    print(rows.collect()[0].n)
    """
    killed = cluster.state.processes()["spark.worker.1"]
    with driver(cluster, program) as driven:
        assert driven.stdout is not None
        assert driven.stdout.readline() == "running\n"
        killed.signal(signal.SIGKILL, group=True)
        assert said_by(driven) == "200000000\n"
    states = {node.name: node.state for node in cluster.status().nodes}
    assert states == {"spark.master": "ALIVE", "spark.worker.1": "DEAD", "spark.worker.2": "ALIVE"}

    with cluster.state.lock():
        cluster.start(Size(workers=2, cores=1, memory_mb=1024))

    assert {node.state for node in cluster.status().nodes} == {"ALIVE"}
    assert cluster.state.processes()["spark.worker.1"].pid != killed.pid


@pytest.mark.parametrize("secret", ["", "spark.authenticate.secret guess\n"], ids=["none", "another"])
def test_who_does_not_know_the_secret_is_refused(cluster: SparkCluster, tmp_path: Path, secret: str) -> None:
    """Whatever it says of itself: it must not run code as this user."""
    *rest, last = (cluster.conf / "spark-defaults.conf").read_text().splitlines()
    assert cluster.state.secret("secret of the Spark cluster") in last
    (tmp_path / "spark-defaults.conf").write_text("\n".join([*rest, secret]))

    with subprocess.Popen(
        [sys.executable, "-c", COUNT, cluster.url],
        env={**os.environ, "SPARK_CONF_DIR": str(tmp_path)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as driven:
        assert driven.stdout is not None
        assert driven.stderr is not None
        # It tries for a minute.
        refused = any(re.search("must be specified via|Challenge|Mismatch", line) for line in driven.stderr)
        assert cluster.status().applications == []
        driven.kill()
        assert refused
        assert driven.stdout.read() == ""


def test_the_secret_is_in_no_command_line_log_or_page(cluster: SparkCluster) -> None:
    secret = cluster.state.secret("secret of the Spark cluster")

    with driver(cluster, "print('up', flush=True); sys.stdin.read()") as driven:
        assert driven.stdout is not None
        assert driven.stdout.readline() == "up\n"
        running = [*of(cluster), *family(driven.pid)]
        assert [process for process in running if secret in " ".join(process.cmdline())] == []
        assert len(running) >= 5 + 2  # a master, two workers, two executors; the driver and its JVM
        pages = [node.page for node in cluster.status().nodes]
        shown = [read(f"{page}{path}") for page in pages for path in ("/", "/json/", "/environment/")]
        assert cluster.status().applications
    assert secret not in "".join(shown)
    assert secret not in "".join(file.read_text() for file in (cluster.state.home / "logs").iterdir())
    assert (cluster.conf / "spark-defaults.conf").stat().st_mode & 0o077 == 0


def test_everything_listens_on_loopback_only(cluster: SparkCluster) -> None:
    with driver(cluster, "print('up', flush=True); sys.stdin.read()") as driven:
        assert driven.stdout is not None
        assert driven.stdout.readline() == "up\n"
        heard = [port.ip for process in [*of(cluster), *family(driven.pid)] for port in listening(process)]

    assert len(heard) >= 2 * 3 + 2  # two ports of each daemon, and the driver's
    assert {address.removeprefix("::ffff:") for address in heard} == {"127.0.0.1"}


def test_no_program_is_taken_by_rest_and_nothing_is_ended_by_the_page(cluster: SparkCluster) -> None:
    master = cluster.status().nodes[0]

    assert {port.port for port in listening(psutil.Process(master.pid))} == set(
        cluster.state.processes()["spark.master"].ports.values()
    )
    for path in (
        "app/kill/?id=any&terminate=true",
        "driver/kill/?id=any&terminate=true",
        "workers/kill/?host=127.0.0.1",
    ):
        with pytest.raises(OSError, match="HTTP Error 405"):
            read(f"{master.page}/{path}", b"")
    assert {node.state for node in cluster.status().nodes} == {"ALIVE"}


def listening(process: psutil.Process) -> list[Any]:
    """Where it listens: ip and port."""
    return [found.laddr for found in process.net_connections("tcp") if found.status == psutil.CONN_LISTEN]


def read(url: str, sent: bytes | None = None) -> str:
    with build_opener(ProxyHandler({})).open(Request(url, sent), timeout=10) as answer:
        return str(answer.read().decode())


def test_down_leaves_no_process_and_no_file(state: State, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UPSELL_HOME", str(state.home))
    run = CliRunner().invoke

    up = run(app, ["cluster", "up", "--workers", "1", "--memory", "512m"])
    cluster = SparkCluster(state)
    assert up.stdout == (
        f"UPSELL_ENGINE=spark UPSELL_SPARK_MASTER={cluster.url} SPARK_CONF_DIR='{state.home}/spark_cluster/conf'\n"
    )
    again = run(app, ["cluster", "up", "--workers", "1", "--memory", "512m"])
    assert again.stdout == up.stdout
    assert "spark.worker.1\tALIVE" in run(app, ["cluster", "status"]).stdout

    with driver_of_one(cluster) as driven:
        assert driven.stdout is not None
        assert driven.stdout.readline() == "3\n"
        left = of(cluster)
        assert len(left) == 3  # a master, a worker, an executor
        down = run(app, ["cluster", "down"])
    assert down.stderr == "stopped: spark.worker.1, spark.master\n"
    assert alive(left) == []
    assert not (state.home / "spark_cluster").exists()
    assert run(app, ["cluster", "down"]).stderr == "nothing was running\n"
    with pytest.raises(PermanentError, match=r"none runs here\. Start one: upsell cluster up"):
        SparkCluster(state).status()


@contextmanager
def driver_of_one(cluster: SparkCluster) -> Iterator[subprocess.Popen[str]]:
    """A driver that has an executor, and keeps it."""
    with subprocess.Popen(
        [sys.executable, "-c", COUNT, cluster.url],
        env={**os.environ, **cluster.environment()},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as driven:
        yield driven
        driven.kill()


def test_upsell_down_stops_a_cluster_too(state: State) -> None:
    cluster = SparkCluster(state)
    with state.lock():
        cluster.start(SMALL)
    left = of(cluster)

    assert stop_all(Settings(home=state.home)) == ["spark.master", "spark.worker.1"]

    assert alive(left) == []


def test_a_cluster_of_another_size_is_not_changed_under_its_users(cluster: SparkCluster) -> None:
    before = of(cluster)

    with (
        cluster.state.lock(),
        pytest.raises(PermanentError, match=r"one of 2 worker.* runs already.*upsell cluster down"),
    ):
        cluster.start(Size(workers=3))

    assert alive(before) == before


def test_a_port_that_was_taken_in_between_is_another_the_next_time(
    state: State, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The kernel gives a chosen port to whoever asks first."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        choices: list[dict[str, int]] = []

        def choose(names: list[str], last: dict[str, int]) -> dict[str, int]:
            chosen = processes.choose_ports(names, {})
            choices.append(chosen if choices else {**chosen, "rpc": taken.getsockname()[1]})
            return choices[-1]

        monkeypatch.setattr(spark_cluster, "choose_ports", choose)
        with state.lock():
            SparkCluster(state).start(SMALL)

    assert {node.state for node in SparkCluster(state).status().nodes} == {"ALIVE"}
    assert len(choices) == 3  # the master twice, the worker once


def test_without_java_nothing_is_started(state: State, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("JAVA_HOME", raising=False)

    with state.lock(), pytest.raises(PermanentError, match=r"needs Java 17 or newer, and none was found\. Install"):
        SparkCluster(state).start(SMALL)

    assert state.processes() == {}


def test_a_worker_that_does_not_register_is_named_with_its_log_and_nothing_is_left(
    state: State, monkeypatch: pytest.MonkeyPatch
) -> None:
    launch = processes.launch
    started = []

    def stopped(argv: list[str], **options: object) -> processes.Process:
        worker = "org.apache.spark.deploy.worker.Worker" in argv
        process = launch(["/bin/sleep", "100"] if worker else argv, **options)  # type: ignore[arg-type]
        started.append(process)
        return process

    monkeypatch.setattr(spark_cluster, "launch", stopped)
    monkeypatch.setattr(spark_cluster, "_START_SECONDS", 20)
    log = state.log("spark.worker.1")

    with (
        state.lock(),
        pytest.raises(
            processes.RetryableError, match=rf"spark\.worker\.1: did not answer within 20 s\. Try again; see {log}"
        ),
    ):
        SparkCluster(state).start(SMALL)

    assert [process.pid for process in started if process.alive] == []


def test_a_worker_that_ends_by_itself_says_why(state: State, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spark_cluster, "_DAEMON", {"SPARK_DAEMON_JAVA_OPTS": "-XX:+UseSerialGC -XX:+UseParallelGC"})

    with (
        state.lock(),
        pytest.raises(PermanentError, match=r"spark\.master: did not start: .*Multiple garbage collectors.*\.log"),
    ):
        SparkCluster(state).start(SMALL)


def test_the_user_s_own_defaults_hold_where_the_cluster_says_nothing(
    state: State, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = tmp_path / "own"
    own.mkdir()
    (own / "spark-defaults.conf").write_text("spark.jars.ivySettings /mirror.xml\nspark.authenticate false")
    monkeypatch.setenv("SPARK_CONF_DIR", str(own))
    cluster = SparkCluster(state)
    with state.lock():
        cluster.start(SMALL)

    from upsell_assets.lake.engines.spark_session import spark_config

    monkeypatch.setenv("SPARK_CONF_DIR", str(cluster.conf))
    config = spark_config(Settings(home=state.home, spark_master=cluster.url))
    assert config["spark.jars.ivySettings"] == "/mirror.xml"
    assert config["spark.authenticate"] == "true"
    assert config["spark.executor.memory"] == "512m"


@pytest.mark.parametrize(("text", "found"), [("512m", 512), ("2g", 2048), ("1G", 1024)])
def test_memory_is_read_as_spark_reads_it(text: str, found: int) -> None:
    assert memory_mb(text) == found


@pytest.mark.parametrize("text", ["", "1", "1.5g", "3t", "-1g"])
def test_memory_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="such as 512m or 2g"):
        memory_mb(text)


def test_too_little_memory_for_an_executor_is_refused(state: State) -> None:
    with state.lock(), pytest.raises(PermanentError, match="256 MB are too few for an executor; give 512 or more"):
        SparkCluster(state).start(replace(SMALL, memory_mb=256))
