"""Delta tables by name: created, opened, and replaced partition by partition, or not at all."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from threading import Thread
from typing import Any

import pyarrow as pa
import pytest
from deltalake import DeltaTable, write_deltalake
from deltalake.exceptions import CommitFailedError
from pyarrow.fs import LocalFileSystem, PyFileSystem

from upsell_assets.errors import PermanentError, RetryableError
from upsell_assets.lake import partitions
from upsell_assets.lake.commits import commit_properties, retry_conflicts
from upsell_assets.lake.duck import connect, register
from upsell_assets.lake.engines import Query
from upsell_assets.lake.engines.embedded import EmbeddedEngine
from upsell_assets.lake.sql import parse_query
from upsell_assets.lake.tables import TABLE_PROPERTIES, Lake, UnknownTableError, split

NAME = "gold.upsell.report"
SCHEMA = pa.schema([("dtRef", pa.date32()), ("name", pa.string()), ("points", pa.int64())])
MON, TUE, WED = date(2024, 1, 1), date(2024, 1, 2), date(2024, 1, 3)

Row = tuple[Any, ...]


def rows(*values: Row, schema: pa.Schema = SCHEMA) -> pa.RecordBatchReader:
    return pa.Table.from_pylist([dict(zip(schema.names, row, strict=True)) for row in values], schema).to_reader()


def held(lake: Lake, name: str = NAME) -> list[Row]:
    found = lake.open(name).to_pyarrow_dataset().to_table().select(SCHEMA.names).to_pylist()
    return sorted((tuple(row.values()) for row in found), key=repr)


@pytest.fixture
def lake(local_lake: Lake) -> Lake:
    """A lake whose table has three days."""
    values = [(MON, "a", 1), (TUE, "b", 2), (WED, "c", 3)]
    local_lake.replace(NAME, rows(*values), partitions={"dtRef": [MON, TUE, WED]})
    return local_lake


# --- replace ---


def test_exactly_the_named_partitions_are_replaced(lake: Lake) -> None:
    lake.replace(NAME, rows((TUE, "x", 7), (TUE, "y", 8)), partitions={"dtRef": [TUE]})

    assert held(lake) == [(MON, "a", 1), (TUE, "x", 7), (TUE, "y", 8), (WED, "c", 3)]


def test_a_replacement_is_one_commit_and_may_be_repeated(lake: Lake) -> None:
    before = lake.open(NAME).version()

    for _ in range(2):
        table = lake.replace(NAME, rows((MON, "x", 7), (TUE, "y", 8)), partitions={"dtRef": [MON, TUE]})

    assert table.version() == before + 2
    assert held(lake) == [(MON, "x", 7), (TUE, "y", 8), (WED, "c", 3)]


def test_no_rows_empty_their_partitions(lake: Lake) -> None:
    lake.replace(NAME, rows(), partitions={"dtRef": [MON, WED]})

    assert held(lake) == [(TUE, "b", 2)]


def test_a_partition_without_rows_stays_empty(lake: Lake) -> None:
    lake.replace(NAME, rows((TUE, "x", 7)), partitions={"dtRef": [MON, TUE]})

    assert held(lake) == [(TUE, "x", 7), (WED, "c", 3)]


def test_rows_outside_the_partitions_are_refused_and_nothing_is_written(lake: Lake) -> None:
    before = lake.open(NAME).version()

    with pytest.raises(PermanentError, match=rf"{NAME}: expected rows of .* found some of 2024-01-02\. Nothing was"):
        lake.replace(NAME, rows((MON, "x", 7), (TUE, "y", 8)), partitions={"dtRef": [MON]})
    assert lake.open(NAME).version() == before
    assert held(lake) == [(MON, "a", 1), (TUE, "b", 2), (WED, "c", 3)]


def test_partitions_may_be_given_as_text_and_need_no_escape(local_lake: Lake) -> None:
    for name, points in (("it's", 1), ("plain", 2), ("it's", 3)):
        local_lake.replace(NAME, rows((MON, name, points)), partitions={"name": [name]})

    assert held(local_lake) == [(MON, "it's", 3), (MON, "plain", 2)]


def test_days_may_be_given_as_text(lake: Lake) -> None:
    lake.replace(NAME, rows((TUE, "x", 7)), partitions={"dtRef": ["2024-01-02"]})

    assert held(lake) == [(MON, "a", 1), (TUE, "x", 7), (WED, "c", 3)]


def test_two_partition_columns_are_replaced_together(local_lake: Lake) -> None:
    def replace(row: Row) -> None:
        local_lake.replace(NAME, rows(row), partitions={"name": [row[1]], "dtRef": [row[0]]})

    for row in [(MON, "a", 1), (MON, "b", 2), (TUE, "a", 3), (MON, "a", 4)]:
        replace(row)

    assert held(local_lake) == [(MON, "a", 4), (MON, "b", 2), (TUE, "a", 3)]
    assert local_lake.open(NAME).metadata().partition_columns == ["name", "dtRef"]


def test_without_partitions_the_whole_table_is_replaced_columns_and_all(lake: Lake) -> None:
    other = pa.schema([("other", pa.int64())])

    lake.replace("gold.upsell.whole", rows((MON, "a", 1)), partitions={})
    lake.replace("gold.upsell.whole", rows((5,), schema=other), partitions={})

    assert lake.open("gold.upsell.whole").to_pyarrow_dataset().to_table().to_pylist() == [{"other": 5}]


def test_a_new_column_is_null_in_the_partitions_that_stay(lake: Lake) -> None:
    wider = SCHEMA.append(pa.field("more", pa.string()))

    lake.replace(NAME, rows((TUE, "x", 7, "new"), schema=wider), partitions={"dtRef": [TUE]})

    table = lake.open(NAME).to_pyarrow_dataset().to_table().sort_by("dtRef")
    assert table["more"].to_pylist() == [None, "new", None]


def test_a_column_of_another_type_is_refused_and_named(lake: Lake) -> None:
    other = pa.schema([("dtRef", pa.date32()), ("name", pa.string()), ("points", pa.float64())])

    with pytest.raises(
        PermanentError, match=rf"{NAME}\.points: expected .*long.* found .*double.* Nothing was replaced"
    ):
        lake.replace(NAME, rows((MON, "x", 0.5), schema=other), partitions={"dtRef": [MON]})
    assert held(lake) == [(MON, "a", 1), (TUE, "b", 2), (WED, "c", 3)]


def test_many_partitions_are_replaced_portion_by_portion_in_one_commit(
    lake: Lake, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(partitions, "PORTION_ROWS", 3)
    days = [MON + timedelta(days=number) for number in range(7)]
    values = [(day, name, 1) for name in "xy" for day in days]
    batches = pa.Table.from_batches(rows(*values)).to_batches(max_chunksize=2)

    table = lake.replace(NAME, pa.RecordBatchReader.from_batches(SCHEMA, batches), partitions={"dtRef": days})

    assert table.version() == 2
    assert held(lake) == sorted(values, key=repr)


def test_watermarks_commit_with_the_rows(lake: Lake) -> None:
    table = lake.replace(NAME, rows(), partitions={"dtRef": [MON]}, watermarks={"silver": 7})

    assert table.transaction_version("silver") == 7
    assert lake.open(NAME).transaction_version("silver") == 7
    assert lake.open(NAME).transaction_version("other") is None


def test_who_is_overtaken_while_the_rows_come_writes_nothing(lake: Lake) -> None:
    def overtaken() -> Iterator[pa.RecordBatch]:
        other = Thread(target=lambda: lake.replace(NAME, rows((WED, "theirs", 9)), partitions={"dtRef": [WED]}))
        other.start()
        other.join()
        yield from rows((MON, "ours", 8))

    with pytest.raises(CommitFailedError):
        lake.replace(NAME, pa.RecordBatchReader.from_batches(SCHEMA, overtaken()), partitions={"dtRef": [MON]})
    assert held(lake) == [(MON, "a", 1), (TUE, "b", 2), (WED, "theirs", 9)]


def test_rows_that_fail_on_the_way_leave_the_table_as_it_was(lake: Lake) -> None:
    def failing() -> Iterator[pa.RecordBatch]:
        yield from rows((MON, "ours", 8))
        raise ValueError("the query failed")

    with pytest.raises(Exception, match="the query failed"):
        lake.replace(NAME, pa.RecordBatchReader.from_batches(SCHEMA, failing()), partitions={"dtRef": [MON]})
    assert held(lake) == [(MON, "a", 1), (TUE, "b", 2), (WED, "c", 3)]


# --- conditions ---

EVERY_TYPE = pa.schema(
    [
        ("dtRef", pa.date32()),
        ("n", pa.int64()),
        ("x", pa.float64()),
        ("text", pa.string()),
        ("yes", pa.bool_()),
        ("at", pa.timestamp("us", tz="UTC")),
        ("on", pa.date32()),
        ("worth", pa.decimal128(10, 2)),
    ]
)
LEAST, MOST = datetime(1, 1, 1, tzinfo=UTC), datetime(9999, 12, 31, 23, 59, 59, 999_999, tzinfo=UTC)


@pytest.mark.parametrize(
    ("condition", "found"),
    [
        ("n > 1", [2, 3]),
        ("x > 0.6", [2]),
        ("NOT x > 0.6", [1]),
        ("x BETWEEN 0 AND 1", [1, 2]),
        ("x IS NULL", [3]),
        ("text > 'b'", [2]),
        ("yes", [1]),
        ("NOT yes", [2]),
        ("`at` < timestamp'2024-02-01'", [1, 3]),
        ("`at` > timestamp'2024-02-01'", [2]),
        ("`on` > date'2024-02-01'", [2]),
        ("worth > 1.5", [2]),
        ("dtRef > date'2024-01-01' AND x > 0", [2]),
    ],
)
def test_a_condition_finds_its_rows_whatever_statistics_say(local_lake: Lake, condition: str, found: list[int]) -> None:
    values = [
        (MON, 1, 0.5, "a" * 80, True, datetime(2024, 1, 1, tzinfo=UTC), date(2024, 1, 1), Decimal("1.50")),
        (TUE, 2, 0.9, "\N{CJK UNIFIED IDEOGRAPH-20BB7}", False, MOST, date(9999, 12, 31), Decimal("2.50")),
        (TUE, 3, None, None, None, LEAST, None, None),
    ]
    local_lake.replace(NAME, rows(*values, schema=EVERY_TYPE), partitions={"dtRef": [MON, TUE]})

    query = Query(parse_query(f"SELECT n FROM {NAME} WHERE {condition} ORDER BY n"))

    assert EmbeddedEngine(local_lake).run(query).read_all()["n"].to_pylist() == found


@pytest.mark.parametrize("name", ["a b", "x/y", "p=q", "it's", "100%", "é"])
def test_files_that_another_writer_put_into_folders_are_replaced(local_lake: Lake, name: str) -> None:
    held_before = pa.Table.from_batches(rows((MON, name, 1), (MON, "other", 2)))
    write_deltalake(local_lake.uri(NAME), held_before, partition_by=["name"])

    local_lake.replace(NAME, rows((MON, name, 7)), partitions={"name": [name]})

    assert held(local_lake) == sorted([(MON, name, 7), (MON, "other", 2)], key=repr)


# --- open, create, names ---


def test_a_table_that_is_not_there_is_named(local_lake: Lake) -> None:
    assert not local_lake.exists(NAME)
    with pytest.raises(UnknownTableError, match=rf"^{NAME}: no such table in .*lake yet\.$"):
        local_lake.open(NAME)


@pytest.mark.parametrize("name", ["report", "gold.report", "a.b.c.d", "gold..report", ""])
def test_a_name_has_three_parts(local_lake: Lake, name: str) -> None:
    with pytest.raises(UnknownTableError, match=r"a table is named by three parts, such as bronze\.upsell\.customers"):
        local_lake.open(name)


def test_a_name_says_where_the_table_lies() -> None:
    assert split(NAME) == ("gold", "upsell", "report")
    assert Lake("s3://bucket", dict, LocalFileSystem).uri(NAME) == "s3://bucket/gold/upsell/report"


def test_an_older_version_can_be_pinned(lake: Lake) -> None:
    version = lake.open(NAME).version()
    lake.replace(NAME, rows(), partitions={"dtRef": [MON, TUE, WED]})

    assert lake.open(NAME, version).to_pyarrow_dataset().to_table().num_rows == 3
    assert lake.open(NAME).to_pyarrow_dataset().to_table().num_rows == 0


def test_a_table_is_made_once_with_the_pinned_properties(local_lake: Lake) -> None:
    for _ in range(2):
        table = local_lake.open_or_create(NAME, SCHEMA, partition_by=("dtRef",))

    assert table.version() == 0
    assert table.metadata().partition_columns == ["dtRef"]
    assert table.metadata().configuration == TABLE_PROPERTIES


def test_every_tenth_commit_is_a_checkpoint(lake: Lake) -> None:
    while lake.open(NAME).version() < 20:
        lake.replace(NAME, rows(), partitions={"dtRef": [MON]})

    log = Path(lake.uri(NAME)) / "_delta_log"
    checkpoints = sorted(int(file.name.partition(".")[0]) for file in log.glob("*.checkpoint.parquet"))
    assert len(checkpoints) == 2
    assert checkpoints[1] - checkpoints[0] == 10


# --- conflicts ---


def appending(lake: Lake, between: Callable[[], None]) -> Callable[[], int]:
    """An attempt that opens the table, is overtaken by `between`, and then appends a row."""

    def attempt() -> int:
        table = lake.open(NAME)
        between()
        write_deltalake(table, rows((MON, "ours", 8)), mode="append", commit_properties=commit_properties())
        return table.version()

    return attempt


def test_a_conflict_is_decided_anew(lake: Lake) -> None:
    others = iter([(TUE, "theirs", 1), (TUE, "theirs", 2)])

    def overtake() -> None:
        if other := next(others, None):
            lake.replace(NAME, rows(other), partitions={"dtRef": [TUE]})

    version = retry_conflicts(NAME, appending(lake, overtake))

    assert version == lake.open(NAME).version()
    assert held(lake) == [(MON, "a", 1), (MON, "ours", 8), (TUE, "theirs", 2), (WED, "c", 3)]


def test_who_never_wins_gives_up_and_says_so(lake: Lake) -> None:
    def overtake() -> None:
        lake.replace(NAME, rows((TUE, "theirs", 1)), partitions={"dtRef": [TUE]})

    with pytest.raises(RetryableError, match=rf"^{NAME}: other writers committed 3 times in between\. Nothing was"):
        retry_conflicts(NAME, appending(lake, overtake), attempts=3)
    assert (MON, "ours", 8) not in held(lake)


def test_another_error_is_no_conflict() -> None:
    tried = []

    def fail() -> None:
        tried.append(1)
        raise ValueError("a bug")

    with pytest.raises(ValueError, match="a bug"):
        retry_conflicts(NAME, fail)
    assert tried == [1]


# --- read by DuckDB ---


def merged(lake: Lake) -> DeltaTable:
    """A table with files of an append and of a MERGE, which write text in two Arrow types."""
    table = lake.open_or_create("silver.upsell.t", SCHEMA)
    write_deltalake(table, rows((MON, "a", 1), (TUE, "b", 2)), mode="append")
    table.merge(
        rows((TUE, "b", 7), (WED, None, 3)), predicate="s.points = t.points", source_alias="s", target_alias="t"
    ).when_not_matched_insert_all().execute()
    table.merge(
        rows((MON, "z", 1)), predicate="s.points = t.points", source_alias="s", target_alias="t"
    ).when_matched_update_all().execute()
    return lake.open("silver.upsell.t")


@pytest.mark.parametrize(
    ("condition", "points"),
    [
        ("name = 'b'", [2, 7]),
        ("name IN ('b', 'z')", [1, 2, 7]),
        ("name LIKE 'z%'", [1]),
        ("name > 'b'", [1]),
        ("name IS NULL", [3]),
        ("name IS NOT NULL AND points > 1", [2, 7]),
        ("\"dtRef\" = DATE '2024-01-02'", [2, 7]),
        ("points = (SELECT max(k) FROM range(8) AS r(k))", [7]),
        ("name IN (SELECT 'b')", [2, 7]),
    ],
)
def test_conditions_hold_over_files_of_appends_and_of_merges(
    local_lake: Lake, condition: str, points: list[int]
) -> None:
    with connect() as connection:
        register(connection, "t", local_lake.rows(merged(local_lake)))
        found = connection.sql(f"SELECT points FROM t WHERE {condition} ORDER BY points").fetchall()

    assert [value for (value,) in found] == points


def test_a_registered_table_keeps_names_types_and_nulls(local_lake: Lake) -> None:
    schema = pa.schema([('it\'s "odd"', pa.string()), ("raw", pa.binary()), ("day", pa.date32())])
    table = pa.Table.from_pylist([{'it\'s "odd"': "", "raw": b"\x00\xff", "day": MON}, {}], schema)
    local_lake.replace(NAME, table.to_reader(), partitions={})

    with connect() as connection:
        register(connection, "t", local_lake.rows(local_lake.open(NAME)))
        found = connection.sql("FROM t ORDER BY day").to_arrow_table()

    assert found.to_pylist() == table.to_pylist()
    assert found.schema.equals(schema)


def test_no_thread_of_arrow_needs_the_interpreter_to_read(local_lake: Lake) -> None:
    """Else one that reads ahead while a process ends hangs it or aborts it."""
    local_lake.replace(NAME, rows((MON, "a", 1)), partitions={"dtRef": [MON]})

    found = local_lake.rows(local_lake.open(NAME))

    assert not isinstance(found.filesystem.base_fs, PyFileSystem)
    assert found.to_table().to_pylist() == [{"dtRef": MON, "name": "a", "points": 1}]
