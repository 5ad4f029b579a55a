"""Alerts: what failed is told once, in the error's words, and again until it was taken."""

import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import dagster as dg
import pytest
from pydantic import SecretStr

from upsell_assets.alert_sensor import alert_sensor
from upsell_assets.alerts import Alert, open_sink
from upsell_assets.errors import PermanentError, RetryableError
from upsell_assets.lake.lakehouse import Lakehouse
from upsell_assets.lake.metadata import Made
from upsell_assets.retries import retried
from upsell_assets.settings import Settings

TAKEN: list[Alert] = []
"""What the sink of one's own was given."""


def take(alert: Alert) -> None:
    TAKEN.append(alert)


@dataclass
class Webhook:
    """A real server that keeps what is posted to it, and answers what the test says."""

    url: str
    answer: int = 200
    bodies: list[dict[str, Any]] = field(default_factory=list)


@pytest.fixture
def webhook() -> Iterator[Webhook]:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            if hook.answer == 200:
                hook.bodies.append(json.loads(body))
            self.send_response(hook.answer)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Quiet."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    hook = Webhook(f"http://127.0.0.1:{server.server_port}/hooks/hunter2")
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield hook
    server.shutdown()
    thread.join()
    server.server_close()


@dg.asset(
    key=["gold", "upsell", "broken"], check_specs=[dg.AssetCheckSpec("is_right", asset=["gold", "upsell", "broken"])]
)
def broken(context: dg.AssetExecutionContext) -> Made:
    fault = context.run.tags.get("fault")
    if fault == "ours":
        raise PermanentError("gold.upsell.broken: expected bigint, found text. Fix broken.sql.")
    if fault == "a bug":
        raise TypeError("unsupported operand")
    severity = dg.AssetCheckSeverity.WARN if fault == "warning" else dg.AssetCheckSeverity.ERROR
    passed = fault not in ("check", "warning")
    return dg.MaterializeResult(
        check_results=[dg.AssetCheckResult(passed=passed, severity=severity, metadata={"differing": "key 17"})]
    )


@dataclass
class Place:
    """A code location of one asset, its instance and its alert sensor."""

    instance: dg.DagsterInstance
    settings: Settings
    cursor: str | None = None

    def __post_init__(self) -> None:
        self.sensor = alert_sensor(Lakehouse(self.settings))
        self.defs = dg.Definitions(assets=[broken], sensors=[self.sensor])
        self.tick()

    def run(self, fault: str, **tags: str) -> str:
        job = self.defs.resolve_implicit_global_asset_job_def()
        done = job.execute_in_process(instance=self.instance, tags={"fault": fault, **tags}, raise_on_error=False)
        return done.run_id

    def tick(self) -> str | None:
        context = dg.build_sensor_context(
            self.instance, cursor=self.cursor, repository_def=self.defs.get_repository_def()
        )
        data = self.sensor.evaluate_tick(context)
        self.cursor = data.cursor
        return data.skip_message


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.ephemeral() as instance:
        yield instance


def settings(alerts: str) -> Settings:
    return Settings(alerts=SecretStr(alerts), web_url="http://lake.example:3000/")


def test_a_failed_run_is_told_once_with_its_own_words_and_a_link(
    instance: dg.DagsterInstance, webhook: Webhook
) -> None:
    place = Place(instance, settings(webhook.url))
    run = place.run("ours")

    place.tick()
    place.tick()

    [body] = webhook.bodies
    assert body["what"] == f"failed: __ASSET_JOB (run {run[:8]})"
    assert body["why"] == ["gold__upsell__broken: gold.upsell.broken: expected bigint, found text. Fix broken.sql."]
    assert body["link"] == f"http://lake.example:3000/runs/{run}"
    assert body["text"] == "\n".join([body["what"], *body["why"], body["link"]])


def test_of_a_run_that_died_its_assets_are_told(instance: dg.DagsterInstance, webhook: Webhook) -> None:
    place = Place(instance, settings(webhook.url))
    job = place.defs.resolve_implicit_global_asset_job_def()
    run = instance.create_run_for_job(job, asset_selection=frozenset({broken.key}))
    instance.report_run_failed(run, "Detected run worker status UNKNOWN")

    place.tick()

    [body] = webhook.bodies
    assert body["what"] == f"failed: gold/upsell/broken (run {run.run_id[:8]})"
    assert body["why"] == ["Detected run worker status UNKNOWN"]


def test_of_a_bug_the_kind_is_told(instance: dg.DagsterInstance, webhook: Webhook) -> None:
    place = Place(instance, settings(webhook.url))
    place.run("a bug")

    place.tick()

    assert webhook.bodies[0]["why"] == ["gold__upsell__broken: TypeError: unsupported operand"]


def test_what_is_not_taken_is_sent_again(instance: dg.DagsterInstance, webhook: Webhook) -> None:
    place = Place(instance, settings(webhook.url))
    place.run("ours")
    place.run("a bug")
    webhook.answer = 503

    with pytest.raises(
        RetryableError, match=r"the webhook at 127\.0\.0\.1 did not take an alert: it answered 503"
    ) as error:
        place.tick()
    assert "hunter2" not in str(error.value)
    webhook.answer = 200
    place.tick()

    assert [body["why"][0].rpartition(" ")[2] for body in webhook.bodies] == ["broken.sql.", "operand"]


def test_what_failed_before_alerts_began_is_not_told(instance: dg.DagsterInstance, webhook: Webhook) -> None:
    dg.materialize([broken], instance=instance, tags={"fault": "ours"}, raise_on_error=False)
    place = Place(instance, settings(webhook.url))

    place.tick()

    assert webhook.bodies == []


def test_a_run_that_dagster_repeats_by_itself_is_not_told(instance: dg.DagsterInstance, webhook: Webhook) -> None:
    place = Place(instance, settings(webhook.url))
    place.run("ours", **{"dagster/will_retry": "true"})

    place.tick()

    assert webhook.bodies == []


def test_a_check_is_told_when_it_begins_to_fail(instance: dg.DagsterInstance, webhook: Webhook) -> None:
    place = Place(instance, settings(webhook.url))
    for fault in ("none", "check", "check", "none", "check", "warning"):
        place.run(fault)
        place.tick()

    assert [body["what"] for body in webhook.bodies] == ["check failed: is_right of gold/upsell/broken"] * 2
    assert webhook.bodies[0]["why"] == ["differing: key 17"]
    assert webhook.bodies[0]["link"] == "http://lake.example:3000/assets/gold/upsell/broken?view=checks"


def test_the_cursor_does_not_grow_with_failures(instance: dg.DagsterInstance) -> None:
    place = Place(instance, settings("log"))
    place.cursor = json.dumps({"since": 0.0, "runs": [f"{number:036}" for number in range(500)], "checks": []})

    place.tick()

    assert len(json.loads(place.cursor)["runs"]) == 100


def test_a_function_of_ones_own_is_given_the_alert(instance: dg.DagsterInstance) -> None:
    TAKEN.clear()
    place = Place(instance, settings(f"{__name__}:take"))
    place.run("ours")

    place.tick()

    assert [alert.what.partition(" (")[0] for alert in TAKEN] == ["failed: __ASSET_JOB"]


@pytest.mark.parametrize("target", ["nowhere:send", f"{__name__}:nothing"])
def test_a_function_that_is_not_there_stops_the_code_location(target: str) -> None:
    with pytest.raises(PermanentError, match=r"UPSELL_ALERTS: .* cannot be imported .* module:function"):
        alert_sensor(Lakehouse(settings(target)))


def test_an_address_where_nobody_listens_is_told_without_its_path() -> None:
    with pytest.raises(RetryableError, match=r"127\.0\.0\.1 did not take an alert: .*refused") as error:
        open_sink("http://127.0.0.1:9/hunter2", print)(Alert("x"))
    assert "hunter2" not in str(error.value)


# --- what is tried again within a run ---


def attempts(instance: dg.DagsterInstance, fault: Exception, failing: int) -> tuple[bool, int, list[float]]:
    """Run an op that fails so many times; whether it succeeded, its attempts, and the waits between them (seconds)."""
    tried = []

    @dg.op
    @retried
    def flaky(context: dg.OpExecutionContext) -> None:
        tried.append(context.retry_number)
        if len(tried) <= failing:
            raise fault

    @dg.job(executor_def=dg.in_process_executor)
    def job() -> None:
        flaky()

    done = job.execute_in_process(instance=instance, raise_on_error=False)
    waits = [
        event.step_retry_data.seconds_to_wait
        for event in done.all_events
        if event.event_type == dg.DagsterEventType.STEP_UP_FOR_RETRY
    ]
    return done.success, len(tried), waits


def test_what_may_pass_by_itself_is_tried_again_later_each_time(
    instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("upsell_assets.retries.FIRST_WAIT_SECONDS", 0.01)

    assert attempts(instance, RetryableError("a conflict"), 2) == (True, 3, [0.01, 0.02])
    assert attempts(instance, RetryableError("a conflict"), 9) == (False, 4, [0.01, 0.02, 0.04])


def test_a_step_that_yields_is_tried_again_too(instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("upsell_assets.retries.FIRST_WAIT_SECONDS", 0.01)
    tried = []

    @dg.multi_asset(specs=[dg.AssetSpec("a"), dg.AssetSpec("b")])
    @retried
    def two(context: dg.AssetExecutionContext) -> Iterator[Made]:
        tried.append(context.retry_number)
        yield dg.MaterializeResult(asset_key="a")
        if len(tried) == 1:
            raise RetryableError("a conflict")
        yield dg.MaterializeResult(asset_key="b")

    assert dg.materialize([two], instance=instance).success
    assert tried == [0, 1]


@pytest.mark.parametrize("fault", [PermanentError("a setting"), TypeError("a bug")])
def test_what_only_fails_later_is_not_tried_again(instance: dg.DagsterInstance, fault: Exception) -> None:
    assert attempts(instance, fault, 9) == (False, 1, [])
