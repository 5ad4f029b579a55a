"""What becomes of the rows of DMS files (generated from the documented format), and what is rejected."""

from __future__ import annotations

import gzip
from contextlib import nullcontext
from dataclasses import replace
from datetime import date, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from producers import COLUMNS, NOON, Change, dms_csv, dms_rows, dms_sequence, parquet

from upsell_assets.contracts import Contract
from upsell_assets.errors import FileRejectedError
from upsell_assets.raw.files import Accepted, Position, read_changes
from upsell_assets.raw.landing import LandedFile

DAY = date(2024, 6, 13)
CHANGES = LandedFile("dms/sales/t/20240613-120000000.csv", "e", 1, DAY)
LOAD = LandedFile("dms/sales/t/LOAD00000001.csv", "e", 1, DAY, "")
AT = Position(NOON)
ROWS = [Change("I", 1, 1, 7, 'a "b", c\nd', 5), Change("D", 2, 2, 8)]


def contract(of: dict[str, Any] | None = None, **files: Any) -> Contract:
    said = {"layout": "dms", "path": "dms/sales/t", "timestamp": "committed_at", "change_seq": "dms_seq", **files}
    table = {"schema": "s", "table": "t", "key": ["id"], "columns": COLUMNS, "change_seq_type": "decimal(38,0)"}
    return Contract.model_validate({**table, **(of or {}), "files": said})


def read(body: bytes, of: Contract, file: LandedFile = CHANGES, position: Position | None = None) -> Accepted:
    return read_changes(body, file, of, position)


def rows(*arguments: Any) -> list[dict[str, Any]]:
    return [
        {name: value for name, value in row.items() if name not in ("_file", "_row")}
        for row in read(*arguments).changes.to_pylist()
    ]


def expected(*changes: Change) -> list[dict[str, Any]]:
    return [
        {**change.row, "_op": change.op, "_modified_date": change.at, "_change_seq": Decimal(dms_sequence(change))}
        for change in changes
    ]


@pytest.mark.parametrize(
    ("body", "files"),
    [
        (dms_csv(dms_rows(ROWS)), {}),
        (gzip.compress(dms_csv(dms_rows(ROWS))), {}),
        (dms_csv(dms_rows(ROWS), header=True), {"header": True}),
        (dms_csv(dms_rows(ROWS), delimiter="|", null="\\N"), {"delimiter": "|", "null_value": "\\N"}),
        (dms_csv(dms_rows(ROWS), null=""), {"null_value": ""}),
        (parquet(dms_rows(ROWS)), {"format": "parquet"}),
    ],
)
def test_changes_are_read_as_dms_writes_them(body: bytes, files: dict[str, Any]) -> None:
    assert rows(body, contract(**files)) == expected(*ROWS)


def test_columns_in_another_order_are_named_by_the_contract() -> None:
    [row] = dms_rows(ROWS[:1])
    columns = ["Op", "id", "name", "points", "dms_seq", "committed_at"]
    body = dms_csv([{name: row[name] for name in columns}])

    assert rows(body, contract(columns=columns)) == expected(ROWS[0])


def test_without_a_change_sequence_rows_have_none() -> None:
    [row] = rows(dms_csv(dms_rows(ROWS[:1], sequence=False)), contract(change_seq=None))

    assert (row["_modified_date"], row["_change_seq"]) == (ROWS[0].at, None)


def test_files_from_before_the_rule_that_adds_the_sequence_are_accepted() -> None:
    [row] = rows(dms_csv(dms_rows(ROWS[:1], sequence=False), header=True), contract(header=True))

    assert row["_change_seq"] is None


def test_the_word_for_null_is_a_value_in_quotes_and_an_empty_value_is_no_null() -> None:
    lines = b'I,2024-06-13 12:00:01.000000,1,"NULL",NULL,7\nI,2024-06-13 12:00:01.000000,2,,1,8\n'

    assert [row["name"] for row in rows(lines, contract())] == ["NULL", ""]


def test_text_is_not_taken_for_numbers() -> None:
    [row] = rows(b"I,2024-06-13 12:00:01.000000,1,007,5,7\n", contract())

    assert row["name"] == "007"


@pytest.mark.parametrize(
    ("body", "files"),
    [
        (b"x,1,a,5\n", {"change_seq": None}),
        (b"2024-06-13 12:34:56.000000,1,a,5,NULL\n", {}),
        (b"I,2024-06-13 12:34:56.000000,1,a,5,\n", {"op_in_full_load": True}),
        (b"committed_at,id,name,points\n2024-06-13 12:34:56.000000,1,a,5\n", {"header": True}),
        (parquet([{"id": 1, "name": "a", "points": 5}]), {"format": "parquet"}),
    ],
)
def test_rows_of_a_full_load_stand_at_its_position_and_not_when_they_were_transferred(
    body: bytes, files: dict[str, Any]
) -> None:
    assert rows(body, contract(**files), LOAD, AT) == [
        {"id": 1, "name": "a", "points": 5, "_op": "I", "_modified_date": NOON, "_change_seq": None}
    ]


def test_a_full_load_without_a_position_is_refused_with_what_to_do() -> None:
    body = b"2024-06-13 12:34:56.000000,1,a,5,NULL\n"

    with pytest.raises(
        FileRejectedError, match=r"full_load\.as_of in the contract, the moment \(UTC\) at which the DMS"
    ):
        read(body, contract(), LOAD)


@pytest.mark.parametrize(("day", "held"), [(DAY - timedelta(1), True), (DAY, False), (DAY + timedelta(1), False)])
def test_a_load_file_from_before_the_load_is_of_another_one(day: date, held: bool) -> None:
    body, file = b"2024-06-13 12:34:56.000000,1,a,5,NULL\n", replace(LOAD, day=day)

    with pytest.raises(FileRejectedError, match=r"of a load before\. Remove it") if held else nullcontext():
        read(body, contract(), file, AT)


@pytest.mark.parametrize(
    ("body", "files", "reason"),
    [
        (b"I,2024-06-13 12:00:01,1,a\n", {}, r"not readable as CSV of the columns OP, committed_at, id, name.*Expected 6"),
        (b"I,2024-06-13 12:00:01,1,a,5,7\nU,x\n", {}, r"Row #2: Expected 6 columns, got 2"),
        (b'I,2024-06-13 12:00:01,1,"a,5,7\n', {}, "an odd number of quotes: a quoted value does not end"),
        (b"I,2024-06-13 12:00:01,1,\xff,5,7\n", {}, "not readable as CSV .*UTF8"),
        (b"", {}, "not readable as CSV"),
        (b"\x1f\x8bno gzip", {}, "not readable as gzip"),
        (b"I,2024-06-13 12:00:01,one,a,5,7\n", {}, "column 'id' is string and does not cast to int64"),
        (b"I,2024-06-13 12:00:01,1,a,,7\n", {}, "column 'points' is string and does not cast to int64"),
        (b"I,soon,1,a,5,7\n", {}, "column 'modified_date' is string and does not cast to timestamp"),
        (b"X,2024-06-13 12:00:01,1,a,5,7\n", {}, "operation 'X' in row 0 is none of D, I, U"),
        (b"I,2024-06-13 12:00:01,1,a,5,z\n", {}, "column 'change_seq' is string and does not cast to decimal"),
        (b"id,name\n1,a\n", {"header": True},
         "timestamp column 'committed_at' is missing; found id, name. Set TimestampColumnName=committed_at on the DMS"),
        (parquet([{"id": 1, "committed_at": "2024-06-13 12:00:01"}]), {"format": "parquet"},
         "operation column 'OP' is missing; found id, modified_date"),
        (dms_csv(dms_rows(ROWS)), {"format": "parquet"}, "not readable as parquet"),
    ],
)  # fmt: skip
def test_what_cannot_be_read_or_understood_is_rejected(body: bytes, files: dict[str, Any], reason: str) -> None:
    with pytest.raises(FileRejectedError, match=reason):
        read(body, contract(**files))


def test_what_was_renamed_is_told() -> None:
    decisions = read(parquet(dms_rows(ROWS)), contract(format="parquet")).decisions

    assert {"committed_at read as modified_date", "dms_seq read as change_seq"} <= set(decisions)
    assert "Op read as OP" in decisions


def test_undeclared_columns_of_a_header_are_added_as_text() -> None:
    body = dms_csv([{**row, "coupon": "007"} for row in dms_rows(ROWS[:1])], header=True)

    assert read(body, contract(header=True)).changes["coupon"].to_pylist() == ["007"]


def test_a_moment_without_a_zone_is_utc() -> None:
    [row] = rows(dms_csv(dms_rows(ROWS[:1])), contract())

    assert row["_modified_date"] == datetime.fromisoformat("2024-06-13T12:00:01+00:00")
