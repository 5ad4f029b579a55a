"""The embedded PostgreSQL alone: first start, crash, and who it runs as."""

import os
import signal
import socket
import sys
import tempfile
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import psycopg
import pytest

from upsell_assets.errors import PermanentError
from upsell_assets.services.postgres import SUPERUSER, PostgresServer
from upsell_assets.services.process import Process
from upsell_assets.services.state import State

pytestmark = pytest.mark.services
AS_ROOT = pytest.mark.skipif(os.geteuid() != 0 or sys.platform != "linux", reason="only root needs another account")


@pytest.fixture
def server(tmp_path: Path) -> Iterator[PostgresServer]:
    # Longer than the path of a Unix socket may be.
    server = PostgresServer(State.open(tmp_path / ("deep " * 12) / ("deeper " * 8) / "home"))
    yield server
    server.stop()


def rows(server: PostgresServer) -> list[tuple[int]]:
    with psycopg.connect(server.dsn(SUPERUSER)) as connection:
        return connection.execute("SELECT n FROM kept").fetchall()


def fill(server: PostgresServer) -> None:
    with psycopg.connect(server.dsn(SUPERUSER), autocommit=True) as connection:
        connection.execute("CREATE TABLE kept AS SELECT 7 AS n")


def process(server: PostgresServer) -> Process:
    found = server.state.running("postgres")
    assert found is not None
    return found


def test_half_initialised_data_is_made_anew(server: PostgresServer):
    unfinished = server.state.home / "postgres" / "unfinished"
    unfinished.mkdir(parents=True)
    (unfinished / "PG_VERSION").write_text("18\n")
    server.start()
    fill(server)
    assert rows(server) == [(7,)]
    assert not unfinished.exists()


def test_stopped_server_resumes_with_its_data_and_its_port(server: PostgresServer):
    server.start()
    fill(server)
    first = process(server)
    server.stop()
    assert not first.alive
    server.start()
    assert process(server).ports == first.ports
    assert rows(server) == [(7,)]


def test_killed_server_resumes_though_its_id_is_in_use_and_its_port_taken(server: PostgresServer):
    server.start()
    fill(server)
    killed = process(server)
    killed.signal(signal.SIGKILL)  # its own processes end a moment later, by themselves
    assert killed.wait(10)
    lock = server.state.home / "postgres" / "data" / "postmaster.pid"
    lock.write_text(lock.read_text().replace(str(killed.pid), str(os.getppid()), 1))
    with socket.socket() as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        other.bind(("127.0.0.1", killed.ports["postgres"]))
        other.listen()
        server.start()
        assert process(server).ports != killed.ports
        assert rows(server) == [(7,)]


def test_a_query_that_outlives_its_killed_server_is_ended(server: PostgresServer):
    server.start()
    fill(server)
    endless = f"SELECT count(*) FROM {', '.join(f'generate_series(1, 99999) AS {name}' for name in 'abc')}"
    with closing(psycopg.connect(server.dsn(SUPERUSER))) as connection:
        connection.pgconn.send_query(endless.encode())  # it computes, and never asks for its server
        killed = process(server)
        killed.signal(signal.SIGKILL)
        assert killed.wait(10)

        server.start()

    assert rows(server) == [(7,)]


def test_server_that_nobody_recorded_is_replaced_not_doubled(server: PostgresServer):
    server.start()
    fill(server)
    unrecorded = process(server)
    server.state.forget("postgres")
    server.start()
    assert not unrecorded.alive
    assert rows(server) == [(7,)]


def test_password_is_needed_and_nowhere_in_log_or_command_line(server: PostgresServer):
    server.start()
    dsn, password = server.dsn(SUPERUSER), server.state.secret(f"password of {SUPERUSER}")
    with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
        psycopg.connect(dsn.replace(password, "guess"))
    with pytest.raises(psycopg.OperationalError, match="no password supplied"):
        psycopg.connect(dsn.replace(f":{password}", ""))
    assert password not in server.state.log("postgres").read_text()
    if sys.platform == "linux":
        assert password.encode() not in Path(f"/proc/{process(server).pid}/cmdline").read_bytes()


def test_secrets_that_do_not_fit_the_data_are_named(server: PostgresServer):
    server.start()
    server.stop()
    (server.state.home / "secrets.json").unlink()
    with pytest.raises(PermanentError, match=r"has another password than .*secrets.json. Restore that file, or run"):
        server.start()


@AS_ROOT
def test_root_without_namespaces_is_told_which_folder_keeps_nobody_out(
    server: PostgresServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("PATH", "/nonexistent")  # no unshare
    closed = tmp_path.parent
    closed.chmod(0o700)
    with pytest.raises(PermanentError, match=r"may not enter /.*, needed for /.*postgres\. Move the project"):
        server.start()


@AS_ROOT
def test_root_without_namespaces_runs_it_as_nobody_and_goes_back_later(monkeypatch: pytest.MonkeyPatch):
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        home = Path(folder, "home")
        with monkeypatch.context() as patch:
            patch.setenv("PATH", "/nonexistent")
            as_nobody = PostgresServer(State.open(home))
            as_nobody.start()
            assert Path(f"/proc/{process(as_nobody).pid}").stat().st_uid != 0
            fill(as_nobody)
            as_nobody.stop()
        default = PostgresServer(State.open(home))
        default.start()
        assert rows(default) == [(7,)]
        default.stop()
