"""The capture sensor and its job, against a real database: it starts a capture when there is something to take."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from uuid import uuid4

import dagster as dg
import pytest
from psycopg import sql
from psycopg.conninfo import make_conninfo
from pydantic import SecretStr

from upsell_assets.capture import setup
from upsell_assets.capture.assets import capture_job, capture_sensor
from upsell_assets.lake.lakehouse import Lakehouse
from upsell_assets.services.embedded import Running
from upsell_assets.source.database import Connection, connect, create_roles, create_schema

CAPTURE_ROLE, APP_ROLE, PASSWORD = "sensor_tests", "sensor_tests_app", "only of this test"

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
        setup.drop(owner, name)
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
