"""Capture in Dagster: a job that drains the slot, and the sensor that starts it when the slot lags."""

import dagster as dg

from upsell_assets.capture.job import Capture
from upsell_assets.errors import PermanentError, RetryableError
from upsell_assets.lake.lakehouse import Lakehouse

JOB = "capture"
_UNDER_WAY = [
    dg.DagsterRunStatus.QUEUED,
    dg.DagsterRunStatus.NOT_STARTED,
    dg.DagsterRunStatus.STARTING,
    dg.DagsterRunStatus.STARTED,
]


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
    )


def capture_job(lakehouse: Lakehouse) -> dg.JobDefinition:
    """Full loads that are due, then everything committed by now, into raw."""

    @dg.op(pool=JOB, description="Drain the replication slot into raw files.")
    def drain(context: dg.OpExecutionContext) -> None:
        capture = open_capture(lakehouse)
        if capture is None:
            raise dg.Failure(
                "capture: UPSELL_SOURCE_DSN is not set, or other producers write all tables. Set it, or drop files into raw."
            )
        capture.ensure_full_load()
        drained = capture.drain()
        context.log.info("changes: %s, position %s", drained.changes, drained.position)
        context.add_output_metadata(
            {"changes": drained.changes, "files": len(drained.files), "position": drained.position}
        )

    @dg.job(name=JOB, description="Database to raw: drains the replication slot, then stops.")
    def capture() -> None:
        drain()

    return capture


def capture_sensor(lakehouse: Lakehouse) -> dg.SensorDefinition:
    """Starts the capture job when the slot lags and none runs."""

    @dg.sensor(
        name="capture_sensor",
        job_name=JOB,
        description="Starts a capture when the database has committed what the lake has not seen.",
        minimum_interval_seconds=lakehouse.settings.capture_seconds,
        default_status=dg.DefaultSensorStatus.RUNNING,
    )
    def sense(context: dg.SensorEvaluationContext) -> dg.RunRequest | dg.SkipReason:
        capture = open_capture(lakehouse)
        if capture is None:
            return dg.SkipReason("no source database: UPSELL_SOURCE_DSN is not set")
        if context.instance.get_runs(dg.RunsFilter(job_name=JOB, statuses=_UNDER_WAY), limit=1):
            return dg.SkipReason("a capture is under way")
        if context.instance.get_runs_count(dg.RunsFilter(statuses=[dg.DagsterRunStatus.QUEUED])):
            # What waits in the database becomes one batch later; what is captured now becomes more runs in the queue.
            return dg.SkipReason("runs are queued: the changes wait in the database")
        try:
            pending = capture.pending()
        except RetryableError as error:
            return dg.SkipReason(str(error))
        except PermanentError as error:
            context.log.warning(str(error))
            return dg.RunRequest()  # the job says it where people look, and takes a full load that is due
        return dg.RunRequest() if pending else dg.SkipReason("nothing new is committed")

    return sense
