"""cliente_historico: the intervals of a customer's states, whatever the arrival of the changes."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any

import pyarrow as pa
from hypothesis import given, settings
from hypothesis import strategies as st
from run_sql import INSTANT, run

START = datetime(2024, 2, 1, tzinfo=UTC)
LOADS = "raw/upsell/full_load/customers/"


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


@dataclass(frozen=True)
class Load:
    """A full load: its rows are changes at its own place, below LOADS; without rows it is a truncate."""

    at: int
    seq: str | None
    rows: tuple[Change, ...] = ()
    ended: bool = True

    @classmethod
    def of(cls, at: int, seq: str | None, **points: int) -> Load:
        rows = [
            Change("I", at, value, None, seq, f"{LOADS}L/part", number, customer)
            for number, (customer, value) in enumerate(points.items())
        ]
        return cls(at, seq, tuple(rows))


def intervals(
    changes: list[Change], loads: Sequence[Load] = (), *, modified_date_first: bool = True
) -> list[tuple[Any, ...]]:
    """(hours of dtInicio, hours of dtFim, points, e-mail), in order of customer and dtInicio."""
    changes = [*changes, *(row for load in loads for row in load.rows)]
    ends = [load for load in loads if load.ended]
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
            ),
            "bronze.upsell._customers_floors": pa.table(
                {
                    "_modified_date": pa.array([START + timedelta(hours=load.at) for load in ends], INSTANT),
                    "_change_seq": pa.array([load.seq for load in ends], pa.string()),
                }
            ),
        },
        params={"modified_date_first": modified_date_first, "load_folder": LOADS},
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


# --- ends of full loads ---


def test_the_end_of_a_load_ends_the_interval_of_who_is_not_in_it() -> None:
    changes = [Change("I", 0, 1, seq="1"), Change("I", 1, 5, seq="2", customer="bia")]

    assert intervals(changes, [Load.of(6, "3", ana=1)]) == [(0, None, 1, None), (1, 6, 5, None)]


def test_a_late_change_below_the_floor_ends_at_the_load() -> None:
    changes = [Change("I", 0, 1, seq="1"), Change("U", 4, 3, seq="2")]

    assert intervals(changes[:1], [Load.of(6, "3")]) == [(0, 6, 1, None)]
    assert intervals(changes, [Load.of(6, "3")]) == [(0, 4, 1, None), (4, 6, 3, None)]


def test_a_change_above_the_floor_begins_the_history_again() -> None:
    changes = [Change("I", 0, 1, seq="1"), Change("U", 8, 2, seq="9")]

    assert intervals(changes, [Load.of(6, "3")]) == [(0, 6, 1, None), (8, None, 2, None)]


def test_at_one_place_a_load_s_row_stands_above_its_end_and_above_changes() -> None:
    changes = [Change("U", 6, 99, seq="3"), Change("D", 6, seq="3", file="g")]

    assert intervals(changes, [Load.of(6, "3", ana=1)]) == [(6, None, 1, None)]
    assert intervals([Change("U", 6, 99, seq="3")], [Load.of(6, "3")]) == []


def test_without_a_sequence_a_load_stands_above_the_changes_of_its_moment() -> None:
    changes = [Change("I", 0, 1), Change("U", 6, 2, file="z"), Change("I", 6, 2, file="z", customer="bia")]

    assert intervals(changes, [Load.of(6, None, ana=7)]) == [(0, 6, 1, None), (6, None, 7, None)]


def test_until_a_load_has_ended_it_ends_nothing() -> None:
    changes = [Change("I", 0, 1, seq="1")]

    assert intervals(changes, [replace(Load.of(6, "3"), ended=False)]) == [(0, None, 1, None)]


def test_an_end_written_down_twice_is_one_end() -> None:
    changes = [Change("I", 0, 1, seq="1"), Change("U", 4, 2)]

    assert intervals(changes, [Load.of(6, "3"), Load.of(6, "3"), Load.of(6, None)]) == intervals(
        changes, [Load.of(6, "3")]
    )


def test_every_load_ends_what_was_there_before_it() -> None:
    changes = [Change("I", 0, 1, seq="1"), Change("I", 4, 1, seq="4")]

    assert intervals(changes, [Load.of(6, "6"), Load.of(2, "2")]) == [(0, 2, 1, None), (4, 6, 1, None)]


# --- any history ---

State = tuple[int | None, int | None] | None


def folded(changes: list[Change], loads: Sequence[Load], *, modified_date_first: bool) -> list[tuple[Any, ...]]:
    """The history by a fold over distinct sequenced changes: what holds at each instant, in order."""

    def position(of: Change | Load) -> tuple[Any, ...]:
        return (of.at, of.seq) if modified_date_first else (of.seq,)

    rows = [row for load in loads for row in load.rows]
    found: list[tuple[Any, ...]] = []
    for customer in sorted({change.customer for change in [*changes, *rows]}):
        said: list[tuple[tuple[Any, ...], int, int, State]] = [
            (position(of), place, of.at, None if of.op == "D" else (of.points, of.email))
            for place, those in ((0, changes), (2, rows))
            for of in those
            if of.customer == customer
        ]
        said += [(position(load), 1, load.at, None) for load in loads if load.ended]
        state: dict[int, State] = {}
        for _, _, at, value in sorted(said, key=lambda of: of[:2]):
            state[max([at, *state])] = value
        begun: list[tuple[int | None, State]] = []
        for at, value in state.items():
            if value != (begun[-1][1] if begun else None):
                begun.append((at, value))
        spans = pairwise([*begun, (None, None)])
        found += [(at, end, *value) for (at, value), (end, _) in spans if value is not None]
    return found


VALUES = st.tuples(st.integers(0, 2), st.sampled_from([0, 1, None]))
CUSTOMERS = st.sampled_from(["ana", "bia"])


@settings(max_examples=80, deadline=None)
@given(
    st.lists(
        st.one_of(
            st.tuples(CUSTOMERS, st.sampled_from("IUD"), st.integers(0, 8), VALUES),
            # A load: whom it holds, and whether it has ended. Without rows it is a truncate.
            st.tuples(st.dictionaries(CUSTOMERS, VALUES), st.booleans(), st.integers(0, 8)),
        ),
        max_size=12,
    ),
    st.booleans(),
    st.randoms(use_true_random=False),
)
def test_any_arrival_order_and_repetition_gives_the_history_of_the_fold(
    drawn: list[tuple[Any, ...]], modified_date_first: bool, chance: random.Random
) -> None:
    changes, loads = [], []
    for number, (first, second, at, *values) in enumerate(drawn):
        seq = f"{number:03}"
        if values:
            changes.append(Change(second, at, *values[0], seq=seq, customer=first))
        else:
            rows = [Change("I", at, *of, seq, f"{LOADS}{seq}/part", customer=name) for name, of in first.items()]
            loads.append(Load(at, seq, tuple(rows), second))
    arrived = [replace(c, file=f"again-{n}") for n, c in enumerate(changes) if chance.random() < 0.4] + changes
    chance.shuffle(arrived)
    loads += [load for load in loads if chance.random() < 0.3]
    chance.shuffle(loads)

    assert intervals(arrived, loads, modified_date_first=modified_date_first) == folded(
        changes, loads, modified_date_first=modified_date_first
    )
