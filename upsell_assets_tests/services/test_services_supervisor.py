"""Processes kept together: nothing is left behind, however it ends."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from upsell_assets.errors import PermanentError
from upsell_assets.services.embedded import stop_all
from upsell_assets.services.process import Process, start_of, wait_until
from upsell_assets.services.state import State
from upsell_assets.services.supervisor import Supervisor
from upsell_assets.settings import Settings

LINUX = pytest.mark.skipif(sys.platform != "linux", reason="only Linux ties children to their parent, and shows marks")

# A child with a grandchild in its group and one in a session of its own, as run workers may be.
FAMILY = """
sleep 300 & echo $! > grandchild.pid
setsid sleep 300 & echo $! > stranger.pid
echo ready > ready
wait
"""
LAKE = """
import sys
from pathlib import Path
from upsell_assets.services.supervisor import Supervisor

home, script = Path(sys.argv[1]), sys.argv[2]
with Supervisor(home) as lake:
    lake.start("first", ["/bin/sh", "-c", script], env={"PATH": "/usr/bin:/bin"})
    lake.start("second", ["/bin/sleep", "300"], env={})
    print("up", flush=True)
    lake.wait()
"""


def lake(home: Path) -> subprocess.Popen[str]:
    """A running lake whose first process has grandchildren."""
    running = subprocess.Popen(
        [sys.executable, "-c", LAKE, str(home), f"cd '{home.parent}'; {FAMILY}"], stdout=subprocess.PIPE, text=True
    )
    assert running.stdout is not None
    assert running.stdout.readline() == "up\n"
    assert wait_until((home.parent / "ready").exists, 10)
    return running


def family(home: Path) -> dict[str, Process]:
    processes = {name: process for name, process in State(home).processes().items() if process.alive}
    for name in ("grandchild", "stranger") if sys.platform == "linux" else ("grandchild",):
        pid = int((home.parent / f"{name}.pid").read_text())
        processes[name] = Process(pid, start_of(pid) or "")
    return processes


def alive(processes: dict[str, Process]) -> list[str]:
    return [name for name, process in processes.items() if process.alive]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signal_ends_children_and_grandchildren(tmp_path: Path, number: signal.Signals):
    with lake(tmp_path / "home") as running:
        processes = family(tmp_path / "home")
        assert set(alive(processes)) == set(processes)
        running.send_signal(number)
        assert running.wait(20) == 0
    assert alive(processes) == []


def test_down_ends_a_running_lake(tmp_path: Path):
    with lake(tmp_path / "home") as running:
        processes = family(tmp_path / "home")
        assert stop_all(Settings(home=tmp_path / "home")) == ["supervisor", "supervised.first", "supervised.second"]
        assert running.wait(1) == 0
    assert alive(processes) == []


@LINUX
def test_killed_supervisor_leaves_no_children_and_the_next_ends_what_escaped(tmp_path: Path):
    with lake(tmp_path / "home") as running:
        processes = family(tmp_path / "home")
        running.kill()
        running.wait()
    assert wait_until(lambda: not {"supervised.first", "supervised.second"} & set(alive(processes)), 10)
    assert "stranger" in alive(processes)
    with Supervisor(tmp_path / "home"):
        assert alive(processes) == []


def test_first_process_that_ends_is_reported_with_its_log_and_takes_the_others_along(tmp_path: Path):
    with Supervisor(tmp_path / "home") as lake:
        first = lake.start("first", ["/bin/sleep", "300"], env={})
        lake.start("second", ["/bin/sh", "-c", "echo no port; echo for me; exit 3"], env={})
        with pytest.raises(PermanentError, match=r"second: ended by itself \(exit code 3\): no port \| for me\. See "):
            lake.wait()
    assert not first.alive
    assert State(tmp_path / "home").processes() == {}


def test_process_that_ignores_the_request_to_end_is_killed_on_the_second_signal(tmp_path: Path):
    deaf = "trap '' TERM; echo ready > ready; while :; do sleep 0.1; done"
    with Supervisor(tmp_path / "home") as lake:
        process = lake.start("deaf", ["/bin/sh", "-c", f"cd '{tmp_path}'; {deaf}"], env={"PATH": "/usr/bin:/bin"})
        assert wait_until((tmp_path / "ready").exists, 10)
        for _ in range(2):
            os.kill(os.getpid(), signal.SIGTERM)
        lake.wait()
    assert not process.alive


def test_home_has_one_supervisor(tmp_path: Path):
    taken = rf"a lake already runs here \(process {os.getpid()}\)"
    with Supervisor(tmp_path / "home"), pytest.raises(PermanentError, match=taken):
        Supervisor(tmp_path / "home").__enter__()


def test_missing_program_is_named(tmp_path: Path):
    missing = r"webserver: there is no program /nowhere\. Install"
    with Supervisor(tmp_path / "home") as lake, pytest.raises(PermanentError, match=missing):
        lake.start("webserver", ["/nowhere"], env={})
