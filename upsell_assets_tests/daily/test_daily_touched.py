"""Only the touched dtRefs are computed again, and every table is what a full rebuild gives."""

from __future__ import annotations

import random
from datetime import UTC, datetime, timedelta
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from bronze_steps import START, Change, take_in
from daily_tables import FILES, DailyTables, local_lakehouse
from hypothesis import given, settings
from hypothesis import strategies as st
from proof import TOUCHED
from run_sql import assert_same

from upsell_assets import aggregates
from upsell_assets.silver import write

NOW = datetime(2024, 5, 1, 15, tzinfo=UTC)
FIRST_DAY = START.date() - timedelta(days=3)
READ = ["transacoes", "transacao_produto", "cliente_historico"]
"""Silver's tables that features and reports are made of."""

# Around the ends of the windows, on both sides of a local midnight (03:00 UTC), and after now.
_DAYS = st.sampled_from([0, 1, 2, 27, 28, 29, 30, 55, 56, 57, 58, 120])
_DATES = st.builds(
    lambda day, second: f"{START + timedelta(days=day, hours=3, seconds=second):%Y-%m-%d %H:%M:%S}",
    _DAYS,
    st.sampled_from([-1, 0, 3600]),
)
_TEXTS = st.one_of(*[_DATES] * 8, st.sampled_from([None, "0000-00-00"]))
_KEYS = [f"k{number}" for number in range(8)]
_TRANSACTIONS = st.tuples(st.sampled_from(["ana", "ana", "bia", "bia", None]), _TEXTS, st.sampled_from([None, -1, 5]))
_LINES = st.tuples(st.sampled_from(_KEYS), st.sampled_from(["ChatMessage", "R Lover", None]), st.just(1))
_STATES = st.tuples(st.integers(0, 1), st.sampled_from([None, 0, 1]))

Step = list[tuple[str, str, bool, tuple[object, ...], int]]
"""Changes as (table, key, whether it is a delete, values, hour)."""


def _changes(
    table: str, keys: list[str], values: st.SearchStrategy[tuple[object, ...]], least: int
) -> st.SearchStrategy[Step]:
    one = st.tuples(
        st.just(table),
        st.sampled_from(keys),
        st.sampled_from([False] * 5 + [True]),
        values,
        _DAYS.map(lambda day: 24 * day + 3),
    )
    return st.lists(one, min_size=least, max_size=least + 3)


def _steps(least: int) -> st.SearchStrategy[Step]:
    return st.tuples(
        _changes("transactions", _KEYS, _TRANSACTIONS, least),
        _changes("transactions_product", _KEYS, _LINES, least // 2),
        _changes("customers", ["ana", "bia"], _STATES, 0),
    ).map(lambda parts: [change for part in parts for change in part])


# What is there first is more than what a change moves: a row that becomes wrong must have been there before.
_HISTORIES = st.builds(lambda first, later: [first, *later], _steps(12), st.lists(_steps(1), min_size=1, max_size=2))


def numbered(steps: list[Step]) -> list[list[Change]]:
    """The changes in the order in which they happen; what is not there is inserted, what is there updated."""
    live: set[tuple[str, str]] = set()
    found: list[list[Change]] = []
    count = 0
    for step in steps:
        found.append([])
        for table, key, deleted, values, hour in step:
            operation = "D" if deleted else "U" if (table, key) in live else "I"
            (live.discard if deleted else live.add)((table, key))
            found[-1].append(Change(table, key, operation, count := count + 1, values, hour))
    return found


@pytest.fixture(autouse=True)
def _small_files(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that few rows lie in several files."""
    monkeypatch.setattr(aggregates, "FILE_ROWS", 4)
    monkeypatch.setattr(write, "FILE_ROWS", 4)


@settings(max_examples=TOUCHED.count, deadline=None)
@given(_HISTORIES, st.randoms(use_true_random=False))
def test_touched_dt_refs_alone_keep_every_table_equal_to_a_rebuild(steps: list[Step], chance: random.Random) -> None:
    with TemporaryDirectory() as folder:
        tables = DailyTables(local_lakehouse(Path(folder), FIRST_DAY), NOW)
        take_in(tables.lakehouse.lake)
        tables.make(tables.refresh(READ))
        for changes in numbered(steps):
            take_in(tables.lakehouse.lake, *changes)
            # Silver's tables run in any order, and a table may wait for a later step.
            tables.make(tables.refresh(chance.sample(READ, chance.choice([1, 2, 3, 3, 3]))))
        tables.make(tables.refresh(chance.sample(READ, len(READ))))

        existing = tables.existing()
        for name in FILES:
            assert_same(tables.held(name), tables.computed(name, existing[name]), name)
