"""The capture sensor and its job, against a real database: it starts a capture when there is something to take."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from uuid import uuid4

import dagster as dg
import pytest
from psycopg import sql
from psycopg.conninfo import make_conninfo
from pydantic import SecretStr

from upsell_assets.capture import setup
from upsell_assets.capture.assets import capture_job, capture_sensor, lag_checks
from upsell_assets.capture.landing import read_state, write_state
from upsell_assets.errors import SlotLostError
from upsell_assets.lake.lakehouse import Lakehouse
from upsell_assets.raw.assets import raw_key, raw_specs
from upsell_assets.services.embedded import Running
from upsell_assets.source.database import Connection, connect, create_roles, create_schema

CAPTURE_ROLE, APP_ROLE, PASSWORD = "sensor_tests", "sensor_tests_app", "only of this test"

KEY = "raw/upsell/_capture/state.json"

pytestmark = pytest.mark.services


@pytest.fixture
def database(services: Running) -> Iterator[Connection]:
    """An empty points database of its own, as its owner."""
    assert services.owner_dsn is not None
    name = f"sensor_{uuid4().hex[:8]}"
    with connect(services.owner_dsn) as server:
        server.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
    with connect(make_conninfo(services.owner_dsn, dbname=name)) as owner:
        create_schema(owner)
        create_roles(
            owner, capture_role=CAPTURE_ROLE, capture_password=PASSWORD, app_role=APP_ROLE, app_password=PASSWORD
        )
        yield owner
        setup.drop_slot(owner, name)
        setup.drop_publication(owner, name)
    with connect(services.owner_dsn) as server:
        server.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))


@pytest.fixture
def captured(open_lakehouse: Callable[..., Lakehouse], database: Connection) -> Lakehouse:
    """A lake beside that database, which is ready to be captured."""
    name = database.info.dbname
    dsn = make_conninfo(database.info.dsn, user=CAPTURE_ROLE, password=PASSWORD)
    lakehouse = open_lakehouse(source_dsn=SecretStr(dsn), capture_name=name)
    setup.prepare(database, lakehouse.contracts, name=name, schema="public", capture_role=CAPTURE_ROLE)
    return lakehouse


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.ephemeral() as instance:
        yield instance


def tick(lakehouse: Lakehouse, instance: dg.DagsterInstance) -> str:
    """Why nothing starts, or "run"."""
    done = capture_sensor(lakehouse).evaluate_tick(dg.build_sensor_context(instance))
    return done.skip_message or "run" * len(done.run_requests or ())


def capture(lakehouse: Lakehouse, instance: dg.DagsterInstance) -> dict[str, object]:
    """Run the job; what it tells."""
    done = capture_job(lakehouse).execute_in_process(instance=instance)
    [event] = [event for event in done.all_events if event.event_type_value == "STEP_OUTPUT"]
    return {name: value.value for name, value in event.step_output_data.metadata.items()}


def test_a_capture_starts_when_the_database_has_committed_something(
    captured: Lakehouse, database: Connection, instance: dg.DagsterInstance
) -> None:
    assert tick(captured, instance) == "run", "the first full load is due"
    capture(captured, instance)
    assert tick(captured, instance) == "nothing new is committed"

    database.execute("""INSERT INTO customers ("idCustomer", "PointsCustomer") VALUES ('ana', 1), ('bia', 2)""")
    assert tick(captured, instance) == "run"
    assert capture(captured, instance)["changes"] == {"customers": 2}

    assert tick(captured, instance) == "nothing new is committed"


def test_nothing_starts_while_a_capture_is_under_way(captured: Lakehouse, instance: dg.DagsterInstance) -> None:
    run = instance.create_run_for_job(capture_job(captured), status=dg.DagsterRunStatus.STARTED)
    assert tick(captured, instance) == "a capture is under way"

    instance.report_run_canceled(run)
    assert tick(captured, instance) == "run"


def test_without_a_source_database_nothing_starts_and_the_job_says_why(
    open_lakehouse: Callable[..., Lakehouse], instance: dg.DagsterInstance
) -> None:
    lakehouse = open_lakehouse(source_dsn=None)

    assert "UPSELL_SOURCE_DSN is not set" in tick(lakehouse, instance)
    with pytest.raises(dg.Failure, match="UPSELL_SOURCE_DSN is not set"):
        capture_job(lakehouse).execute_in_process(instance=instance)


def test_a_database_that_does_not_answer_is_a_reason_to_wait(
    open_lakehouse: Callable[..., Lakehouse], instance: dg.DagsterInstance
) -> None:
    lakehouse = open_lakehouse(source_dsn=SecretStr("postgresql://nobody:secret@127.0.0.1:9/points"))

    reason = tick(lakehouse, instance)

    assert "127.0.0.1" in reason
    assert "secret" not in reason


def test_a_fault_that_stays_starts_one_run_and_then_waits(
    captured: Lakehouse, database: Connection, instance: dg.DagsterInstance
) -> None:
    capture(captured, instance)
    setup.drop_slot(database, database.info.dbname)
    now = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)

    def key(moment: datetime) -> str | None:
        done = capture_sensor(captured, lambda: moment).evaluate_tick(dg.build_sensor_context(instance))
        assert done.run_requests
        return done.run_requests[0].run_key

    assert key(now) == key(now + timedelta(minutes=9)) != key(now + timedelta(minutes=10))
    assert key(now) is not None
    with pytest.raises(SlotLostError, match="upsell capture --resync all"):
        capture_job(captured).execute_in_process(instance=instance)


def test_the_lag_is_told_when_it_passes_its_limit_and_when_it_is_made_up(
    open_lakehouse: Callable[..., Lakehouse], captured: Lakehouse, database: Connection, instance: dg.DagsterInstance
) -> None:
    capture(captured, instance)
    hour = timedelta(hours=1)
    now = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
    cursor: str | None = None

    def told(moment: datetime) -> list[bool]:
        nonlocal cursor
        context = dg.build_sensor_context(instance, cursor=cursor)
        done = capture_sensor(captured, lambda: moment).evaluate_tick(context)
        cursor = done.cursor
        assert {event.asset_key for event in done.asset_events} <= {raw_key(c) for c in captured.contracts.values()}
        return [event.passed for event in done.asset_events if isinstance(event, dg.AssetCheckEvaluation)]

    assert told(now) == [True] * 3, "one a table"
    assert told(now) == [], "nothing new to say"
    assert told(now + hour) == [True] * 3, "said again after a while"
    setup.drop_slot(database, database.info.dbname)
    assert told(now + hour) == [False] * 3
    assert told(now + hour) == []


def test_the_check_of_the_lag_says_how_much_is_behind(
    captured: Lakehouse, database: Connection, instance: dg.DagsterInstance
) -> None:
    capture(captured, instance)
    database.execute("INSERT INTO customers SELECT 'n' || i, i, 1 FROM generate_series(1, 1000) i")
    old = read_state(captured.store, KEY)
    assert old is not None
    hour_ago = (datetime.now(UTC) - timedelta(hours=1)).isoformat()

    def check() -> list[dg.AssetCheckEvaluation]:
        [checks] = lag_checks(captured)
        return list(
            dg.Definitions(assets=raw_specs(captured), asset_checks=[checks])
            .resolve_implicit_global_asset_job_def()
            .execute_in_process(instance=instance)
            .get_asset_check_evaluations()
        )

    found = check()
    assert len(found) == 3
    assert all(one.passed for one in found)
    assert found[0].metadata["bytes"].value > 50_000

    write_state(captured.store, KEY, replace(old, confirmed_at=hour_ago))
    late = check()

    assert not any(one.passed for one in late)
    assert late[0].metadata["seconds"].value > 3_500
