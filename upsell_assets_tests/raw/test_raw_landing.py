"""Which raw files there are: layouts, landing days and windows, on a real object store."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta

import pytest

from upsell_assets.contracts import Contract
from upsell_assets.lake.lakehouse import Lakehouse
from upsell_assets.raw.landing import EVER, Window, landed, landed_changes, landed_parts

TABLE = Contract.model_validate({"schema": "s", "table": "t", "key": ["id"], "columns": {"id": "string"}})
CDC, FULL = "raw/s/cdc/t/", "raw/s/full_load/t/"
DAY = date(2024, 6, 13)


def put(lakehouse: Lakehouse, *keys: str) -> None:
    for key in keys:
        lakehouse.store.write(key, b"x")


def keys(lakehouse: Lakehouse, window: Window = EVER) -> list[str]:
    return [file.key for file in landed(lakehouse.store, TABLE, window)]


@pytest.mark.parametrize(
    "key", ["2024/06/13/f.parquet", "2024/06/13/07/f.parquet", "region=a/2024/06/13/f.parquet", "2024/06/13/f"]
)
def test_the_landing_day_is_the_date_in_the_path(lakehouse: Lakehouse, key: str) -> None:
    put(lakehouse, CDC + key)

    assert [file.day for file in landed(lakehouse.store, TABLE)] == [DAY]
    assert keys(lakehouse, Window(DAY, DAY)) == [CDC + key]
    assert keys(lakehouse, Window(DAY + timedelta(1), DAY + timedelta(9))) == []


@pytest.mark.parametrize("key", ["f.parquet", "batch-7/f.parquet", "dt=2024-06-13/f.parquet", "a/b/f.parquet"])
def test_without_a_date_the_landing_day_is_the_day_of_the_upload(lakehouse: Lakehouse, key: str) -> None:
    """What the periodic sweep reports under that day must also be found when that day is taken in."""
    put(lakehouse, CDC + key)
    today = datetime.now(UTC).date()

    assert [today - file.day for file in landed(lakehouse.store, TABLE)] in ([timedelta(0)], [timedelta(1)])
    assert keys(lakehouse, Window(today - timedelta(1), today)) == [CDC + key]
    assert keys(lakehouse, Window(DAY, DAY)) == []


def test_a_folder_that_is_no_date_counts_by_its_upload(lakehouse: Lakehouse) -> None:
    put(lakehouse, f"{CDC}2024/13/45/f.parquet")

    assert [file.day.year >= 2026 for file in landed(lakehouse.store, TABLE)] == [True]


def test_markers_and_unfinished_files_are_no_data(lakehouse: Lakehouse) -> None:
    put(lakehouse, *(CDC + key for key in ("_SUCCESS", ".part", "2024/06/13/_tmp", "_temporary/0/f.parquet", "f")))

    assert keys(lakehouse) == [f"{CDC}f"]


def test_the_folder_of_a_full_load_is_its_name(lakehouse: Lakehouse) -> None:
    put(lakehouse, *(FULL + key for key in ("f.parquet", "L1/f.parquet", "L1/a/f.parquet", "L1/_manifest.json")))

    assert {part.key[len(FULL) :]: part.load for part in landed_parts(lakehouse.store, TABLE)} == {
        "f.parquet": "",
        "L1/f.parquet": "L1",
        "L1/a/f.parquet": "L1/a",
    }
    assert landed_changes(lakehouse.store, TABLE) == []


def test_tables_whose_names_begin_alike_are_kept_apart(lakehouse: Lakehouse) -> None:
    put(lakehouse, "raw/s/cdc/t_more/f.parquet", "raw/s/full_load/t_more/f.parquet", "raw/s/cdc/other/f.parquet")

    assert keys(lakehouse) == []


def test_a_new_version_of_a_path_has_a_new_etag(lakehouse: Lakehouse) -> None:
    put(lakehouse, f"{CDC}f")
    [before] = landed(lakehouse.store, TABLE)

    lakehouse.store.write(f"{CDC}f", b"other")

    [after] = landed(lakehouse.store, TABLE)
    assert (before.key, before.etag != after.etag, after.size) == (after.key, True, 5)


@pytest.mark.parametrize(
    ("window", "inside"),
    [
        (EVER, [True, True, True]),
        (Window(DAY, DAY), [False, True, False]),
        (Window(None, DAY), [True, True, False]),
        (Window(DAY, None), [False, True, True]),
    ],
)
def test_windows_include_both_their_days(window: Window, inside: list[bool]) -> None:
    assert [day in window for day in (DAY - timedelta(1), DAY, DAY + timedelta(1))] == inside
