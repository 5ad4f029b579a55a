"""The days of a change: local days through midnights and changes of clocks, and since when a flag differs."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta

import pyarrow as pa
import pytest
from reference import Event, History, State
from run_sql import silver, utc

from upsell_assets.lake.tables import Lake
from upsell_assets.silver import events
from upsell_assets.silver.difference import Difference
from upsell_assets.silver.touched import EventDays

NOW = utc("2024-04-01T15:00:00+00:00")

LOCAL_DAYS = [
    # Midnight, at UTC-3.
    ("2024-02-01T02:59:59.999999+00:00", date(2024, 1, 31)),
    ("2024-02-01T03:00:00+00:00", date(2024, 2, 1)),
    # On November 4th of 2018 the clocks went from 23:59:59 to 01:00: there was no midnight.
    ("2018-11-04T02:59:59+00:00", date(2018, 11, 3)),
    ("2018-11-04T03:00:00+00:00", date(2018, 11, 4)),
    ("2018-11-05T01:59:59+00:00", date(2018, 11, 4)),
    ("2018-11-05T02:00:00+00:00", date(2018, 11, 5)),
    # On February 17th of 2018 the hour before midnight came twice.
    ("2018-02-18T01:30:00+00:00", date(2018, 2, 17)),
    ("2018-02-18T02:30:00+00:00", date(2018, 2, 17)),
    ("2018-02-18T03:00:00+00:00", date(2018, 2, 18)),
]


def transactions(*texts: str | None) -> pa.Table:
    moments = [None if text is None else utc(text) for text in texts]
    return silver(History([Event("ana", moment, 1, ("ChatMessage",)) for moment in moments]))[events.TRANSACTIONS]


def change(old: pa.Table, new: pa.Table) -> Difference:
    return Difference(old, new)


NONE = transactions()


def put(lake: Lake, *texts: str | None) -> None:
    lake.replace(events.TRANSACTIONS, transactions(*texts).to_reader(), partitions={})


@pytest.mark.parametrize(("instant", "day"), LOCAL_DAYS)
def test_a_day_is_that_of_sao_paulo_s_clocks(local_lake: Lake, instant: str, day: date) -> None:
    put(local_lake, instant)

    assert events.local_day(utc(instant)) == day
    assert events.transaction_days(change(NONE, transactions(instant)), NOW) == {day}
    assert events.event_days(local_lake, NOW) == EventDays(day, day)


def test_old_and_new_days_of_a_changed_transaction_count() -> None:
    moved = change(transactions("2024-01-10T12:00:00+00:00"), transactions("2024-02-10T12:00:00+00:00"))

    assert events.transaction_days(moved, NOW) == {date(2024, 1, 10), date(2024, 2, 10)}


def test_events_after_now_and_at_no_readable_time_do_not_exist(local_lake: Lake) -> None:
    now = NOW.isoformat()
    later = (NOW + timedelta(microseconds=1)).isoformat()
    put(local_lake, now, later, None)

    assert events.transaction_days(change(NONE, transactions(later, None)), NOW) == set()
    assert events.transaction_days(change(NONE, transactions(now)), NOW) == {date(2024, 4, 1)}
    assert events.event_days(local_lake, NOW - timedelta(seconds=1)) is None
    assert events.event_days(local_lake, NOW) == EventDays(date(2024, 4, 1), date(2024, 4, 1))


def test_event_days_look_ahead_to_what_a_change_will_leave(local_lake: Lake) -> None:
    put(local_lake, "2024-01-10T12:00:00+00:00", "2024-02-10T12:00:00+00:00", "2024-03-10T12:00:00+00:00")
    held = local_lake.open(events.TRANSACTIONS).to_pyarrow_dataset().to_table().sort_by("idTransacao")
    moved = transactions("2024-01-05T12:00:00+00:00")

    assert events.event_days(local_lake, NOW, change(held.slice(2), NONE)) == EventDays(
        date(2024, 1, 10), date(2024, 2, 10)
    )
    assert events.event_days(local_lake, NOW, change(held.slice(0, 1), moved)) == EventDays(
        date(2024, 1, 5), date(2024, 3, 10)
    )
    assert events.event_days(local_lake, NOW, change(held, NONE)) is None
    assert events.event_days(local_lake, NOW) == EventDays(date(2024, 1, 10), date(2024, 3, 10))


def test_a_product_line_counts_on_the_day_of_its_transaction(local_lake: Lake) -> None:
    put(local_lake, "2024-01-10T12:00:00+00:00", "2024-02-10T12:00:00+00:00")
    lines = pa.table(
        {
            "idTransacaoProduto": ["l", "m"],
            "idTransacao": ["1", "not there yet"],
            "descNomeProduto": ["ChatMessage", "ChatMessage"],
            "nrQuantidadeProduto": [1, 1],
        }
    )

    assert events.line_days(local_lake, change(lines.slice(0, 0), lines), NOW) == ({date(2024, 2, 10)}, 1)
    assert events.line_days(local_lake, change(lines, lines.slice(0, 0)), NOW) == ({date(2024, 2, 10)}, 1)


# --- the e-mail flag ---

FIRST = datetime(2024, 1, 1, 12, tzinfo=UTC)


def states(*begun: tuple[int, int | None, int] | int, customer: str = "ana") -> list[State]:
    """(day, flag, points) each until the next; a lone day ends the history."""
    moments = [FIRST + timedelta(days=state if isinstance(state, int) else state[0]) for state in begun]
    return [
        State(customer, moment, state[1], state[2], end)
        for state, moment, end in zip(begun, moments, [*moments[1:], None], strict=True)
        if not isinstance(state, int)
    ]


def since(old: list[State], new: list[State]) -> date | None:
    """What a refresh from one history to another finds, given the rows that differ only."""
    before, after = (silver(History([], found))[events.HISTORY] for found in (old, new))
    gone = [row for row in before.to_pylist() if row not in after.to_pylist()]
    come = [row for row in after.to_pylist() if row not in before.to_pylist()]
    return events.flag_since(
        Difference(pa.Table.from_pylist(gone, before.schema), pa.Table.from_pylist(come, after.schema))
    )


def on(day: int) -> date:
    return date(2024, 1, 1) + timedelta(days=day)


def test_a_balance_touches_nothing() -> None:
    assert since(states((0, 1, 5)), states((0, 1, 5), (3, 1, 7))) is None
    assert since(states((0, 1, 5), (3, 1, 7)), states((0, 1, 5), (2, 1, 6), (3, 1, 7))) is None
    assert since(states((0, None, 5)), states((0, None, 5), (3, None, 7))) is None


def test_a_flag_differs_from_the_day_of_its_change() -> None:
    assert since(states((0, 1, 5)), states((0, 1, 5), (3, 0, 5))) == on(3)
    assert since(states((0, 1, 5)), states((0, 1, 5), (2, 1, 6), (3, 0, 6))) == on(3)
    assert since(states((0, 1, 5)), states((0, None, 5))) == on(0)


def test_a_late_flag_differs_until_the_next_and_a_moved_one_from_the_earlier() -> None:
    assert since(states((0, 1, 5), (9, 1, 6)), states((0, 1, 5), (4, 0, 5), (9, 1, 6))) == on(4)
    assert since(states((0, 1, 5), (9, 0, 5)), states((0, 1, 5), (4, 0, 5))) == on(4)


def test_the_begin_and_the_end_of_a_history_change_its_flag() -> None:
    assert since([], states((2, 1, 5))) == on(2)
    assert since(states((2, 1, 5)), states((2, 1, 5), 6)) == on(6)
    assert since(states((2, 1, 5), 6), states((2, 1, 5), 6, (8, 1, 5))) == on(8)
    assert since(states((2, 1, 5)), []) == on(2)


def test_of_several_customers_the_earliest_counts() -> None:
    old = [*states((0, 1, 5)), *states((0, 1, 5), customer="bia"), *states((0, 1, 5), customer="cai")]
    new = [
        *states((0, 1, 5), (7, 0, 5)),
        *states((0, 1, 5), (4, 0, 5), customer="bia"),
        *states((0, 1, 5), (1, 1, 9), customer="cai"),
    ]

    assert since(old, new) == on(4)


def test_a_flag_changes_on_a_local_day() -> None:
    old = [State("ana", utc("2024-01-01T12:00:00+00:00"), 1, 5, None)]
    midnight = utc("2024-02-01T02:59:59+00:00")
    new = [replace_end(old[0], midnight), State("ana", midnight, 0, 5, None)]

    assert since(old, new) == date(2024, 1, 31)


def replace_end(state: State, end: datetime) -> State:
    return State(state.customer, state.start, state.email, state.points, end)
