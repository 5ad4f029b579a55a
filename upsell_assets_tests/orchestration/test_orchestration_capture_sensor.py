"""The capture sensor and its job, against a real database: it starts a capture when there is something to take."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from uuid import uuid4

import dagster as dg
import pytest
from dagster._core.definitions.run_request import InstigatorType
from dagster._core.definitions.sensor_definition import SensorType
from dagster._core.remote_origin import GrpcServerCodeLocationOrigin, RemoteInstigatorOrigin, RemoteRepositoryOrigin
from dagster._core.scheduler.instigation import InstigatorState, InstigatorStatus, SensorInstigatorData
from psycopg import sql
from psycopg.conninfo import make_conninfo
from pydantic import SecretStr

from upsell_assets.capture import setup
from upsell_assets.capture.assets import capture_assets, capture_job, capture_sensor, lag_checks
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
    with dg.DagsterInstance.local_temp() as instance:  # an ephemeral one has no book of its sensors
        yield instance


def tick(lakehouse: Lakehouse, instance: dg.DagsterInstance) -> str:
    """Why nothing starts, or "run"."""
    done = capture_sensor(lakehouse).evaluate_tick(dg.build_sensor_context(instance))
    return done.skip_message or "run" * len(done.run_requests or ())


def job(lakehouse: Lakehouse) -> dg.JobDefinition:
    """The drain alone, without what follows from it."""
    return dg.Definitions(capture_assets(lakehouse), jobs=[capture_job(lakehouse)]).resolve_job_def("capture")


def capture(lakehouse: Lakehouse, instance: dg.DagsterInstance) -> dict[str, int]:
    """Run it for today; how many changes it says that each table had."""
    done = job(lakehouse).execute_in_process(instance=instance, partition_key=str(datetime.now(UTC).date()))
    told = [event.materialization for event in done.get_asset_materialization_events()]
    return {one.asset_key.path[-1]: one.metadata["changes"].value for one in told}


def test_a_capture_starts_when_the_database_has_committed_something(
    captured: Lakehouse, database: Connection, instance: dg.DagsterInstance
) -> None:
    assert tick(captured, instance) == "run", "the first full load is due"
    capture(captured, instance)
    assert tick(captured, instance) == "nothing new is committed"

    database.execute("""INSERT INTO customers ("idCustomer", "PointsCustomer") VALUES ('ana', 1), ('bia', 2)""")
    assert tick(captured, instance) == "run"
    assert capture(captured, instance) == {"customers": 2, "transactions": 0, "transactions_product": 0}

    assert tick(captured, instance) == "nothing new is committed"


def test_nothing_starts_while_a_capture_is_under_way(captured: Lakehouse, instance: dg.DagsterInstance) -> None:
    run = instance.create_run_for_job(job(captured), status=dg.DagsterRunStatus.STARTED)
    assert tick(captured, instance) == "a capture is under way"

    instance.report_run_canceled(run)
    assert tick(captured, instance) == "run"


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
        capture(captured, instance)


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
            dg.Definitions(assets=raw_specs(captured, captured.contracts.values()), asset_checks=[checks])
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


def looked(instance: dg.DagsterInstance, at: float) -> None:
    """The conditions were looked at, as the sensor daemon notes it."""
    origin = RemoteInstigatorOrigin(
        RemoteRepositoryOrigin(
            GrpcServerCodeLocationOrigin(host="127.0.0.1", port=9, location_name="upsell"), "__repository__"
        ),
        "automation",
    )
    state = InstigatorState(
        origin,
        InstigatorType.SENSOR,
        InstigatorStatus.DECLARED_IN_CODE,
        SensorInstigatorData(min_interval=5, last_tick_start_timestamp=at, sensor_type=SensorType.AUTOMATION),
    )
    if instance.get_instigator_state(state.instigator_origin_id, state.selector_id):
        instance.update_instigator_state(state)
    else:
        instance.add_instigator_state(state)


def test_a_capture_waits_until_the_conditions_were_looked_at_after_the_one_before(
    captured: Lakehouse, database: Connection, instance: dg.DagsterInstance
) -> None:
    capture(captured, instance)
    database.execute("""INSERT INTO customers ("idCustomer") VALUES ('ana')""")
    [last] = instance.get_run_records(limit=1)
    assert last.end_time is not None

    looked(instance, last.end_time - 1)
    assert tick(captured, instance) == "what follows from the last capture is asked for first"
    hour_later = capture_sensor(captured, lambda: datetime.now(UTC) + timedelta(hours=1))
    assert hour_later.evaluate_tick(dg.build_sensor_context(instance)).run_requests, "but not for ever"

    looked(instance, last.end_time + 0.1)
    assert tick(captured, instance) == "run"
