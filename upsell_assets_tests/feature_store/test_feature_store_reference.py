"""The feature tables equal the independent reference: on real data, on made histories, alone and as a set."""

from __future__ import annotations

import random
from datetime import UTC, date, datetime, timedelta
from itertools import pairwise

import pyarrow.compute as pc
import pytest
import reference
from hypothesis import given, settings
from hypothesis import strategies as st
from reference import Event, History, State
from run_sql import assert_same, by_dt_ref, run, silver, sql_file

TABLES = {
    "feature_store/fs_geral": reference.fs_geral,
    "feature_store/fs_pontos": reference.fs_pontos,
    "feature_store/fs_transacoes": reference.fs_transacoes,
    "feature_store/fs_dia_horario": reference.fs_dia_horario,
}

NAMES = [
    "Airflow Lover",
    "ChatMessage",
    "Churn_10pp",
    "Churn_2pp",
    "Churn_5pp",
    "Daily Loot",
    "Lista de presença",
    "Presença Streak",
    "R Lover",
    "Resgatar Ponei",
    "Troca de Pontos StreamElements",
    "Venda de Item: Espada",
    "Uma Venda de Item: Arco",
    "Churn-2pp",
    "chatmessage",
]

# Around the day of 2018 on which Sao Paulo had no midnight: the clocks went from 23:59 to 01:00 on November 4th.
FIRST = datetime(2018, 10, 1, tzinfo=UTC)
INSTANTS = st.one_of(
    st.integers(0, 90 * 86_400_000_000).map(lambda micros: FIRST + timedelta(microseconds=micros)),
    # An hour around local midnight, where days are easily confused.
    st.builds(
        lambda day, second: FIRST + timedelta(days=day, hours=2, seconds=second),
        st.integers(0, 89),
        st.integers(0, 7200),
    ),
)
EVENTS = st.builds(
    Event,
    customer=st.sampled_from(["ana", "bia", "caio", None]),
    at=st.one_of(INSTANTS, INSTANTS, INSTANTS, INSTANTS, st.none()),
    points=st.one_of(st.integers(-50, 50), st.none()),
    products=st.lists(st.one_of(st.sampled_from(NAMES), st.none()), max_size=3).map(tuple),
)


@st.composite
def states(draw: st.DrawFn) -> list[State]:
    """Intervals that do not overlap, with gaps, per customer."""
    found = []
    for customer in ("ana", "bia"):
        times = sorted(draw(st.lists(INSTANTS, max_size=6, unique=True)))
        for start, end in pairwise([*times, None]):
            if draw(st.integers(0, 3)):
                found.append(State(customer, start, draw(st.sampled_from([0, 1, None])), 1, end))
    return found


@pytest.fixture(scope="module")
def dump() -> History:
    folder = reference.data_folder()
    if folder is None:
        pytest.skip("no points-2024 dump beside the checkout; set UPSELL_TEST_DATA to its folder")
    history = reference.read_dump(folder)
    # The dump has no history of customers: a made one, so that flEmail is compared too.
    customers = sorted({event.customer for event in history.events if event.customer})
    change = datetime(2024, 2, 19, 12, tzinfo=UTC)
    for number, customer in enumerate(customers):
        history.states.append(State(customer, datetime(2024, 1, 1, tzinfo=UTC), number % 2, 0, change))
        if number % 3:
            history.states.append(State(customer, change, None if number % 5 else 1, 0, None))
    return history


@pytest.mark.parametrize("name", TABLES)
def test_features_of_every_real_customer_and_day_equal_the_reference(dump: History, name: str) -> None:
    first, newest = min(dump.by_day), max(dump.by_day)
    # From the day before the first event to the last dtRef with anybody in its population, and one more.
    dtrefs = [first + timedelta(days=number) for number in range(-1, (newest - first).days + 30)]

    actual = by_dt_ref(run(name, silver(dump), dtrefs), "idCliente")

    assert len(actual) == len(dtrefs) - 3  # nobody's: the first two dtRefs and the last
    assert_same({day: actual.get(day, {}) for day in dtrefs}, {day: TABLES[name](dump, day) for day in dtrefs})


@pytest.mark.parametrize("name", TABLES)
def test_columns_come_in_the_order_of_the_specification(name: str) -> None:
    history = History([Event("ana", datetime(2024, 2, 1, 15, tzinfo=UTC), 1, ("ChatMessage",))])
    expected = list(TABLES[name](history, date(2024, 2, 2))["ana"])

    assert list(sql_file(name).columns) == ["dtRef", "idCliente", *expected]
    assert run(name, silver(history), [date(2024, 2, 2)]).column_names == ["dtRef", "idCliente", *expected]


@pytest.mark.parametrize("name", TABLES)
def test_every_feature_has_a_value_somewhere(name: str) -> None:
    start = datetime(2024, 2, 1, 15, tzinfo=UTC)
    history = History(
        [Event("ana", start + timedelta(hours=n), 5 if n % 2 else -3, (product,)) for n, product in enumerate(NAMES)],
        [State("ana", start, 1, 0, None)],
    )
    rows = run(name, silver(history), [date(2024, 2, 3)])

    assert rows.num_rows == 1
    assert [column for column in rows.column_names if rows[column].null_count] == []
    products = [c for c in rows.column_names if c.endswith((*reference.PRODUCTS, "Listapresenca"))]
    assert [column for column in products if not pc.greater(rows[column], 0)[0].as_py()] == []


@pytest.mark.parametrize("name", TABLES)
def test_features_of_a_busy_season_equal_the_reference(name: str) -> None:
    chance = random.Random(20181104)
    changes = sorted(FIRST + timedelta(hours=chance.randrange(90 * 24)) for _ in range(60))
    history = History(
        [
            Event(
                customer=chance.choice(["ana", "ana", "bia", "caio", None]),
                at=FIRST + timedelta(milliseconds=chance.randrange(90 * 86_400_000)),
                points=chance.choice([None, *range(-9, 10)]),
                products=tuple(chance.choices([*NAMES, None], k=chance.randrange(4))),
            )
            for _ in range(600)
        ],
        [State("ana", a, chance.choice([0, 1, None]), 1, b) for a, b in pairwise(changes) if a < b],
    )
    dtrefs = [FIRST.date() + timedelta(days=day) for day in range(1, 118, 4)]

    actual = by_dt_ref(run(name, silver(history), dtrefs), "idCliente")

    assert_same({day: actual.get(day, {}) for day in dtrefs}, {day: TABLES[name](history, day) for day in dtrefs})


@pytest.fixture(scope="module")
def giant() -> History:
    """A customer who owns a fifth of all rows in the real data, here with 100,000 transactions, and one with a few."""
    chance = random.Random(100_000)
    events = [
        Event(
            customer="ana" if number % 1000 else "bia",
            at=FIRST + timedelta(milliseconds=chance.randrange(90 * 86_400_000)),
            points=chance.choice([None, *range(-9, 10), 1_000_000_007]),
            products=tuple(chance.choices([*NAMES, None], k=chance.randrange(3))),
        )
        for number in range(100_101)
    ]
    return History(events, [State("ana", FIRST, 1, 0, None)])


@pytest.mark.parametrize("name", TABLES)
def test_features_of_a_customer_with_100_000_transactions_equal_the_reference(giant: History, name: str) -> None:
    dtrefs = [FIRST.date() + timedelta(days=day) for day in (2, 57, 91, 110)]

    actual = by_dt_ref(run(name, silver(giant), dtrefs), "idCliente")

    assert_same(actual, {day: TABLES[name](giant, day) for day in dtrefs})
    assert set(actual[dtrefs[2]]) == {"ana", "bia"}


@settings(max_examples=30, deadline=None)
@given(st.lists(EVENTS, max_size=40), states(), st.lists(st.integers(0, 95), min_size=1, max_size=4, unique=True))
def test_features_of_any_history_equal_the_reference(events: list[Event], emails: list[State], days: list[int]) -> None:
    history = History(events, emails)
    dtrefs = [FIRST.date() + timedelta(days=day) for day in days]
    for name, expected in TABLES.items():
        actual = by_dt_ref(run(name, silver(history), dtrefs), "idCliente")
        assert_same({day: actual.get(day, {}) for day in dtrefs}, {day: expected(history, day) for day in dtrefs}, name)


@pytest.mark.parametrize("name", TABLES)
def test_a_set_of_dtrefs_equals_each_alone(dump: History, name: str) -> None:
    dtrefs = [date(2024, 2, 5), date(2024, 2, 6), date(2024, 2, 29), date(2024, 3, 9)]
    tables = silver(dump)
    alone = {day: by_dt_ref(run(name, tables, [day]), "idCliente").get(day, {}) for day in dtrefs}

    assert all(alone.values())
    assert_same(by_dt_ref(run(name, tables, dtrefs), "idCliente"), alone)
