"""Sessions of a Spark cluster of two workers; every step is Spark's, however few files it concerns."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from upsell_assets.lake.engines.spark_session import Spark, s3a_options, spark_config
from upsell_assets.lake.store import ObjectStore
from upsell_assets.services.embedded import Running
from upsell_assets.services.spark_cluster import SparkCluster


def pytest_itemcollected(item: pytest.Item) -> None:
    item.add_marker(pytest.mark.spark)
    item.add_marker(pytest.mark.services)


@pytest.fixture(scope="session")
def store(services: Running) -> ObjectStore:
    store = ObjectStore.from_settings(services.settings.model_copy(update={"s3_bucket": "lake-of-spark"}))
    store.client.create_bucket(Bucket=store.bucket)
    return store


@pytest.fixture(scope="module")
def spark(services: Running, store: ObjectStore, cluster: SparkCluster) -> Iterator[Spark]:
    """Of a module, since other modules of the same process have sessions of their own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SPARK_CONF_DIR", str(cluster.conf))
        settings = services.settings.model_copy(update={"spark_master": cluster.url})
        # A JVM that another module started has not read the cluster's defaults, where the secret is.
        secret = cluster.state.secret("secret of the Spark cluster")
        config = {**spark_config(settings), "spark.authenticate.secret": secret}
        session = Spark(config, s3a_options(store), min_files=0)
        yield session
        session.close()
