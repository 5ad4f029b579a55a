"""Why an asset was made, or why it is not made now: from Dagster's runs, events and kept evaluations.

Here: the question, and what made the asset. Not here: why it is not made now (`why_not`), how conditions' evaluations
are read (`evaluations`), how an answer is printed (`cli.why`). No table and no file of the lake is opened.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, date, datetime

import dagster as dg
from dagster import AssetKey, DagsterInstance, DagsterRun, DagsterRunStatus
from dagster._core.definitions.assets.graph.asset_graph import AssetGraph, AssetNode

from upsell_assets.errors import PermanentError
from upsell_assets.evaluations import REASONS, Look, looks, reasons, updated
from upsell_assets.outlook import failure_reason
from upsell_assets.raw.assets import CAPTURE
from upsell_assets.runs import partitions_of
from upsell_assets.why_not import attempts, failure, why_not
from upsell_assets.words import dotted, moment, span

_RUNS = 3
_EVENTS = 500


@dataclass(frozen=True)
class Made:
    """One time that the asset (or the partition) was made.

    Attributes:
        at: when, UTC.
        run: the id of the run; "" where it was reported without one.
        partitions: what the run was for, in words; "" for all of it.
        because: how the run was started, and what for; one line each.
    """

    at: datetime
    run: str
    partitions: str
    because: list[str]


@dataclass(frozen=True)
class Why:
    """The answer.

    Attributes:
        asset: its name, as tables are called.
        partition: the one that was asked about.
        made: the newest runs that made it, newest first.
        failed: the newest attempt that failed and was not made good since: its run, when, and the error's own words.
        now: why it is not made now, or what makes it; one line each.
    """

    asset: str
    partition: str | None
    made: list[Made] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)
    now: list[str] = field(default_factory=list)


def find_asset(graph: AssetGraph, name: str) -> AssetKey:
    """The asset of a name with dots or slashes.

    Raises:
        PermanentError: there is none; the message has near names.
    """
    names = {dotted(key): key for key in graph.get_all_asset_keys()}
    wanted = name.strip("/").replace("/", ".")
    if wanted in names:
        return names[wanted]
    last = wanted.rpartition(".")[2]
    near = [known for known in sorted(names) if known.rpartition(".")[2] == last]
    near += [known for known in difflib.get_close_matches(wanted, names, n=3) if known not in near]
    hint = f"Near it: {', '.join(near)}." if near else "`upsell status` lists the tables."
    raise PermanentError(f"{name}: there is no such asset. {hint}")


def why(instance: DagsterInstance, graph: AssetGraph, key: AssetKey, partition: str | None, now: datetime) -> Why:
    """Why an asset, or one partition of it, was made, and why it is not made now.

    Args:
        instance: where Dagster's records are.
        graph: the assets of the code location.
        key: the asset.
        partition: one of its days, which need not exist.
        now: the moment of the question, UTC.

    Raises:
        PermanentError: the partition is not a day, or the asset has none.
    """
    node = graph.get(key)
    if partition is not None and (absent := _not_there(node, partition)):
        return Why(dotted(key), partition, now=[absent])
    tried = attempts(instance, key, partition)
    failed = [run for run in tried if run.status in (DagsterRunStatus.FAILURE, DagsterRunStatus.CANCELED)]
    return Why(
        dotted(key),
        partition,
        list(_made(instance, node, partition)),
        [failure(instance, run) for run in failed],
        why_not(instance, graph, node, partition, tried, now),
    )


def work_of(instance: DagsterInstance, run: DagsterRun) -> str:
    """What a run is for, and why it failed, in words."""
    assets = ", ".join(sorted(map(dotted, run.asset_selection or ()))) or f"job {run.job_name}"
    days = span(partitions_of(run.tags))
    fault = f": {failure_reason(instance, run)}" if run.status == DagsterRunStatus.FAILURE else ""
    return f"{assets}{f', {days}' if days else ''}{fault}"


def _not_there(node: AssetNode, partition: str) -> str | None:
    """Why the asset has no such partition; None if it has."""
    name, calendar = dotted(node.key), node.partitions_def
    if not isinstance(calendar, dg.DailyPartitionsDefinition):
        raise PermanentError(f"{name}: has no partitions, it is made as a whole. Leave {partition} out.")
    try:
        day = date.fromisoformat(partition)
    except ValueError as error:
        raise PermanentError(f"{partition}: is not a day. Write it as 2024-06-14.") from error
    first, last = calendar.get_first_partition_key(), calendar.get_last_partition_key()
    if day.isoformat() != partition or first is None or last is None:
        raise PermanentError(f"{partition}: is not a day of {name}. Write it as 2024-06-14.")
    raw = calendar.timezone == "UTC"
    if partition < first:
        setting = "UPSELL_FIRST_LANDING_DAY" if raw else "UPSELL_FIRST_DAY"
        counted = "; files that landed before it count to it" if raw else ""
        return f"there is no {partition}: the first day of {name} is {first} ({setting}){counted}"
    if partition > last:
        return f"there is no {partition} yet: today is {last} ({calendar.timezone}), the last day that {name} can have"
    return None


def _made(instance: DagsterInstance, node: AssetNode, partition: str | None) -> Iterator[Made]:
    records = instance.fetch_materializations(
        dg.AssetRecordsFilter(node.key, asset_partitions=[partition] if partition else None), limit=_EVENTS
    ).records
    newest: dict[str, dg.EventLogRecord] = {}
    for record in records:
        newest.setdefault(record.run_id or f"{record.storage_id}", record)
    for record in list(newest.values())[:_RUNS]:
        run = instance.get_run_by_id(record.run_id) if record.run_id else None
        yield Made(
            datetime.fromtimestamp(record.timestamp, UTC),
            record.run_id,
            span(partitions_of(run.tags)) if run else record.partition_key or "",
            _because(instance, node, record.partition_key, run) if run else [_reported(node.key, record)],
        )


def _reported(key: AssetKey, record: dg.EventLogRecord) -> str:
    if key.path[0] == "raw":
        return f"the landing sensor reported the files of {record.partition_key}"
    if "_touched" in key.path:
        return "the new day sensor reported that a new local day had begun"
    return "it was reported without a run"


def _because(instance: DagsterInstance, node: AssetNode, partition: str | None, run: DagsterRun) -> list[str]:
    tags = run.tags
    if run.parent_run_id:
        by = "Dagster, by itself" if "dagster/retry_number" in tags else "by hand, or at the lake's start"
        return [f"a retry of run {run.parent_run_id} ({by})"]
    if "dagster/asset_evaluation_id" in tags:
        return _by_conditions(instance, node, partition, int(tags["dagster/asset_evaluation_id"]))
    if "dagster/backfill" in tags:
        return [f"backfill {tags['dagster/backfill']}"]
    if "dagster/schedule_name" in tags:
        return [f"the schedule {tags['dagster/schedule_name']}"]
    if run.job_name.endswith(CAPTURE) and "dagster/sensor_name" in tags:
        fault = "dagster/run_key" in tags
        return [
            "the capture sensor: the database could not be asked; the run says why"
            if fault
            else "the capture sensor: the database had committed changes"
        ]
    if "dagster/sensor_name" in tags:
        return [f"the sensor {tags['dagster/sensor_name']}"]
    return ["by hand in the web interface" if "dagster/from_ui" in tags else "by hand"]


def _by_conditions(instance: DagsterInstance, node: AssetNode, partition: str | None, number: int) -> list[str]:
    found = looks(instance, node.key, 1, number + 1)
    if not found or found[0].number != number:
        return [f"its condition asked for it (evaluation {number}, which is not kept any more)"]
    [look] = found
    said = []
    for label in reasons(look, partition):
        said.append(f"{label}: {REASONS.get(label, 'true')}")
        if label == "news":
            said += [_news(instance, key, partition, look) for key in updated(instance, look, partition)]
    return said or [f"its condition asked for it (evaluation {number})"]


def _news(instance: DagsterInstance, key: AssetKey, partition: str | None, look: Look) -> str:
    """Which event of a dependency an evaluation had seen."""
    before = look.tree.start_timestamp or look.at.timestamp()
    for partitions in ([partition], None) if partition else (None,):
        records = instance.fetch_materializations(
            dg.AssetRecordsFilter(key, asset_partitions=partitions, before_timestamp=before), limit=1
        ).records
        if records:
            [record] = records
            day = f" {record.partition_key}" if record.partition_key else ""
            entry = record.event_log_entry
            by = f"run {record.run_id}, {_step(entry)}" if record.run_id else _reported(key, record)
            return f"  {dotted(key)}{day} at {moment(record.timestamp)}: {by}"
    return f"  {dotted(key)}: was asked for at the same time"


def _step(entry: dg.EventLogEntry) -> str:
    """The table whose step said so; Dagster names a step after its asset."""
    return (entry.step_key or entry.job_name or "").replace("__", ".")
