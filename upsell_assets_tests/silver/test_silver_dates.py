"""Dates that silver did not read: each is counted under the raw file that it came from, as long as it is there."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path

import pytest
from bronze_steps import CONTRACTS, SILVER, Change, read, take_in
from hypothesis import given, settings
from hypothesis import strategies as st

from upsell_assets.bronze.repair import repair
from upsell_assets.lake.engines.embedded import EmbeddedEngine
from upsell_assets.lake.tables import Lake, UnknownTableError
from upsell_assets.silver.dates import UnreadDates, UnreadFile, unread_dates
from upsell_assets.silver.refresh import refresh

DAY = "2024-02-01 10:00:00"
ZERO = "0000-00-00 00:00:00"
CONTRACT, TABLE = CONTRACTS["transactions"], SILVER["transacoes"]


def transaction(key: str, op: str, seq: int, at: str | None, file: str = "f") -> Change:
    return Change("transactions", key, op, seq, ("ana", at, 1), file=file)


def unread(lake: Lake) -> UnreadDates:
    return unread_dates(lake, TABLE.name, CONTRACT)


def renew(lake: Lake, *changes: Change) -> UnreadDates:
    """What is unread once changes are in bronze and in silver."""
    take_in(lake, *changes)
    refresh(lake, EmbeddedEngine(lake), TABLE)
    return unread(lake)


def raw(name: str) -> str:
    return f"raw/upsell/cdc/transactions/{name}"


def test_texts_that_are_no_dates_are_counted_by_the_file_that_they_came_from(local_lake: Lake) -> None:
    found = renew(
        local_lake,
        transaction("a", "I", 1, DAY, "old"),
        transaction("b", "I", 1, ZERO, "old"),
        transaction("c", "I", 1, "0000-00-00", "old"),
        transaction("d", "I", 1, "yesterday", "old"),
        transaction("e", "I", 1, ZERO, "zeros"),
        transaction("f", "I", 1, DAY, "sound"),
    )

    assert found.files == (
        UnreadFile(raw("old"), zero_dates=2, unreadable=1, sample="yesterday"),
        UnreadFile(raw("zeros"), zero_dates=1, unreadable=0, sample=ZERO),
    )
    assert (found.zero_dates, found.unreadable) == (3, 1)


def test_a_transaction_without_a_date_is_not_unread(local_lake: Lake) -> None:
    assert renew(local_lake, transaction("a", "I", 1, None), transaction("b", "I", 1, DAY)) == UnreadDates(missing=1)


@pytest.mark.parametrize("text", ["2024-2-1 10:00:00", "2024-02-01 10:00:00 America/Sao_Paulo", "1500-01-01"])
def test_what_bronze_places_otherwise_than_silver_reads_is_found_all_the_same(local_lake: Lake, text: str) -> None:
    found = renew(local_lake, transaction("a", "I", 1, text), transaction("b", "I", 1, ZERO))

    assert found.zero_dates == 1
    assert found.unreadable == (0 if text == "1500-01-01" else 1)


def test_a_correction_and_a_delete_take_it_away(local_lake: Lake) -> None:
    assert renew(local_lake, *(transaction(key, "I", 1, ZERO) for key in "ab")).zero_dates == 2

    assert renew(local_lake, transaction("a", "U", 2, DAY, "repair")).zero_dates == 1
    assert renew(local_lake, transaction("b", "D", 2, None)) == UnreadDates()


def test_a_date_that_breaks_later_counts_for_the_later_file(local_lake: Lake) -> None:
    assert renew(local_lake, transaction("a", "I", 1, DAY, "first")) == UnreadDates()

    found = renew(local_lake, transaction("a", "U", 2, "soon", "second"))

    assert found.files == (UnreadFile(raw("second"), 0, 1, "soon"),)


def test_bronze_is_read_as_of_the_version_that_silver_was_made_from(local_lake: Lake) -> None:
    before = renew(local_lake, transaction("a", "I", 1, ZERO), transaction("b", "I", 1, "soon"))

    take_in(local_lake, transaction("a", "U", 2, DAY), transaction("b", "D", 3, None), transaction("c", "I", 4, ZERO))

    assert unread(local_lake) == before


def test_bronze_written_anew_changes_nothing(local_lake: Lake) -> None:
    before = renew(local_lake, transaction("a", "I", 1, ZERO), transaction("b", "I", 1, "2024-2-1"))

    repair(local_lake, CONTRACT)

    assert renew(local_lake) == before


def test_where_every_date_was_read_no_file_is(local_lake: Lake) -> None:
    renew(local_lake, *(transaction(key, "I", 1, DAY) for key in "abc"))
    renew(local_lake, transaction("a", "U", 2, "2024-02-02"), transaction("b", "D", 3, None))
    for table in ("silver.upsell.transacoes", "bronze.upsell.transactions"):
        for file in Path(local_lake.uri(table)).rglob("*.parquet"):
            file.unlink()

    assert unread(local_lake) == UnreadDates()


def test_a_table_that_was_not_made_is_named(local_lake: Lake) -> None:
    with pytest.raises(UnknownTableError, match=r"silver\.upsell\.transacoes: no such table"):
        unread(local_lake)


@settings(max_examples=15, deadline=None)
@given(
    st.lists(
        st.builds(
            transaction,
            st.sampled_from("abcd"),
            st.sampled_from("IUUD"),
            st.just(0),
            st.sampled_from([None, DAY, ZERO, "2024-2-1", "soon"]),
            st.sampled_from(["f", "g"]),
        ),
        min_size=1,
        max_size=12,
    ),
    st.randoms(use_true_random=False),
)
def test_what_is_unread_is_that_of_the_newest_changes(
    tmp_path_factory: pytest.TempPathFactory, drawn: list[Change], chance: random.Random
) -> None:
    lake = Lake.at(tmp_path_factory.mktemp("lake"))
    changes = [replace(change, seq=number) for number, change in enumerate(drawn)]
    newest = {change.key: change for change in changes}
    live = [change for change in newest.values() if change.op != "D"]
    chance.shuffle(changes)
    middle = chance.randint(0, len(changes))

    renew(lake, *changes[:middle])
    found = renew(lake, *changes[middle:])

    texts = {(raw(change.file), change.key): change.values[1] for change in live if read(change.values[1]) is None}
    assert found.missing == sum(text is None for text in texts.values())
    assert {(file.file, file.zero_dates, file.unreadable) for file in found.files} == {
        (file, sum(text == ZERO for text in of), sum(text != ZERO for text in of))
        for file in {file for file, _ in texts}
        if (of := [text for (at, _), text in texts.items() if at == file and text is not None])
    }
