"""Real servers for the tests of capture: a database, and a folder of the lake, for each."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from capture_place import APP_ROLE, CAPTURE_ROLE, PASSWORD, Place
from psycopg import sql
from psycopg.conninfo import make_conninfo

from upsell_assets.capture import setup
from upsell_assets.contracts import load_contracts
from upsell_assets.lake.store import ObjectStore
from upsell_assets.services import postgres
from upsell_assets.services.embedded import embedded
from upsell_assets.services.state import State
from upsell_assets.settings import Settings
from upsell_assets.source.database import Connection, connect, create_roles, create_schema

_numbers = itertools.count(1)


@pytest.fixture(scope="session")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, ObjectStore]]:
    with embedded(Settings(home=tmp_path_factory.mktemp("capture"))) as running:
        assert running.owner_dsn is not None
        yield running.owner_dsn, ObjectStore.from_settings(running.settings)


@pytest.fixture
def place(servers: tuple[str, ObjectStore]) -> Iterator[Place]:
    """Empty tables of the points system, ready to be captured by a role that may do nothing else."""
    with new_place(*servers) as here:
        yield here


@pytest.fixture
def place_with_little_log(
    servers: tuple[str, ObjectStore],
    request: pytest.FixtureRequest,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Place]:
    """The same, in a database server of its own, which keeps as much log for slots as the parameter says."""
    monkeypatch.setitem(postgres._SETTINGS, "max_slot_wal_keep_size", request.param)
    _, store = servers
    state = State.open(tmp_path_factory.mktemp("log"))
    server = postgres.PostgresServer(state)
    with state.lock():
        server.start()
    try:
        with new_place(server.dsn(postgres.SUPERUSER), store) as here:
            yield here
    finally:
        with state.lock():
            server.stop()


@contextmanager
def new_place(cluster: str, store: ObjectStore) -> Iterator[Place]:
    """A database of its own in a server, and a folder of the lake."""
    name = f"capture_{next(_numbers)}"
    with connect(cluster) as server:
        server.execute(sql.SQL("DROP DATABASE IF EXISTS {}").format(sql.Identifier(name)))
        server.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
    for left in store.list(f"raw/{name}/"):
        store.delete(left.key)
    owner_dsn = make_conninfo(cluster, dbname=name)
    contracts = {
        table: contract.model_copy(update={"schema_name": name}) for table, contract in load_contracts().items()
    }
    dsn = make_conninfo(owner_dsn, user=CAPTURE_ROLE, password=PASSWORD)
    here = Place(owner_dsn, dsn, store, name, contracts)
    create_schema(here.owner)
    create_roles(
        here.owner,
        capture_role=CAPTURE_ROLE,
        capture_password=PASSWORD,
        app_role=APP_ROLE,
        app_password=PASSWORD,
    )
    here.prepare()
    yield here
    with here.owner:
        setup.drop_slot(here.owner, name)
        setup.drop_publication(here.owner, name)
    with connect(cluster) as server:
        server.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))


@pytest.fixture
def app(place: Place) -> Iterator[Connection]:
    """The application's own connection."""
    with connect(place.owner_dsn) as connection:
        yield connection
