"""What is worth an alert: runs that failed, and checks of severity ERROR that begin to fail.

The sensor goes on where it was only after an alert was sent; Dagster's own failure sensors forget a failure whose alert
did not get through. A run that Dagster repeats by itself is not told, nor is a check that fails again and again.
"""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime

import dagster as dg
from dagster import DagsterEventType, DagsterInstance, DagsterRun
from dagster._core.storage.tags import WILL_RETRY_TAG

from upsell_assets.alerts import Alert, open_sink
from upsell_assets.clock import Clock, utc_now
from upsell_assets.lake.lakehouse import Lakehouse
from upsell_assets.ticks import instance_of

NAME = "alert_sensor"
AT_ONCE = 20
"""Runs that one tick tells of: it has a minute."""
REMEMBERED = 100
SHOWN = 500
"""Characters of what a check says."""


@dataclass
class _Told:
    """The sensor's cursor; it does not grow with what happens.

    Attributes:
        since: Unix seconds of the newest update of a run that was looked at.
        runs: the newest runs that were told, since a run may be updated after it failed.
        checks: the checks that fail and were told.
    """

    since: float
    runs: list[str] = field(default_factory=list)
    checks: list[str] = field(default_factory=list)

    @property
    def text(self) -> str:
        return json.dumps({"since": self.since, "runs": self.runs[-REMEMBERED:], "checks": self.checks})


def alert_sensor(lakehouse: Lakehouse, clock: Clock = utc_now) -> dg.SensorDefinition:
    """Sends alerts to where the settings say.

    Raises:
        PermanentError: the settings name a function that is not there.
    """
    settings = lakehouse.settings
    target = settings.alerts.get_secret_value()
    open_sink(target, print)

    @dg.sensor(
        name=NAME,
        description="Tells of runs that failed and of checks of severity ERROR that begin to fail (UPSELL_ALERTS).",
        minimum_interval_seconds=30,
        default_status=dg.DefaultSensorStatus.RUNNING,
    )
    def sense(context: dg.SensorEvaluationContext) -> dg.SkipReason:
        sink = open_sink(target, lambda line: context.log.error(line))  # the log opens an instance of its own
        # What failed before alerts began is nobody's news.
        told = _Told(**json.loads(context.cursor)) if context.cursor else _Told(clock().timestamp())
        sent, fault = 0, None
        for alert in _alerts(context, told, settings.web_url):
            try:
                sink(alert)
            except Exception as error:  # noqa: BLE001 (a function of one's own raises what it likes)
                fault = error
                break
            sent += 1
        else:
            context.update_cursor(told.text)
        if fault is not None and not sent:
            raise fault
        return dg.SkipReason((f"told {sent}" if sent else "nothing failed") + (f", then: {fault}" if fault else ""))

    return sense


def _alerts(context: dg.SensorEvaluationContext, told: _Told, web_url: str | None) -> Iterator[Alert]:
    """What is to be told; `told` has what was told before once the next one is asked for."""
    instance = instance_of(context)
    failed = dg.RunsFilter(
        statuses=[dg.DagsterRunStatus.FAILURE], updated_after=datetime.fromtimestamp(told.since, UTC)
    )
    for record in instance.get_run_records(failed, limit=AT_ONCE, order_by="update_timestamp", ascending=True):
        run = record.dagster_run
        if run.run_id not in told.runs and run.tags.get(WILL_RETRY_TAG) != "true":
            yield _of_run(instance, run, web_url)
            told.runs.append(run.run_id)
        told.since = record.update_timestamp.timestamp()
        context.update_cursor(told.text)
    yield from _of_checks(context, told, web_url)


def _of_run(instance: DagsterInstance, run: DagsterRun, web_url: str | None) -> Alert:
    assets = ", ".join(sorted(key.to_user_string() for key in run.asset_selection or ()))
    why = []
    for entry in instance.all_logs(run.run_id, of_type={DagsterEventType.STEP_FAILURE, DagsterEventType.RUN_FAILURE}):
        event = entry.get_dagster_event()
        if event.event_type == DagsterEventType.STEP_FAILURE:
            why.append(f"{event.step_key}: {_words(event)}")
        elif not why:
            why.append(event.message or "it ended without saying why")
    link = f"{web_url.rstrip('/')}/runs/{run.run_id}" if web_url else None
    return Alert(f"failed: {assets or run.job_name} (run {run.run_id[:8]})", tuple(why), link)


def _words(event: dg.DagsterEvent) -> str:
    error = event.step_failure_data.error
    if error is None:
        return event.message or ""
    said = (error.cause or error).message.strip()
    # Our own errors are made for people; of others the kind is part of what they say.
    return re.sub(r"^upsell_assets\.[\w.]+: ", "", said)


def _of_checks(context: dg.SensorEvaluationContext, told: _Told, web_url: str | None) -> Iterator[Alert]:
    if context.repository_def is None:
        return
    keys = sorted(context.repository_def.asset_graph.asset_check_keys)
    latest = instance_of(context).event_log_storage.get_latest_asset_check_execution_by_key(keys)
    for key in keys:
        name = key.to_user_string()
        record = latest.get(key)
        found = record.evaluation if record else None
        if not isinstance(found, dg.AssetCheckEvaluation):
            continue  # never run, running now, or its run died
        if found.passed or found.severity != dg.AssetCheckSeverity.ERROR:
            told.checks = [check for check in told.checks if check != name]
        elif name not in told.checks:
            yield _of_check(key, found, web_url)
            told.checks.append(name)
        context.update_cursor(told.text)


def _of_check(key: dg.AssetCheckKey, found: dg.AssetCheckEvaluation, web_url: str | None) -> Alert:
    asset = key.asset_key.to_user_string()
    said = [f"{name}: {str(value.value)[:SHOWN]}" for name, value in found.metadata.items()]
    link = f"{web_url.rstrip('/')}/assets/{asset}?view=checks" if web_url else None
    return Alert(f"check failed: {key.name} of {asset}", (*filter(None, [found.description]), *said), link)
