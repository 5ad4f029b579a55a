"""The label, on literal histories: who is in the population, who stayed away, and which windows are over."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

import pyarrow as pa
import pytest

import upsell_assets.model
from upsell_assets.lake.duck import connect
from upsell_assets.lake.sql import bind, load_sql, to_duckdb

LABEL_SQL = Path(upsell_assets.model.__file__).parent / "label.sql"
SAO_PAULO = ZoneInfo("America/Sao_Paulo")
NOW = datetime(2024, 12, 31, tzinfo=UTC)
DTREF = date(2024, 6, 3)


def on(day: date, hour: int = 12) -> datetime:
    """An instant on a local day, by default at noon."""
    return datetime(day.year, day.month, day.day, hour, tzinfo=SAO_PAULO)


def days(count: int) -> date:
    """The day `count` days from DTREF."""
    return DTREF + timedelta(days=count)


def labels(
    events: list[tuple[str | None, datetime | None]], *, dtrefs: list[date] | None = None, now: datetime = NOW
) -> dict[tuple[date, str], int]:
    query = load_sql(LABEL_SQL)
    transactions = pa.table(
        {
            "idTransacao": pa.array([str(n) for n in range(len(events))], pa.string()),
            "idCliente": pa.array([customer for customer, _ in events], pa.string()),
            "dtTransacao": pa.array([instant for _, instant in events], pa.timestamp("us", "UTC")),
            "nrPontosTransacao": pa.array([1] * len(events), pa.int64()),
        }
    )
    with connect() as connection:
        connection.register("transacoes", transactions)
        connection.register("dtrefs", pa.table({"dtRef": pa.array(dtrefs or [DTREF], pa.date32())}))
        sql = to_duckdb(bind(query.tree, {"silver.upsell.transacoes": "transacoes"}, {"now": now}))
        rows = connection.execute(sql).fetchall()
    found = {(dtref, customer): label for dtref, customer, label in rows}
    assert len(found) == len(rows), "a customer is labelled twice"
    return found


def test_customer_who_stays_away_for_28_days_is_a_churner() -> None:
    events = [("gone", on(days(-1))), ("stays", on(days(-1))), ("stays", on(days(3))), ("other", on(days(28)))]
    assert labels(events) == {(DTREF, "gone"): 1, (DTREF, "stays"): 0}


def test_window_of_the_label_begins_at_dtref_and_ends_27_days_later() -> None:
    customers = {"first": 0, "last": 27, "late": 28}
    events = [(customer, on(days(-5))) for customer in customers]
    events += [(customer, on(days(offset))) for customer, offset in customers.items()]
    assert labels(events) == {(DTREF, "first"): 0, (DTREF, "last"): 0, (DTREF, "late"): 1}


def test_population_is_who_was_active_in_the_28_days_before() -> None:
    customers = {"too old": -29, "oldest": -28, "newest": -1, "only later": 0}
    events = [(customer, on(days(offset))) for customer, offset in customers.items()] + [("other", on(days(28)))]
    assert labels(events) == {(DTREF, "oldest"): 1, (DTREF, "newest"): 1}


@pytest.mark.parametrize(("newest", "labelled"), [(27, False), (28, True)])
def test_labels_exist_once_the_newest_day_is_dtref_plus_28(newest: int, labelled: bool) -> None:
    events = [("gone", on(days(-1))), ("other", on(days(newest), hour=0))]
    assert labels(events) == ({(DTREF, "gone"): 1} if labelled else {})


def test_event_after_now_makes_no_window_mature() -> None:
    events = [("gone", on(days(-1))), ("other", on(days(28)))]
    just_before, at = on(days(28), hour=11), on(days(28))
    assert labels(events, now=just_before) == {}
    assert labels(events, now=at) == {(DTREF, "gone"): 1}


def test_days_are_local_not_those_of_utc() -> None:
    # 02:30 UTC of dtRef is 23:30 of the day before in Sao Paulo.
    eve = datetime(2024, 6, 3, 2, 30, tzinfo=UTC)
    morning = datetime(2024, 6, 3, 3, 30, tzinfo=UTC)
    events = [("eve", eve), ("morning", on(days(-2))), ("morning", morning), ("other", on(days(28)))]
    assert labels(events) == {(DTREF, "eve"): 1, (DTREF, "morning"): 0}


def test_day_without_a_midnight_is_a_day_like_others() -> None:
    # On 2018-11-04 clocks in Sao Paulo went from 00:00 to 01:00: its first instant is 03:00 UTC, at 01:00 local.
    dtref = date(2018, 11, 4)
    first, last_of_eve = datetime(2018, 11, 4, 3, 0, tzinfo=UTC), datetime(2018, 11, 4, 2, 59, tzinfo=UTC)
    events = [("eve", last_of_eve), ("back", last_of_eve), ("back", first), ("other", on(date(2018, 12, 2)))]
    assert labels(events, dtrefs=[dtref]) == {(dtref, "eve"): 1, (dtref, "back"): 0}


def test_null_customer_and_null_date_are_in_no_population() -> None:
    events = [(None, on(days(-1))), ("undated", None), ("gone", on(days(-1))), (None, on(days(28)))]
    assert labels(events) == {(DTREF, "gone"): 1}


def test_several_dtrefs_at_once_are_labelled_as_each_alone() -> None:
    events = [("a", on(days(offset))) for offset in (-40, -20, 1, 33)] + [
        ("b", on(days(offset))) for offset in (-3, 60)
    ]
    asked = [days(offset) for offset in (-35, -7, 0, 1, 14, 32, 33)]
    alone = [labels(events, dtrefs=[dtref]) for dtref in asked]
    together = labels(events, dtrefs=asked)
    assert together == {key: label for found in alone for key, label in found.items()}
    assert together == {
        (days(-35), "a"): 0,
        (days(-7), "a"): 0,
        (DTREF, "a"): 0,
        (DTREF, "b"): 1,
        (days(1), "a"): 0,
        (days(1), "b"): 1,
        (days(14), "a"): 0,
        (days(14), "b"): 1,
    }


def test_no_events_give_no_labels() -> None:
    assert labels([]) == {}
