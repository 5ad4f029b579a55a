"""cliente_historico: the intervals of a customer's states, whatever the arrival of the changes."""

from __future__ import annotations

import random
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any

import pyarrow as pa
from hypothesis import given, settings
from hypothesis import strategies as st
from run_sql import INSTANT, run

START = datetime(2024, 2, 1, tzinfo=UTC)


@dataclass(frozen=True)
class Change:
    """A change of one customer; `at` in hours after START."""

    op: str
    at: int
    points: int | None = None
    email: int | None = None
    seq: str | None = None
    file: str = "f"
    row: int = 0
    customer: str = "ana"


def intervals(changes: list[Change], *, modified_date_first: bool = True) -> list[tuple[Any, ...]]:
    """(hours of dtInicio, hours of dtFim, points, e-mail) of the only customer, in order."""
    table = run(
        "silver/cliente_historico",
        {
            "bronze.upsell._customers_changes": pa.table(
                {
                    "idCustomer": pa.array([c.customer for c in changes], pa.string()),
                    "PointsCustomer": pa.array([c.points for c in changes], pa.int64()),
                    "flEmail": pa.array([c.email for c in changes], pa.int64()),
                    "_op": pa.array([c.op for c in changes], pa.string()),
                    "_modified_date": pa.array([START + timedelta(hours=c.at) for c in changes], INSTANT),
                    "_change_seq": pa.array([c.seq for c in changes], pa.string()),
                    "_file": pa.array([c.file for c in changes], pa.string()),
                    "_row": pa.array([c.row for c in changes], pa.int64()),
                }
            )
        },
        params={"modified_date_first": modified_date_first},
    )

    def hours(instant: datetime | None) -> int | None:
        return None if instant is None else (instant - START) // timedelta(hours=1)

    rows = sorted(table.to_pylist(), key=lambda row: (row["idCliente"], row["dtInicio"]))
    return [
        (hours(row["dtInicio"]), hours(row["dtFim"]), row["nrPontosCliente"], row["flEmailCliente"]) for row in rows
    ]


def test_every_change_ends_the_interval_before() -> None:
    changes = [Change("I", 0, 1), Change("U", 5, 2), Change("U", 9, 2, 1)]

    assert intervals(changes) == [(0, 5, 1, None), (5, 9, 2, None), (9, None, 2, 1)]


def test_a_late_change_splits_an_interval() -> None:
    assert intervals([Change("I", 0, 1), Change("U", 9, 3), Change("U", 5, 2)]) == [
        (0, 5, 1, None),
        (5, 9, 2, None),
        (9, None, 3, None),
    ]


def test_a_change_that_changes_nothing_joins_its_neighbours() -> None:
    assert intervals([Change("I", 0, 1), Change("U", 5, 1), Change("U", 9, 2)]) == [(0, 9, 1, None), (9, None, 2, None)]


def test_a_delete_ends_the_history_and_an_insert_begins_it_again() -> None:
    changes = [Change("I", 0, 1), Change("D", 5), Change("D", 6), Change("I", 9, 1)]

    assert intervals(changes) == [(0, 5, 1, None), (9, None, 1, None)]


def test_a_delete_of_an_unknown_customer_has_no_history() -> None:
    assert intervals([Change("D", 5)]) == []


def test_changes_at_one_instant_leave_the_last_in_the_order() -> None:
    changes = [Change("I", 0, 1, seq="1"), Change("U", 5, 3, seq="3"), Change("U", 5, 2, seq="2")]

    assert intervals(changes) == [(0, 5, 1, None), (5, None, 3, None)]


def test_without_a_sequence_file_and_row_decide() -> None:
    changes = [Change("U", 5, 3, file="b", row=0), Change("U", 5, 2, file="a", row=9), Change("I", 0, 1)]

    assert intervals(changes)[-1] == (5, None, 3, None)


def test_a_missing_sequence_stands_below_any_present_one() -> None:
    assert intervals([Change("U", 5, 2, seq="1"), Change("D", 5)]) == [(5, None, 2, None)]


def test_one_change_in_several_files_is_one_change_and_a_delete_wins() -> None:
    changes = [Change("I", 0, 1, seq="1"), Change("U", 5, 2, seq="2"), Change("D", 5, seq="2", file="g")]

    assert intervals(changes) == [(0, 5, 1, None)]
    assert intervals([*changes[:2], replace(changes[1], file="g"), replace(changes[1], points=19)]) == [
        (0, 5, 1, None),
        (5, None, 2, None),
    ]


def test_one_change_of_two_times_is_one_change() -> None:
    changes = [Change("I", 0, 1, seq="1"), Change("U", 5, 3, seq="2"), Change("U", 7, 2, seq="2", file="g")]

    assert intervals(changes, modified_date_first=False) == [(0, 5, 1, None), (5, None, 3, None)]
    assert intervals(changes) == [(0, 5, 1, None), (5, 7, 3, None), (7, None, 2, None)]


def test_a_clock_that_steps_back_keeps_the_order_of_the_sequence() -> None:
    changes = [Change("I", 0, 1, seq="1"), Change("U", 9, 2, seq="2"), Change("U", 5, 3, seq="3")]

    assert intervals(changes, modified_date_first=False) == [(0, 9, 1, None), (9, None, 3, None)]


def test_customers_are_apart() -> None:
    changes = [Change("I", 0, 1), Change("D", 5), Change("I", 3, 7, customer="bia")]

    assert intervals(changes) == [(0, 5, 1, None), (3, None, 7, None)]


def folded(changes: list[Change]) -> list[tuple[Any, ...]]:
    """The history by a fold over distinct sequenced changes: what holds at each instant, in order."""
    state: dict[int, tuple[int | None, int | None] | None] = {}
    for change in sorted(changes, key=lambda c: (c.at, c.seq)):
        state[change.at] = None if change.op == "D" else (change.points, change.email)
    begun: list[tuple[int, tuple[int | None, int | None] | None]] = []
    for at, value in state.items():
        if value != (begun[-1][1] if begun else None):
            begun.append((at, value))
    spans = pairwise([*begun, (None, None)])
    return [(at, end, *value) for (at, value), (end, _) in spans if at is not None and value is not None]


@settings(max_examples=40, deadline=None)
@given(
    st.lists(
        st.tuples(st.sampled_from("IUD"), st.integers(0, 8), st.integers(0, 2), st.sampled_from([0, 1, None])),
        max_size=12,
    ),
    st.randoms(use_true_random=False),
)
def test_any_arrival_order_and_repetition_gives_the_history_of_the_fold(
    drawn: list[tuple[str, int, int, int | None]], chance: random.Random
) -> None:
    changes = [Change(op, at, points, email, seq=f"{n:03}") for n, (op, at, points, email) in enumerate(drawn)]
    arrived = [replace(c, file=f"again-{n}") for n, c in enumerate(changes) if chance.random() < 0.4] + changes
    chance.shuffle(arrived)

    assert intervals(arrived) == folded(changes)
