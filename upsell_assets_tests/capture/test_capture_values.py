"""Which type a raw column has, and what becomes of PostgreSQL's text."""

from __future__ import annotations

import logging
from datetime import UTC, date, datetime
from decimal import Decimal

import pyarrow as pa
import pytest

from upsell_assets.capture.pgoutput import Column
from upsell_assets.capture.values import Layout
from upsell_assets.contracts import Contract
from upsell_assets.errors import PermanentError

TEXT, BOOL, INT2, INT4, INT8, FLOAT8, DATE, NUMERIC, BYTEA, JSONB = 25, 16, 21, 23, 20, 701, 1082, 1700, 17, 3802
TIMESTAMP, TIMESTAMPTZ = 1114, 1184


def _layout(*columns: Column, **declared: str) -> Layout:
    contract = Contract.model_validate(
        {"schema": "shop", "table": "items", "key": ["id"], "columns": {"id": "string"} | declared}
    )
    return Layout(contract, [Column("id", TEXT, -1), *columns])


def _column(type_oid: int, *values: str | None, declared: str | None = None, modifier: int = -1) -> pa.Array:
    layout = _layout(Column("x", type_oid, modifier), **({"x": declared} if declared else {}))
    ids = pa.array(["k"] * len(values), pa.string())
    return layout.load_batch([ids, pa.array(values, pa.string())], 0, "p").column("x")


@pytest.mark.parametrize(
    ("type_oid", "text", "value"),
    [
        (BOOL, "t", True),
        (BOOL, "f", False),
        (INT2, "-7", -7),
        (INT8, "9223372036854775807", 9223372036854775807),
        (FLOAT8, "0.1", 0.1),
        (FLOAT8, "-Infinity", float("-inf")),
        (DATE, "2024-02-29", date(2024, 2, 29)),
        (TIMESTAMP, "2024-02-29 10:00:00.5", datetime(2024, 2, 29, 10, 0, 0, 500_000, UTC)),
        (TIMESTAMPTZ, "2024-02-29 10:00:00+00", datetime(2024, 2, 29, 10, tzinfo=UTC)),
        (BYTEA, "\\x00ff", b"\x00\xff"),
        (JSONB, '{"a": 1}', '{"a": 1}'),
        (TEXT, "", ""),
    ],
)
def test_undeclared_column_has_the_type_of_the_source(type_oid: int, text: str, value: object) -> None:
    assert _column(type_oid, text, None).to_pylist() == [value, None]


def test_decimals_keep_precision_and_scale_and_wider_ones_are_text() -> None:
    assert _column(NUMERIC, "1.50", modifier=(10 << 16 | 2) + 4).to_pylist() == [Decimal("1.50")]
    assert _column(NUMERIC, "1.50", modifier=-1).to_pylist() == ["1.50"]
    assert _column(NUMERIC, "150", modifier=(3 << 16 | (-2 & 0x7FF)) + 4).to_pylist() == ["150"]


@pytest.mark.parametrize(
    ("type_oid", "declared", "written"),
    [
        (INT4, "bigint", pa.int64()),
        (INT8, "int", pa.int64()),  # raw decides whether it fits
        (TEXT, "bigint", pa.string()),
        (INT4, "string", pa.string()),
        (TIMESTAMP, "timestamp", pa.timestamp("us", "UTC")),
        (DATE, "timestamp", pa.date32()),
    ],
)
def test_declared_type_is_written_where_every_value_fits(type_oid: int, declared: str, written: pa.DataType) -> None:
    assert _column(type_oid, None, declared=declared).type == written


def test_timestamps_as_text_have_one_width_and_no_zone() -> None:
    texts = ["2024-02-29 10:00:00", "2024-02-29 10:00:00.5", None, "infinity", "0044-03-15 00:00:00 BC"]
    as_received = [None, "infinity", "0044-03-15 00:00:00 BC"]

    milliseconds = _column(TIMESTAMP, *texts, declared="string", modifier=3).to_pylist()
    microseconds = _column(TIMESTAMP, *texts, declared="string").to_pylist()
    zoned = _column(TIMESTAMPTZ, "2024-02-29 10:00:00.25+00", declared="string", modifier=3).to_pylist()

    assert milliseconds == ["2024-02-29 10:00:00.000", "2024-02-29 10:00:00.500", *as_received]
    assert microseconds == ["2024-02-29 10:00:00.000000", "2024-02-29 10:00:00.500000", *as_received]
    assert zoned == ["2024-02-29 10:00:00.250"]


def test_irregular_timestamps_change_nothing_about_those_beside_them() -> None:
    regular = [
        "0001-01-01 00:00:00.001",
        "1969-12-31 23:59:59.9",
        "2024-02-29 10:00:00",
        "9999-12-31 23:59:59.999",
        None,
    ]

    for modifier in (3, -1):
        alone = _column(TIMESTAMP, *regular, declared="string", modifier=modifier)
        beside = _column(TIMESTAMP, *regular, "infinity", "10000-01-01 00:00:00", declared="string", modifier=modifier)
        assert alone.to_pylist() == beside.to_pylist()[: len(regular)]
        assert {len(text) for text in alone.to_pylist() if text} == {23 if modifier == 3 else 26}


def test_values_without_a_place_become_null_and_are_counted(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        dates = _column(DATE, "2024-02-29", "infinity", "0044-03-15 BC", None).to_pylist()

    assert dates == [date(2024, 2, 29), None, None, None]
    assert "shop.items.x: 2 values" in caplog.text


def test_columns_match_without_case_and_take_the_contracts_spelling() -> None:
    layout = _layout(Column("pointscustomer", INT8, -1), PointsCustomer="bigint")

    assert layout.schema.names == ["id", "PointsCustomer", "OP", "modified_date", "change_seq"]


def test_names_that_the_lake_keeps_are_left_out_with_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        layout = _layout(*(Column(name, TEXT, -1) for name in ("op", "Change_Seq", "_secret", "Id", "kept", "KEPT")))

    assert layout.schema.names == ["id", "kept", "OP", "modified_date", "change_seq"]
    assert "['op', 'Change_Seq', '_secret', 'Id', 'KEPT'] are left out" in caplog.text


def test_source_without_the_key_is_refused() -> None:
    contract = Contract.model_validate(
        {"schema": "shop", "table": "items", "key": ["id"], "columns": {"id": "string", "x": "int"}}
    )
    with pytest.raises(PermanentError, match=r"shop\.items: the source table has no key column id \(it has x\)"):
        Layout(contract, [Column("x", INT4, -1)])
