"""Dagster's sensor daemon in a process of its own, one turn per line of input, that kills itself where it is told.

    python killed_daemon.py DAGSTER_HOME PORT

Each line names a point of Dagster's own between the steps of a tick (empty: none), and is answered by "done". Here: the
process. Not here: what must hold afterwards (`test_orchestration_automation_interrupted`).
"""

from __future__ import annotations

import logging
import signal
import sys

import dagster as dg
from dagster._core.test_utils import create_test_daemon_workspace_context
from dagster._core.workspace.load_target import GrpcServerTarget
from dagster._daemon.sensor import execute_sensor_iteration


def main(home: str, port: str) -> None:
    """Turn until the input ends."""
    target = GrpcServerTarget(host="127.0.0.1", port=int(port), socket=None, location_name="interrupted")
    with (
        dg.DagsterInstance.from_config(home) as instance,
        create_test_daemon_workspace_context(target, instance) as workspace,
    ):
        sys.stdout.write("ready\n")
        sys.stdout.flush()
        for line in sys.stdin:
            point = line.strip()
            flags = {"automation": {point: signal.SIGKILL}} if point else None
            list(execute_sensor_iteration(workspace, logging.getLogger("daemon"), None, None, debug_crash_flags=flags))
            sys.stdout.write("done\n")
            sys.stdout.flush()


if __name__ == "__main__":
    main(*sys.argv[1:])
