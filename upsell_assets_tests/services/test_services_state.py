"""The home folder, its secrets and what it remembers; processes and ports."""

import os
import signal
import socket
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from upsell_assets.errors import PermanentError
from upsell_assets.services.embedded import reset, stop_all
from upsell_assets.services.process import Process, free_ports, launch, require_port, start_of, tail
from upsell_assets.services.state import State
from upsell_assets.settings import Settings

LINUX = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")


def test_home_below_a_regular_file_is_named_in_one_line(tmp_path: Path):
    (tmp_path / "file").touch()
    with pytest.raises(PermanentError, match=r"home .*file/home: cannot be written .* set UPSELL_HOME"):
        State.open(tmp_path / "file" / "home")


@LINUX
def test_home_that_even_root_cannot_write_is_named_in_one_line():
    with pytest.raises(PermanentError, match=r"home /proc/upsell: cannot be written .* set UPSELL_HOME"):
        State.open(Path("/proc/upsell"))


def test_folder_with_other_files_does_not_become_a_home(tmp_path: Path):
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(PermanentError, match="holds other files"):
        State.open(tmp_path)
    assert [entry.name for entry in tmp_path.iterdir()] == ["thesis.tex"]


def test_reset_deletes_only_a_home(tmp_path: Path):
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(PermanentError, match=r"is not the home of a lake .* nothing was deleted"):
        reset(Settings(home=tmp_path))
    assert (tmp_path / "thesis.tex").exists()

    home = State.open(tmp_path / "home").home
    reset(Settings(home=home))
    assert not home.exists()
    reset(Settings(home=home))


def test_stopping_where_nothing_ever_ran_stops_nothing(tmp_path: Path):
    assert stop_all(Settings(home=tmp_path / "home")) == []
    assert not (tmp_path / "home").exists()


def test_secret_is_made_once_and_for_the_owner_only(tmp_path: Path):
    first = State.open(tmp_path / "home").secret("a")
    again = State.open(tmp_path / "home")
    assert again.secret("a") == first
    assert again.secret("b") != first
    assert len(first) >= 32
    assert stat.S_IMODE((tmp_path / "home" / "secrets.json").stat().st_mode) == 0o600


def test_broken_secrets_file_is_named_in_one_line(tmp_path: Path):
    state = State.open(tmp_path / "home")
    (state.home / "secrets.json").write_text('{"a": ')
    with pytest.raises(PermanentError, match=r"secrets.json: is not JSON any more .* upsell reset"):
        state.secret("a")


def test_reused_process_id_is_not_taken_for_the_recorded_process(tmp_path: Path):
    state = State.open(tmp_path / "home")
    state.record("old", Process(os.getpid(), "another boot 1"))
    state.record("new", Process(os.getpid(), start_of(os.getpid()) or "", {"http": 1}))
    assert state.running("old") is None
    assert state.running("new") == Process(os.getpid(), start_of(os.getpid()) or "", {"http": 1})
    state.processes()["old"].signal(signal.SIGKILL)  # would end this test


def test_ended_process_is_not_alive_before_it_is_waited_for(tmp_path: Path):
    process = launch(["/bin/sh", "-c", "echo out; echo err >&2; exit 3"], log=tmp_path / "log", env={})
    assert process.wait(10)
    assert process.exit_code == 3
    assert tail(tmp_path / "log") == "out | err"


def test_lock_is_let_go_when_its_holder_is_killed(tmp_path: Path):
    State.open(tmp_path / "home")
    holding = (
        "import sys, time; from pathlib import Path; from upsell_assets.services.state import State\n"
        "with State(Path(sys.argv[1])).lock(): print('held', flush=True); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", holding, str(tmp_path / "home")], stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        holder.kill()
    with State(tmp_path / "home").lock():
        pass


def test_last_user_learns_that_it_is_the_last(tmp_path: Path):
    state = State.open(tmp_path / "home")
    first, second = state.join(), state.join()
    assert not first.leave()
    first.close()
    assert second.leave()
    second.close()


def test_taken_port_is_named_with_the_option_that_changes_it():
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(PermanentError, match=rf"port {port} is taken .* choose another with --port"):
            require_port(port)
    require_port(port)


def test_free_ports_differ():
    assert len(set(free_ports(50))) == 50
