"""Processes and ports of this machine: how they are started, recognised, ended and chosen.

Here belongs what the operating system knows. What the lake remembers of its processes is in `state`.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from upsell_assets.errors import PermanentError, RetryableError

LOOPBACK = "127.0.0.1"
_POLL_SECONDS = 0.03
_AGAIN_SECONDS = 30
# A port was taken after it had been chosen; processes of a killed PostgreSQL are still ending.
_MAY_PASS = ("could not bind ipv4 address", "address already in use", "pre-existing shared memory block")

# A Popen that is dropped while its process lives warns, and nobody reaps the process when it ends.
_children: dict[int, subprocess.Popen[bytes]] = {}


@dataclass(frozen=True)
class Process:
    """One process, recognised by its id *and* its start, so that a reused id is never taken for it."""

    pid: int
    started: str
    ports: dict[str, int] = field(default_factory=dict)

    @property
    def alive(self) -> bool:
        """Whether exactly this process still runs; a zombie does not."""
        if start_of(self.pid) == self.started:
            return True
        if self.pid in _children:
            _children[self.pid].poll()
        return False

    @property
    def exit_code(self) -> int | None:
        """How it ended (negative: by that signal); None if it has not, or was started by another command."""
        return _children[self.pid].poll() if self.pid in _children else None

    def signal(self, number: int, *, group: bool = False) -> None:
        """Send a signal to the process, or to its whole group; nothing happens if it is gone."""
        if self.alive:
            with suppress(ProcessLookupError):
                (os.killpg if group else os.kill)(self.pid, number)

    def wait(self, seconds: float) -> bool:
        """Wait until it has ended, at most so many seconds; whether it has."""
        return wait_until(lambda: not self.alive, seconds)

    def kill_group(self) -> None:
        """Kill the process and the rest of its group, if anything is left of it."""
        with suppress(ProcessLookupError, PermissionError):  # macOS: a group of zombies only is not permitted
            os.killpg(self.pid, signal.SIGKILL)
        self.wait(5)


def launch(
    argv: Sequence[str | Path],
    *,
    log: Path,
    env: Mapping[str, str],
    ports: dict[str, int] | None = None,
    **options: Any,
) -> Process:
    """Start a program in its own session, its output appended to `log`; `options` are those of Popen.

    Raises:
        OSError: the program cannot be started.
    """
    with log.open("ab") as output:
        child = subprocess.Popen(
            argv,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=env,
            start_new_session=True,
            **options,
        )
    _children[child.pid] = child
    return Process(child.pid, start_of(child.pid) or "ended at once", ports or {})


def start_of(pid: int) -> str | None:
    """What tells this process from an earlier or later one with its id; None if there is none, or a zombie."""
    if sys.platform != "linux":
        return _start_by_ps(pid)
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    status, threads, ticks = fields[0], int(fields[17]), fields[19]
    # Of a killed program the first thread may be a zombie while others still hold its ports.
    ended = status == "X" or (status == "Z" and threads <= 1)
    return None if ended else f"{boot} {ticks}"


def _start_by_ps(pid: int) -> str | None:
    shown = subprocess.run(
        ["/bin/ps", "-o", "stat=,lstart=", "-p", str(pid)], capture_output=True, text=True, check=False
    )
    status, _, started = shown.stdout.strip().partition(" ")
    return None if not status or status.startswith("Z") else started.strip()


def command_of(pid: int) -> str:
    """The command line of a process, its words separated by spaces; empty if there is none, or a zombie."""
    if sys.platform != "linux":
        shown = subprocess.run(
            ["/bin/ps", "-o", "command=", "-p", str(pid)], capture_output=True, text=True, check=False
        )
        return shown.stdout.strip()
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
    except (FileNotFoundError, ProcessLookupError):
        return ""


def wait_until(done: Callable[[], bool], seconds: float) -> bool:
    """Ask `done` until it says yes, at most so many seconds; its last answer."""
    deadline = time.monotonic() + seconds
    while not (answer := done()) and time.monotonic() < deadline:
        time.sleep(_POLL_SECONDS)
    return answer


def start_server(
    name: str, run: Callable[[], Process], answers: Callable[[Process], bool], *, log: Path, seconds: float
) -> None:
    """Start a server and wait until it answers; again, on other ports, while the reason that it did not may pass.

    Args:
        name: what messages call it.
        run: chooses ports and starts the process.
        answers: whether the server is of use now.
        log: where its output goes.
        seconds: how long it may take to answer.

    Raises:
        PermanentError: it ended by itself.
        RetryableError: it took too long, or the reason did not pass.
    """
    given_up = time.monotonic() + _AGAIN_SECONDS
    while True:
        start = log.stat().st_size if log.exists() else 0
        process = run()
        answered = wait_until(lambda process=process: not process.alive or answers(process), seconds)  # type: ignore[misc]
        if process.alive and answered:
            return
        if process.alive:
            raise RetryableError(f"{name}: did not answer within {seconds:.0f} s. Try again; see {log}.")
        reason = tail(log, start=start)
        if not any(text in reason.lower() for text in _MAY_PASS):
            raise PermanentError(f"{name}: did not start: {reason}. See {log}.")
        if time.monotonic() > given_up:
            raise RetryableError(f"{name}: did not start: {reason}. Try again; see {log}.")
        time.sleep(1)


def tail(log: Path, *, start: int = 0, lines: int = 5) -> str:
    """The last lines of a log, from byte `start` on, in one line."""
    with log.open("rb") as file:
        file.seek(start)
        found = file.read().decode(errors="replace").splitlines()
    return " | ".join(line.strip() for line in found[-lines:] if line.strip()) or "its log is empty"


def is_free(port: int) -> bool:
    """Whether a server could listen on this port of the loopback interface now."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOOPBACK, port))
        except OSError:
            return False
    return True


def free_ports(n: int) -> list[int]:
    """Choose `n` different free ports of the loopback interface."""
    with ExitStack() as held:
        probes = [held.enter_context(socket.socket()) for _ in range(n)]
        for probe in probes:
            probe.bind((LOOPBACK, 0))
        return [int(probe.getsockname()[1]) for probe in probes]


def choose_ports(names: Iterable[str], last: Mapping[str, int]) -> dict[str, int]:
    """A free port for each name: those of the last time if all are still free, so that addresses stay."""
    names = list(names)
    if set(names) <= set(last) and all(is_free(last[name]) for name in names):
        return {name: last[name] for name in names}
    return dict(zip(names, free_ports(len(names)), strict=True))


def require_port(port: int) -> None:
    """Fail with a clear line unless the port of the loopback interface is free.

    Raises:
        PermanentError: another program listens there.
    """
    if not is_free(port):
        raise PermanentError(
            f"port {port} is taken on {LOOPBACK} by another program. Stop it, or choose another with --port."
        )
