"""Kept daily aggregates: whatever happened to silver meanwhile, brought up to date they equal a full recompute."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import date, timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from bronze_steps import SILVER, START, Change, take_in
from deltalake import write_deltalake
from hypothesis import given, settings
from hypothesis import strategies as st

from upsell_assets import aggregates
from upsell_assets.aggregates import AGGREGATES, refresh_aggregates
from upsell_assets.lake.engines import Query
from upsell_assets.lake.engines.embedded import EmbeddedEngine
from upsell_assets.lake.sql import parse_query, to_spark
from upsell_assets.lake.tables import Lake
from upsell_assets.silver import changed
from upsell_assets.silver import refresh as silver_refresh
from upsell_assets.silver.events import LINES, TRANSACTIONS

ACTIVITY = "feature_store.upsell._cliente_dia"


@pytest.fixture(autouse=True)
def _small_files(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that few rows lie in several files and spans."""
    monkeypatch.setattr(aggregates, "FILE_ROWS", 3)
    monkeypatch.setattr(aggregates, "SPAN_ROWS", 4)
    monkeypatch.setattr(aggregates, "NEAR", timedelta(2))


def refresh_silver(lake: Lake, *names: str) -> None:
    for name in names or ("transacao_produto", "transacoes"):
        silver_refresh.refresh(lake, EmbeddedEngine(lake), SILVER[name])


def bring_up_to_date(lake: Lake) -> dict[str, int]:
    tables = refresh_aggregates(lake, EmbeddedEngine(lake), AGGREGATES)
    return {name: table.version() for name, table in tables.items()}


def rows(lake: Lake, name: str) -> list[tuple[Any, ...]]:
    found = lake.rows(lake.open(name)).to_table()
    return sorted((tuple(row[key] for key in sorted(row)) for row in found.to_pylist()), key=repr)


def recomputed(lake: Lake, name: str) -> list[tuple[Any, ...]]:
    found = EmbeddedEngine(lake).run(Query(AGGREGATES[name].sql.tree)).read_all()
    return sorted((tuple(row[key] for key in sorted(row)) for row in found.to_pylist()), key=repr)


def assert_current(lake: Lake) -> None:
    bring_up_to_date(lake)
    for name in AGGREGATES:
        assert rows(lake, name) == recomputed(lake, name), name


def transaction(
    key: str, seq: int, day: int, *, customer: str | None = "ana", points: int = 1, op: str = "I"
) -> Change:
    at = (START + timedelta(days=day, hours=15)).strftime("%Y-%m-%d %H:%M:%S")
    return Change("transactions", key, op, seq, () if op == "D" else (customer, at, points))


def line(key: str, seq: int, of: str, name: str | None = "ChatMessage", op: str = "I") -> Change:
    return Change("transactions_product", key, op, seq, () if op == "D" else (of, name, 1))


KEYS = [f"t{number}" for number in range(8)]


@st.composite
def batches(draw: st.DrawFn) -> list[list[Change]]:
    """Batches of changes of few keys: inserted, moved to other days and customers, deleted; lines before their carts."""
    numbers = iter(range(1, 1000))

    def change(seq: int) -> Change:
        if draw(st.booleans()):
            # Not as I: where a contract calls a date immutable, an insert is looked for under its own date only.
            op = draw(st.sampled_from("UUD"))
            customer = draw(st.sampled_from(["ana", "bia", None]))
            day, points = draw(st.integers(0, 25)), draw(st.integers(-3, 3))
            return transaction(draw(st.sampled_from(KEYS)), seq, day, customer=customer, points=points, op=op)
        name = draw(st.sampled_from(["ChatMessage", "R Lover", "Something else", None]))
        key, op = f"l{draw(st.integers(0, 9))}", draw(st.sampled_from("IUUD"))
        return line(key, seq, draw(st.sampled_from(KEYS)), name, op)

    sizes = draw(st.lists(st.integers(1, 6), min_size=1, max_size=5))
    return [[change(next(numbers)) for _ in range(size)] for size in sizes]


STEPS = st.sampled_from(["transacoes", "transacao_produto", "aggregates"])


@settings(max_examples=10, deadline=None)
@given(batches(), st.data())
def test_brought_up_to_date_they_equal_a_full_recompute(changes: list[list[Change]], data: st.DataObject) -> None:
    with TemporaryDirectory() as folder:
        lake = Lake.at(Path(folder))
        for batch in changes:
            take_in(lake, *batch)
            for step in data.draw(st.lists(STEPS, max_size=4)):
                if step != "aggregates":
                    refresh_silver(lake, step)
                elif lake.exists(TRANSACTIONS) and lake.exists(LINES):
                    assert_current(lake)
        refresh_silver(lake)
        assert_current(lake)


@pytest.fixture
def lake(local_lake: Lake) -> Lake:
    """Thirty days of two customers, in several files."""
    take_in(
        local_lake,
        *(
            transaction(f"{customer}{day}", day, day, customer=customer)
            for day in range(30)
            for customer in ("ana", "bia")
        ),
        *(line(f"l{day}", day, f"ana{day}") for day in range(30)),
    )
    refresh_silver(local_lake)
    assert_current(local_lake)
    return local_lake


def files(lake: Lake, name: str = ACTIVITY) -> set[str]:
    return {str(uri) for uri in lake.open(name).file_uris()}


def test_nothing_new_makes_no_commit(lake: Lake) -> None:
    before = bring_up_to_date(lake)

    assert bring_up_to_date(lake) == before


def test_what_is_no_news_for_them_costs_one_commit_without_files(lake: Lake) -> None:
    before = {name: files(lake, name) for name in AGGREGATES}
    take_in(lake, line("other", 100, "of no transaction"))
    refresh_silver(lake)

    assert_current(lake)
    assert {name: files(lake, name) for name in AGGREGATES} == before


def test_a_change_of_the_newest_day_leaves_the_files_of_other_days_alone(lake: Lake) -> None:
    before = files(lake)
    take_in(lake, transaction("new", 100, 29, points=7))
    refresh_silver(lake)

    assert_current(lake)
    assert len(before) > 9
    assert len(files(lake) - before) == 1


def test_a_late_event_is_seen_in_the_life_of_its_customer_from_then_on(lake: Lake) -> None:
    take_in(lake, transaction("late", 100, 3, points=1000), transaction("ana0", 101, 0, op="D"))
    refresh_silver(lake)

    assert_current(lake)
    lives = {
        (row["idCliente"], row["dtDia"]): (row["nrPontosVida"], row["dtPrimeiroDia"])
        for row in lake.rows(lake.open(ACTIVITY)).to_table().to_pylist()
    }
    first = START.date()
    assert lives["ana", first + timedelta(2)] == (2, first + timedelta(1))
    assert lives["ana", first + timedelta(29)] == (1029, first + timedelta(1))
    assert lives["bia", first + timedelta(29)] == (30, first)


def test_all_events_may_go(lake: Lake) -> None:
    keys = [f"{customer}{day}" for day in range(30) for customer in ("ana", "bia")]
    take_in(lake, *(transaction(key, 100 + number, 0, op="D") for number, key in enumerate(keys)))
    refresh_silver(lake)

    assert_current(lake)
    assert rows(lake, ACTIVITY) == []


def test_a_commit_that_was_noted_and_not_made_is_forgotten(lake: Lake) -> None:
    changed.note(lake, TRANSACTIONS, lake.open(TRANSACTIONS).version() + 1, [START.date()])

    assert_current(lake)
    take_in(lake, transaction("new", 100, 12))
    refresh_silver(lake)
    assert_current(lake)


def test_a_commit_that_nobody_noted_makes_them_anew(lake: Lake) -> None:
    held = lake.rows(lake.open(TRANSACTIONS)).to_table()
    write_deltalake(lake.open(TRANSACTIONS), held.slice(0, 40), mode="overwrite")

    assert_current(lake)


def test_silver_made_anew_makes_them_anew(lake: Lake) -> None:
    held = lake.rows(lake.open(TRANSACTIONS)).to_table().slice(0, 7)
    for entry in Path(lake.uri(TRANSACTIONS), "_delta_log").iterdir():
        entry.unlink()
    lake.replace(TRANSACTIONS, held.to_reader(), partitions={})

    assert_current(lake)


def test_another_query_makes_them_anew(lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    name = "feature_store.upsell._cliente_dia_produto"
    before, query = files(lake, name), AGGREGATES[name]
    other = replace(query, sql=replace(query.sql, code_version="0" * 64))
    monkeypatch.setitem(AGGREGATES, name, other)

    refresh_aggregates(lake, EmbeddedEngine(lake), [name])

    assert files(lake, name).isdisjoint(before)


def test_a_query_with_other_columns_gives_them_to_the_table(lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    name = "feature_store.upsell._cliente_dia_produto"
    query = AGGREGATES[name]
    tree = parse_query(
        f"SELECT q.idCliente, q.dtDia, q.descSufixo, CAST(q.nrTransacoes AS DOUBLE) / 2 AS nrTransacoes, 'x' AS descNovo "
        f"FROM ({to_spark(query.sql.tree)}) AS q"
    )
    monkeypatch.setitem(AGGREGATES, name, replace(query, sql=replace(query.sql, tree=tree, code_version="f" * 64)))

    assert_current(lake)
    take_in(lake, transaction("new", 100, 12, points=7))
    refresh_silver(lake)
    assert_current(lake)


def test_the_notes_of_changed_days_stay_few_files(local_lake: Lake) -> None:
    for version in range(40):
        changed.note(local_lake, TRANSACTIONS, version, [START.date()])

    assert len(local_lake.open(changed.NAME).file_uris()) < 20
    assert changed.changed_days(local_lake, {TRANSACTIONS: 3}, {TRANSACTIONS: 39}, TRANSACTIONS) == {START.date()}


def moved_while_lines_were_looked_up(lake: Lake) -> Iterator[None]:
    """A line's day is looked up, then its transaction moves to another day, then the line's commit is made."""
    looked_up = lake.open(TRANSACTIONS).version()
    take_in(lake, transaction("ana5", 100, 20))
    refresh_silver(lake, "transacoes")
    yield
    take_in(lake, line("l5", 101, "ana5", "R Lover", "U"))
    refresh_silver(lake, "transacao_produto")
    noted = lake.open(changed.NAME)
    version = lake.open(LINES).version()
    noted.update(
        {"transactions_version": str(looked_up), "day": f"DATE '{day(5)}'"},
        predicate=f"\"table\" = '{LINES}' AND version = {version}",
    )
    yield


def day(number: int) -> date:
    return START.date() + timedelta(number)


def test_lines_whose_transaction_moved_meanwhile_are_seen(lake: Lake) -> None:
    steps = moved_while_lines_were_looked_up(lake)
    next(steps)
    assert_current(lake)
    next(steps)

    assert_current(lake)
