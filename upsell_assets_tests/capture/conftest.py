"""Real servers for the tests of capture: a database, and a folder of the lake, for each."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from capture_place import Place, opened

from upsell_assets.lake.store import ObjectStore
from upsell_assets.services import postgres
from upsell_assets.services.embedded import embedded
from upsell_assets.services.state import State
from upsell_assets.settings import Settings
from upsell_assets.source.database import Connection, connect


@pytest.fixture(scope="session")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, ObjectStore]]:
    with embedded(Settings(home=tmp_path_factory.mktemp("capture"))) as running:
        assert running.owner_dsn is not None
        yield running.owner_dsn, ObjectStore.from_settings(running.settings)


@pytest.fixture
def place(servers: tuple[str, ObjectStore]) -> Iterator[Place]:
    """Empty tables of the points system, ready to be captured."""
    with opened(*servers) as place:
        yield place


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
        with opened(server.dsn(postgres.SUPERUSER), store) as here:
            yield here
    finally:
        with state.lock():
            server.stop()


@pytest.fixture
def app(place: Place) -> Iterator[Connection]:
    """The application's own connection."""
    with connect(place.owner_dsn) as connection:
        yield connection
