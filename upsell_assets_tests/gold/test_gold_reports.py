"""The reports equal the independent reference on every day of the real data, and in the corners."""

from __future__ import annotations

import random
from datetime import UTC, date, datetime, timedelta

import pytest
import reference
from hypothesis import given, settings
from hypothesis import strategies as st
from reference import Event, History
from run_sql import assert_same, by_dt_ref, run, silver, sql_file, utc

REPORTS = {
    "gold/daily_report": (reference.daily_report, "descNomeProduto"),
    "gold/monthly_report": (reference.monthly_report, "descNomeProduto"),
    "gold/churn_report": (reference.churn_report, None),
}
NOON = datetime(2024, 2, 1, 15, tzinfo=UTC)
DAY = date(2024, 2, 1)


def report(name: str, events: list[Event], dtrefs: list[date]) -> dict[date, dict[str, reference.Row]]:
    return by_dt_ref(run(name, silver(History(events)), dtrefs), REPORTS[name][1])


@pytest.mark.parametrize("name", REPORTS)
def test_reports_of_every_real_day_equal_the_reference(name: str) -> None:
    folder = reference.data_folder()
    if folder is None:
        pytest.skip("no points-2024 dump beside the checkout; set UPSELL_TEST_DATA to its folder")
    history = reference.read_dump(folder)
    days = [*history.by_day]
    # Beyond the newest day too, where the customers of the dump are the base of churn.
    dtrefs = [days[0] + timedelta(days=n) for n in range((days[-1] - days[0]).days + 29)]
    expected, key = REPORTS[name]

    actual = by_dt_ref(run(name, silver(history), dtrefs), key)

    assert_same(actual, {day: expected(history, day) for day in dtrefs})
    for column in list(sql_file(name).columns)[2 if key else 1 :]:
        assert any(row[column] for rows in actual.values() for row in rows.values()), f"{column} has no value"


@settings(max_examples=30, deadline=None)
@given(
    st.lists(
        st.builds(
            Event,
            customer=st.sampled_from(["ana", "bia", "caio", None]),
            at=st.one_of(st.none(), st.integers(0, 100 * 86_400).map(lambda second: NOON + timedelta(seconds=second))),
            points=st.one_of(st.integers(-50, 50), st.none()),
            products=st.lists(st.sampled_from(["ChatMessage", "R Lover", None]), max_size=3).map(tuple),
        ),
        max_size=40,
    ),
    st.lists(st.integers(-2, 110), min_size=1, max_size=3, unique=True),
)
def test_reports_of_any_history_equal_the_reference(events: list[Event], days: list[int]) -> None:
    dtrefs = [DAY + timedelta(days=day) for day in days]
    for name, (expected, _) in REPORTS.items():
        assert_same(report(name, events, dtrefs), {day: expected(History(events), day) for day in dtrefs}, name)


def test_a_transaction_counts_once_for_each_product_and_once_in_the_total() -> None:
    cart = ("ChatMessage", "ChatMessage", "R Lover")
    rows = report("gold/daily_report", [Event("ana", NOON, 10, cart), Event("bia", NOON, -4, ("R Lover",))], [DAY])[DAY]

    assert {name: row["nrQuantidadeTrasacoes"] for name, row in rows.items()} == {
        None: 2,
        "ChatMessage": 1,
        "R Lover": 2,
    }
    assert {name: row["nrQuantidadePontos"] for name, row in rows.items()} == {None: 6, "ChatMessage": 10, "R Lover": 6}
    assert rows[None]["nrQuantidadePontosPos"] == 10
    assert rows[None]["nrQuantidadePontosNeg"] == -4
    assert rows["ChatMessage"]["nrQuantidadePontosNeg"] == 0


def test_a_transaction_without_lines_is_in_the_total_only() -> None:
    rows = report("gold/daily_report", [Event("ana", NOON, 10)], [DAY])[DAY]

    assert list(rows) == [None]
    assert rows[None]["nrQuantidadeTrasacoes"] == 1


def test_a_day_without_transactions_has_a_total_of_zero() -> None:
    rows = report("gold/daily_report", [Event("ana", NOON, 10)], [DAY + timedelta(days=1)])

    assert rows == {
        DAY + timedelta(days=1): {
            None: {
                "nrQuantidadeTrasacoes": 0,
                "nrQuantidadeClientes": 0,
                "nrQuantidadePontos": None,
                "nrQuantidadePontosPos": 0,
                "nrQuantidadePontosNeg": 0,
            }
        }
    }


def test_a_transaction_without_a_customer_counts_but_is_no_customer() -> None:
    row = report("gold/daily_report", [Event(None, NOON, 10), Event("ana", NOON, 1)], [DAY])[DAY][None]

    assert (row["nrQuantidadeTrasacoes"], row["nrQuantidadeClientes"]) == (2, 1)


def test_the_month_of_a_day_is_that_day_and_the_27_before() -> None:
    events = [Event("ana", NOON - timedelta(days=days), 1) for days in (0, 27, 28)]
    row = report("gold/monthly_report", events, [DAY])[DAY][None]

    assert row["nrQuantidadeTrasacoes"] == 2
    assert row["nrQuantidadeTransacaoCliente"] == 2.0


def test_churn_is_who_was_there_in_the_28_days_before_the_last_28() -> None:
    events = [Event("back", NOON - timedelta(days=days), 1) for days in (28, 27)]
    events += [Event("gone", NOON - timedelta(days=55), 1), Event("long gone", NOON - timedelta(days=56), 1)]
    events += [Event("new", NOON, 1), Event(None, NOON - timedelta(days=40), 1)]

    row = report("gold/churn_report", events, [DAY])[DAY][None]

    assert row == {"qtdeBaseOld": 2, "qtdeBaseNewNotChurn": 1, "nrQtdeChurn": 1, "ChurnRate": 0.5}


def test_churn_of_an_empty_base_has_no_rate() -> None:
    row = report("gold/churn_report", [Event("ana", NOON, 1)], [DAY])[DAY][None]

    assert row == {"qtdeBaseOld": 0, "qtdeBaseNewNotChurn": 0, "nrQtdeChurn": 0, "ChurnRate": None}


NO_MIDNIGHT = [
    # On November 4th of 2018 the clocks went from 23:59:59 of the 3rd to 01:00.
    ("2018-11-04T02:59:59.999999+00:00", 3),
    ("2018-11-04T03:00:00+00:00", 4),
    ("2018-11-05T01:59:59.999999+00:00", 4),
    ("2018-11-05T02:00:00+00:00", 5),
]
HOUR_TWICE = [
    # On February 17th of 2018 the hour before midnight came twice.
    ("2018-02-17T01:59:59.999999+00:00", 16),
    ("2018-02-17T02:00:00+00:00", 17),
    ("2018-02-18T01:30:00+00:00", 17),
    ("2018-02-18T02:59:59.999999+00:00", 17),
    ("2018-02-18T03:00:00+00:00", 18),
]


@pytest.mark.parametrize("moments", [NO_MIDNIGHT, HOUR_TWICE], ids=["no midnight", "an hour twice"])
def test_days_on_which_the_clocks_change_are_days(moments: list[tuple[str, int]]) -> None:
    # A customer of its own each: who is counted on a day tells which instants lie in it.
    events = [Event(moment, utc(moment), 1, ("ChatMessage",)) for moment, _ in moments]
    month = utc(moments[0][0]).date().replace(day=1)
    days = sorted({month.replace(day=day) for _, day in moments})
    of_day = {day: sum(month.replace(day=at) == day for _, at in moments) for day in days}

    daily = report("gold/daily_report", events, days)
    monthly = report("gold/monthly_report", events, [*days, *(day + timedelta(days=27) for day in days)])
    churn = report("gold/churn_report", events, [day + timedelta(days=28) for day in days])

    for day in days:
        so_far = sum(count for other, count in of_day.items() if other <= day)
        from_now = sum(count for other, count in of_day.items() if other >= day)
        assert (
            daily[day][None]["nrQuantidadeTrasacoes"]
            == daily[day]["ChatMessage"]["nrQuantidadeClientes"]
            == of_day[day]
        )
        assert monthly[day][None]["nrQuantidadeClientes"] == so_far
        assert monthly[day + timedelta(days=27)][None]["nrQuantidadeClientes"] == from_now
        assert churn[day + timedelta(days=28)][None] == {
            "qtdeBaseOld": so_far,
            "qtdeBaseNewNotChurn": 0,
            "nrQtdeChurn": so_far,
            "ChurnRate": 1.0,
        }


@pytest.mark.parametrize("name", REPORTS)
def test_reports_through_changes_of_the_clocks_equal_the_reference(name: str) -> None:
    chance = random.Random(2018)
    begin = datetime(2018, 2, 10, 3, tzinfo=UTC)
    # Each half hour around the local midnights of the days of a change, and any time between.
    around = [utc(moment) + timedelta(minutes=30 * n) for moment, _ in NO_MIDNIGHT + HOUR_TWICE for n in range(-4, 5)]
    moments = around + [begin + timedelta(minutes=chance.randrange(280 * 24 * 60)) for _ in range(300)]
    events = [
        Event(chance.choice(["ana", "bia", "caio", None]), moment, chance.randrange(-9, 10), ("R Lover",))
        for moment in moments
    ]
    dtrefs = [begin.date() + timedelta(days=day) for day in range(-1, 310)]
    history = History(events)

    assert_same(report(name, events, dtrefs), {day: REPORTS[name][0](history, day) for day in dtrefs})
