"""Why an asset is not made now: what runs, what failed, what its sensor and its condition wait for.

The first thing that stands in the way is said, in the order in which it would have to be removed. Not here: what made
the asset (`why`).
"""

from __future__ import annotations

from collections import defaultdict
from datetime import UTC, datetime, timedelta

import dagster as dg
from dagster import AssetKey, DagsterInstance, DagsterRun, DagsterRunStatus
from dagster._core.definitions.assets.graph.asset_graph import AssetGraph, AssetNode
from dagster._core.definitions.run_request import InstigatorType
from dagster._core.scheduler.instigation import InstigatorState, SensorInstigatorData, TickStatus

from upsell_assets import automation
from upsell_assets.evaluations import Look, Obstacle, idle, looks, next_time, obstacle, pending
from upsell_assets.outlook import failure_reason
from upsell_assets.runs import UNDER_WAY, partitions_of
from upsell_assets.words import dotted, moment, span

STALE = timedelta(minutes=2)
"""A sensor that has not looked for longer than this does not run: they look every few seconds, or each minute."""


def attempts(instance: DagsterInstance, key: AssetKey, partition: str | None) -> list[DagsterRun]:
    """The newest runs that were to make it and have not, newest first."""
    storage = instance.event_log_storage
    days = storage.get_latest_asset_partition_materialization_attempts_without_materializations(key)
    ids = {run for day, (run, _) in days.items() if partition in (None, day)}
    entry = next((record.asset_entry for record in instance.get_asset_records([key])), None)
    if entry and entry.last_run_id and partition is None:
        made = entry.last_materialization_record
        ids |= {entry.last_run_id} - {made.run_id if made else None}
    records = [record for run in ids if (record := instance.get_run_record_by_id(run))]
    newest = sorted(records, key=lambda record: record.create_timestamp, reverse=True)
    return [record.dagster_run for record in newest if record.dagster_run.status != DagsterRunStatus.SUCCESS]


def failure(instance: DagsterInstance, run: DagsterRun) -> str:
    """What became of an attempt, when, and in the error's own words."""
    record = instance.get_run_record_by_id(run.run_id)
    when = f" at {moment(record.end_time)}" if record and record.end_time else ""
    days = span(partitions_of(run.tags))
    what = "was cancelled" if run.status == DagsterRunStatus.CANCELED else failure_reason(instance, run)
    return f"run {run.run_id}{when}{f' ({days})' if days else ''}: {what}"


def why_not(
    instance: DagsterInstance,
    graph: AssetGraph,
    node: AssetNode,
    partition: str | None,
    tried: list[DagsterRun],
    now: datetime,
) -> list[str]:
    """Why an asset or a partition is not made at a moment (UTC), given its attempts; one line each."""
    under_way = [_under_way(instance, run) for run in tried if run.status in UNDER_WAY]
    if node.automation_condition is None:
        return [*under_way, *_without_condition(instance, node, now)]
    standing = _standing(instance, automation.SENSOR, now)
    newest = looks(instance, node.key)
    if not newest:
        return [*under_way, *standing, "its condition was never looked at"]
    [look] = newest
    unseen = _unseen(instance, graph, node, partition, look)
    said = unseen if under_way or unseen else _obstacles(graph, node, look, partition, tried, now)
    return [*under_way, *standing, *said]


def _under_way(instance: DagsterInstance, run: DagsterRun) -> str:
    days = span(partitions_of(run.tags))
    what = f"run {run.run_id}{f' ({days})' if days else ''}"
    if run.status != DagsterRunStatus.QUEUED:
        return f"it is being made now: {what}, {run.status.value.lower()}{_pools(instance, run)}"
    queue = instance.get_concurrency_config().run_queue_config
    running = [other for other in UNDER_WAY if other != DagsterRunStatus.QUEUED]
    count = instance.get_runs_count(dg.RunsFilter(statuses=running))
    full = queue and 0 <= queue.max_concurrent_runs <= count
    behind = f", behind {count} runs: no more may run at once" if full else _pools(instance, run)
    return f"it is queued: {what}{behind}"


def _pools(instance: DagsterInstance, run: DagsterRun) -> str:
    """The pools of a run that others hold."""
    pools = sorted(run.run_op_concurrency.all_pools or ()) if run.run_op_concurrency else []
    held = []
    for pool in pools:
        info = instance.event_log_storage.get_concurrency_info(pool)
        others = sorted(info.active_run_ids - {run.run_id})
        if others and info.active_slot_count >= (info.slot_count or info.limit or 0):
            held.append(f", behind run {', '.join(others)} in the pool {pool}")
    return "".join(held)


def _without_condition(instance: DagsterInstance, node: AssetNode, now: datetime) -> list[str]:
    name = dotted(node.key)
    if node.key.path[0] == "raw":
        sensors = [name for name in ("capture_sensor", "landing_sensor") if _sensor(instance, name)]
        said = [
            line for sensor in sensors for line in (_standing(instance, sensor, now) or _last_said(instance, sensor))
        ]
        return said or [f"{name} is what landed: no sensor has looked for it yet. Start the lake with `upsell up`."]
    if "_touched" in node.key.path:
        return ["silver reports it before each commit, the new day sensor when a day begins; nothing else makes it"]
    return [f"nothing makes {name} by itself: it has no condition"]


def _standing(instance: DagsterInstance, sensor: str, now: datetime) -> list[str]:
    """Why a sensor does nothing; empty if it does."""
    state = _sensor(instance, sensor)
    if state is None:
        return [
            f"the sensor {sensor} has never looked: no Dagster daemon has run here. Start the lake with `upsell up`."
        ]
    if not state.is_running:
        return [f"the sensor {sensor} is stopped. Start it in the web interface (Automation)."]
    last = _looked(state)
    if last is None or now - last > STALE:
        since = f"since {moment(last)}" if last else "yet"
        return [f"the sensor {sensor} has not looked {since}: no Dagster daemon runs. Start the lake with `upsell up`."]
    ticks = instance.get_ticks(state.instigator_origin_id, state.selector_id, limit=1)
    if ticks and ticks[0].status == TickStatus.FAILURE and ticks[0].error:
        return [f"the sensor {sensor} failed at {moment(ticks[0].timestamp)}: {ticks[0].error.message.strip()}"]
    return []


def _sensor(instance: DagsterInstance, name: str) -> InstigatorState | None:
    states = instance.all_instigator_state(instigator_type=InstigatorType.SENSOR)
    return next((state for state in states if state.name == name), None)


def _looked(state: InstigatorState) -> datetime | None:
    data = state.instigator_data
    stamp = (
        (data.last_tick_start_timestamp or data.last_tick_timestamp) if isinstance(data, SensorInstigatorData) else None
    )
    return datetime.fromtimestamp(stamp, UTC) if stamp else None


def _last_said(instance: DagsterInstance, sensor: str) -> list[str]:
    state = _sensor(instance, sensor)
    ticks = instance.get_ticks(state.instigator_origin_id, state.selector_id, limit=1) if state else []
    return [
        f"the sensor {sensor} at {moment(tick.timestamp)}: {tick.skip_reason or 'found something'}" for tick in ticks
    ]


def _unseen(
    instance: DagsterInstance, graph: AssetGraph, node: AssetNode, partition: str | None, look: Look
) -> list[str]:
    """What came after the sensor's last look."""
    state = _sensor(instance, automation.SENSOR)
    looked = (state and _looked(state)) or look.at
    said = []
    for key in sorted(node.parent_keys):
        day = partition if partition and graph.get(key).partitions_def == node.partitions_def else None
        records = instance.fetch_materializations(
            dg.AssetRecordsFilter(key, asset_partitions=[day] if day else None, after_timestamp=looked.timestamp()),
            limit=1,
        ).records
        if records:
            said.append(
                f"{dotted(key)} was updated at {moment(records[0].timestamp)}, after the last look ({moment(looked)})"
            )
    return said


def _obstacles(
    graph: AssetGraph, node: AssetNode, look: Look, partition: str | None, tried: list[DagsterRun], now: datetime
) -> list[str]:
    """What the newest evaluation says; of an asset with partitions, of those for which anything asks."""
    if partition is not None or node.partitions_def is None:
        return [_words(graph, obstacle(look, partition), look, now)]
    days = pending(look) | {day for run in tried for day in partitions_of(run.tags)}
    grouped: dict[str, list[str]] = defaultdict(list)
    for day in sorted(days):
        grouped[_words(graph, obstacle(look, day), look, now)].append(day)
    if not grouped:
        return [_words(graph, idle(look), look, now)]
    return [f"{span(found)}: {words}" for words, found in grouped.items()]


def _words(graph: AssetGraph, found: Obstacle, look: Look, now: datetime) -> str:
    on = ", ".join(map(dotted, found.on))
    again = f", next at {moment(next_time(found.cron, now))}" if found.cron else ""
    match found.kind:
        case "asked":
            return f"it was asked for at {moment(look.at)} (evaluation {look.number})"
        case "making":
            return f"it waits for {on}, which is being made" if on else "it is being made"
        case "unsound":
            checks = ", ".join(_blocking(graph, key) for key in found.on)
            return f"it waits: a blocking check failed ({checks})"
        case "missing":
            return f"it waits for {on}, which was never made"
        case "failed":
            return f"it failed, and is tried again by the clock{again}, or when there is news"
        case "clock":
            return f"its time has not come{again}"
        case "guard":
            return f"it waits: {found.label} is not true"
    return f"nothing new in {on} since it was last asked for" if on else "it was made, and is made once only"


def _blocking(graph: AssetGraph, key: AssetKey) -> str:
    checks = [check.name for check in graph.asset_check_keys if check.asset_key == key and graph.get(check).blocking]
    return f"{' or '.join(sorted(checks)) or 'a check'} of {dotted(key)}"
