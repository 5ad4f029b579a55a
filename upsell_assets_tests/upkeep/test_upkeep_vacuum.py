"""Vacuum of one table: only what no version inside of the horizon names goes, and no commit says so."""

from __future__ import annotations

import os
import time
from datetime import timedelta
from pathlib import Path

import pyarrow as pa
import pytest
from deltalake import write_deltalake
from looked_after import named, on_disk

from upsell_assets.lake import files
from upsell_assets.lake.files import OldFile, exchange, write_rows
from upsell_assets.lake.tables import Lake, VersionGoneError
from upsell_assets.lake.vacuum import Deleted, is_kept, set_horizon, vacuum

NAME = "gold.upsell.numbers"
ROWS = pa.table({"number": pa.array([1, 2, 3], pa.int64())})
WEEK, DAY = timedelta(7), timedelta(1)


def replace(lake: Lake, *, days_ago: int = 0) -> None:
    """Put a new file in the place of all others, as if so many days ago."""
    moment = time.time() - days_ago * 86_400
    with pytest.MonkeyPatch.context() as past:
        past.setattr(files.time, "time_ns", lambda: int(moment * 10**9))
        table = lake.open_or_create(NAME, ROWS.schema)
        held = pa.table(table.get_add_actions(flatten=True)).to_pylist() if table.version() else []
        exchange(
            table, write_rows(lake, table, [({}, ROWS)]), [OldFile(one["path"], one["size_bytes"]) for one in held]
        )
    log = Path(lake.uri(NAME)) / "_delta_log"
    for path in [*on_disk(lake, NAME), *map(str, log.glob(f"{table.version():020d}.*"))]:
        if Path(path).stat().st_mtime > moment + 3600:
            os.utime(path, (moment, moment))


def test_what_only_versions_before_the_horizon_name_is_deleted(local_lake: Lake) -> None:
    for days in (30, 20, 10, 5, 1):
        replace(local_lake, days_ago=days)
    sizes = {path: Path(path).stat().st_size for path in on_disk(local_lake, NAME)}
    inside = set[str]().union(
        *({str(uri) for uri in local_lake.open(NAME, version).file_uris()} for version in (3, 4, 5))
    )

    would = vacuum(local_lake, NAME, WEEK, dry_run=True)
    assert len(on_disk(local_lake, NAME)) == 5
    done = vacuum(local_lake, NAME, WEEK)

    assert on_disk(local_lake, NAME) == inside
    assert (would.files, done.files) == (2, 2)
    assert would.bytes == sum(size for path, size in sizes.items() if path not in inside)
    assert local_lake.open(NAME).version() == 5
    assert local_lake.open(NAME, 3).to_pyarrow_table() == ROWS
    assert vacuum(local_lake, NAME, WEEK) == Deleted()


def test_files_that_no_commit_names_go_once_they_are_old(local_lake: Lake) -> None:
    replace(local_lake)
    table = local_lake.open(NAME)
    write_rows(local_lake, table, [({}, ROWS), ({}, ROWS)])
    left, written = sorted(on_disk(local_lake, NAME) - named(local_lake, NAME))
    os.utime(left, (time.time() - 8 * 86_400,) * 2)

    assert vacuum(local_lake, NAME, WEEK).files == 1

    assert on_disk(local_lake, NAME) == {written} | named(local_lake, NAME)


def test_names_of_partitions_may_have_any_characters(local_lake: Lake) -> None:
    rows = pa.table({"kind": ["a b", "Lista de presença", "x=1/2", "50%", None], "number": [1, 2, 3, 4, 5]})
    for _ in range(2):
        write_deltalake(local_lake.uri(NAME), rows, mode="overwrite", partition_by=["kind"])

    assert vacuum(local_lake, NAME, timedelta(0)).files == 5

    assert local_lake.open(NAME).to_pyarrow_table().num_rows == 5
    assert len(on_disk(local_lake, NAME)) == 5


def test_the_log_goes_back_as_far_as_the_horizon(local_lake: Lake) -> None:
    for _ in range(28):
        replace(local_lake)
    for path in (Path(local_lake.uri(NAME)) / "_delta_log").glob("0*"):
        if int(path.name[:20]) < 26:
            os.utime(path, (time.time() - 30 * 86_400,) * 2)

    done = vacuum(local_lake, NAME, WEEK)

    assert done.log_files > 15
    assert [local_lake.open(NAME, version).to_pyarrow_table() for version in (26, 27, 28)] == [ROWS] * 3
    with pytest.raises(VersionGoneError, match=r"numbers: version 3 cannot be read any more.*UPSELL_KEEP_DAYS"):
        local_lake.open(NAME, 3)


def test_another_horizon_is_written_into_the_table_once(local_lake: Lake) -> None:
    replace(local_lake)
    assert is_kept(local_lake.open(NAME), WEEK)
    assert not is_kept(local_lake.open(NAME), timedelta(30))

    set_horizon(local_lake.open(NAME), timedelta(30))

    assert is_kept(local_lake.open(NAME), timedelta(30))
    assert local_lake.open(NAME).version() == 2


def test_a_longer_horizon_keeps_what_checkpoints_would_have_forgotten(local_lake: Lake) -> None:
    replace(local_lake, days_ago=12)
    set_horizon(local_lake.open(NAME), timedelta(30))
    replace(local_lake, days_ago=11)
    for _ in range(12):
        replace(local_lake, days_ago=10)

    assert vacuum(local_lake, NAME, timedelta(30)) == Deleted()
    assert vacuum(local_lake, NAME, WEEK, dry_run=True).files == 13
