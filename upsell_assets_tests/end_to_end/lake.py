"""A lake as its user has it: the `upsell` command in a home of its own, asked by commands only."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

UPSELL = Path(sys.executable).parent / "upsell"
PATIENCE = float(os.environ.get("UPSELL_TEST_PATIENCE", "1"))
"""How many times as long as usual other processes may take, on a machine that is busy."""


@dataclass
class UserLake:
    """One home folder; `environment` adds to the variables of every command."""

    home: Path
    environment: dict[str, str] = field(default_factory=dict)

    def command(self, *arguments: str | Path, **variables: str) -> subprocess.CompletedProcess[str]:
        """Run a command to its end; at most ten minutes, times PATIENCE."""
        return subprocess.run(
            [UPSELL, *map(str, arguments)],
            env={**os.environ, "UPSELL_HOME": str(self.home), **self.environment, **variables},
            capture_output=True,
            text=True,
            timeout=600 * PATIENCE,
            check=False,
        )

    def start(self, *arguments: str | Path) -> subprocess.Popen[bytes]:
        """Start a command that goes on; its output goes to a log beside the home."""
        with Path(f"{self.home}.log").open("ab") as log:
            return subprocess.Popen(
                [UPSELL, *map(str, arguments)],
                env={**os.environ, "UPSELL_HOME": str(self.home), **self.environment},
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def log(self) -> str:
        """What the started command has said so far."""
        return Path(f"{self.home}.log").read_text()

    def query(self, sql: str) -> list[dict[str, Any]]:
        """Rows of a query, as JSON gives them."""
        done = self.command("query", sql, "--json")
        assert done.returncode == 0, done.stderr
        rows: list[dict[str, Any]] = json.loads(done.stdout)
        return rows

    def status(self) -> dict[str, Any]:
        """What `upsell status --json` says."""
        done = self.command("status", "--json")
        assert done.returncode == 0, done.stderr
        found: dict[str, Any] = json.loads(done.stdout)
        return found


def interrupt(process: subprocess.Popen[bytes]) -> int:
    """Ctrl-C, and the exit code."""
    process.send_signal(signal.SIGINT)
    return process.wait(120)


def until(condition: Callable[[], bool], what: str, seconds: float) -> None:
    """Wait for a condition of another process; on a busy machine longer, by `UPSELL_TEST_PATIENCE`.

    Raises:
        AssertionError: it did not come true in time.
    """
    deadline = time.monotonic() + seconds * PATIENCE
    while not condition():
        assert time.monotonic() < deadline, f"waited {seconds * PATIENCE:.0f} s for {what}"
        time.sleep(1)
