"""Taking up what a stopped lake had under way: its runs would count as under way for ever, and hold back their assets.

Here: ending such runs in Dagster's books at the start, and launching them again once the web interface answers.
Not here: what starts runs otherwise (`automation`, sensors).
"""

from __future__ import annotations

import json
import time
import urllib.error
import urllib.request
from pathlib import Path

from dagster import DagsterInstance, DagsterRunStatus, RunsFilter

from upsell_assets.errors import RetryableError
from upsell_assets.outlook import made_good
from upsell_assets.runs import UNDER_WAY

READY_SECONDS = 90
_RECENT_FAILURES = 20
_RELAUNCH = """
mutation Again($run: String!) {
  launchRunReexecution(reexecutionParams: {parentRunId: $run, strategy: ALL_STEPS}) {
    __typename
    ... on PythonError { message }
  }
}
"""


def unfinished_runs(home: Path) -> list[str]:
    """End what was under way, and name it, with what failed and was not made good since; oldest first.

    A run is cancelled rather than failed: of failed ones Dagster itself starts some again, and twice is too often.
    """
    with DagsterInstance.from_config(str(home)) as instance:
        under_way = instance.get_run_records(RunsFilter(statuses=UNDER_WAY))
        failed = instance.get_run_records(RunsFilter(statuses=[DagsterRunStatus.FAILURE]), limit=_RECENT_FAILURES)
        for record in under_way:
            instance.report_run_canceled(record.dagster_run, "the lake was stopped while this run was under way")
        again = [*under_way, *(record for record in failed if not made_good(instance, record))]
        return [record.dagster_run.run_id for record in sorted(again, key=lambda record: record.create_timestamp)]


def launch_again(url: str, runs: list[str]) -> None:
    """Launch runs again through the web interface, once it and the code location answer.

    Raises:
        RetryableError: they do not, or refuse a run.
    """
    deadline = time.monotonic() + READY_SECONDS
    for run in runs:
        while (fault := _launch(url, run)) is not None:
            if time.monotonic() > deadline:
                raise RetryableError(
                    f"run {run}: could not be launched again ({fault}). Launch it from {url}/runs/{run}."
                )
            time.sleep(1)


def _launch(url: str, run: str) -> str | None:
    body = json.dumps({"query": _RELAUNCH, "variables": {"run": run}}).encode()
    request = urllib.request.Request(f"{url}/graphql", body, {"Content-Type": "application/json"})  # noqa: S310 (ours)
    try:
        with urllib.request.urlopen(request, timeout=30) as response:  # noqa: S310 (ours)
            answer = json.load(response)
    except (urllib.error.URLError, TimeoutError, json.JSONDecodeError) as error:
        return str(error)
    launched = (answer.get("data") or {}).get("launchRunReexecution") or {}
    if launched.get("__typename") == "LaunchRunSuccess":
        return None
    return str(launched.get("message") or launched.get("__typename") or answer)
