"""The processes of a running lake (Dagster's webserver and daemon), kept together: all run, or none.

Here: starting them, noticing the first that ends, and ending all of them with what they have started themselves.
The embedded services are not among them: other commands may use those too (`embedded`).
"""

from __future__ import annotations

import os
import shutil
import signal
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from upsell_assets.errors import PermanentError
from upsell_assets.services.process import Process, launch, start_of, tail, wait_until
from upsell_assets.services.state import State

SUPERVISOR = "supervisor"
_CHILD = "supervised."
_MARK = "UPSELL_SUPERVISED"
_STOP_SECONDS = 20
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Supervisor:
    """Processes that live as long as this context.

    Enter it in the main thread: it handles SIGINT, SIGTERM and SIGHUP. The first of them ends `wait`, a second one
    cuts the stopping short. Every process carries a mark in its environment, by which also those are found that a
    child has moved to a session of its own. If the supervisor itself is killed, its children are asked to end (on
    Linux), and the next supervisor or `upsell down` ends what is left.
    """

    def __init__(self, home: Path) -> None:
        self._state = State.open(home)
        self._children: dict[str, Process] = {}
        self._asked = threading.Event()
        self._hurry = False
        self._handlers: dict[int, Any] = {}

    def __enter__(self) -> Self:
        """Become the one supervisor of this home.

        Raises:
            PermanentError: it has one already.
        """
        with self._state.lock():
            other = self._state.running(SUPERVISOR)
            if other:
                raise PermanentError(
                    f"home {self._state.home}: a lake already runs here (process {other.pid}). Stop it with upsell "
                    "down, or set UPSELL_HOME to another folder."
                )
            end_leftovers(self._state)
            self._state.record(SUPERVISOR, Process(os.getpid(), start_of(os.getpid()) or ""))
        self._handlers = {number: signal.signal(number, self._ask) for number in _SIGNALS}
        return self

    def start(
        self, name: str, argv: Sequence[str | Path], *, env: Mapping[str, str], ports: dict[str, int] | None = None
    ) -> Process:
        """Start a process; its output goes to the log of its name in the home folder.

        Args:
            name: unique among the processes; also the name of the log.
            argv: the program and its arguments.
            env: its whole environment.
            ports: those that it listens on, for others to find.

        Raises:
            PermanentError: there is no such program.
        """
        # Ends the child when this process is killed; the child stays the same process.
        setpriv = shutil.which("setpriv") if sys.platform == "linux" else None
        tied = [setpriv, "--pdeathsig", "TERM", "--"] if setpriv else []
        marked = {**env, _MARK: str(self._state.home)}
        if shutil.which(argv[0], path=env.get("PATH")) is None:
            raise PermanentError(f"{name}: there is no program {argv[0]}. Install the project again.")
        process = launch([*tied, *argv], log=self._state.log(name), env=marked, ports=ports)
        self._children[name] = process
        with self._state.lock():
            self._state.record(_CHILD + name, process)
        return process

    def wait(self, seconds: float | None = None) -> bool:
        """Wait until a signal asks to stop, at most `seconds`; whether it did.

        Raises:
            PermanentError: a process ended by itself; the message has the end of its log.
        """
        until = None if seconds is None else time.monotonic() + seconds
        while not self._asked.wait(0.2):
            for name, process in self._children.items():
                if not process.alive:
                    log = self._state.log(name)
                    raise PermanentError(
                        f"{name}: ended by itself (exit code {process.exit_code}): {tail(log)}. See {log}."
                    )
            if until is not None and time.monotonic() >= until:
                return False
        return True

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for process in reversed(self._children.values()):
            process.signal(signal.SIGTERM, group=True)
            wait_until(lambda process=process: self._hurry or not process.alive, _STOP_SECONDS)  # type: ignore[misc]
            process.kill_group()
        with self._state.lock():
            end_leftovers(self._state, patient=not self._hurry)
            self._state.forget(SUPERVISOR)
        for number, handler in self._handlers.items():
            signal.signal(number, handler)

    def _ask(self, *_: object) -> None:
        self._hurry = self._asked.is_set()
        self._asked.set()


def supervised(state: State, name: str) -> Process | None:
    """A process that the supervisor of this home has started, if it runs."""
    return state.running(_CHILD + name)


def end_leftovers(state: State, *, patient: bool = True) -> None:
    """End what a supervisor of this home has started and is not there any more to end; the caller holds the lock."""
    recorded = {name: process for name, process in state.processes().items() if name.startswith(_CHILD)}
    left = [process for process in recorded.values() if process.alive]
    marked = _marked(state.home)
    if patient:
        for process in left:
            process.signal(signal.SIGTERM, group=True)
        for process in marked:
            process.signal(signal.SIGTERM)
        wait_until(lambda: not any(process.alive for process in left + marked), _STOP_SECONDS)
    for process in left:
        process.kill_group()
    for process in _marked(state.home):
        process.signal(signal.SIGKILL)
        process.wait(5)
    for name in recorded:
        state.forget(name)


def _marked(home: Path) -> list[Process]:
    """Processes that carry this home's mark; only Linux lets them be found."""
    if sys.platform != "linux":
        return []
    mark = f"\0{_MARK}={home}\0".encode()
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        if int(folder.name) == os.getpid():
            continue
        with suppress(FileNotFoundError, ProcessLookupError, PermissionError):
            if mark in b"\0" + (folder / "environ").read_bytes() and (started := start_of(int(folder.name))):
                found.append(Process(int(folder.name), started))
    return found
