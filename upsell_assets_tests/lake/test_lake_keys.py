"""One row a key: rows that break it are not committed, and a table that holds such rows says which."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import date

import pyarrow as pa
import pytest

from upsell_assets.lake import partitions
from upsell_assets.lake.keys import DoubledKeysError, doubled, doubled_in_table
from upsell_assets.lake.tables import Lake

NAME = "gold.upsell.daily_report"
KEY = ["dtRef", "name"]
MON, TUE = date(2024, 1, 1), date(2024, 1, 2)
SCHEMA = pa.schema([("dtRef", pa.date32()), ("name", pa.string()), ("points", pa.int64())])


def rows(*values: tuple[date, str | None, int]) -> pa.RecordBatchReader:
    return reader([values])


def reader(batches: Iterable[Iterable[tuple[date, str | None, int]]]) -> pa.RecordBatchReader:
    made = [
        pa.RecordBatch.from_pylist([dict(zip(SCHEMA.names, row, strict=True)) for row in batch], SCHEMA)
        for batch in batches
    ]
    return pa.RecordBatchReader.from_batches(SCHEMA, made)


def test_doubled_keys_are_refused_and_the_table_stays_as_it_was(local_lake: Lake) -> None:
    local_lake.replace(NAME, rows((MON, "a", 1)), partitions={"dtRef": [MON]}, key=KEY)

    with pytest.raises(DoubledKeysError, match="dtRef, name = 2024-01-02, b") as caught:
        local_lake.replace(
            NAME,
            rows((MON, "a", 2), (TUE, "a", 3), (TUE, "b", 4), (TUE, "b", 5)),
            partitions={"dtRef": [MON, TUE]},
            key=KEY,
        )

    assert caught.value.keys == [("2024-01-02", "b")]
    assert "Nothing was written" in str(caught.value)
    assert "daily_report.sql" in str(caught.value)
    assert local_lake.open(NAME).to_pyarrow_table()["points"].to_pylist() == [1]


def test_the_same_name_on_two_days_is_two_keys_and_null_is_one_value(local_lake: Lake) -> None:
    table = local_lake.replace(
        NAME, rows((MON, "a", 1), (TUE, "a", 2), (TUE, None, 3)), partitions={"dtRef": [MON, TUE]}, key=KEY
    )
    assert doubled_in_table(local_lake, table, KEY) == []

    with pytest.raises(DoubledKeysError, match="2024-01-02, None"):
        local_lake.replace(NAME, rows((TUE, None, 3), (TUE, None, 3)), partitions={"dtRef": [TUE]}, key=KEY)


def test_a_key_whose_rows_come_in_two_portions_is_found(local_lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(partitions, "PORTION_ROWS", 2)
    batches = [[(MON, "a", 1), (MON, "b", 2)], [(MON, "c", 3), (MON, "a", 4)]]

    with pytest.raises(DoubledKeysError, match="2024-01-01, a"):
        local_lake.replace(NAME, reader(batches), partitions={"dtRef": [MON]}, key=KEY)


def test_where_the_partition_is_the_key_it_has_one_row(local_lake: Lake) -> None:
    table = local_lake.replace(
        NAME, rows((MON, "a", 1), (TUE, "b", 1)), partitions={"dtRef": [MON, TUE]}, key=["dtRef"]
    )
    assert doubled_in_table(local_lake, table, ["dtRef"]) == []

    with pytest.raises(DoubledKeysError, match="dtRef = 2024-01-02"):
        local_lake.replace(NAME, rows((TUE, "a", 1), (TUE, "b", 1)), partitions={"dtRef": [TUE]}, key=["dtRef"])


def test_a_table_that_holds_a_key_twice_says_which(local_lake: Lake) -> None:
    table = local_lake.replace(
        NAME, rows((MON, "a", 1), (TUE, "b", 2), (TUE, "b", 3), (MON, "b", 4)), partitions={"dtRef": [MON, TUE]}
    )

    assert doubled_in_table(local_lake, table, KEY) == [(TUE, "b")]
    assert doubled_in_table(local_lake, table, ["name"]) == [("b",)]
    assert doubled_in_table(local_lake, table, ["dtRef"]) == [(MON,), (TUE,)]


def test_an_empty_table_holds_no_key_twice(local_lake: Lake) -> None:
    table = local_lake.replace(NAME, rows(), partitions={"dtRef": [MON]})

    assert doubled_in_table(local_lake, table, KEY) == []
    assert doubled(SCHEMA.empty_table(), ["name"]) == []
