"""Launching runs through Dagster's web interface, which asks the code location that is there now.

Here: one request, and what came of it. Not here: which runs (`resume`, `up`, `upsell retry`).
"""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from dataclasses import dataclass

LOCATION = "upsell"
"""The code location of `upsell up`."""

_AGAIN = """
mutation Again($run: String!) {
  launchRunReexecution(reexecutionParams: {parentRunId: $run, strategy: ALL_STEPS}) {
    __typename
    ... on LaunchRunSuccess { run { runId } }
    ... on PythonError { message }
  }
}
"""
_JOB = """
mutation Job($job: String!, $location: String!) {
  launchRun(executionParams: {
    selector: {repositoryLocationName: $location, repositoryName: "__repository__", jobName: $job}
  }) {
    __typename
    ... on LaunchRunSuccess { run { runId } }
    ... on PythonError { message }
  }
}
"""


@dataclass(frozen=True)
class Launched:
    """What came of it: the new run's id, or why there is none."""

    run: str | None = None
    fault: str | None = None


def run_again(url: str, run: str) -> Launched:
    """Launch a run again: the same assets, for the same days."""
    return _launch(url, _AGAIN, {"run": run})


def run_job(url: str, job: str) -> Launched:
    """Launch a job as a whole."""
    return _launch(url, _JOB, {"job": job, "location": LOCATION})


def _launch(url: str, mutation: str, variables: dict[str, str]) -> Launched:
    body = json.dumps({"query": mutation, "variables": variables}).encode()
    request = urllib.request.Request(f"{url}/graphql", body, {"Content-Type": "application/json"})  # noqa: S310 (ours)
    try:
        with urllib.request.urlopen(request, timeout=30) as response:  # noqa: S310 (ours)
            answer = json.load(response)
    except (urllib.error.URLError, TimeoutError, json.JSONDecodeError) as error:
        return Launched(fault=str(error))
    launched = next(iter((answer.get("data") or {}).values()), None) or {}
    if launched.get("__typename") == "LaunchRunSuccess":
        return Launched(run=launched["run"]["runId"])
    return Launched(fault=str(launched.get("message") or launched.get("__typename") or answer))
