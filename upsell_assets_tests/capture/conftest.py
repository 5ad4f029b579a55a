"""Real servers for the tests of capture: a database, and a folder of the lake, for each."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from capture_place import Place, opened

from upsell_assets.lake.store import ObjectStore
from upsell_assets.services.embedded import embedded
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
def app(place: Place) -> Iterator[Connection]:
    """The application's own connection."""
    with connect(place.owner_dsn) as connection:
        yield connection
