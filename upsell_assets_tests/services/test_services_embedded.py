"""Both embedded services, as commands share them: real servers, real processes."""

import os
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import psycopg
import pytest

from upsell_assets.errors import PermanentError
from upsell_assets.lake.store import ObjectStore
from upsell_assets.services.embedded import Running, embedded, stop_all
from upsell_assets.services.object_store import ObjectStoreServer
from upsell_assets.services.process import Process
from upsell_assets.services.state import State
from upsell_assets.settings import Settings

pytestmark = pytest.mark.services

COMMAND = """
import sys
from pathlib import Path
from upsell_assets.services.embedded import embedded
from upsell_assets.services.state import State
from upsell_assets.settings import Settings

settings = Settings(home=Path(sys.argv[1]))
with embedded(settings):
    pids = sorted(p.pid for p in State(settings.home).processes().values() if p.alive)
    print(*pids, flush=True)
    sys.stdin.read()
"""


@pytest.fixture(scope="module")
def lake(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with embedded(Settings(home=tmp_path_factory.mktemp("lake") / "home")) as running:
        yield running


def command(home: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", COMMAND, str(home)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )


def services(home: Path) -> list[Process]:
    return [process for process in State(home).processes().values() if process.alive]


def listening(pids: set[int]) -> set[str]:
    """Hexadecimal addresses on which processes of these groups listen, from the kernel's own tables."""
    inodes = set()
    for folder in Path("/proc").glob("[0-9]*"):
        if os.getpgid(int(folder.name)) in pids:
            inodes |= {str(file.readlink()) for file in (folder / "fd").iterdir()}
    found = set()
    for table in ("tcp", "tcp6"):
        for line in Path("/proc/net", table).read_text().splitlines()[1:]:
            _, local, _, status, *rest = line.split()
            if status == "0A" and f"socket:[{rest[5]}]" in inodes:
                found.add(local)
    return found


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_everything_listens_on_loopback_only(lake: Running):
    processes = services(lake.settings.home)
    found = listening({process.pid for process in processes})
    assert {address.partition(":")[0] for address in found} == {"0100007F"}
    chosen = {port for process in processes for port in process.ports.values()}
    assert {int(address.partition(":")[2], 16) for address in found} == chosen


def test_settings_name_what_was_started_with_the_least_rights(lake: Running):
    assert not lake.settings.embedded_source
    assert not lake.settings.embedded_store
    assert lake.settings.source_dsn is not None
    assert lake.app_dsn is not None
    with psycopg.connect(lake.settings.source_dsn.get_secret_value()) as connection:
        who = "SELECT current_user, current_database(), current_setting('wal_level')"
        assert connection.execute(who).fetchone() == ("upsell_capture", "points", "logical")
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            connection.execute("DELETE FROM transactions")
    with psycopg.connect(lake.app_dsn) as connection:
        connection.execute("DELETE FROM transactions")


def test_child_process_reads_the_same_settings_from_its_environment(lake: Running, monkeypatch: pytest.MonkeyPatch):
    for name, value in lake.environment().items():
        monkeypatch.setenv(name, value)
    assert Settings() == lake.settings
    assert lake.environment()["AWS_EC2_METADATA_DISABLED"] == "true"


def test_secrets_are_not_shown(lake: Running):
    shown = repr(lake.settings)
    secrets = (lake.settings.source_dsn, lake.settings.s3_secret_access_key)
    assert all(secret is not None and secret.get_secret_value() not in shown for secret in secrets)
    for process in services(lake.settings.home):
        shown += Path(f"/proc/{process.pid}/cmdline").read_text() if sys.platform == "linux" else ""
    for name in ("postgres", "object_store"):
        shown += State(lake.settings.home).log(name).read_text()
    assert State(lake.settings.home).secret("secret access key") not in shown


def test_store_refuses_wrong_keys(lake: Running):
    store = ObjectStore.from_settings(lake.settings)
    store.check()
    with pytest.raises(PermanentError, match=r"refused the key when asked to list \(SignatureDoesNotMatch\)"):
        replace(store, secret_access_key="guess").check()
    with pytest.raises(PermanentError, match=r"refused the key when asked to list \(InvalidAccessKeyId\)"):
        replace(store, access_key_id="guess").check()


@pytest.mark.parametrize(("port", "path"), [("s3", "upsell/seen"), ("filer", "buckets/upsell/seen")])
def test_store_shows_nothing_to_anonymous_readers(lake: Running, port: str, path: str):
    ObjectStore.from_settings(lake.settings).write("seen", b"private")
    process = State(lake.settings.home).running("object_store")
    assert process is not None
    with pytest.raises(urllib.error.HTTPError, match=r"40[13]") as refused:
        urllib.request.urlopen(f"http://127.0.0.1:{process.ports[port]}/{path}", timeout=5)
    refused.value.close()


def test_second_command_shares_the_services_and_leaves_them_running(lake: Running):
    before = services(lake.settings.home)
    with command(lake.settings.home) as other:
        assert other.stdout is not None
        assert sorted(process.pid for process in before) == [int(pid) for pid in other.stdout.readline().split()]
        other.communicate("")
        assert other.returncode == 0
    assert services(lake.settings.home) == before
    ObjectStore.from_settings(lake.settings).check()


def test_two_commands_at_once_start_one_server_each_and_the_last_one_stops_them(tmp_path: Path):
    home = tmp_path / "home"
    with command(home) as one, command(home) as two:
        assert one.stdout is not None
        assert two.stdout is not None
        pids = one.stdout.readline()
        assert len(pids.split()) == 2
        assert two.stdout.readline() == pids
        running = services(home)

        one.kill()
        one.wait()
        assert services(home) == running

        two.communicate("")
        assert two.returncode == 0
        assert services(home) == []
    assert not any(process.alive for process in running)


def test_services_left_by_a_killed_command_are_joined_then_survive_their_own_kill(tmp_path: Path):
    settings = Settings(home=tmp_path / "home")
    with command(settings.home) as killed:
        assert killed.stdout is not None
        pids = killed.stdout.readline()
        killed.kill()
    left = services(settings.home)
    assert sorted(process.pid for process in left) == [int(pid) for pid in pids.split()]

    with embedded(settings) as running:
        assert services(settings.home) == left
        store = ObjectStore.from_settings(running.settings)
        written = {f"k/{n}": os.urandom(40_000) for n in range(20)}
        for key, body in written.items():
            store.write(key, body)
        for process in left:
            process.signal(signal.SIGKILL)
            assert process.wait(10)

    old_ports = State(settings.home).last_ports("object_store").values()
    with ExitStack() as taken:
        for port in old_ports:
            other = taken.enter_context(socket.socket())
            other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            other.bind(("127.0.0.1", port))
            other.listen()
        with embedded(settings) as running:
            assert not [name for port in old_ports for name in Path("/tmp").glob(f"seaweedfs-*-{port}.sock")]
            store = ObjectStore.from_settings(running.settings)
            assert {key: store.read(key) for key in written} == written
            assert stop_all(settings) == ["postgres", "object_store"]
            assert services(settings.home) == []


def test_store_alone_is_started_for_an_external_database(tmp_path: Path):
    settings = Settings(home=tmp_path / "home", source_dsn="postgresql://somebody@db.example/points")
    with embedded(settings) as running:
        assert running.settings.source_dsn == settings.source_dsn
        assert running.owner_dsn is None
        assert list(State(settings.home).processes()) == ["object_store"]


def test_nothing_is_started_where_everything_is_external(tmp_path: Path):
    settings = Settings(home=tmp_path / "home", source_dsn="postgresql://db.example/points", s3_bucket="theirs")
    with embedded(settings) as running:
        assert running.settings == settings
        assert "AWS_EC2_METADATA_DISABLED" not in running.environment()
    assert not settings.home.exists()


def test_store_that_cannot_start_says_why_with_its_log(tmp_path: Path):
    state = State.open(tmp_path / "home")
    (state.home / "object_store").touch()
    with pytest.raises(PermanentError, match=r"embedded S3 server: .*object_store: File exists. .* UPSELL_HOME"):
        ObjectStoreServer(state).start("upsell", "us-east-1")
