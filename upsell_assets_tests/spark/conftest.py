"""One Spark session for all tests of this folder; every step is Spark's, however few files it concerns."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from upsell_assets.lake.engines.spark_session import JAVA, Spark, java_version, s3a_options, spark_config
from upsell_assets.lake.store import ObjectStore
from upsell_assets.services.embedded import Running


def pytest_itemcollected(item: pytest.Item) -> None:
    item.add_marker(pytest.mark.spark)
    item.add_marker(pytest.mark.services)


@pytest.fixture(scope="session")
def store(services: Running) -> ObjectStore:
    store = ObjectStore.from_settings(services.settings.model_copy(update={"s3_bucket": "lake-of-spark"}))
    store.client.create_bucket(Bucket=store.bucket)
    return store


@pytest.fixture(scope="session")
def spark(services: Running, store: ObjectStore) -> Iterator[Spark]:
    if (java_version() or 0) < JAVA:
        pytest.skip(f"needs Java {JAVA} or newer: skipped because java was not found, or is older")
    session = Spark(spark_config(services.settings), s3a_options(store), min_files=0)
    yield session
    session.close()
