"""A daemon that is killed between any two steps of a look at the conditions forgets nothing, and asks for nothing twice."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import dagster as dg
import pytest
from dagster._core.errors import DagsterUserCodeUnreachableError
from dagster._core.storage.tags import SENSOR_NAME_TAG
from dagster._grpc.client import DagsterGrpcClient
from interrupted import defs

from upsell_assets.runs import UNDER_WAY
from upsell_assets.services.process import free_ports, wait_until

pytestmark = pytest.mark.timeout(600)

HERE = Path(__file__).parent
SETTINGS = """
telemetry: {enabled: false}
run_coordinator: {module: dagster.core.run_coordinator, class: DefaultRunCoordinator}
"""
"""Runs begin at once: there is no daemon that would take them from a queue."""

PATIENCE_SECONDS = 120
ASKED = {SENSOR_NAME_TAG: "automation"}
POINTS = {
    "AUTOMATION_EVALUATIONS_ADDED": "nothing is promised yet: the look is repeated",
    "RUN_IDS_RESERVED": "what was promised is asked for by the next turn",
    "RUN_LAUNCHED": "the run is there, and the tick does not know it",
}
"""Dagster's own names for what it has just done in a tick, and what that means."""


@dataclass
class Daemon:
    """A daemon over a code server, started anew after it was killed."""

    instance: dg.DagsterInstance
    home: Path
    port: int
    process: subprocess.Popen[str] | None = None

    def turn(self, kill_at: str = "") -> bool:
        """Take one turn; whether it was survived."""
        if self.process is None:
            arguments = [HERE / "killed_daemon.py", self.home, str(self.port)]
            with (self.home / "daemon.log").open("ab") as log:
                self.process = subprocess.Popen(
                    [sys.executable, *arguments], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True
                )
            assert self.answer() == "ready"
        assert self.process.stdin is not None
        self.process.stdin.write(f"{kill_at}\n")
        self.process.stdin.flush()
        if self.answer() == "done":
            return True
        self.stop()
        return False

    def answer(self) -> str:
        assert self.process is not None
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def stop(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.communicate()
            self.process = None

    def die(self, at: str) -> None:
        """Take turns until one was not survived."""
        self.until(lambda: not self.turn(at), f"to be killed at {at}")

    def rest(self) -> None:
        """Take turns until nothing runs, and a few more looks found nothing to ask for."""
        for _ in range(3):
            self.until(self.quiet_turn, "to come to rest")

    def quiet_turn(self) -> bool:
        """Take one turn; whether it had a tick, after which nothing runs."""
        looks = self.looks()
        return self.turn() and self.looks() > looks and not self.under_way()

    def looks(self) -> int:
        """How many ticks there were."""
        [state] = self.instance.all_instigator_state() or [None]
        return 0 if state is None else len(self.instance.get_ticks(state.instigator_origin_id, state.selector_id))

    def under_way(self) -> bool:
        return self.instance.get_runs_count(dg.RunsFilter(statuses=UNDER_WAY, tags=ASKED)) > 0

    def asked(self) -> Counter[str]:
        """How many runs each asset has, of those that the sensor asked for."""
        runs = self.instance.get_runs(dg.RunsFilter(tags=ASKED))
        return Counter(".".join(key.path) for run in runs for key in run.asset_selection or ())

    def until(self, condition: Callable[[], bool], what: str) -> None:
        log = self.home / "daemon.log"
        assert wait_until(condition, PATIENCE_SECONDS), f"waited for the daemon {what}: {log.read_text()}"


def answers(port: int) -> bool:
    """Whether the code server does."""
    try:
        return DagsterGrpcClient(port, host="127.0.0.1").heartbeat("there") == "there"
    except DagsterUserCodeUnreachableError:
        return False


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    home = tmp_path_factory.mktemp("interrupted")
    (home / "dagster.yaml").write_text(SETTINGS)
    [port] = free_ports(1)
    command = ["api", "grpc", "-f", str(HERE / "interrupted.py"), "-h", "127.0.0.1", "-p", str(port)]
    with (home / "code.log").open("ab") as log:
        code = subprocess.Popen(
            [Path(sys.executable).parent / "dagster", *command, "--location-name", "interrupted"],
            stdout=log,
            stderr=log,
        )
    with dg.DagsterInstance.from_config(str(home)) as instance:
        daemon = Daemon(instance, home, port)
        try:
            assert wait_until(lambda: answers(port), PATIENCE_SECONDS), (home / "code.log").read_text()
            for source in ("source_of_first", "source_of_second"):
                instance.report_runless_asset_event(dg.AssetMaterialization(source))
            daemon.rest()
            assert daemon.asked() == {"first": 1, "second": 1}
            yield daemon
        finally:
            daemon.stop()
            code.terminate()
            code.wait(30)


@pytest.mark.parametrize("point", POINTS)
def test_a_daemon_killed_at_any_step_of_a_look_forgets_nothing_and_repeats_nothing(daemon: Daemon, point: str) -> None:
    instance, before = daemon.instance, daemon.asked()
    busy = instance.create_run_for_job(
        defs.resolve_implicit_global_asset_job_def(),
        asset_selection=frozenset([dg.AssetKey("second")]),
        status=dg.DagsterRunStatus.STARTED,
    )
    instance.report_runless_asset_event(dg.AssetMaterialization("source_of_second"))
    daemon.rest()
    assert daemon.asked() == before, "the second waits until its run has ended"

    instance.report_runless_asset_event(dg.AssetMaterialization("source_of_first"))
    daemon.die(at=point)
    daemon.rest()
    instance.report_run_canceled(busy)
    daemon.rest()

    assert daemon.asked() - before == Counter(["first", "second"])
