"""Which raw files there are: layouts, landing days and windows, on a real object store."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from uuid import uuid4

import pytest

from upsell_assets.contracts import Contract
from upsell_assets.lake.store import ObjectStore
from upsell_assets.raw.landing import EVER, LandedFile, Window, landed, landed_at, landed_changes, landed_parts
from upsell_assets.services.embedded import Running

DAY = date(2024, 6, 13)


@dataclass
class Raw:
    """A table's raw folders."""

    store: ObjectStore
    table: Contract

    def put(self, *paths: str, body: bytes = b"x") -> None:
        for path in paths:
            self.store.write(f"raw/{self.table.schema_name}/{path}", body)

    def landed(self, window: Window = EVER) -> list[LandedFile]:
        return landed(self.store, self.table, window)

    def paths(self, window: Window = EVER) -> list[str]:
        return [file.key.removeprefix(f"raw/{self.table.schema_name}/") for file in self.landed(window)]


@pytest.fixture
def raw(services: Running) -> Raw:
    """A schema of its own in the bucket that all these tests share."""
    table = {"schema": f"s{uuid4().hex}", "table": "t", "key": ["id"], "columns": {"id": "string"}}
    return Raw(ObjectStore.from_settings(services.settings), Contract.model_validate(table))


@pytest.mark.parametrize(
    "key", ["2024/06/13/f.parquet", "2024/06/13/07/f.parquet", "region=a/2024/06/13/f.parquet", "2024/06/13/f"]
)
def test_the_landing_day_is_the_date_in_the_path(raw: Raw, key: str) -> None:
    raw.put(f"cdc/t/{key}")

    assert [file.day for file in raw.landed()] == [DAY]
    assert raw.paths(Window(DAY, DAY)) == [f"cdc/t/{key}"]
    assert raw.paths(Window(DAY + timedelta(1), DAY + timedelta(9))) == []


@pytest.mark.parametrize("key", ["f.parquet", "batch-7/f.parquet", "dt=2024-06-13/f.parquet", "a/b/f.parquet"])
def test_without_a_date_the_landing_day_is_the_day_of_the_upload(raw: Raw, key: str) -> None:
    """What the periodic sweep reports under that day must also be found when that day is taken in."""
    raw.put(f"cdc/t/{key}")
    today = datetime.now(UTC).date()

    assert [today - file.day for file in raw.landed()] in ([timedelta(0)], [timedelta(1)])
    assert raw.paths(Window(today - timedelta(1), today)) == [f"cdc/t/{key}"]
    assert raw.paths(Window(DAY, DAY)) == []


def test_a_folder_that_is_no_date_counts_by_its_upload(raw: Raw) -> None:
    raw.put("cdc/t/2024/13/45/f.parquet")

    assert [file.day.year >= 2026 for file in raw.landed()] == [True]


def test_markers_and_unfinished_files_are_no_data(raw: Raw) -> None:
    raw.put(*(f"cdc/t/{key}" for key in ("_SUCCESS", ".part", "2024/06/13/_tmp", "_temporary/0/f.parquet", "f")))

    assert raw.paths() == ["cdc/t/f"]


def test_the_folder_of_a_full_load_is_its_name(raw: Raw) -> None:
    raw.put(*(f"full_load/t/{key}" for key in ("f.parquet", "L1/f.parquet", "L1/a/f.parquet", "L1/_manifest.json")))

    assert {part.key.partition("/full_load/t/")[2]: part.load for part in landed_parts(raw.store, raw.table)} == {
        "f.parquet": "",
        "L1/f.parquet": "L1",
        "L1/a/f.parquet": "L1/a",
    }
    assert landed_changes(raw.store, raw.table) == []


def test_tables_whose_names_begin_alike_are_kept_apart(raw: Raw) -> None:
    raw.put("cdc/t_more/f.parquet", "full_load/t_more/f.parquet", "cdc/other/f.parquet")

    assert raw.paths() == []


@pytest.fixture
def dms(raw: Raw) -> Raw:
    """A table of which DMS writes the files, to a folder of its own."""
    return of_producer(raw, layout="dms", path=f"{raw.table.schema_name}/sales/t", timestamp="at")


def of_producer(raw: Raw, **files: object) -> Raw:
    return Raw(raw.store, Contract.model_validate({**raw.table.model_dump(by_alias=True), "files": files}))


def put(raw: Raw, *paths: str) -> None:
    for path in paths:
        raw.store.write(f"{raw.table.schema_name}/sales/{path}", b"x")


def names(files: list[LandedFile]) -> list[str]:
    return [file.key.partition("/sales/")[2] for file in files]


def test_of_dms_load_files_are_the_full_load_and_all_else_is_changes(dms: Raw) -> None:
    loads = ["t/LOAD00000001.csv", "t/LOAD0000000A.csv", "t/LOAD_1_00000001.csv"]
    changes = ["t/2024/06/13/20240613-101112123.csv", "t/20240613-101112123.csv", "t/other"]
    put(dms, *loads, *changes, "t/_tmp.csv", "t_more/LOAD00000001.csv", "t_more/20240613-101112123.csv")

    parts = landed_parts(dms.store, dms.table)

    assert (names(parts), {part.load for part in parts}) == (loads, {""})
    assert names(landed_changes(dms.store, dms.table)) == changes
    assert names(dms.landed()) == sorted(loads + changes)
    assert [landed_at(dms.store, dms.table, part.key) for part in parts] == parts


@pytest.mark.parametrize(
    ("day_folder", "path"),
    [
        ("YYYY/MM/DD", "2024/06/13"),
        ("YYYYMMDD", "20240613"),
        ("YYYY-MM-DD", "2024-06-13"),
        ("YYYY_MM_DD", "2024_06_13"),
        ("YYYY/MM/DD/HH", "2024/06/13/23"),
        ("YYYYMMDDHH", "2024061323"),
        ("YYYY-MM-DD-HH", "2024-06-13-23"),
        ("MM/YYYY/DD", "06/2024/13"),
        ("MM_YYYY_DD", "06_2024_13"),
        ("DD/MM/YYYY", "13/06/2024"),
        ("DDMMYYYY", "13062024"),
        ("year=YYYY/month=MM/day=DD", "year=2024/month=06/day=13"),
        ("year=YYYY/month=MM/day=DD/hour=HH", "year=2024/month=06/day=13/hour=23"),
    ],
)
def test_the_landing_day_is_read_from_folders_as_the_contract_says_they_look(
    raw: Raw, day_folder: str, path: str
) -> None:
    path_of_table = f"{raw.table.schema_name}/sales/t"
    table = of_producer(raw, layout="dms", path=path_of_table, timestamp="at", day_folder=day_folder)
    put(table, f"t/{path}/20240613-101112123.csv", "t/20240613.csv", "t/elsewhere/f.csv")
    today = datetime.now(UTC).date()

    assert names(table.landed(Window(DAY, DAY))) == [f"t/{path}/20240613-101112123.csv"]
    assert table.landed(Window(DAY + timedelta(1), DAY + timedelta(40))) == []
    assert names(table.landed(Window(today - timedelta(1), today))) == ["t/20240613.csv", "t/elsewhere/f.csv"]


def test_where_folders_tell_no_day_all_files_count_by_their_upload(dms: Raw) -> None:
    """Months (YYYYMM) begin as days do; what the sweep reports under a day must be found when it is taken in."""
    put(dms, "t/2024/06/20240613-101112123.csv", "t/202406/20240613-101112123.csv")
    today = datetime.now(UTC).date()

    assert len(dms.landed(Window(today - timedelta(1), today))) == 2
    assert dms.landed(Window(DAY, DAY)) == []


def test_a_file_is_listed_once_though_its_name_begins_as_the_folder_of_its_day(raw: Raw) -> None:
    path = f"{raw.table.schema_name}/sales/t"
    table = of_producer(raw, layout="dms", path=path, timestamp="at", day_folder="YYYYMMDDHH")
    today = datetime.now(UTC).date()
    put(table, f"t/{today:%Y%m%d}-101112123.csv", f"t/{today:%Y%m%d}10/{today:%Y%m%d}-101112123.csv")

    assert len(table.landed(Window(today - timedelta(1), today + timedelta(1)))) == 2


def test_a_new_version_of_a_path_has_a_new_etag(raw: Raw) -> None:
    raw.put("cdc/t/f")
    [before] = raw.landed()

    raw.put("cdc/t/f", body=b"other")

    [after] = raw.landed()
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
