"""Which raw files are accepted, what their rows become, and with which words the others are rejected."""

from __future__ import annotations

import io
from datetime import UTC, date, datetime, time
from decimal import Decimal
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from upsell_assets.contracts import Contract
from upsell_assets.errors import FileRejectedError
from upsell_assets.raw.files import Position, read_changes
from upsell_assets.raw.landing import LandedFile

NOON = datetime(2024, 6, 13, 12)  # noqa: DTZ001 (as naive as producers write it)
FILE = LandedFile("raw/s/cdc/t/f.parquet", "e", 1, date(2024, 6, 13))
PART = LandedFile("raw/s/full_load/t/L/f.parquet", "e", 1, date(2024, 6, 13), "L")


def contract(**changed: Any) -> Contract:
    columns = {"id": "string", "Points": "bigint", "at": "string"}
    return Contract.model_validate({"schema": "s", "table": "t", "key": ["id"], "columns": columns, **changed})


def parquet(**columns: Any) -> bytes:
    """A file with one change of key 'a', its columns changed or (None) left out."""
    sink = io.BytesIO()
    plain = {"id": ["a"], "Points": [1], "at": ["x"], "OP": ["I"], "modified_date": [NOON]}
    pq.write_table(pa.table({n: v for n, v in (plain | columns).items() if v is not None}), sink)
    return sink.getvalue()


def rows(body: bytes, of: Contract | None = None, **more: Any) -> list[dict[str, Any]]:
    return list(read_changes(body, more.pop("file", FILE), of or contract(), **more).changes.to_pylist())


def value(column: str, values: Any, kind: str) -> Any:
    """What the first value of a column becomes where the contract says `kind`."""
    of = contract(columns={"id": "string", column: kind})
    return rows(parquet(**{column: values}), of)[0][column]


def test_rows_carry_their_columns_operation_order_and_origin() -> None:
    assert rows(parquet()) == [
        {
            "id": "a",
            "Points": 1,
            "at": "x",
            "_op": "I",
            "_modified_date": NOON.replace(tzinfo=UTC),
            "_change_seq": None,
            "_file": "raw/s/cdc/t/f.parquet",
            "_row": 0,
        }
    ]


def test_headers_match_without_case_in_any_order_and_nullable_columns_may_be_missing() -> None:
    sink = io.BytesIO()
    pq.write_table(pa.table({"Modified_Date": [NOON], "op": ["d"], "POINTS": [7], "ID": ["a"]}), sink)

    [row] = rows(sink.getvalue())

    assert (row["id"], row["Points"], row["at"], row["_op"]) == ("a", 7, None, "D")


@pytest.mark.parametrize(("word", "letter"), [("I", "I"), ("u", "U"), (" D ", "D")])
def test_operations_are_read_without_case_and_blanks(word: str, letter: str) -> None:
    assert rows(parquet(OP=[word]))[0]["_op"] == letter


@pytest.mark.parametrize(("word", "letter"), [("c", "I"), ("R", "I"), ("u", "U"), ("d", "D")])
def test_operations_are_read_in_the_words_of_the_contract(word: str, letter: str) -> None:
    operations = {"column": "__op", "insert": ["c", "r"], "update": ["u"], "delete": ["d"]}

    assert rows(parquet(OP=None, __op=[word]), contract(operations=operations))[0]["_op"] == letter


def test_rows_of_a_full_load_are_inserts_at_its_position_whatever_they_say() -> None:
    at = Position(datetime(2024, 6, 1, tzinfo=UTC))

    [row] = rows(parquet(OP=["D"], change_seq=[9]), file=PART, position=at)

    assert (row["_op"], row["_modified_date"], row["_change_seq"]) == ("I", at.modified_date, None)


def test_rows_of_a_full_load_without_a_position_keep_their_own() -> None:
    [row] = rows(parquet(OP=None, change_seq=[9]), file=PART)

    assert (row["_op"], row["_modified_date"], row["_change_seq"]) == ("I", NOON.replace(tzinfo=UTC), 9)


def test_file_without_rows_is_accepted_whatever_its_types() -> None:
    empty = parquet(**{name: pa.array([], pa.float32()) for name in ("id", "Points", "at", "OP", "modified_date")})

    assert rows(empty) == []


def test_delete_that_carries_only_the_key_is_accepted() -> None:
    assert rows(parquet(OP=["D"], Points=None, at=None))[0]["Points"] is None


SECOND = datetime(2024, 2, 1, 10)  # noqa: DTZ001 (as naive as producers write it)


@pytest.mark.parametrize(
    ("values", "kind", "expected"),
    [
        (pa.array([7], pa.int32()), "bigint", 7),
        (pa.array([7], pa.uint64()), "bigint", 7),
        (pa.array([7.0]), "bigint", 7),
        (pa.array([Decimal("7.00")]), "bigint", 7),
        (pa.array(["7"]), "bigint", 7),
        (pa.array(["-7"]).cast(pa.large_string()), "bigint", -7),
        (pa.array(["7"]).dictionary_encode(), "bigint", 7),
        (pa.array([True]), "bigint", 1),
        (pa.array([None, None], pa.null()), "bigint", None),
        (pa.array([{"any": None}, None])[1:], "bigint", None),
        (pa.array([1]), "boolean", True),
        (pa.array([3]), "double", 3.0),
        (pa.array([3]), "decimal(4,2)", Decimal("3.00")),
        (pa.array([0.5]), "float", 0.5),
        (pa.array([0.1]), "decimal(4,2)", Decimal("0.10")),
        (pa.array(["0.1"]), "decimal(4,2)", Decimal("0.10")),
        (pa.array([b"\x00"], pa.binary(1)), "binary", b"\x00"),
        (pa.array([date(2024, 2, 1)]), "timestamp", datetime(2024, 2, 1, tzinfo=UTC)),
        (pa.array([SECOND.replace(hour=0)]), "date", date(2024, 2, 1)),
        (pa.array([SECOND], pa.timestamp("ns")), "timestamp", SECOND.replace(tzinfo=UTC)),
        (pa.array([SECOND], pa.timestamp("ms", "America/Sao_Paulo")), "timestamp", SECOND.replace(tzinfo=UTC)),
        (pa.array(["2024-02-01 10:00:00"]), "timestamp", SECOND.replace(tzinfo=UTC)),
        (pa.array(["2024-02-01T07:00:00-03:00"]), "timestamp", SECOND.replace(tzinfo=UTC)),
        (pa.array([7]), "string", "7"),
        (pa.array(["a"]).dictionary_encode(), "string", "a"),
        (pa.array([date(2024, 2, 1)]), "string", "2024-02-01"),
        (pa.array([SECOND], pa.timestamp("s")), "string", "2024-02-01 10:00:00.000"),
        (pa.array([SECOND], pa.timestamp("ms")), "string", "2024-02-01 10:00:00.000"),
        (pa.array([SECOND], pa.timestamp("us")), "string", "2024-02-01 10:00:00.000"),
        (pa.array([SECOND], pa.timestamp("ns", "UTC")), "string", "2024-02-01 10:00:00.000"),
        (pa.array([SECOND.replace(microsecond=123400)]), "string", "2024-02-01 10:00:00.123400"),
        (pa.array([1_706_781_600_000_000_001], pa.timestamp("ns")), "string", "2024-02-01 10:00:00.000000001"),
    ],
)
def test_types_that_cast_without_loss_are_cast(values: pa.Array, kind: str, expected: Any) -> None:
    first = values.slice(0, 1)

    assert value("v", first, kind) == expected


def test_text_of_a_time_does_not_depend_on_the_other_rows_of_its_file() -> None:
    """Files may be split anywhere; the rows must stay the same."""
    fine, coarse = SECOND.replace(microsecond=1), SECOND
    together = parquet(id=["a", "b"], Points=[1, 1], at=[fine, coarse], OP=["I", "I"], modified_date=[NOON, NOON])

    assert [row["at"] for row in rows(together)] == [rows(parquet(at=[each]))[0]["at"] for each in (fine, coarse)]


@pytest.mark.parametrize(
    ("values", "kind", "reason"),
    [
        (["007"], "bigint", "column 'v' has text such as '007', which is not a plain int64"),
        (["x"], "bigint", "column 'v' is string and does not cast to int64 without loss"),
        ([1.5], "bigint", "column 'v' is double and does not cast to int64 without loss"),
        ([2], "boolean", r"column 'v' is int64 and does not cast to bool without loss \(values would change\)"),
        ([0.1], "float", r"column 'v' is double and does not cast to float without loss \(values would change\)"),
        ([2**53 + 1], "double", "column 'v' is int64 and does not cast to double without loss"),
        ([300], "decimal(4,2)", r"column 'v' is int64 and does not cast to decimal128\(4, 2\) without loss"),
        ([2**40], "int", "column 'v' is int64 and does not cast to int32 without loss"),
        (["0.123"], "decimal(4,2)", r"column 'v' is string and does not cast to decimal128\(4, 2\) without loss"),
        (pa.array([1], pa.timestamp("ns")), "timestamp", "column 'v' is timestamp.ns. and does not cast to timestamp"),
        ([SECOND], "date", r"column 'v' is timestamp.us. and does not cast to date32.day. without loss"),
        (["soon"], "timestamp", "column 'v' is string and does not cast to timestamp"),
        ([1.5], "string", "column 'v' is double, the contract says string"),
        ([True], "string", "column 'v' is bool, the contract says string"),
        ([b"x"], "string", "column 'v' is binary, the contract says string"),
        ([["x"]], "string", "column 'v' is list<element: string>, the contract says string"),
        ([time(1)], "timestamp", r"column 'v' is time64.us., the contract says timestamp.us, tz=UTC."),
    ],
)
def test_types_that_lose_something_are_rejected(values: Any, kind: str, reason: str) -> None:
    with pytest.raises(FileRejectedError, match=reason):
        value("v", values, kind)


@pytest.mark.parametrize(
    ("columns", "reason"),
    [
        ({"id": None}, r"key column 'id' is missing; found Points, at, OP, modified_date"),
        ({"id": pa.array([None], pa.string())}, r"1 rows have a null id \(first: row 0\)"),
        ({"OP": None}, "operation column 'OP' is missing; found id, Points, at, modified_date"),
        ({"OP": ["X"]}, "operation 'X' in row 0 is none of D, I, U"),
        ({"OP": pa.array([None], pa.string())}, "operation None in row 0 is none of D, I, U"),
        ({"modified_date": None}, "order column 'modified_date' is missing$"),
        ({"modified_date": pa.array([None], pa.timestamp("us"))}, "order column 'modified_date' is missing$"),
        ({"change_seq": ["x"]}, "column 'change_seq' is string and does not cast to int64"),
        ({"ID": ["b"]}, "columns 'id' and 'ID' differ only in case"),
        ({"_secret": [1]}, "column '_secret' begins with '_', which the lake keeps for itself"),
        ({"a b": [1]}, "column 'a b' is not declared, and its name has more than letters, digits and '_'"),
        ({"extra": [{"x": 1}]}, "column 'extra' is not declared, and struct<x: int64> is no type of the lake's"),
        ({"extra": pa.array([2**63], pa.uint64())}, "column 'extra' is uint64 and does not cast to int64"),
    ],
)
def test_files_that_break_the_contract_are_rejected(columns: dict[str, Any], reason: str) -> None:
    with pytest.raises(FileRejectedError, match=reason):
        rows(parquet(**columns))


def test_the_row_of_a_null_key_is_named() -> None:
    ids = ["a", "b", None, None]
    body = parquet(id=ids, Points=[1] * 4, at=["x"] * 4, OP=["I"] * 4, modified_date=[NOON] * 4)

    with pytest.raises(FileRejectedError, match=r"2 rows have a null id \(first: row 2\)"):
        rows(body)


def test_some_rows_without_order_are_rejected() -> None:
    body = parquet(id=["a", "b"], Points=[1, 1], at=["x", "x"], OP=["I", "I"], modified_date=[NOON, None])

    with pytest.raises(FileRejectedError, match="1 rows have a null modified_date, which orders the changes"):
        rows(body)


def test_the_first_unknown_operation_is_named_with_its_row() -> None:
    body = parquet(id=["a", "b", "c"], Points=[1] * 3, at=["x"] * 3, OP=["I", "z", "B"], modified_date=[NOON] * 3)

    with pytest.raises(FileRejectedError, match="operation 'z' in row 1 is none of D, I, U"):
        rows(body)


def test_position_without_what_the_contract_orders_by_is_rejected() -> None:
    of = contract(order=["change_seq"])

    with pytest.raises(FileRejectedError, match="the full load's position has no change_seq, which orders the changes"):
        rows(parquet(change_seq=[1]), of, file=PART, position=Position(datetime(2024, 6, 1, tzinfo=UTC)))


@pytest.mark.parametrize("body", [b"", b"PAR1", b"id,OP\na,I\n", parquet()[:-9], parquet()[:20] + parquet()[40:]])
def test_unreadable_bytes_are_rejected(body: bytes) -> None:
    with pytest.raises(FileRejectedError, match="not readable as parquet"):
        rows(body)


def test_text_that_is_not_utf8_is_rejected() -> None:
    broken = pa.Array.from_buffers(pa.string(), 1, pa.array([b"\xff"]).buffers())

    with pytest.raises(FileRejectedError, match=r"not readable as parquet .*[uU][tT][fF]"):
        rows(parquet(at=broken))


def test_a_column_whose_name_is_not_utf8_is_rejected() -> None:
    with pytest.raises(FileRejectedError, match=r"not readable as parquet .*utf-8"):
        rows(parquet(plainname=[1]).replace(b"plainname", b"plain\xfeame"))


@pytest.mark.parametrize(
    ("values", "kind", "expected"),
    [
        (pa.array([7], pa.int8()), pa.int64(), 7),
        (pa.array([0.5], pa.float32()), pa.float64(), 0.5),
        (pa.array(["x"]).dictionary_encode(), pa.string(), "x"),
        (pa.array([NOON], pa.timestamp("ms")), pa.timestamp("us", "UTC"), NOON.replace(tzinfo=UTC)),
        (pa.array([Decimal("1.5")]), pa.decimal128(2, 1), Decimal("1.5")),
        (pa.array([b"x"], pa.large_binary()), pa.binary(), b"x"),
        (pa.array([True]), pa.bool_(), True),
        (pa.array([date(2024, 6, 13)], pa.date64()), pa.date32(), date(2024, 6, 13)),
    ],
)
def test_evolve_keeps_undeclared_columns_in_a_few_types(values: pa.Array, kind: pa.DataType, expected: Any) -> None:
    found = read_changes(parquet(extra=values), FILE, contract()).changes

    assert found.schema.field("extra").type == kind
    assert found["extra"].to_pylist() == [expected]


def test_undeclared_column_without_any_value_and_type_is_left_out() -> None:
    assert "extra" not in rows(parquet(extra=pa.nulls(1)))[0]


def test_freeze_rejects_undeclared_columns() -> None:
    with pytest.raises(
        FileRejectedError, match="columns extra, more are not declared, and the contract's drift is freeze"
    ):
        rows(parquet(extra=[1], more=[2]), contract(drift="freeze"))


def decided(
    body: bytes, of: Contract | None = None, file: LandedFile = FILE, position: Position | None = None
) -> list[str]:
    return list(read_changes(body, file, of or contract(), position).decisions)


PLAIN = {"modified_date": pa.array([NOON], pa.timestamp("us", "UTC"))}


@pytest.mark.parametrize(
    ("columns", "decisions"),
    [
        ({}, []),
        ({"Points": ["7"]}, ["Points: string cast to bigint"]),
        ({"Points": pa.array([7], pa.int32())}, ["Points: int cast to bigint"]),
        ({"Points": pa.nulls(1)}, []),
        ({"at": None}, ["at: missing, null"]),
        ({"id": pa.array(["a"], pa.large_string()), "at": pa.array(["x"]).dictionary_encode()}, []),
        ({"Points": None, "POINTS": [7]}, ["POINTS read as Points"]),
        ({"OP": None, "op": ["D"]}, ["op read as OP"]),
        ({"modified_date": [NOON]}, ["modified_date: timestamp[us] cast to timestamp"]),
        ({"change_seq": pa.array([1], pa.int32())}, ["change_seq: int cast to bigint"]),
        (
            {"coupon": ["x"], "size": [1], "none": pa.nulls(1)},
            ["coupon: not declared, added as string", "size: not declared, added as bigint"],
        ),
    ],
)
def test_what_was_decided_of_a_column_is_told(columns: dict[str, Any], decisions: list[str]) -> None:
    assert decided(parquet(**{**PLAIN, **columns})) == decisions


def test_reordered_columns_are_no_decision() -> None:
    sink = io.BytesIO()
    pq.write_table(pa.table({**PLAIN, "OP": ["I"], "at": ["x"], "Points": [1], "id": ["a"]}), sink)

    assert decided(sink.getvalue()) == []


def test_nothing_is_decided_of_the_order_that_a_full_load_replaces() -> None:
    at = Position(datetime(2024, 6, 1, tzinfo=UTC))

    assert decided(parquet(op=["I"], OP=None), file=PART, position=at) == []
