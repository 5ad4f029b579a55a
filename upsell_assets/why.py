"""Why an asset was made, or why it is not made now: from Dagster's runs, events and kept evaluations.

Here: facts, and the words for them. Not here: how conditions' evaluations are read (`evaluations`), how an answer is
printed (`cli.why`). No table and no file of the lake is opened.
"""

from __future__ import annotations

import difflib
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta

import dagster as dg
from dagster import AssetKey, DagsterInstance, DagsterRun, DagsterRunStatus
from dagster._core.definitions.assets.graph.asset_graph import AssetGraph, AssetNode
from dagster._core.definitions.run_request import InstigatorType
from dagster._core.scheduler.instigation import InstigatorState, SensorInstigatorData, TickStatus

from upsell_assets import automation
from upsell_assets.errors import PermanentError
from upsell_assets.evaluations import REASONS, Look, Obstacle, looks, next_time, obstacle, pending, reasons, updated
from upsell_assets.outlook import failure_reason
from upsell_assets.raw.assets import CAPTURE
from upsell_assets.runs import UNDER_WAY, partitions_of

STALE = timedelta(minutes=2)
"""A sensor that has not looked for longer than this does not run: they look every few seconds, or each minute."""

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
    if partition is not None and (absent := _not_there(node, partition, now)):
        return Why(dotted(key), partition, now=[absent])
    attempts = _attempts(instance, key, partition)
    failed = [run for run in attempts if run.status in (DagsterRunStatus.FAILURE, DagsterRunStatus.CANCELED)]
    return Why(
        dotted(key),
        partition,
        list(_made(instance, node, partition)),
        [_failure(instance, run) for run in failed],
        _why_not(instance, graph, node, partition, attempts, now),
    )


def work_of(instance: DagsterInstance, run: DagsterRun) -> str:
    """What a run is for, and why it failed, in words."""
    assets = ", ".join(sorted(map(dotted, run.asset_selection or ()))) or f"job {run.job_name}"
    days = _span(sorted(partitions_of(run.tags)))
    fault = f": {failure_reason(instance, run)}" if run.status == DagsterRunStatus.FAILURE else ""
    return f"{assets}{f', {days}' if days else ''}{fault}"


def dotted(key: AssetKey) -> str:
    """An asset's name as its table is called."""
    return ".".join(key.path)


def _at(moment: datetime | float) -> str:
    moment = datetime.fromtimestamp(moment, UTC) if isinstance(moment, float) else moment
    return f"{moment:%Y-%m-%d %H:%M:%S} UTC"


def _not_there(node: AssetNode, partition: str, now: datetime) -> str | None:
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


# What made it


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
            _span(sorted(partitions_of(run.tags))) if run else record.partition_key or "",
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
            by = f"run {record.run_id}, {entry.step_key or entry.job_name}" if record.run_id else _reported(key, record)
            return f"  {dotted(key)}{day} at {_at(record.timestamp)}: {by}"
    return f"  {dotted(key)}: was asked for at the same time"


# What was tried and is not there


def _attempts(instance: DagsterInstance, key: AssetKey, partition: str | None) -> list[DagsterRun]:
    """The newest runs that were to make it and have not, newest first."""
    storage = instance.event_log_storage
    tried = storage.get_latest_asset_partition_materialization_attempts_without_materializations(key)
    ids = {run for day, (run, _) in tried.items() if partition in (None, day)}
    entry = next((record.asset_entry for record in instance.get_asset_records([key])), None)
    if entry and entry.last_run_id and partition is None:
        made = entry.last_materialization_record
        ids |= {entry.last_run_id} - {made.run_id if made else None}
    runs = [run for run in map(instance.get_run_by_id, ids) if run and run.status != DagsterRunStatus.SUCCESS]
    created = {run.run_id: instance.get_run_record_by_id(run.run_id) for run in runs}
    return sorted(
        runs, key=lambda run: ((r := created[run.run_id]) and r.create_timestamp.timestamp()) or 0, reverse=True
    )


def _failure(instance: DagsterInstance, run: DagsterRun) -> str:
    record = instance.get_run_record_by_id(run.run_id)
    when = f" at {_at(record.end_time)}" if record and record.end_time else ""
    days = _span(sorted(partitions_of(run.tags)))
    what = "was cancelled" if run.status == DagsterRunStatus.CANCELED else failure_reason(instance, run)
    return f"run {run.run_id}{when}{f' ({days})' if days else ''}: {what}"


# Why it is not made now


def _why_not(
    instance: DagsterInstance,
    graph: AssetGraph,
    node: AssetNode,
    partition: str | None,
    attempts: list[DagsterRun],
    now: datetime,
) -> list[str]:
    under_way = [_under_way(instance, run) for run in attempts if run.status in UNDER_WAY]
    if node.automation_condition is None:
        return [*under_way, *_without_condition(instance, node, now)]
    standing = _standing(instance, automation.SENSOR, now)
    newest = looks(instance, node.key)
    if not newest:
        return [*under_way, *standing, "its condition was never looked at"]
    [look] = newest
    unseen = _unseen(instance, graph, node, partition, look)
    said = unseen if under_way or unseen else _obstacles(graph, node, look, partition, attempts, now)
    return [*under_way, *standing, *said]


def _under_way(instance: DagsterInstance, run: DagsterRun) -> str:
    days = _span(sorted(partitions_of(run.tags)))
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
        since = f"since {_at(last)}" if last else "yet"
        return [f"the sensor {sensor} has not looked {since}: no Dagster daemon runs. Start the lake with `upsell up`."]
    ticks = instance.get_ticks(state.instigator_origin_id, state.selector_id, limit=1)
    if ticks and ticks[0].status == TickStatus.FAILURE and ticks[0].error:
        return [f"the sensor {sensor} failed at {_at(ticks[0].timestamp)}: {ticks[0].error.message.strip()}"]
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
    return [f"the sensor {sensor} at {_at(tick.timestamp)}: {tick.skip_reason or 'found something'}" for tick in ticks]


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
                f"{dotted(key)} was updated at {_at(records[0].timestamp)}, after the last look ({_at(looked)})"
            )
    return said


def _obstacles(
    graph: AssetGraph, node: AssetNode, look: Look, partition: str | None, attempts: list[DagsterRun], now: datetime
) -> list[str]:
    """What the newest evaluation says; of an asset with partitions, of those for which anything asks."""
    if partition is not None or node.partitions_def is None:
        return [_words(graph, obstacle(look, partition), look, now)]
    days = pending(look) | {day for run in attempts for day in partitions_of(run.tags)}
    grouped: dict[str, list[str]] = defaultdict(list)
    for day in sorted(days):
        grouped[_words(graph, obstacle(look, day), look, now)].append(day)
    if not grouped:
        return [_words(graph, obstacle(look, None), look, now)]
    return [f"{_span(found)}: {words}" for words, found in grouped.items()]


def _words(graph: AssetGraph, found: Obstacle, look: Look, now: datetime) -> str:
    on = ", ".join(map(dotted, found.on))
    again = f", next at {_at(next_time(found.cron, now))}" if found.cron else ""
    match found.kind:
        case "asked":
            return f"it was asked for at {_at(look.at)} (evaluation {look.number})"
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
    watched = f" in {on}" if on else "; it is made once"
    return f"nothing new{watched} since it was last asked for"


def _blocking(graph: AssetGraph, key: AssetKey) -> str:
    checks = [check.name for check in graph.asset_check_keys if check.asset_key == key and graph.get(check).blocking]
    return f"{' or '.join(sorted(checks)) or 'a check'} of {dotted(key)}"


def _span(days: list[str]) -> str:
    """Days in words: one, or from the first to the last and how many."""
    return "" if not days else days[0] if len(days) == 1 else f"{len(days)} days from {days[0]} to {days[-1]}"
