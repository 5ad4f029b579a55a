"""Capture in Dagster: the step that drains the slot, the sensor that starts it, and checks of how far it lags.

What was captured goes on to bronze and silver in the same run: each run costs seconds before it does anything, and what
it wrote need not be looked for. Files that came otherwise are found by the landing sensor (`raw.assets`).
"""

import hashlib
import json
from collections.abc import Collection, Iterator
from datetime import datetime, timedelta

import dagster as dg
from dagster._core.definitions.run_request import InstigatorType
from dagster._core.definitions.unresolved_asset_job_definition import UnresolvedAssetJobDefinition
from dagster._core.scheduler.instigation import SensorInstigatorData
from dagster._core.storage.tags import PARTITION_NAME_TAG, PRIORITY_TAG

from upsell_assets import automation
from upsell_assets.capture.job import Capture
from upsell_assets.capture.stream import Lag
from upsell_assets.clock import Clock, utc_now
from upsell_assets.contracts import Contract
from upsell_assets.errors import PermanentError, RetryableError
from upsell_assets.lake.lakehouse import Lakehouse
from upsell_assets.lake.metadata import Made
from upsell_assets.partitions import landing_days, landing_partition
from upsell_assets.raw.assets import CAPTURE, landed_on, raw_key, raw_specs
from upsell_assets.retries import retried
from upsell_assets.runs import under_way
from upsell_assets.ticks import instance_of, interval

CHECK = "captured_in_time"
_CHECK_AGAIN = timedelta(minutes=15)
_LONGEST_WAIT = timedelta(minutes=1)
_LONG_QUEUE = 8
_FIRST = {PRIORITY_TAG: "10"}
"""Before the runs that are queued: they follow from what was captured before."""
_TRY_AGAIN_MINUTES = 10


def open_capture(lakehouse: Lakehouse) -> Capture | None:
    """The capture of the settings' database; None where there is no database, or no table, to capture."""
    settings = lakehouse.settings
    if settings.source_dsn is None or not lakehouse.captured:
        return None
    return Capture(
        settings.source_dsn.get_secret_value(),
        lakehouse.store,
        lakehouse.captured,
        name=settings.capture_name,
        schema=settings.source_schema,
        resync=settings.capture_resync,
    )


def capture_assets(lakehouse: Lakehouse) -> list[dg.AssetsDefinition]:
    """The raw tables that are captured: full loads that are due, then everything committed by now. None without a source."""
    if lakehouse.settings.source_dsn is None or not lakehouse.captured:
        return []

    @dg.multi_asset(
        name=lakehouse.named("drain"),
        specs=raw_specs(lakehouse, lakehouse.captured.values()),
        backfill_policy=dg.BackfillPolicy.single_run(),
        pool=lakehouse.named(CAPTURE),
    )
    @retried
    def drain(context: dg.AssetExecutionContext) -> Iterator[Made]:
        capture = open_capture(lakehouse)
        assert capture is not None
        capture.ensure_full_load()
        drained = capture.drain()
        context.log.info("changes: %s, position %s", drained.changes, drained.position)
        for table, contract in lakehouse.captured.items():
            held = landed_on(lakehouse, contract, context.partition_key_range.end)
            yield dg.MaterializeResult(
                asset_key=raw_key(contract),
                metadata={
                    **held.metadata,
                    "changes": drained.changes.get(table, 0),
                    "position": drained.position,
                },
                data_version=dg.DataVersion(held.version),
            )

    return [drain]


def capture_job(lakehouse: Lakehouse, following: Collection[dg.AssetsDefinition] = ()) -> UnresolvedAssetJobDefinition:
    """What the sensor starts: a drain, and what follows from it in the same run."""
    # Checks of their own, such as the comparison with the database, cost more than what came.
    own_checks = dg.AssetSelection.checks(*(key for asset in following for key in asset.check_keys))
    return dg.define_asset_job(
        lakehouse.named(CAPTURE),
        dg.AssetSelection.assets(*_keys(lakehouse, following)).without_checks() | own_checks,
        description="Database to raw, and on: drains the replication slot, takes in what came, then stops.",
    )


def _keys(lakehouse: Lakehouse, following: Collection[dg.AssetsDefinition]) -> list[dg.AssetKey]:
    return [*map(raw_key, lakehouse.captured.values()), *(key for asset in following for key in asset.keys)]


def capture_sensor(
    lakehouse: Lakehouse, following: Collection[dg.AssetsDefinition] = (), clock: Clock = utc_now
) -> dg.SensorDefinition:
    """Starts the capture job when the slot lags and none runs; says how far it lags."""
    request = dg.RunRequest(
        # Said though it is all of the job: conditions ask of a run that made a table whether it was to make them too.
        asset_selection=_keys(lakehouse, following),
        asset_check_keys=[key for asset in following for key in asset.check_keys],
    )

    @dg.sensor(
        name=lakehouse.named("capture_sensor"),
        job_name=lakehouse.named(CAPTURE),
        description="Starts a capture when the database has committed what the lake has not seen.",
        minimum_interval_seconds=interval(lakehouse.settings.capture_seconds),
        default_status=dg.DefaultSensorStatus.RUNNING,
    )
    def sense(context: dg.SensorEvaluationContext) -> dg.SensorResult | dg.SkipReason:
        capture = open_capture(lakehouse)
        if capture is None:
            return dg.SkipReason("no source database: UPSELL_SOURCE_DSN is not set")
        busy = _busy(instance_of(context), lakehouse, clock())
        seen = _look(capture, drained=busy is not None)
        if isinstance(seen, PermanentError):
            context.log.warning(str(seen))
        day = landing_partition(clock().date(), landing_days(lakehouse.settings))
        due = busy or _due(seen, clock(), request.with_replaced_attrs(tags={PARTITION_NAME_TAG: day, **_FIRST}))
        said = None if isinstance(seen, RetryableError) else _news(_judged(lakehouse, seen), context.cursor, clock())
        return dg.SensorResult(
            run_requests=[due] if isinstance(due, dg.RunRequest) else None,
            skip_reason=due if isinstance(due, dg.SkipReason) else None,
            asset_events=[
                dg.AssetCheckEvaluation(
                    asset_key=raw_key(contract),
                    check_name=CHECK,
                    passed=said.passed,
                    metadata=said.metadata,
                    severity=said.severity,
                )
                for contract in lakehouse.captured.values()
            ]
            if said
            else [],
            cursor=json.dumps({"passed": said.passed, "at": clock().isoformat()}) if said else context.cursor,
        )

    return sense


_Seen = tuple[bool, Lag] | PermanentError | RetryableError
"""Whether something waits, and the lag; or why that cannot be told."""


def _look(capture: Capture, *, drained: bool) -> _Seen:
    """Look once; while a capture is under way only how far it has come."""
    try:
        return (False, capture.lag()) if drained else capture.pending()
    except (PermanentError, RetryableError) as error:
        return error


def _busy(instance: dg.DagsterInstance, lakehouse: Lakehouse, now: datetime) -> dg.SkipReason | None:
    if under_way(instance, lakehouse.named(CAPTURE)):
        return dg.SkipReason("a capture is under way")
    if instance.get_runs_count(dg.RunsFilter(statuses=[dg.DagsterRunStatus.QUEUED])) >= _LONG_QUEUE:
        # What waits in the database becomes one batch later; what is captured now becomes more runs in the queue.
        return dg.SkipReason("too many runs are queued: the changes wait in the database")
    if _unanswered(instance, lakehouse, now):
        return dg.SkipReason("what follows from the last capture is asked for first")
    return None


def _unanswered(instance: dg.DagsterInstance, lakehouse: Lakehouse, now: datetime) -> bool:
    """Whether conditions were not looked at since the last capture ended.

    They wait while silver is being made: captures that follow each other without a gap would hold back for ever what
    follows from them. Nor does a capture wait for ever for a sensor that stands still.
    """
    last = instance.get_run_records(
        dg.RunsFilter(job_name=lakehouse.named(CAPTURE), statuses=[dg.DagsterRunStatus.SUCCESS]), limit=1
    )
    ended = last[0].end_time if last else None
    if ended is None or now.timestamp() - ended > _LONGEST_WAIT.total_seconds():
        return False
    looks = [
        state.instigator_data.last_tick_start_timestamp or 0.0
        for state in instance.all_instigator_state(instigator_type=InstigatorType.SENSOR)
        if state.name == lakehouse.named(automation.SENSOR) and isinstance(state.instigator_data, SensorInstigatorData)
    ]
    return bool(looks) and max(looks) < ended


def _due(seen: _Seen, now: datetime, request: dg.RunRequest) -> dg.RunRequest | dg.SkipReason:
    if isinstance(seen, RetryableError):
        return dg.SkipReason(str(seen))
    if isinstance(seen, PermanentError):
        # The job says it where people look, and takes a full load that is due; once, and then now and then, since a
        # fault that stays would fill the list of runs.
        fault = hashlib.sha256(str(seen).encode()).hexdigest()[:16]
        key = f"{fault} {now:%Y-%m-%d %H}:{now.minute // _TRY_AGAIN_MINUTES}"
        return request.with_replaced_attrs(run_key=key)
    return request if seen[0] else dg.SkipReason("nothing new is committed")


def lag_checks(lakehouse: Lakehouse) -> list[dg.AssetChecksDefinition]:
    """For each table of raw: whether capture keeps up. None where no database is captured."""
    if lakehouse.settings.source_dsn is None or not lakehouse.captured:
        return []

    @dg.multi_asset_check(
        name=lakehouse.named(CHECK),
        specs=[_spec(contract) for contract in lakehouse.captured.values()],
        description="Whether capture keeps up with the database.",
    )
    def captured_in_time() -> Iterator[dg.AssetCheckResult]:
        capture = open_capture(lakehouse)
        assert capture is not None
        seen = _look(capture, drained=True)
        if isinstance(seen, RetryableError):
            raise seen
        found = _judged(lakehouse, seen)
        for contract in lakehouse.captured.values():
            yield found._replace(asset_key=raw_key(contract))

    return [captured_in_time]


def _spec(contract: Contract) -> dg.AssetCheckSpec:
    return dg.AssetCheckSpec(
        CHECK,
        asset=raw_key(contract),
        description="The oldest change that raw has not seen is younger than UPSELL_CAPTURE_MAX_SECONDS, and the "
        "server keeps the log that capture has yet to read.",
    )


def _judged(lakehouse: Lakehouse, seen: tuple[bool, Lag] | PermanentError) -> dg.AssetCheckResult:
    """How far raw is behind, against the limit."""
    if isinstance(seen, PermanentError):
        return dg.AssetCheckResult(check_name=CHECK, passed=False, metadata={"fault": str(seen)})
    limit, (_, lag) = lakehouse.settings.capture_max_seconds, seen
    # The server gives the slot up at the end of what it may keep: half of that way is time to look.
    full = lag.left is not None and lag.retained > lag.left
    return dg.AssetCheckResult(
        check_name=CHECK,
        passed=lag.seconds <= limit and not full,
        metadata={
            "bytes": lag.bytes,
            "seconds": lag.seconds,
            "limit_seconds": limit,
            "log_kept_bytes": lag.retained,
            "log_left_bytes": "no limit" if lag.left is None else lag.left,
        },
    )


def _news(found: dg.AssetCheckResult, cursor: str | None, now: datetime) -> dg.AssetCheckResult | None:
    """What the check says, where it says something else than before, or has not said anything for a while."""
    last = json.loads(cursor) if cursor else {"passed": None, "at": None}
    fresh = last["at"] is not None and now - datetime.fromisoformat(last["at"]) < _CHECK_AGAIN
    return None if fresh and last["passed"] == found.passed else found
