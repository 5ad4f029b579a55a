"""A Spark cluster on this machine: a standalone master and its workers, for tests and to try the Spark engine on.

Here: the processes, their ports, and the configuration by which they and the drivers that use them find each other.
Not here: Spark sessions (`lake.engines.spark_session`), and clusters that somebody else runs (docs/spark.md). No other command
starts or stops a cluster but `upsell cluster`, `upsell down` and `upsell reset`.

Who could let the cluster run a program runs it as this user. So nothing listens beyond the loopback interface, and master,
workers, executors and drivers prove to each other that they know a secret, which lies in a file that only this user
reads. The web pages ask nobody who they are; they only show.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
from dataclasses import asdict, dataclass
from functools import partial
from http.client import HTTPConnection, HTTPException
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from upsell_assets.errors import PermanentError
from upsell_assets.services.process import LOOPBACK, Process, choose_ports, launch, start_server, wait_until
from upsell_assets.services.state import State

_MASTER = "spark.master"
_WORKER = "spark.worker."
_START_SECONDS = 60
_STOP_SECONDS = 20
_LEAST_MB = 512  # Spark starts no executor with less than 450
_DAEMON = {
    "SPARK_DAEMON_MEMORY": "256m",
    # Small and soon there. A port that is taken is an error, and not silently another one.
    "SPARK_DAEMON_JAVA_OPTS": "-XX:+UseSerialGC -XX:TieredStopAtLevel=1 -Dspark.port.maxRetries=0",
}


@dataclass(frozen=True)
class Size:
    """How large a cluster is; `memory_mb` and `cores` are those of one worker."""

    workers: int = 2
    cores: int = 1
    memory_mb: int = 1024

    def __str__(self) -> str:
        return f"{self.workers} worker(s) of {self.cores} core(s) and {self.memory_mb} MB"


@dataclass(frozen=True)
class Node:
    """A master or worker as it stands now: its process and the address of its page; of a worker also what it offers."""

    name: str
    state: str
    pid: int
    page: str
    cores: int | None = None
    memory_mb: int | None = None


@dataclass(frozen=True)
class ClusterStatus:
    """A running cluster; `applications` are the names of those that run or wait on it."""

    master: str
    nodes: list[Node]
    applications: list[str]

    def as_json(self) -> dict[str, Any]:
        """The same as plain values."""
        return asdict(self)


@dataclass(frozen=True)
class SparkCluster:
    """The cluster of one lake's home. Starting and stopping need the lock of its state."""

    state: State

    @property
    def _folder(self) -> Path:
        return self.state.home / "spark_cluster"

    @property
    def conf(self) -> Path:
        """What SPARK_CONF_DIR must name for a driver to be let in."""
        return self._folder / "conf"

    @property
    def url(self) -> str:
        """The address of the master.

        Raises:
            PermanentError: no cluster runs.
        """
        return f"spark://{LOOPBACK}:{self._master().ports['rpc']}"

    def environment(self) -> dict[str, str]:
        """The variables by which the Spark engine uses this cluster; no secret is in them.

        Raises:
            PermanentError: no cluster runs.
        """
        return {"UPSELL_ENGINE": "spark", "UPSELL_SPARK_MASTER": self.url, "SPARK_CONF_DIR": str(self.conf)}

    def start(self, size: Size) -> None:
        """Start what is missing of a cluster of this size, and wait until the master knows all workers.

        Raises:
            PermanentError: there is no Java, or a process ended by itself; a cluster of another size runs.
            RetryableError: a worker did not register in time, or other programs took the chosen ports.
        """
        self._require_java()
        if self.state.running(_MASTER) is None:
            self.stop()  # workers that have lost their master
        elif (running := self._size()) and running != size:
            raise PermanentError(f"Spark cluster: one of {running} runs already. Stop it first: upsell cluster down.")
        try:
            self._configure(size)
            self._start_process(_MASTER, ["master.Master"], self._answers)
            worker = ["worker.Worker", self.url, "--cores", str(size.cores), "--memory", f"{size.memory_mb}m"]
            for number in range(1, size.workers + 1):
                folder = str(self._folder / f"worker-{number}")
                self._start_process(f"{_WORKER}{number}", [*worker, "--work-dir", folder], self._registered)
        except BaseException:
            self.stop()
            raise

    def stop(self) -> list[str]:
        """Stop workers, their executors and the master; the names of what ran."""
        running = self._left()
        for process in running.values():
            process.signal(signal.SIGTERM, group=True)
        wait_until(lambda: not any(process.alive for process in running.values()), _STOP_SECONDS)
        for process in running.values():
            process.kill_group()
        shutil.rmtree(self._folder, ignore_errors=True)
        return list(running)

    def status(self) -> ClusterStatus:
        """What runs, as the master and the operating system say.

        Raises:
            PermanentError: no cluster runs, or its master does not answer.
        """
        master = self._master()
        said = _ask(master)
        if said is None:
            raise PermanentError(
                f"Spark cluster: its master (process {master.pid}) does not answer. See {self.state.log(_MASTER)}, or "
                "start it anew: upsell cluster down, upsell cluster up."
            )
        known = {worker["port"]: worker for worker in said["workers"] if worker["state"] == "ALIVE"}
        nodes = [Node(_MASTER, said["status"], master.pid, _page(master))]
        for name, process in self._workers().items():
            worker = known.get(process.ports["rpc"], {}) if process.alive else {}
            state = "ALIVE" if worker else "NOT REGISTERED" if process.alive else "DEAD"
            nodes.append(Node(name, state, process.pid, _page(process), worker.get("cores"), worker.get("memory")))
        return ClusterStatus(self.url, nodes, [f"{app['name']} ({app['state']})" for app in said["activeapps"]])

    def _master(self) -> Process:
        process = self.state.running(_MASTER)
        if process is None:
            raise PermanentError("Spark cluster: none runs here. Start one: upsell cluster up.")
        return process

    def _workers(self) -> dict[str, Process]:
        return {name: process for name, process in self.state.processes().items() if name.startswith(_WORKER)}

    def _left(self) -> dict[str, Process]:
        """What of the cluster still runs, workers first."""
        known = {**self._workers(), _MASTER: self.state.processes().get(_MASTER)}
        return {name: process for name, process in known.items() if process and process.alive}

    def _size(self) -> Size | None:
        file = self._folder / "size.json"
        return Size(**json.loads(file.read_bytes())) if file.exists() else None

    def _require_java(self) -> None:
        from upsell_assets.lake.engines.spark_session import JAVA, java_version

        version = java_version()
        if version is None or version < JAVA:
            found = "none was found" if version is None else f"Java {version} was found"
            raise PermanentError(
                f"Spark cluster: needs Java {JAVA} or newer, and {found}. Install it and let JAVA_HOME name its folder."
            )

    def _configure(self, size: Size) -> None:
        """Write what daemons and drivers read; what the user's own spark-defaults.conf says goes before it."""
        if size.memory_mb < _LEAST_MB:
            raise PermanentError(
                f"Spark cluster: {size.memory_mb} MB are too few for an executor; give {_LEAST_MB} or more."
            )
        self._folder.mkdir(mode=0o700, exist_ok=True)
        self.conf.mkdir(exist_ok=True)
        (self._folder / "size.json").write_text(json.dumps(asdict(size)))
        defaults = {
            "spark.authenticate": "true",
            "spark.driver.bindAddress": LOOPBACK,
            "spark.driver.host": LOOPBACK,
            # One executor fills a worker.
            "spark.executor.cores": size.cores,
            "spark.executor.memory": f"{size.memory_mb}m",
            "spark.master.rest.enabled": "false",
            "spark.ui.enabled": "false",
            "spark.ui.killEnabled": "false",  # the pages show, and end nothing
            "spark.sql.shuffle.partitions": 2 * size.workers * size.cores,
            "spark.databricks.delta.snapshotPartitions": 2,
        }
        ours = "".join(f"{name} {value}\n" for name, value in defaults.items())
        # As a properties file may spell it. Spark reads the file itself; the engine does not know the name by this
        # spelling, and does not repeat it on the command line of its JVM, where every user of the machine could see it.
        secret = f"spark\\.authenticate.secret {self.state.secret('secret of the Spark cluster')}\n"
        file = self.conf / "spark-defaults.conf"
        file.touch(mode=0o600)
        file.write_text(f"{_users_defaults(self.conf)}\n{ours}{secret}")

    def _start_process(self, name: str, words: list[str], answers: Any) -> None:
        if self.state.running(name) is None:
            start_server(
                f"Spark cluster: {name}",
                partial(self._launch, name, words),
                answers,
                log=self.state.log(name),
                seconds=_START_SECONDS,
            )

    def _launch(self, name: str, words: list[str]) -> Process:
        ports = choose_ports(["rpc", "page"], self.state.last_ports(name))
        home = _spark_home()
        kind, *more = words
        argv: list[str | Path] = [home / "bin" / "spark-class", f"org.apache.spark.deploy.{kind}", *more]
        argv += ["--host", LOOPBACK, "--port", str(ports["rpc"]), "--webui-port", str(ports["page"])]
        # What Spark and this lake know of themselves is not for executors; whatever else finds files and keys is.
        own = {key: value for key, value in os.environ.items() if not key.startswith(("SPARK_", "UPSELL_"))}
        env = {
            **own,
            **_DAEMON,
            "SPARK_HOME": str(home),
            "SPARK_CONF_DIR": str(self.conf),
            "SPARK_LOCAL_IP": LOOPBACK,
            "SPARK_LOCAL_DIRS": str(self._folder / "blocks"),
        }
        process = launch(argv, log=self.state.log(name), env=env, ports=ports, cwd=self._folder)
        self.state.record(name, process)
        return process

    def _answers(self, process: Process) -> bool:
        said = _ask(process)
        return said is not None and said["status"] == "ALIVE"

    def _registered(self, process: Process) -> bool:
        said = _ask(self._master())
        workers = said["workers"] if said else []
        return any(worker["port"] == process.ports["rpc"] and worker["state"] == "ALIVE" for worker in workers)


def memory_mb(text: str) -> int:
    """Megabytes of a text such as 512m or 2g.

    Raises:
        ValueError: it is no such text.
    """
    found = re.fullmatch(r"(\d+)([mg])", text.strip().lower())
    if found is None:
        raise ValueError(f"{text!r}: expected a number and m or g, such as 512m or 2g")
    return int(found[1]) * (1024 if found[2] == "g" else 1)


def _ask(master: Process) -> dict[str, Any] | None:
    """What the master says of itself and its workers; None: it does not answer."""
    connection = HTTPConnection(LOOPBACK, master.ports["page"], timeout=5)
    try:
        connection.request("GET", "/json/")
        said = json.load(connection.getresponse())
    except (OSError, HTTPException, ValueError):
        return None
    finally:
        connection.close()
    return dict(said)


def _page(process: Process) -> str:
    return f"http://{LOOPBACK}:{process.ports['page']}"


def _spark_home() -> Path:
    """The folder of the installed pyspark, which is a whole Spark."""
    found = find_spec("pyspark")
    if found is None or not found.submodule_search_locations:
        raise PermanentError("Spark cluster: pyspark is not installed. Install the project again.")
    return Path(found.submodule_search_locations[0])


def _users_defaults(ours: Path) -> str:
    """The spark-defaults.conf that a driver would read without this cluster, such as one that names a mirror."""
    home = os.environ.get("SPARK_HOME")
    folder = os.environ.get("SPARK_CONF_DIR") or (home and str(Path(home, "conf")))
    file = Path(folder, "spark-defaults.conf") if folder and Path(folder) != ours else None
    return file.read_text(encoding="utf-8") if file and file.is_file() else ""
