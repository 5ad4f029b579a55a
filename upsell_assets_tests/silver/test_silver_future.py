"""Transactions of a time that is yet to come are told, with the raw file that they came from."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta

import pytest
from bronze_steps import CONTRACTS, SILVER, START, Change, take_in

from upsell_assets.lake import duck
from upsell_assets.lake.engines.embedded import EmbeddedEngine
from upsell_assets.lake.tables import Lake
from upsell_assets.silver import future
from upsell_assets.silver.future import FutureEvent, FutureEvents, come_true, future_events
from upsell_assets.silver.refresh import refresh

TABLE = SILVER["transacoes"]


def at(key: str, seq: int, hours: int, file: str) -> Change:
    text = (START + timedelta(hours=hours)).strftime("%Y-%m-%d %H:%M:%S")
    return Change("transactions", key, "I", seq, ("ana", text, 1), file=file)


def ahead(lake: Lake, hours: int) -> FutureEvents:
    return future_events(lake, TABLE.name, CONTRACTS["transactions"], START + timedelta(hours=hours))


def test_events_after_now_are_named_with_their_file_the_latest_first(local_lake: Lake) -> None:
    take_in(local_lake, at("a", 1, 1, "past"), at("b", 2, 50, "ahead"), at("c", 3, 5000, "far"))
    refresh(local_lake, EmbeddedEngine(local_lake), TABLE)

    assert ahead(local_lake, 49) == FutureEvents(
        2,
        (
            FutureEvent("c", START + timedelta(hours=5000), "raw/upsell/cdc/transactions/far"),
            FutureEvent("b", START + timedelta(hours=50), "raw/upsell/cdc/transactions/ahead"),
        ),
    )
    assert [event.transaction for event in ahead(local_lake, 50).shown] == ["c"], "now is not after now"


def test_nothing_is_read_where_no_file_ends_after_now(local_lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    take_in(local_lake, at("a", 1, 1, "past"))
    refresh(local_lake, EmbeddedEngine(local_lake), TABLE)

    def refuse(lake: Lake) -> None:
        raise AssertionError("a file would be read")

    monkeypatch.setattr(future, "reader", refuse)
    assert ahead(local_lake, 2) == FutureEvents()
    assert duck.reader is not refuse


def test_more_than_can_be_shown_are_counted(local_lake: Lake) -> None:
    take_in(local_lake, *[at(f"k{number:02}", number, 100 + number, "many") for number in range(30)])
    refresh(local_lake, EmbeddedEngine(local_lake), TABLE)

    found = ahead(local_lake, 0)

    assert found.count == 30
    assert len(found.shown) == 20
    assert found.shown[0].at == datetime(2024, 2, 6, 9, tzinfo=START.tzinfo)


def test_days_are_told_whose_events_came_before_their_time(local_lake: Lake) -> None:
    midnight = datetime(2100, 3, 1, 3, tzinfo=UTC)  # in Sao Paulo
    texts = {
        "long ago": "2024-02-01 03:00:00",
        "the day before": "2100-03-01 02:59:59.999",
        "first": "2100-03-01 03:00:00",
        "later": "2100-03-01 05:00:00-03:00",
        "last": "2100-03-02 02:59:59.999999",
        "the day after": "2100-03-02 03:00:00",
    }
    changes = [Change("transactions", key, "I", seq, ("ana", text, 1)) for seq, (key, text) in enumerate(texts.items())]
    take_in(local_lake, *changes)
    refresh(local_lake, EmbeddedEngine(local_lake), TABLE)

    def told(since: datetime, until: datetime) -> dict[date, datetime]:
        return come_true(local_lake, TABLE.name, CONTRACTS["transactions"], since, until)

    day = timedelta(days=1)
    assert told(midnight, midnight + day) == {date(2100, 3, 1): midnight}
    assert told(midnight + timedelta(microseconds=1), midnight + day) == {date(2100, 3, 1): midnight + 5 * day / 24}
    assert [*told(midnight - day, midnight + 2 * day)] == [date(2100, 2, 28), date(2100, 3, 1), date(2100, 3, 2)]
    assert told(datetime(2024, 1, 1, tzinfo=UTC), datetime(2025, 1, 1, tzinfo=UTC)) == {}, "it came after its time"


def test_the_last_event_of_a_file_is_found_to_the_microsecond(local_lake: Lake) -> None:
    moment = datetime(2100, 3, 1, 3, 0, 0, 700, tzinfo=UTC)
    take_in(local_lake, Change("transactions", "a", "I", 1, ("ana", "2100-03-01 03:00:00.000700", 1)))
    refresh(local_lake, EmbeddedEngine(local_lake), TABLE)

    near = timedelta(microseconds=1)
    found = come_true(local_lake, TABLE.name, CONTRACTS["transactions"], moment - near, moment + near)
    assert found == {date(2100, 3, 1): moment}
    ahead = future_events(local_lake, TABLE.name, CONTRACTS["transactions"], moment - near)
    assert ahead.count == 1


def test_without_tables_no_event_has_come_true(local_lake: Lake) -> None:
    assert come_true(local_lake, TABLE.name, CONTRACTS["transactions"], START, START + timedelta(days=1)) == {}
