"""The training set's choices hang on keys and seed, never on the order of rows."""

from __future__ import annotations

import hashlib
from collections import Counter
from datetime import date, timedelta

import numpy as np
import pyarrow as pa
import pytest

from upsell_assets.errors import PermanentError
from upsell_assets.model.training_set import features, fingerprint, grid, held_out_customers, matrix, sample

MONDAYS = [date(2024, 1, 1) + timedelta(weeks=week) for week in range(10)]


def rows_of(customers: int = 30) -> pa.Table:
    keys = [(dtref, f"customer {number}") for number in range(customers) for dtref in MONDAYS[: 1 + number % 10]]
    return pa.table(
        {
            "dtRef": pa.array([dtref for dtref, _ in keys], pa.date32()),
            "idCliente": [customer for _, customer in keys],
            "nrSaldoPontos": pa.array([n if n % 7 else None for n in range(len(keys))], pa.int64()),
            "nrPctPontosRLover": [n / 3 for n in range(len(keys))],
            "flChurn": [n % 2 for n in range(len(keys))],
        }
    )


def shuffled(table: pa.Table, seed: int) -> pa.Table:
    return table.take(np.random.default_rng(seed).permutation(table.num_rows))


def test_monday_grid_has_the_mondays_within_both_ends() -> None:
    mondays = [date(2024, 2, 26), date(2024, 3, 4), date(2024, 3, 11)]
    assert grid(date(2024, 2, 26), date(2024, 3, 11), "monday") == mondays
    assert grid(date(2024, 2, 20), date(2024, 3, 17), "monday") == mondays


def test_month_grid_has_the_first_of_each_month() -> None:
    firsts = [date(2024, 1, 1), date(2024, 2, 1), date(2024, 3, 1)]
    assert grid(date(2023, 12, 2), date(2024, 3, 31), "month") == firsts


def test_grid_of_an_empty_range_is_empty() -> None:
    assert grid(date(2024, 3, 5), date(2024, 3, 4), "monday") == []


def test_sample_keeps_at_most_so_many_rows_of_each_customer_and_all_of_smaller_ones() -> None:
    rows = rows_of()
    before, after = (Counter(table["idCliente"].to_pylist()) for table in (rows, sample(rows, 4, seed=1)))
    assert after == {customer: min(count, 4) for customer, count in before.items()}


@pytest.mark.parametrize("permutation", range(5))
def test_sample_is_the_same_under_any_order_of_rows(permutation: int) -> None:
    rows = rows_of()
    assert sample(shuffled(rows, permutation), 3, seed=1).equals(sample(rows, 3, seed=1))


def test_sample_of_a_customer_does_not_hang_on_who_else_is_there() -> None:
    rows = rows_of()
    few = rows.filter(pa.array([customer == "customer 9" for customer in rows["idCliente"].to_pylist()]))
    chosen = sample(rows, 3, seed=1)
    assert sample(few, 3, seed=1)["dtRef"].to_pylist() == [
        dtref
        for dtref, customer in zip(chosen["dtRef"].to_pylist(), chosen["idCliente"].to_pylist(), strict=True)
        if customer == "customer 9"
    ]


def test_another_seed_takes_other_rows() -> None:
    rows = rows_of()
    assert not sample(rows, 3, seed=1).equals(sample(rows, 3, seed=2))


def test_sample_of_no_rows_is_empty() -> None:
    assert sample(rows_of().slice(0, 0), 3, seed=1).num_rows == 0


def test_held_out_customers_are_whole_and_about_the_share() -> None:
    customers = pa.chunked_array([[f"customer {n % 2000}" for n in range(6000)]])
    held = held_out_customers(customers, 0.3, seed=1)
    assert (held[:2000] == held[2000:4000]).all()
    assert 0.26 < held.mean() < 0.34
    assert (held != held_out_customers(customers, 0.3, seed=2)).any()


def test_features_are_the_numeric_columns_without_keys_label_and_internal_ones() -> None:
    table = rows_of().append_column("_row", pa.array([1] * rows_of().num_rows))
    table = table.append_column("dtCalculo", pa.array([date(2024, 1, 1)] * table.num_rows))
    assert features(table) == {"nrSaldoPontos": "int64", "nrPctPontosRLover": "double"}


def test_matrix_follows_the_asked_order_and_keeps_nulls_as_nan() -> None:
    values = matrix(rows_of().slice(0, 2), ["nrPctPontosRLover", "nrSaldoPontos"])
    np.testing.assert_array_equal(values, [[0, np.nan], [1 / 3, 1]])


def test_matrix_names_every_missing_feature() -> None:
    with pytest.raises(PermanentError, match=r"needs nrRecencia, flEmail, which the table does not have"):
        matrix(rows_of(), ["nrRecencia", "nrSaldoPontos", "flEmail"])


def test_matrix_refuses_a_feature_that_became_text() -> None:
    table = rows_of().set_column(2, "nrSaldoPontos", pa.array(["10"] * rows_of().num_rows))
    with pytest.raises(PermanentError, match=r"expected numbers, found nrSaldoPontos \(string\)"):
        matrix(table, ["nrSaldoPontos"])


def test_fingerprint_ignores_the_order_of_rows_and_columns_and_the_chunks() -> None:
    rows = rows_of()
    other = shuffled(rows, 3).select(rows.column_names[::-1])
    chunked = pa.concat_tables([other.slice(0, 50), other.slice(50)])
    assert fingerprint(chunked) == fingerprint(rows)


def test_fingerprint_tells_apart_what_differs_in_one_value() -> None:
    rows = rows_of()
    points = rows["nrSaldoPontos"].to_pylist()
    variants = [rows, rows.slice(1), rows.rename_columns([*rows.column_names[:3], "nrOutro", "flChurn"])]
    for position, value in ((0, 0), (1, None), (1, 2)):
        changed = [*points[:position], value, *points[position + 1 :]]
        variants.append(rows.set_column(2, "nrSaldoPontos", pa.array(changed, pa.int64())))
    assert len({fingerprint(variant) for variant in variants}) == len(variants)


def test_fingerprint_is_that_of_the_documented_bytes() -> None:
    table = pa.table(
        {"dtRef": [date(2024, 1, 1)], "idCliente": ["é"], "nrSaldoPontos": pa.array([None], pa.int64()), "x": [-0.0]}
    )
    content = (
        b"dtRef date32[day] 1\n" + b"\x00" + b"10:2024-01-01"
        b"idCliente string 1\n" + b"\x00" + "1:é".encode() + b"nrSaldoPontos int64 1\n" + b"\x80"
        b"x double 1\n" + b"\x00" + bytes(8)
    )
    assert fingerprint(table) == hashlib.sha256(content).hexdigest()
