"""A PostgreSQL for the tests of the points system: one server, and a database of its own for each test."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from uuid import uuid4

import pytest
from psycopg import sql
from psycopg.conninfo import make_conninfo

from upsell_assets.services.embedded import embedded
from upsell_assets.settings import Settings
from upsell_assets.source.database import Connection, connect, create_schema


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The owner's DSN of a server that lives as long as the tests do."""
    home = tmp_path_factory.mktemp("source")
    # A bucket that is named is not started.
    with embedded(Settings(home=home, source_dsn=None, s3_endpoint="http://127.0.0.1:1", s3_bucket="none")) as running:
        assert running.owner_dsn is not None
        yield running.owner_dsn


@pytest.fixture
def dsn(server: str) -> Iterator[Callable[..., str]]:
    """The DSN of a new database, for the owner or with other parts."""
    database = f"source_{uuid4().hex[:12]}"
    with connect(server) as admin:
        admin.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(database)))
        yield lambda **parts: make_conninfo(server, **{"dbname": database} | parts)
        admin.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(database)))


@pytest.fixture
def connection(dsn: Callable[..., str]) -> Iterator[Connection]:
    """A connection of the owner, with the tables in schema public."""
    with connect(dsn()) as connection:
        create_schema(connection)
        yield connection
