"""Touched dtRefs: as the rule says, and no dtRef forgotten whose rows a change makes different."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pyarrow as pa
import pytest
import reference
from hypothesis import given, settings
from hypothesis import strategies as st
from reference import Event, History, State
from run_sql import silver

from upsell_assets.lake.tables import Lake
from upsell_assets.silver import events
from upsell_assets.silver.difference import Difference
from upsell_assets.silver.touched import SCORES, WINDOWS, EventDays, Touched, begun, touched

FS_GERAL = "feature_store.upsell.fs_geral"
LIFETIME = [FS_GERAL, "feature_store.upsell.fs_pontos", "feature_store.upsell.fs_transacoes"]
DIA_HORARIO = "feature_store.upsell.fs_dia_horario"
DAILY, MONTHLY, CHURN = (f"gold.upsell.{name}_report" for name in ("daily", "monthly", "churn"))

START = date(2024, 1, 1)
TODAY = date(2024, 4, 1)


def day(number: int) -> date:
    return START + timedelta(days=number)


def days(first: int, last: int) -> set[date]:
    return {day(number) for number in range(first, last + 1)}


# --- the rule ---


def test_an_event_touches_what_sees_it() -> None:
    known = EventDays(day(0), day(80))

    assert touched([day(10)], None, known, known, TODAY) == {
        **dict.fromkeys(LIFETIME, days(11, 81)),
        DIA_HORARIO: days(11, 38),
        DAILY: days(10, 10),
        MONTHLY: days(10, 37),
        CHURN: days(10, 65),
    }


def test_a_changed_flag_touches_fs_geral_from_its_day() -> None:
    known = EventDays(day(0), day(80))

    assert touched([], day(40), known, known, TODAY) == {FS_GERAL: days(40, 81)}


def test_nothing_changed_touches_nothing() -> None:
    known = EventDays(day(0), day(80))

    assert touched([], None, known, known, TODAY) == {}
    assert touched([], day(3), None, None, TODAY) == {}


def test_dt_refs_that_begin_to_exist_are_touched() -> None:
    before, after = EventDays(day(10), day(20)), EventDays(day(8), day(22))

    found = touched([], None, before, after, TODAY)

    assert found[DIA_HORARIO] == days(9, 10) | days(22, 23)
    assert found[DAILY] == days(8, 9) | days(21, 22)


def test_dt_refs_that_cease_to_exist_are_touched() -> None:
    before, after = EventDays(day(10), day(30)), EventDays(day(12), day(20))

    found = touched([day(10), day(30)], None, before, after, TODAY)

    assert days(22, 31) <= found[DIA_HORARIO]
    assert days(11, 12) <= found[FS_GERAL]
    assert days(10, 11) | days(21, 30) <= found[DAILY]
    assert touched([day(10)], None, EventDays(day(10), day(10)), None, TODAY)[CHURN] == {day(10)}


def test_nothing_after_today_or_before_the_first_day_is_touched() -> None:
    known = EventDays(day(0), TODAY)

    found = touched([day(0), TODAY], day(0), None, known, TODAY, first_day=day(5))

    assert {consumer: (min(touches), max(touches)) for consumer, touches in found.items()} == {
        **dict.fromkeys(WINDOWS, (day(5), TODAY)),
        SCORES: (TODAY, TODAY),
    }


def test_the_newest_dt_ref_is_scored_once() -> None:
    first, later = EventDays(day(0), day(20)), EventDays(day(0), day(23))

    assert touched([day(20)], None, None, first, TODAY)[SCORES] == {day(21)}
    assert touched([day(23)], None, first, later, TODAY)[SCORES] == {day(24)}
    assert SCORES not in touched([day(3)], day(3), later, later, TODAY)
    assert SCORES not in touched([day(3)], None, EventDays(day(4), day(23)), EventDays(day(3), day(23)), TODAY)


def test_a_new_local_day_begins_its_dt_refs() -> None:
    known = EventDays(day(0), day(20))

    found = begun(known, known, day(20), day(21), None)

    assert found == {consumer: {day(21)} for consumer in (*LIFETIME, DIA_HORARIO, SCORES)}
    assert begun(known, known, day(21), day(22), None) == {}


_DAYS = st.integers(0, 92).map(day)
_KNOWN = st.none() | st.tuples(_DAYS, _DAYS).map(lambda pair: EventDays(min(pair), max(pair)))


@settings(max_examples=200, deadline=None)
@given(st.lists(_DAYS, max_size=4), st.none() | _DAYS, _KNOWN, _KNOWN, st.none() | _DAYS)
def test_touched_is_what_the_rule_says_day_by_day(
    changed: list[date], flag: date | None, before: EventDays | None, after: EventDays | None, first: date | None
) -> None:
    assert touched(changed, flag, before, after, TODAY, first) == by_rule(changed, flag, before, after, first)


def by_rule(
    changed: list[date], flag: date | None, before: EventDays | None, after: EventDays | None, first: date | None
) -> Touched:
    """The spec's sentence, dtRef by dtRef."""

    def exists(consumer: str, known: EventDays | None, ref: date) -> bool:
        if known is None or ref > TODAY or (first is not None and ref < first):
            return False
        seen = ref - timedelta(days=1) if consumer.startswith("feature_store") else ref
        return known.first <= seen <= known.newest

    def sees(consumer: str, event: date, ref: date) -> bool:
        age = (ref - event).days
        return {DIA_HORARIO: 1 <= age <= 28, DAILY: age == 0, MONTHLY: 0 <= age <= 27, CHURN: 0 <= age <= 55}.get(
            consumer, age >= 1
        )

    found: Touched = {}
    for number in range(-3, 100):
        ref = day(number)
        for consumer in WINDOWS:
            was, is_ = exists(consumer, before, ref), exists(consumer, after, ref)
            flagged = consumer == FS_GERAL and flag is not None and ref >= flag
            if was != is_ or (is_ and (flagged or any(sees(consumer, event, ref) for event in changed))):
                found.setdefault(consumer, set()).add(ref)
        if (
            exists(SCORES, after, ref)
            and not exists(SCORES, before, ref)
            and not any(exists(SCORES, after, day(later)) for later in range(number + 1, 100))
        ):
            found[SCORES] = {ref}
    return found


# --- no dtRef is forgotten ---

NOW = datetime(2024, 4, 1, 15, tzinfo=UTC)
_REFERENCES: Mapping[str, Callable[[History, date], Mapping[Any, Any]]] = {
    consumer: getattr(reference, consumer.rpartition(".")[2]) for consumer in WINDOWS
}
_TABLES = [events.TRANSACTIONS, events.LINES, events.HISTORY]

# Around the ends of the windows, on both sides of a local midnight (03:00 UTC), and after now.
_MOMENTS = st.builds(
    lambda number, second: datetime(2024, 1, 1, 3, tzinfo=UTC) + timedelta(days=number, seconds=second),
    st.sampled_from([0, 1, 26, 27, 28, 29, 54, 55, 56, 57, 84, 90, 91, 92]),
    st.sampled_from([-1, 0, 3600]),
)
_EVENTS = st.builds(
    Event,
    st.sampled_from(["ana", "bia", None]),
    _MOMENTS | st.none(),
    st.sampled_from([None, -1, 5]),
    st.sampled_from([(), ("ChatMessage",), ("ChatMessage", "R Lover"), (None,)]),
)
_STATES = st.lists(st.tuples(_MOMENTS, st.sampled_from([None, 0, 1]), st.integers(0, 1)), max_size=3)


def states(begun: list[tuple[datetime, int | None, int]]) -> list[State]:
    """One customer's states, each until the next."""
    held = {start: (email, points) for start, email, points in begun}
    ends = [*sorted(held)[1:], None]
    return [State("ana", start, *held[start], end) for start, end in zip(sorted(held), ends, strict=False)]


@st.composite
def changed_histories(draw: st.DrawFn) -> tuple[History, History]:
    """A history and what became of it: events inserted, changed and gone, carts and states changed."""
    before = draw(st.lists(_EVENTS, max_size=6))
    after = []
    for event in before:
        kind = draw(st.sampled_from(["kept", "kept", "kept", "gone", "moved", "cart"]))
        other = draw(_EVENTS)
        if kind == "gone":
            # Ids are positions: what is nobody's and at no time is no event for anybody.
            after.append(Event(None, None, None))
        else:
            after.append({"kept": event, "moved": other, "cart": replace(event, products=other.products)}[kind])
    after += draw(st.lists(_EVENTS, max_size=2))
    old = draw(_STATES)
    new = old if draw(st.booleans()) else draw(_STATES)
    return History(before, states(old)), History(after, states(new))


@settings(max_examples=60, deadline=None)
@given(changed_histories(), st.permutations(_TABLES))
def test_every_dt_ref_whose_rows_differ_is_touched(histories: tuple[History, History], order: list[str]) -> None:
    before, after = histories
    found = touched_by_refreshes(before, after, order)
    for consumer, rows in _REFERENCES.items():
        different = {
            ref for ref in days(-1, 95) if rows_of(consumer, rows, before, ref) != rows_of(consumer, rows, after, ref)
        }
        assert different <= found.get(consumer, set()), consumer
        assert all(ref <= TODAY for ref in found.get(consumer, ()))


def touched_by_refreshes(before: History, after: History, order: list[str]) -> Touched:
    """What silver reports on its way from one history to the other, its tables refreshed in this order."""
    found: Touched = {}
    old, new = silver(before), silver(after)
    with TemporaryDirectory() as folder:
        lake = Lake.at(Path(folder))
        for name in order:
            lake.replace(name, old[name].to_reader(), partitions={})
        for name in order:
            change = difference(old[name], new[name])
            known = events.event_days(lake, NOW)
            if name == events.TRANSACTIONS:
                then = events.event_days(lake, NOW, change)
                step = touched(events.transaction_days(change, NOW), None, known, then, TODAY)
            elif name == events.LINES:
                step = touched(events.line_days(lake, change, NOW)[0], None, known, known, TODAY)
            else:
                step = touched([], events.flag_since(change), known, known, TODAY)
            lake.replace(name, new[name].to_reader(), partitions={})
            for consumer, refs in step.items():
                found.setdefault(consumer, set()).update(refs)
    return found


def difference(old: pa.Table, new: pa.Table) -> Difference:
    """The rows that only one of both tables has."""
    before, after = old.to_pylist(), new.to_pylist()
    return Difference(
        pa.Table.from_pylist([row for row in before if row not in after], old.schema),
        pa.Table.from_pylist([row for row in after if row not in before], new.schema),
    )


def rows_of(
    consumer: str, rows: Callable[[History, date], Mapping[Any, Any]], history: History, ref: date
) -> Mapping[Any, Any]:
    """The rows of a dtRef; none where it does not exist. Events after now do not exist."""
    seen = [event for event in history.events if event.at is None or event.at <= NOW]
    known = [event.day for event in seen if event.day is not None]
    offset = timedelta(days=1 if consumer.startswith("feature_store") else 0)
    if not known or not min(known) <= ref - offset <= max(known) or ref > TODAY:
        return {}
    return rows(History(seen, history.states), ref)


@pytest.mark.parametrize("name", WINDOWS)
def test_the_references_can_tell_a_change(name: str) -> None:
    """What the test above rests on: an event more is seen in the rows of the consumer."""
    one = Event("ana", datetime(2024, 1, 10, 12, tzinfo=UTC), 5, ("ChatMessage",))
    ref = date(2024, 1, 10) if name != CHURN else date(2024, 2, 10)
    ref += timedelta(days=1 if name.startswith("feature_store") else 0)

    assert _REFERENCES[name](History([one]), ref) != _REFERENCES[name](
        History([one, replace(one, customer="bia")]), ref
    )


def test_a_lake_without_transactions_touches_nothing_by_lines_and_flags(tmp_path: Path) -> None:
    lake = Lake.at(tmp_path)
    empty, some = silver(History([])), silver(History([Event("ana", NOW, 1, ("ChatMessage",))]))

    assert events.event_days(lake, NOW) is None
    assert events.line_days(lake, difference(empty[events.LINES], some[events.LINES]), NOW) == (set(), -1)
