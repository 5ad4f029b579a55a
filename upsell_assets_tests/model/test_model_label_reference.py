"""The label's SQL against the reference: over small made-up histories, and over the community's dump."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta

import pytest
import reference
from hypothesis import given, settings
from hypothesis import strategies as st
from reference import Event, History
from run_sql import run, silver

FIRST = date(2024, 2, 1)
DTREFS = [FIRST + timedelta(days=offset) for offset in range(-1, 63, 7)]


def instants() -> st.SearchStrategy[datetime]:
    """Around local midnights (03:00 UTC) and anywhere else, in 70 days; a window needs 28 before and 29 after."""
    minutes = st.one_of(st.sampled_from([179, 180, 181]), st.integers(0, 1439))
    return st.builds(
        lambda day, minute: datetime(2024, 2, 1, tzinfo=UTC) + timedelta(days=day, minutes=minute),
        st.integers(0, 70),
        minutes,
    )


def events() -> st.SearchStrategy[Event]:
    return st.builds(Event, st.sampled_from(["a", "b", "c", None]), st.none() | instants(), st.just(1), st.just(()))


def by_sql(history: History, dtrefs: list[date], now: datetime) -> dict[date, dict[str, int]]:
    found: dict[date, dict[str, int]] = {dtref: {} for dtref in dtrefs}
    for row in run("model/label", silver(history), dtrefs, {"now": now}).to_pylist():
        assert row["idCliente"] not in found[row["dtRef"]], "a customer is labelled twice"
        found[row["dtRef"]][row["idCliente"]] = row["flChurn"]
    return found


@settings(max_examples=40, deadline=None)
@given(st.lists(events(), max_size=25), instants())
def test_label_equals_the_reference(made: list[Event], now: datetime) -> None:
    history = History(made)
    expected = {dtref: reference.fl_churn(history, dtref, now) for dtref in DTREFS}
    assert by_sql(history, DTREFS, now) == expected


def test_label_of_the_dump_equals_the_reference() -> None:
    folder = reference.data_folder()
    if folder is None:
        pytest.skip("the dump of 2024 is absent: set UPSELL_TEST_DATA to its folder")
    history = reference.read_dump(folder)
    dtrefs = [date(2024, 1, 27) + timedelta(days=offset) for offset in range(20)]
    now = datetime(2024, 6, 1, tzinfo=UTC)
    expected = {dtref: reference.fl_churn(history, dtref, now) for dtref in dtrefs}
    assert sum(map(len, expected.values())) == 751
    assert by_sql(history, dtrefs, now) == expected
