"""What all tests share: one embedded PostgreSQL and S3 server, and a lake of its own for each test."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from uuid import uuid4

import pytest

from upsell_assets.lake.engines.spark_session import JAVA, java_version
from upsell_assets.lake.lakehouse import Lakehouse
from upsell_assets.lake.tables import Lake
from upsell_assets.services.embedded import Running, embedded
from upsell_assets.services.spark_cluster import Size, SparkCluster
from upsell_assets.services.state import State
from upsell_assets.settings import Settings

OpenLakehouse = Callable[..., Lakehouse]

ALONE = ("end_to_end", "scenarios")
"""Folders whose tests run one after another, and beside no others: they wait for processes of a whole lake."""

SLOW = ("operations", "components", "spark")
"""Folders whose tests begin first."""


FREE_GB = 4
"""What lakes, services and Spark's packages take of the disk at once, and some more."""


def pytest_sessionstart() -> None:
    """Refuse to begin on a disk that will be full: what fails then looks like anything but that."""
    folder = tempfile.gettempdir()
    free = shutil.disk_usage(folder).free / 1e9
    if free < FREE_GB:
        pytest.exit(
            f"tests: {folder} has {free:.1f} GB free, and they take up to {FREE_GB}. Free some, or let TMPDIR name a "
            "folder of another disk.",
            returncode=1,
        )


def pytest_itemcollected(item: pytest.Item) -> None:
    """Mark the tests of a whole lake."""
    if item.path.parent.name in ALONE:
        item.add_marker(pytest.mark.alone)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What takes longest begins first, so that no process waits for it at the end."""
    items.sort(key=lambda item: item.path.parent.name not in SLOW)


@pytest.fixture(scope="session", autouse=True)
def _no_settings_from_outside() -> None:
    """The tests' settings are those that they state."""
    for name in [name for name in os.environ if name.startswith("UPSELL_") and name != "UPSELL_TEST_DATA"]:
        del os.environ[name]


@pytest.fixture(scope="session")
def services(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """The embedded services, as long as the tests run."""
    with embedded(Settings(home=tmp_path_factory.mktemp("services") / "home")) as running:
        yield running


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SparkCluster]:
    """A Spark cluster of two workers, as long as the tests run; a driver is a process with its `environment()`."""
    if (java_version() or 0) < JAVA:
        pytest.skip(f"needs Java {JAVA} or newer: skipped because java was not found, or is older")
    state = State.open(tmp_path_factory.mktemp("cluster") / "home")
    cluster = SparkCluster(state)
    with state.lock():
        cluster.start(Size(workers=2, cores=1, memory_mb=1024))
    yield cluster
    with state.lock():
        cluster.stop()


@pytest.fixture
def open_lakehouse(services: Running) -> Iterator[OpenLakehouse]:
    """Opens a lake in a bucket of its own, with settings changed as the test says."""
    opened: list[Lakehouse] = []

    def open_(**changed: object) -> Lakehouse:
        values = {name: getattr(services.settings, name) for name in Settings.model_fields}
        bucket = f"lake-{uuid4().hex[:12]}"
        lakehouse = Lakehouse(Settings(**{**values, "s3_bucket": bucket, **changed}))
        lakehouse.store.client.create_bucket(Bucket=bucket)
        opened.append(lakehouse)
        return lakehouse

    yield open_
    # The server has room for some 75 buckets; it deletes one with all that is in it.
    for lakehouse in opened:
        lakehouse.store.client.delete_bucket(Bucket=lakehouse.store.bucket)


@pytest.fixture
def lakehouse(open_lakehouse: OpenLakehouse) -> Lakehouse:
    """A lake in a bucket of its own, with the contracts of the points system."""
    return open_lakehouse()


@pytest.fixture
def local_lake(tmp_path: Path) -> Lake:
    """Delta tables in a folder: for what does not depend on the object store."""
    return Lake.at(tmp_path / "lake")
