"""Dagster's own processes over a lake of raw files: a code server and a daemon, as `upsell up` starts them.

Here: starting, killing and asking them, and what they have run. Not here: what must have run (the scenarios).
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta
from pathlib import Path
from typing import Any

import dagster as dg
import yaml
from dagster import DagsterRun, DagsterRunStatus, RunsFilter
from dagster._core.scheduler.instigation import InstigatorState, SensorInstigatorData
from dagster._core.storage.tags import PARENT_RUN_ID_TAG, SENSOR_NAME_TAG

import upsell_assets
from upsell_assets.automation import SENSOR
from upsell_assets.automation_sensor import NOTHING
from upsell_assets.definitions import build_defs
from upsell_assets.lake.lakehouse import Lakehouse
from upsell_assets.outlook import look
from upsell_assets.runs import UNDER_WAY
from upsell_assets.services.embedded import Running
from upsell_assets.services.process import Process, free_ports, launch, wait_until

BIN = Path(sys.executable).parent
PACKAGE = Path(upsell_assets.__file__).parent
RANGE = "dagster/asset_partition_range_start", "dagster/asset_partition_range_end"
MARK = "UPSELL_SCENARIO"

Made = tuple[str, str | None]
"""A table and a partition of it (None: it has none)."""


@dataclass
class RealDaemon:
    """The processes, over a copy of the package that a scenario may change."""

    lakehouse: Lakehouse
    folder: Path
    patience: float = 900
    began: float = field(default_factory=time.time)
    processes: dict[str, Process] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.home = self.folder / "dagster"
        self.home.mkdir()
        shutil.copyfile(PACKAGE / "dagster.yaml", self.home / "dagster.yaml")
        self.package = self.folder / "code" / "upsell_assets"
        shutil.copytree(PACKAGE, self.package, ignore=shutil.ignore_patterns("__pycache__"))
        [port] = free_ports(1)
        self._port = port
        server = {"host": "127.0.0.1", "port": port, "location_name": "upsell"}
        (self.home / "workspace.yaml").write_text(yaml.safe_dump({"load_from": [{"grpc_server": server}]}))
        self.instance = dg.DagsterInstance.from_config(str(self.home))
        defs = build_defs(self.lakehouse.settings)
        self.assets = sorted(defs.resolve_asset_graph().executable_asset_keys)

    def start(self) -> None:
        """Start what does not run."""
        environment = {
            **os.environ,
            **Running(self.lakehouse.settings).environment(),
            "DAGSTER_HOME": str(self.home),
            "PYTHONPATH": str(self.package.parent),
            "AWS_EC2_METADATA_DISABLED": "true",
            MARK: str(self.home),
        }
        programs = {
            "code": [
                "dagster", "code-server", "start", "-m", "upsell_assets.definitions", "--host", "127.0.0.1",
                "--port", str(self._port), "--location-name", "upsell", "--inject-env-vars-from-instance",
            ],
            "daemon": ["dagster-daemon", "run", "-w", str(self.home / "workspace.yaml")],
        }  # fmt: skip
        for name, (program, *arguments) in programs.items():
            if not (name in self.processes and self.processes[name].alive):
                log = self.folder / f"{name}.log"
                # Dagster looks for the code in the working directory before it looks anywhere else.
                options = {"env": environment, "cwd": self.package.parent}
                self.processes[name] = launch([BIN / program, *arguments], log=log, **options)

    def kill(self, *names: str) -> None:
        """Kill -9 these processes with all that they have started; "code" has started the runs."""
        for name in names:
            os.killpg(self.processes[name].pid, signal.SIGKILL)
            assert self.processes[name].wait(30)

    def stop(self) -> None:
        """End all of them."""
        for process in self.processes.values():
            process.signal(signal.SIGTERM, group=True)
        for process in self.processes.values():
            if not process.wait(30):
                os.killpg(process.pid, signal.SIGKILL)
        self.instance.dispose()

    def settle(self, since: int | None = None, *, landed: bool = True) -> None:
        """Wait until all that landed was found and has flowed through, and the conditions were looked at for the last time.

        With a mark, first until something was asked for since. Without landings the next listing is not waited for. What
        is asked for once more than needed is so by the end.
        """
        if since is not None:
            self.until(lambda: self.now() > since, "something to be asked for")
        began = time.time()
        if landed:
            self.until(lambda: self.listed() > began, "everything to be listed")
        listed = time.time()
        self.until(lambda: self.settled() and self.rests_since(listed), "everything to flow through")

    def settled(self) -> bool:
        """Whether everything that landed has flowed through, and nothing runs."""
        return look(self.instance, self.lakehouse, self.assets, self.began, closely=True).settled

    def listed(self) -> float:
        """When the landing sensor last listed all that there is (Unix seconds)."""
        state = self.sensor("landing_sensor")
        data = state.instigator_data if state else None
        cursor = json.loads(data.cursor) if isinstance(data, SensorInstigatorData) and data.cursor else {}
        return datetime.fromisoformat(cursor["swept"]).timestamp() if cursor.get("swept") else 0

    def rests_since(self, moment: float) -> bool:
        """Whether the conditions found nothing to look for, in a tick that began after it and after the last run ended."""
        state = self.sensor(SENSOR)
        ticks = self.instance.get_ticks(state.instigator_origin_id, state.selector_id, limit=1) if state else []
        ended = [record.end_time or moment for record in self.instance.get_run_records(limit=5)]
        return any(tick.skip_reason == NOTHING and tick.timestamp > max([moment, *ended]) for tick in ticks)

    def sensor(self, name: str) -> InstigatorState | None:
        """What Dagster keeps of a sensor; None before its first tick."""
        return next((state for state in self.instance.all_instigator_state() if state.name == name), None)

    def until(self, condition: Any, what: str) -> None:
        """Wait for a condition.

        Raises:
            AssertionError: it did not come true in time; says what was seen.
        """
        if not wait_until(condition, self.patience):
            view = look(self.instance, self.lakehouse, self.assets, self.began, closely=True)
            log = (self.folder / "daemon.log").read_text()[-3000:]
            raise AssertionError(f"waited {self.patience} s for {what}; {view}\n{self.story(0)}\n{log}")

    def now(self) -> int:
        """A mark, from which runs are counted: how many there were."""
        return self.instance.get_runs_count()

    def records(self, since: int) -> list[dg.RunRecord]:
        """The runs since a mark, in the order in which they were asked for."""
        return list(reversed(self.instance.get_run_records(limit=self.now() - since, ascending=False)))

    def under_way(self) -> list[DagsterRun]:
        """Runs that are queued or run."""
        return list(self.instance.get_runs(RunsFilter(statuses=UNDER_WAY)))

    def story(self, since: int) -> str:
        """The runs since a mark, a line each: when they were asked for, began and ended, by what, and for which tables."""
        lines = []
        for record in self.records(since):
            run, asked = record.dagster_run, record.create_timestamp.timestamp()
            times = " ".join(
                f"{at - self.began:.1f}" if at else "-" for at in (asked, record.start_time, record.end_time)
            )
            by = run.tags.get(PARENT_RUN_ID_TAG) or run.tags.get(SENSOR_NAME_TAG) or run.job_name
            lines.append(f"{run.run_id} {run.status.value} {times} by {by}: {', '.join(_tables(run))} {_days_of(run)}")
        return "\n".join(lines)

    def made(self, since: int) -> Counter[Made]:
        """How often each partition of each table was asked for by runs that succeeded."""
        found: Counter[Made] = Counter()
        graph = build_defs(self.lakehouse.settings).resolve_asset_graph()
        for run in (record.dagster_run for record in self.records(since)):
            if run.status == DagsterRunStatus.SUCCESS:
                for key in run.asset_selection or ():
                    calendar = graph.get(key).partitions_def
                    days = _span(run) if calendar else [None]
                    found.update((".".join(key.path), day) for day in days)
        return found


def _tables(run: DagsterRun) -> Iterable[str]:
    return (".".join(key.path) for key in run.asset_selection or ())


def _days_of(run: DagsterRun) -> str:
    span = _span(run)
    return f"{span[0]}..{span[-1]}" if span else ""


def _span(run: DagsterRun) -> list[str]:
    first, last = (run.tags.get(tag, run.tags.get("dagster/partition")) for tag in RANGE)
    if first is None or last is None:
        return []
    start, end = date.fromisoformat(first), date.fromisoformat(last)
    return [(start + timedelta(number)).isoformat() for number in range((end - start).days + 1)]
