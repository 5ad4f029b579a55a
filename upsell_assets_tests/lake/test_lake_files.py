"""Files that DuckDB wrote, in the log of a Delta table: read back by delta-rs, with statistics that rule out nothing held."""

from __future__ import annotations

import json
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path

import pyarrow as pa
import pytest
from deltalake import DeltaTable
from deltalake.exceptions import CommitFailedError

from upsell_assets.lake.files import LONGEST, NewFile, OldFile, exchange, write_files
from upsell_assets.lake.tables import Lake

NAME = "bronze.upsell.things"
FIRST = datetime(2024, 2, 1, 10, 0, 0, 999, tzinfo=UTC)
SCHEMA = pa.schema(
    [
        ("id", pa.int64()),
        ("at", pa.timestamp("us", tz="UTC")),
        ("on", pa.date32()),
        ("name", pa.string()),
        ("worth", pa.decimal128(10, 2)),
        ("share", pa.float64()),
        ("yes", pa.bool_()),
        ("raw", pa.binary()),
        ('odd "name"', pa.int32()),
        ("part", pa.string()),
    ]
)


def row(number: int, **more: object) -> dict[str, object]:
    values = (
        number,
        FIRST + timedelta(microseconds=number),
        date(2024, 2, 1),
        f"n{number}",
        Decimal("1.50"),
        0.5,
        True,
    )
    return dict(zip(SCHEMA.names, (*values, b"\x00", -number), strict=False)) | more


def new(*rows: dict[str, object], part: str = "a") -> NewFile:
    batch = pa.Table.from_pylist(list(rows), pa.schema([field for field in SCHEMA if field.name != "part"]))
    return NewFile(batch, partition={"part": part})


def made(lake: Lake, *files: NewFile) -> DeltaTable:
    table = lake.open_or_create(NAME, SCHEMA, partition_by=("part",))
    exchange(table, write_files(lake, table, files), [])
    return table


def held(lake: Lake) -> list[dict[str, object]]:
    return sorted(lake.rows(lake.open(NAME)).to_table().to_pylist(), key=lambda found: str(found["id"]))


def logged(lake: Lake, version: int, action: str) -> list[dict[str, object]]:
    log = Path(lake.uri(NAME)) / "_delta_log" / f"{version:020d}.json"
    return [entry[action] for line in log.read_text().splitlines() if action in (entry := json.loads(line))]


def test_rows_come_back_as_they_were(local_lake: Lake) -> None:
    rows = [row(1), row(2, **dict.fromkeys(SCHEMA.names[1:-1]))]

    made(local_lake, new(*rows))

    assert held(local_lake) == [found | {"part": "a"} for found in rows]


def test_a_file_takes_over_what_is_not_gone_and_lies_within_its_bounds(local_lake: Lake) -> None:
    table = made(local_lake, new(*map(row, range(6))))
    gone = pa.table({"id": [2, 9]})
    bounds = "at", FIRST, FIRST + timedelta(microseconds=4)

    [added] = write_files(
        local_lake, table, [NewFile(new(row(7)).rows, table.file_uris(), gone, bounds, partition={"part": "b"})]
    )
    exchange(
        table,
        [added],
        [OldFile(path, 0, {"part": "a"}) for path in pa.table(table.get_add_actions())["path"].to_pylist()],
    )

    assert [(found["id"], found["part"]) for found in held(local_lake)] == [(1, "b"), (3, "b"), (4, "b"), (7, "b")]


def test_statistics_hold_every_value_and_are_those_of_the_protocol(local_lake: Lake) -> None:
    made(local_lake, new(row(1), row(5, name=None), row(3)))

    [added] = logged(local_lake, 1, "add")
    stats = json.loads(str(added["stats"]))

    assert stats["numRecords"] == 3
    day, least, greatest = {"on": "2024-02-01"}, "2024-02-01T10:00:00.001Z", "2024-02-01T10:00:00.002Z"
    assert stats["minValues"] == {"id": 1, "at": least, **day, "name": "n1", 'odd "name"': -5}
    assert stats["maxValues"] == {"id": 5, "at": greatest, **day, "name": "n3", 'odd "name"': -1}
    assert {name for name, nulls in stats["nullCount"].items() if nulls} == {"name"}


@pytest.mark.parametrize("micros", [0, 1, 999, 1000, 999_999])
def test_an_instant_is_found_by_its_microsecond(local_lake: Lake, micros: int) -> None:
    at = FIRST.replace(microsecond=micros)
    made(local_lake, new(row(1, at=at)), new(row(2, at=at + timedelta(days=1))))

    [found] = local_lake.open(NAME).to_pyarrow_table(filters=[("at", "=", at)]).to_pylist()

    assert found["id"] == 1


@pytest.mark.parametrize("name", ["é" * LONGEST, "é" * (LONGEST + 1), "", 'it\'s "so"\n'])
def test_a_text_is_found_however_long_it_is(local_lake: Lake, name: str) -> None:
    made(local_lake, new(row(1, name=name)), new(row(2, name="m")))

    assert [found["id"] for found in held(local_lake) if found["name"] == name] == [1]
    [first, _] = logged(local_lake, 1, "add")
    assert ("name" in json.loads(str(first["stats"]))["minValues"]) == (len(name) <= LONGEST)


def test_a_file_without_rows_is_not_named(local_lake: Lake) -> None:
    table = made(local_lake, new(), new(row(1)))

    assert len(table.file_uris()) == 1


def test_files_are_exchanged_in_one_commit_and_others_stay(local_lake: Lake) -> None:
    table = made(local_lake, new(row(1)), new(row(2), part="b"))
    [gone] = [entry for entry in logged(local_lake, 1, "add") if entry["partitionValues"] == {"part": "a"}]

    added = write_files(local_lake, table, [new(row(3))])
    exchange(table, added, [OldFile(str(gone["path"]), int(str(gone["size"])), {"part": "a"})], changes=False)

    assert table.version() == 2
    assert [(found["id"], found["part"]) for found in held(local_lake)] == [(2, "b"), (3, "a")]
    assert [entry["dataChange"] for entry in logged(local_lake, 2, "add")] == [False]
    assert [entry["dataChange"] for entry in logged(local_lake, 2, "remove")] == [False]


def test_who_comes_second_changes_nothing(local_lake: Lake) -> None:
    first = made(local_lake, new(row(1)))
    second = local_lake.open(NAME)
    added = write_files(local_lake, second, [new(row(3))])
    exchange(first, write_files(local_lake, first, [new(row(2))]), [])

    with pytest.raises(CommitFailedError):
        exchange(second, added, [])

    assert [found["id"] for found in held(local_lake)] == [1, 2]
