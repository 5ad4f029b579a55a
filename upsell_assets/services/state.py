"""The lake's home folder: its layout, its secrets, and what is remembered of running processes.

Here belongs every file that outlives a command and is no service's own. Two files are locks: `lock` makes
decisions about starting and stopping one at a time, `users.lock` is held by whoever uses the embedded services,
and both are let go by the kernel when a process is killed.
"""

from __future__ import annotations

import fcntl
import json
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any

from upsell_assets.errors import PermanentError
from upsell_assets.services.process import Process

_MARKER = ".upsell-home"
_MARKER_TEXT = "The state of one upsell lake. `upsell reset` deletes this folder.\n"
_OURS = {"dagster", "logs"}  # what a lake without embedded services has made before


@dataclass(frozen=True)
class State:
    """The home folder of one lake."""

    home: Path

    @classmethod
    def open(cls, home: Path) -> State:
        """The home folder, created where it is missing.

        Raises:
            PermanentError: it cannot be created or written, or is a folder of somebody else's.
        """
        try:
            marked = (home / _MARKER).exists()
            if not marked and home.is_dir() and {entry.name for entry in home.iterdir()} - _OURS:
                raise PermanentError(
                    f"home {home}: the folder holds other files and is not a lake's. Set UPSELL_HOME to a new folder."
                )
            home.mkdir(parents=True, exist_ok=True)
            (home / _MARKER).write_text(_MARKER_TEXT)
            (home / "logs").mkdir(exist_ok=True)
        except OSError as error:
            raise PermanentError(
                f"home {home}: cannot be written ({error.strerror}: {error.filename}). Make it writable, or set "
                "UPSELL_HOME to a folder that is."
            ) from error
        return cls(home)

    @classmethod
    def find(cls, home: Path) -> State | None:
        """The home folder if a lake has been here."""
        return cls(home) if (home / _MARKER).exists() else None

    def delete(self) -> None:
        """Delete the folder and all that is in it."""
        shutil.rmtree(self.home)

    def log(self, name: str) -> Path:
        """The log file of a process."""
        return self.home / "logs" / f"{name}.log"

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Hold the right to start and stop processes of this lake; waits for whoever holds it."""
        with (self.home / "lock").open("w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield

    def join(self) -> Use:
        """Become a user of the embedded services; waits while the last one stops them."""
        file = (self.home / "users.lock").open("w")
        fcntl.flock(file, fcntl.LOCK_SH)
        return Use(file)

    def secret(self, name: str) -> str:
        """The generated password or key of this name, made once; the caller holds the lock."""
        path = self.home / "secrets.json"
        known = _read(path)
        if name not in known:
            known[name] = secrets.token_urlsafe(24)
            _write(path, known)
        return str(known[name])

    def processes(self) -> dict[str, Process]:
        """The processes of this lake as last recorded, whether they still run or not."""
        return {name: Process(**recorded) for name, recorded in _read(self.home / "services.json").items()}

    def running(self, name: str) -> Process | None:
        """The process of this name, if it runs."""
        process = self.processes().get(name)
        return process if process and process.alive else None

    def last_ports(self, name: str) -> dict[str, int]:
        """The ports that the process of this name had the last time."""
        process = self.processes().get(name)
        return process.ports if process else {}

    def record(self, name: str, process: Process) -> None:
        """Remember a process; the caller holds the lock."""
        path = self.home / "services.json"
        _write(path, _read(path) | {name: asdict(process)})

    def forget(self, name: str) -> None:
        """Forget a process; the caller holds the lock."""
        path = self.home / "services.json"
        _write(path, {other: recorded for other, recorded in _read(path).items() if other != name})


class Use:
    """A place among the users of the embedded services; ends with the process at the latest."""

    def __init__(self, file: IO[str]) -> None:
        self._file = file

    def leave(self) -> bool:
        """Stop being a user; whether nobody else is one. The caller holds the lock."""
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    def close(self) -> None:
        """Let go, also of the right to be alone that `leave` may have got."""
        fcntl.flock(self._file, fcntl.LOCK_UN)
        self._file.close()


def _read(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_bytes())
    except FileNotFoundError:
        return {}
    except json.JSONDecodeError as error:
        raise PermanentError(f"{path}: is not JSON any more ({error}). Restore it, or run upsell reset.") from error
    if not isinstance(found, dict):
        raise PermanentError(f"{path}: is not a JSON object any more. Restore it, or run upsell reset.")
    return found


def _write(path: Path, content: dict[str, Any]) -> None:
    """Replace a file at once, readable by its owner only."""
    temporary = path.with_suffix(".new")
    temporary.unlink(missing_ok=True)
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w") as file:
        json.dump(content, file, indent=2)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
