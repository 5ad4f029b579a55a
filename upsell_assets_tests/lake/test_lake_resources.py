"""The resources for assets that people write beside ours."""

from __future__ import annotations

import pyarrow as pa
import pytest

from upsell_assets.lake.lakehouse import Lakehouse
from upsell_assets.lake.resources import delta_table_resource, s3_resource


def test_s3_resource_reaches_the_bucket(lakehouse: Lakehouse) -> None:
    lakehouse.store.write("raw/shop/note.txt", b"hello")

    client = s3_resource(lakehouse).get_client()

    assert client.get_object(Bucket=lakehouse.store.bucket, Key="raw/shop/note.txt")["Body"].read() == b"hello"


@pytest.mark.filterwarnings("ignore::pydantic.PydanticDeprecatedSince20")  # dagster-deltalake's own calls
def test_delta_table_resource_reads_a_table_at_a_pinned_version(lakehouse: Lakehouse) -> None:
    for number in (1, 2):
        lakehouse.lake.replace("gold.shop.report", pa.table({"n": [number]}).to_reader(), partitions={})

    first = delta_table_resource(lakehouse, "gold.shop.report", version=1)

    assert first.load().to_pyarrow_table().to_pylist() == [{"n": 1}]
    assert delta_table_resource(lakehouse, "gold.shop.report").load().to_pyarrow_table().to_pylist() == [{"n": 2}]
