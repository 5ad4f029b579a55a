"""Launching runs again: those that a stopped lake had under way, and those that failed and were not made good since.

A run that a stopped lake had under way would count as such for ever, and hold back its assets: it is ended in Dagster's
books at the start. Not here: what starts runs otherwise (`automation`, sensors).
"""

from __future__ import annotations

import time
from datetime import datetime
from pathlib import Path

from dagster import DagsterInstance, DagsterRun, DagsterRunStatus, RunRecord, RunsFilter
from dagster._core.storage.tags import AUTO_RETRY_RUN_ID_TAG, WILL_RETRY_TAG

from upsell_assets.errors import RetryableError
from upsell_assets.launch import run_again
from upsell_assets.outlook import made_good
from upsell_assets.runs import UNDER_WAY, partitions_of

READY_SECONDS = 90
_RECENT_FAILURES = 20


def unfinished_runs(home: Path) -> list[str]:
    """End what was under way, and name it, with what failed and was not made good since; oldest first.

    A run is cancelled rather than failed: of failed ones Dagster itself starts some again, and twice is too often.
    """
    with DagsterInstance.from_config(str(home)) as instance:
        under_way = instance.get_run_records(RunsFilter(statuses=UNDER_WAY))
        # Judged first: what is under way now would do the work of some that failed.
        failed = failed_runs(instance, promised=True)
        for record in failed:
            if _retried_by_dagster(record.dagster_run):
                # What a daemon promised that was stopped before it could do so; done here, and then by nobody else.
                instance.add_run_tags(record.dagster_run.run_id, {WILL_RETRY_TAG: "false"})
        for record in under_way:
            instance.report_run_canceled(record.dagster_run, "the lake was stopped while this run was under way")
        again = sorted([*under_way, *failed], key=lambda record: record.create_timestamp)
        return [record.dagster_run.run_id for record in again]


def failed_runs(instance: DagsterInstance, since: datetime | None = None, *, promised: bool = False) -> list[RunRecord]:
    """The runs that failed and were not made good since, oldest first; of those with the same work the newest.

    What another run does at this moment, or (unless `promised`) Dagster is about to do by itself, is not among them.
    Without `since` the newest failures are looked at.
    """
    found = instance.get_run_records(
        RunsFilter(statuses=[DagsterRunStatus.FAILURE], created_after=since),
        limit=None if since else _RECENT_FAILURES,
    )
    at_work = {_work(record.dagster_run) for record in instance.get_run_records(RunsFilter(statuses=UNDER_WAY))}
    newest: dict[object, RunRecord] = {}
    for record in found:
        if promised or not _retried_by_dagster(record.dagster_run):
            newest.setdefault(_work(record.dagster_run), record)
    again = [record for work, record in newest.items() if work not in at_work and not made_good(instance, record)]
    return sorted(again, key=lambda record: record.create_timestamp)


def _retried_by_dagster(run: DagsterRun) -> bool:
    """Whether Dagster is about to run it again by itself, as it does when a run's process died."""
    return run.tags.get(WILL_RETRY_TAG) == "true" and AUTO_RETRY_RUN_ID_TAG not in run.tags


def _work(run: DagsterRun) -> object:
    """What a run is to do, comparable."""
    days = frozenset(partitions_of(run.tags))
    return run.job_name, run.asset_selection, run.asset_check_selection, days


def launch_again(url: str, runs: list[str]) -> None:
    """Launch runs again through the web interface, once it and the code location answer.

    Raises:
        RetryableError: they do not, or refuse a run.
    """
    deadline = time.monotonic() + READY_SECONDS
    for run in runs:
        while (fault := run_again(url, run).fault) is not None:
            if time.monotonic() > deadline:
                raise RetryableError(
                    f"run {run}: could not be launched again ({fault}). Launch it from {url}/runs/{run}."
                )
            time.sleep(1)
