"""The object store against a real S3 server: listing, pinned reads, and one line for whatever goes wrong."""

from __future__ import annotations

import socket
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from upsell_assets.errors import PermanentError, RetryableError
from upsell_assets.lake.lakehouse import Lakehouse
from upsell_assets.lake.store import ObjectStore
from upsell_assets.lake.tables import Lake

pytestmark = pytest.mark.services


@pytest.fixture
def store(lakehouse: Lakehouse) -> ObjectStore:
    return lakehouse.store


def put(store: ObjectStore, *keys: str) -> None:
    for key in keys:
        store.write(key, key.encode())


def test_an_object_is_read_back(store: ObjectStore) -> None:
    body = bytes(range(256)) * 1000

    etag = store.write("raw/a b/ção+%20.bin", body)

    assert store.read("raw/a b/ção+%20.bin") == body
    assert store.read("raw/a b/ção+%20.bin", etag=etag) == body
    (found,) = store.list("raw/")
    assert (found.key, found.etag, found.size) == ("raw/a b/ção+%20.bin", etag, len(body))
    assert abs(datetime.now(UTC) - found.modified) < timedelta(minutes=5)


def test_a_pinned_read_gives_no_newer_bytes(store: ObjectStore) -> None:
    etag = store.write("file", b"old")
    store.write("file", b"new")

    with pytest.raises(FileNotFoundError, match=rf"s3://{store.bucket}/file is gone, or was replaced"):
        store.read("file", etag=etag)
    assert store.read("file") == b"new"


def test_an_object_that_is_not_there_is_no_error_of_the_store(store: ObjectStore) -> None:
    with pytest.raises(FileNotFoundError, match="nothing is gone"):
        store.read("nothing")
    store.delete("nothing")


def test_a_deleted_object_is_gone(store: ObjectStore) -> None:
    put(store, "a", "b")
    store.delete("a")

    assert [found.key for found in store.list("")] == ["b"]


def test_listing_goes_by_prefix_in_the_order_of_keys(store: ObjectStore) -> None:
    put(store, "raw/b", "raw/a/z", "raw/a/c", "rawer", "other")

    assert [found.key for found in store.list("raw/")] == ["raw/a/c", "raw/a/z", "raw/b"]
    assert [found.key for found in store.list("raw/", start_after="raw/a/c")] == ["raw/a/z", "raw/b"]
    assert list(store.list("raw/nothing/")) == []


def test_a_level_is_without_its_folders_and_folders_without_their_objects(store: ObjectStore) -> None:
    put(store, "raw/b", "raw/a/z", "raw/a/deep/y", "raw/c/x")

    assert [found.key for found in store.list_level("raw/")] == ["raw/b"]
    assert list(store.folders("raw/")) == ["a", "c"]
    assert list(store.folders("raw/a/")) == ["deep"]
    assert list(store.folders("nowhere/")) == []


def test_folder_markers_are_no_objects(store: ObjectStore) -> None:
    store.client.put_object(Bucket=store.bucket, Key="raw/empty/", Body=b"")
    put(store, "raw/a")

    assert [found.key for found in store.list("raw/")] == ["raw/a"]
    assert [found.key for found in store.list_level("raw/")] == ["raw/a"]


def test_a_listing_goes_on_over_pages(store: ObjectStore) -> None:
    keys = [f"many/{number:04d}" for number in range(1005)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda key: store.write(key, b""), keys))

    assert [found.key for found in store.list("many/")] == keys
    assert len(list(store.list_level("many/"))) == 1005


def test_the_lake_s_tables_are_listed_without_internal_ones(lakehouse: Lakehouse) -> None:
    put(lakehouse.store, "bronze/shop/orders/x", "bronze/shop/_orders_tombstones/x", "gold/upsell/daily/x", "raw/a/b/c")

    assert lakehouse.tables() == ["bronze.shop.orders", "gold.upsell.daily"]


# --- what goes wrong ---


def failures(store: ObjectStore) -> list[Exception]:
    """What every operation raises."""
    found = []
    for operate in (
        store.check,
        lambda: list(store.list("raw/")),
        lambda: list(store.list_level("raw/")),
        lambda: store.folders("raw/"),
        lambda: store.read("raw/a"),
        lambda: store.write("raw/a", b"x"),
        lambda: store.delete("raw/a"),
    ):
        with pytest.raises((PermanentError, RetryableError)) as error:
            operate()
        found.append(error.value)
    return found


def test_a_bucket_that_is_not_there_is_named(store: ObjectStore) -> None:
    missing = replace(store, bucket="lake-of-nobody")

    with pytest.raises(
        PermanentError, match=r"bucket 'lake-of-nobody': there is no such bucket\. Create it, or correct"
    ):
        missing.check()
    with pytest.raises(PermanentError, match="no such bucket"):
        list(missing.list("raw/"))


@pytest.mark.parametrize("wrong", [{"access_key_id": "nobody"}, {"secret_access_key": "hunter2"}])
def test_a_wrong_key_is_said_in_one_line_without_the_secret(store: ObjectStore, wrong: dict[str, str]) -> None:
    for error in failures(replace(store, **wrong)):
        assert isinstance(error, PermanentError)
        text = str(error)
        assert f"object store {store.endpoint}, bucket {store.bucket!r}: refused the key when asked to" in text
        assert "Check UPSELL_S3_ACCESS_KEY_ID and UPSELL_S3_SECRET_ACCESS_KEY" in text
        assert "hunter2" not in text
        assert "\n" not in text


def test_an_endpoint_out_of_reach_may_be_tried_again(store: ObjectStore) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))  # bound, and nobody listens
        endpoint = f"http://127.0.0.1:{unused.getsockname()[1]}"
        with pytest.raises(RetryableError, match=rf"object store {endpoint}, .*could not list raw/ \(") as error:
            list(replace(store, endpoint=endpoint).list("raw/"))
    assert str(error.value).endswith("Is UPSELL_S3_ENDPOINT right and running?")
    assert "\n" not in str(error.value)


def test_without_any_credentials_it_is_said_what_to_set(
    store: ObjectStore, monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> None:
    empty = tmp_path_factory.mktemp("aws") / "none"
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    for name in ("AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"):
        monkeypatch.setenv(name, str(empty))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    anonymous = replace(store, access_key_id=None, secret_access_key=None)

    with pytest.raises(PermanentError, match=r"no credentials found .*\. Set UPSELL_S3_ACCESS_KEY_ID"):
        anonymous.check()
    with pytest.raises(PermanentError, match="no credentials found"):
        anonymous.delta_options()
    monkeypatch.setenv("AWS_PROFILE", "nobody")
    with pytest.raises(
        PermanentError, match=r"no credentials found \(The config profile \(nobody\) could not be found\)"
    ):
        list(replace(anonymous).list("raw/"))


def test_delta_options_carry_the_key_and_a_session_s_token(store: ObjectStore) -> None:
    assert "aws_session_token" not in store.delta_options()
    options = replace(store, session_token="its-token").delta_options()

    assert options["aws_session_token"] == "its-token"
    assert options["aws_access_key_id"] == store.access_key_id
    assert options["aws_endpoint"] == store.endpoint
    assert options["aws_allow_http"] == "true"
    assert replace(store, endpoint="https://s3.example").delta_options()["aws_allow_http"] == "false"
    assert "aws_endpoint" not in replace(store, endpoint=None).delta_options()


def test_a_lake_in_a_bucket_makes_and_reads_tables(lakehouse: Lakehouse) -> None:
    assert Lake.of(lakehouse.store).root == f"s3://{lakehouse.store.bucket}"
    assert not lakehouse.lake.exists("silver.upsell.cliente")
