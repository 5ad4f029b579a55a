"""Dagster resources over the same lake, for assets that people write beside ours.

`dagster_aws` and `dagster_deltalake` take four seconds to import, which every run would pay: our own definitions do
without them, and nothing here is imported by them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from upsell_assets.lake.lakehouse import Lakehouse
from upsell_assets.lake.tables import split

if TYPE_CHECKING:
    from dagster_aws.s3 import S3Resource
    from dagster_deltalake import DeltaTableResource


def s3_resource(lakehouse: Lakehouse) -> S3Resource:
    """The object store as a `dagster_aws` resource; without static keys, through the default AWS chain."""
    from dagster_aws.s3 import S3Resource

    store = lakehouse.store
    return S3Resource(
        region_name=store.region,
        endpoint_url=store.endpoint,
        aws_access_key_id=store.access_key_id,
        aws_secret_access_key=store.secret_access_key,
        aws_session_token=store.session_token,
    )


def delta_table_resource(lakehouse: Lakehouse, name: str, version: int | None = None) -> DeltaTableResource:
    """One table, such as `gold.upsell.churn_report`, as a `dagster_deltalake` resource; for reading.

    Raises:
        UnknownTableError: the name has not three parts.
    """
    from dagster_deltalake import DeltaTableResource, S3Config
    from dagster_deltalake.config import ClientConfig

    split(name)
    store = lakehouse.store
    plain = bool(store.endpoint and store.endpoint.startswith("http://"))
    config = S3Config(
        bucket=store.bucket,
        region=store.region,
        endpoint=store.endpoint,
        access_key_id=store.access_key_id,
        secret_access_key=store.secret_access_key,
        token=store.session_token,
    )
    return DeltaTableResource(
        url=lakehouse.lake.uri(name),
        storage_options=config,
        client_options=ClientConfig(allow_http=plain),
        version=version,
    )
