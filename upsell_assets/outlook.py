"""What Dagster has made of the lake, and what is still to come: the progress of `upsell up`.

Here: whether everything that landed has flowed through, judged from the tables and the event log, not from the
absence of runs. Not here: what starts runs (`automation`, sensors).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime

import dagster as dg
from dagster import AssetKey, DagsterEventType, DagsterInstance, DagsterRun, DagsterRunStatus, RunsFilter

from upsell_assets.capture.assets import open_capture
from upsell_assets.errors import RetryableError, UpsellError
from upsell_assets.lake.lakehouse import Lakehouse
from upsell_assets.runs import UNDER_WAY, partitions_of
from upsell_assets.silver.assets import touched_key
from upsell_assets.silver.refresh import versions_behind
from upsell_assets.silver.tables import silver_tables
from upsell_assets.silver.touched import SCORES, WINDOWS
from upsell_assets.status import waiting_files


@dataclass(frozen=True)
class Outlook:
    """A look at one moment.

    `made` counts the materialized assets of each layer against all; `runs` are under way; `waiting` says in words
    what has not flowed through; `failed` has a line for each run that failed and was not made good since.
    """

    made: dict[str, tuple[int, int]]
    runs: int
    waiting: list[str] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)

    @property
    def settled(self) -> bool:
        """After a close look: everything that there is has flowed through, and nothing runs."""
        return self.complete and not self.runs and not self.waiting

    @property
    def complete(self) -> bool:
        """Every asset has been made."""
        return all(done == total for done, total in self.made.values())


def look(
    instance: DagsterInstance, lakehouse: Lakehouse, assets: list[AssetKey], since: float, *, closely: bool
) -> Outlook:
    """Look at all executable assets; failures count from `since` (Unix seconds).

    A close look also finds what waits, for which it asks the database and opens tables.
    """
    records = {record.asset_entry.asset_key: record.asset_entry for record in instance.get_asset_records(assets)}
    made: dict[str, tuple[int, int]] = {}
    for key in assets:
        entry = records.get(key)
        done, total = made.get(key.path[0], (0, 0))
        made[key.path[0]] = (done + bool(entry and entry.last_materialization_record), total + 1)
    runs = instance.get_runs_count(RunsFilter(statuses=UNDER_WAY))
    waiting = _waiting(instance, lakehouse) if closely and not runs else []
    return Outlook(made, runs, waiting, _failed(instance, since))


def _waiting(instance: DagsterInstance, lakehouse: Lakehouse) -> list[str]:
    found = ["changes in the database"] if _uncaptured(lakehouse) else []
    found += [
        f"{count} files of {contract.name}"
        for contract in lakehouse.contracts.values()
        if (count := waiting_files(lakehouse, contract))
    ]
    silver = silver_tables(lakehouse.contracts)
    for table in silver:
        try:
            behind = versions_behind(lakehouse.lake, table)
        except UpsellError:
            behind = 1  # its source has not been made
        if behind:
            found.append(table.name)
    consumers = (*WINDOWS, SCORES) if silver else ()
    waiting = {consumer: _not_followed(instance, consumer) for consumer in consumers}
    return found + [f"{days} days of {consumer}" for consumer, days in waiting.items() if days]


def _uncaptured(lakehouse: Lakehouse) -> bool:
    capture = open_capture(lakehouse)
    try:
        return capture is not None and capture.pending()[0]
    except RetryableError:
        return True  # a drain is at work


def _not_followed(instance: DagsterInstance, consumer: str) -> int:
    """How many touched dtRefs were not computed since they were touched (of scores: were never computed)."""
    event = DagsterEventType.ASSET_MATERIALIZATION
    asked = instance.event_log_storage.get_latest_storage_id_by_partition(touched_key(consumer), event)
    done = instance.event_log_storage.get_latest_storage_id_by_partition(AssetKey(consumer.split(".")), event)
    if consumer == SCORES:
        return len(set(asked) - set(done))
    return sum(done.get(day, -1) < at for day, at in asked.items())


def _failed(instance: DagsterInstance, since: float) -> list[str]:
    failures = instance.get_run_records(
        RunsFilter(statuses=[DagsterRunStatus.FAILURE], updated_after=datetime.fromtimestamp(since, UTC)), limit=20
    )
    return [failure_reason(instance, record.dagster_run) for record in failures if not made_good(instance, record)]


def made_good(instance: DagsterInstance, record: dg.RunRecord) -> bool:
    """Whether what this run should have made was made since: every asset, for all days of the run.

    A run of a whole job (capture) or of checks alone is made good by a later success of the same.
    """
    run = record.dagster_run
    if not run.asset_selection:
        return _succeeded_since(instance, record)
    failed_steps = {entry.step_key for entry in instance.all_logs(run.run_id, of_type=DagsterEventType.STEP_FAILURE)}
    wanted, since = partitions_of(run.tags), record.create_timestamp.timestamp()
    return all(_made_since(instance, key, wanted, since, run, failed_steps) for key in run.asset_selection)


def _made_since(
    instance: DagsterInstance, key: AssetKey, wanted: set[str], since: float, run: DagsterRun, failed: set[str | None]
) -> bool:
    """Whether an asset was made since, for all wanted days where it has days."""
    made: set[str | None] = set()
    cursor = None
    while True:
        page = instance.fetch_materializations(
            dg.AssetRecordsFilter(key, after_timestamp=since), limit=1000, cursor=cursor
        )
        # What a step made before it failed (a blocking check of its own) does not count.
        made |= {
            event.partition_key
            for event in page.records
            if event.run_id != run.run_id or event.event_log_entry.step_key not in failed
        }
        if None in made or (made and wanted <= made):
            return True
        if not page.has_more:
            return False
        cursor = page.cursor


def _succeeded_since(instance: DagsterInstance, record: dg.RunRecord) -> bool:
    run = record.dagster_run
    later = instance.get_run_records(
        RunsFilter(job_name=run.job_name, statuses=[DagsterRunStatus.SUCCESS], created_after=record.create_timestamp),
        limit=1000,
    )
    checks = run.asset_check_selection or frozenset()
    return any(checks <= (after.dagster_run.asset_check_selection or frozenset()) for after in later)


def failure_reason(instance: DagsterInstance, run: DagsterRun) -> str:
    """Why a run failed, in the error's own words."""
    for entry in instance.all_logs(run.run_id, of_type=DagsterEventType.STEP_FAILURE):
        data = entry.get_dagster_event().step_failure_data
        if data.error is not None:
            error = data.error.cause or data.error
            return f"{entry.step_key}: {error.message.strip()}"
    return f"run {run.run_id} failed before it began"
