"""Who uses the embedded services, and until when.

Here: starting what the settings leave out, sharing it between commands, and stopping it with the last of them.
The servers themselves are in `postgres` and `object_store`. Whoever needs the points database or the bucket asks
`embedded` for settings that name both; no other code tells an embedded service from an external one.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import psycopg
from psycopg import sql
from pydantic import SecretStr

from upsell_assets.errors import PermanentError, RetryableError
from upsell_assets.services.object_store import ObjectStoreServer
from upsell_assets.services.postgres import SUPERUSER, PostgresServer
from upsell_assets.services.spark_cluster import SparkCluster
from upsell_assets.services.state import State
from upsell_assets.services.supervisor import SUPERVISOR, end_leftovers
from upsell_assets.settings import EMBEDDED_BUCKET, Settings
from upsell_assets.source.database import create_roles, create_schema

DATABASE = "points"
CAPTURE_ROLE = "upsell_capture"
APP_ROLE = "upsell_app"
_SUPERVISOR_STOP_SECONDS = 90


@dataclass(frozen=True)
class Running:
    """The services in reach: `settings` names all of them, whether embedded or external.

    The DSN in the settings is that of the capture role. The DSNs of the owner and of the application are known for
    an embedded database only.
    """

    settings: Settings
    owner_dsn: str | None = None
    app_dsn: str | None = None
    embedded_store: bool = False

    def environment(self) -> dict[str, str]:
        """Environment variables that give a child process these settings, secrets included."""
        values = {name: getattr(self.settings, name) for name in Settings.model_fields}
        variables = {
            f"UPSELL_{name.upper()}": value.get_secret_value() if isinstance(value, SecretStr) else str(value)
            for name, value in values.items()
            if value is not None
        }
        # AWS clients would look for a role of the machine first, and wait for it.
        return variables | ({"AWS_EC2_METADATA_DISABLED": "true"} if self.embedded_store else {})


@contextmanager
def embedded(settings: Settings) -> Iterator[Running]:
    """Make sure that what the settings leave out runs, as long as the context lasts.

    Services that another command of the same home has started are shared; the last command out stops them, also
    those that were left behind by a killed one.

    Raises:
        PermanentError: the home folder, the platform or a service's data cannot be used.
        RetryableError: a service did not answer in time.
    """
    if not (settings.embedded_source or settings.embedded_store):
        yield Running(settings)
        return
    state = State.open(settings.home)
    use = state.join()
    try:
        with state.lock():
            running = _start(settings, state)
        yield running
    finally:
        with state.lock():
            if use.leave():
                _stop(state)
        use.close()


def stop_all(settings: Settings) -> list[str]:
    """Stop a running lake: its supervised processes first, a Spark cluster, then the services; the names of what ran.

    Raises:
        RetryableError: the running `upsell up` does not end.
    """
    state = State.find(settings.home)
    if state is None:
        return []
    names = [name for name, process in state.processes().items() if process.alive]
    supervisor = state.running(SUPERVISOR)
    if supervisor and supervisor.pid != os.getpid():
        supervisor.signal(signal.SIGTERM)
        if not supervisor.wait(_SUPERVISOR_STOP_SECONDS):
            raise RetryableError(
                f"upsell up (process {supervisor.pid}) has not ended within {_SUPERVISOR_STOP_SECONDS} s. See "
                f"{state.home / 'logs'}, and try again."
            )
    with state.lock():
        end_leftovers(state)
        SparkCluster(state).stop()
        _stop(state)
    return names


def reset(settings: Settings) -> None:
    """Stop everything and delete the home folder with all its data.

    Raises:
        PermanentError: the folder is not a lake's.
    """
    state = State.find(settings.home)
    if state is None:
        if settings.home.exists():
            raise PermanentError(
                f"home {settings.home}: is not the home of a lake (no marker file in it); nothing was deleted. "
                "Check UPSELL_HOME, or delete the folder yourself."
            )
        return
    stop_all(settings)
    state.delete()


def _start(settings: Settings, state: State) -> Running:
    known: dict[str, object] = {}
    owner_dsn = app_dsn = None
    if settings.embedded_source:
        postgres = PostgresServer(state)
        postgres.start()
        owner_dsn = postgres.dsn(SUPERUSER, database=DATABASE)
        app_dsn = postgres.dsn(APP_ROLE, database=DATABASE)
        _prepare_database(postgres, settings.source_schema)
        known |= {"source_dsn": SecretStr(postgres.dsn(CAPTURE_ROLE, database=DATABASE))}
    if settings.embedded_store:
        _bypass_proxies()
        server = ObjectStoreServer(state)
        server.start(EMBEDDED_BUCKET, settings.s3_region)
        store = server.store(EMBEDDED_BUCKET, settings.s3_region)
        known |= {
            "s3_endpoint": store.endpoint,
            "s3_bucket": store.bucket,
            "s3_access_key_id": store.access_key_id,
            "s3_secret_access_key": store.secret_access_key,
            "s3_session_token": None,
        }
    values = {name: getattr(settings, name) for name in Settings.model_fields}
    return Running(Settings(**(values | known)), owner_dsn, app_dsn, settings.embedded_store)


def _bypass_proxies() -> None:
    """What runs here is not behind the proxy that the environment may name."""
    known = [host for host in os.environ.get("NO_PROXY", "").split(",") if host]
    os.environ["NO_PROXY"] = ",".join(dict.fromkeys([*known, "127.0.0.1", "localhost"]))


def _stop(state: State) -> None:
    PostgresServer(state).stop()
    ObjectStoreServer(state).stop()


def _prepare_database(postgres: PostgresServer, schema: str) -> None:
    """Create database, tables and roles where they are missing."""
    with psycopg.connect(postgres.dsn(SUPERUSER), autocommit=True) as connection:
        if not connection.execute("SELECT FROM pg_database WHERE datname = %s", [DATABASE]).rowcount:
            connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(DATABASE)))
    with psycopg.connect(postgres.dsn(SUPERUSER, database=DATABASE), autocommit=True) as connection:
        create_schema(connection, schema)
        create_roles(
            connection,
            schema,
            capture_role=CAPTURE_ROLE,
            capture_password=postgres.state.secret(f"password of {CAPTURE_ROLE}"),
            app_role=APP_ROLE,
            app_password=postgres.state.secret(f"password of {APP_ROLE}"),
        )
