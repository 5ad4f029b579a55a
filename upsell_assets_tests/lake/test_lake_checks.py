"""The check of declared columns: what is missing or of another type fails, what is more is told."""

from __future__ import annotations

import dagster as dg
import pyarrow as pa
import pytest

from upsell_assets.contracts import load_contracts
from upsell_assets.lake.checks import columns_result, key_evaluation, last_failed, written_results
from upsell_assets.lake.files import column_types
from upsell_assets.lake.keys import DoubledKeysError
from upsell_assets.lake.tables import Lake

NAME = "bronze.upsell.customers"
DECLARED = column_types(load_contracts()["customers"].arrow_schema().empty_table())
HELD = pa.schema(
    [("idCustomer", pa.string()), ("PointsCustomer", pa.int64()), ("flEmail", pa.int64()), ("_op", pa.string())]
)


def faults(result: dg.AssetCheckResult) -> str:
    value = result.metadata["faults"].value
    assert isinstance(value, str)
    return value


def test_declared_columns_pass_and_internal_ones_are_not_spoken_of() -> None:
    result = columns_result(NAME, HELD, DECLARED)

    assert result.passed
    assert result.metadata["not_declared"].value == "none"


def test_a_column_more_is_told_and_holds_nothing_back() -> None:
    result = columns_result(NAME, HELD.append(pa.field("city", pa.string())), DECLARED)

    assert result.passed
    assert result.metadata["not_declared"].value == "city"


def test_a_missing_column_fails() -> None:
    result = columns_result(NAME, pa.schema([field for field in HELD if field.name != "flEmail"]), DECLARED)

    assert not result.passed
    assert "| flEmail | | not there |" in faults(result)


def test_another_type_fails_where_one_is_declared() -> None:
    other = HELD.set(1, pa.field("PointsCustomer", pa.string()))

    assert "PointsCustomer" in faults(columns_result(NAME, other, DECLARED))
    assert columns_result(NAME, other, dict.fromkeys(DECLARED)).passed


@pytest.fixture
def lake(local_lake: Lake) -> Lake:
    local_lake.replace(NAME, pa.Table.from_pylist([{"idCustomer": "ana"}] * 2, HELD).to_reader(), partitions={})
    return local_lake


def test_after_a_failure_the_whole_table_is_looked_at_until_it_passes(lake: Lake) -> None:
    table = lake.open(NAME)
    with dg.DagsterInstance.ephemeral() as instance:
        taken, _ = written_results(instance, lake, table, ["idCustomer"], DECLARED)
        assert taken.passed, "nothing was ever said of what the table held before"

        instance.report_runless_asset_event(key_evaluation(NAME, ["idCustomer"], [("ana",)]))
        assert last_failed(instance, NAME)
        found, _ = written_results(instance, lake, table, ["idCustomer"], DECLARED)
        assert not found.passed
        assert "| ana |" in str(found.metadata["keys"].value)

        instance.report_runless_asset_event(key_evaluation(NAME, ["idCustomer"], []))
        assert not last_failed(instance, NAME)


def test_a_refusal_says_what_to_do() -> None:
    error = DoubledKeysError("silver.upsell.transacoes", ["idTransacao"], [("a",), ("b",)], ["raw/f.parquet"])

    assert str(error) == (
        "silver.upsell.transacoes: several rows have one key: idTransacao = a; b, from raw/f.parquet. Nothing was written, "
        "readers have the table of before. Correct transacoes.sql, or what it reads."
    )
