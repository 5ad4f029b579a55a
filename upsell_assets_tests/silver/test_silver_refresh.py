"""Incremental silver equals a recompute of everything, whatever bronze went through between two refreshes."""

from __future__ import annotations

import random
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from tempfile import TemporaryDirectory

import pyarrow as pa
import pytest
from bronze_steps import CONTRACTS, SILVER, START, Bronze, Change, End, end, held, read, take_in, take_in_and_crash
from deltalake import write_deltalake
from hypothesis import given, settings
from hypothesis import strategies as st

from upsell_assets.bronze.floors import floors_name
from upsell_assets.bronze.tables import changes_name, table_name, tombstones_name
from upsell_assets.lake.engines.embedded import EmbeddedEngine
from upsell_assets.lake.sql import load_sql
from upsell_assets.lake.tables import Lake, UnknownTableError
from upsell_assets.silver import write
from upsell_assets.silver.difference import Difference
from upsell_assets.silver.refresh import CODE, Refreshed, refresh, versions_behind
from upsell_assets.silver.tables import SilverTable


@pytest.fixture(autouse=True)
def _small_files(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that few rows lie in several files."""
    monkeypatch.setattr(write, "FILE_ROWS", 3)


ALL = list(SILVER)
DAY = "2024-02-01 10:00:00"


def renew(lake: Lake, *names: str) -> dict[str, Refreshed]:
    """Refresh these tables (all, without names), sources before what is made from them."""
    return {name: refresh(lake, EmbeddedEngine(lake), SILVER[name]) for name in ALL if name in (names or ALL)}


def versions(lake: Lake) -> dict[str, int]:
    return {name: lake.open(table.name).version() for name, table in SILVER.items()}


def customer(key: str, op: str, seq: int, points: int = 0, email: int | None = None, hour: int = 0) -> Change:
    return Change("customers", key, op, seq, (points, email), hour)


def transaction(key: str, op: str, seq: int, who: str = "ana", at: str | None = DAY, points: int = 1) -> Change:
    return Change("transactions", key, op, seq, (who, at, points))


def line(key: str, op: str, seq: int, of: str = "t", product: str | None = "ChatMessage") -> Change:
    return Change("transactions_product", key, op, seq, (of, product, 1))


# --- any sequence of merges and refreshes ---

_DATES = {"a": "2024-02-01 10:00:00", "b": "2024-02-02 02:59:59.5", "c": "2024-02-02 03:00:00"}
"""A transaction's date is immutable, by the contract; changes may still come without it."""


def _values(key: str) -> dict[str, st.SearchStrategy[tuple[object, ...]]]:
    return {
        "customers": st.tuples(st.sampled_from([None, 1, 2]), st.sampled_from([None, 0, 1])),
        "transactions": st.tuples(
            st.sampled_from([None, "a", "b"]),
            st.sampled_from([None, "0000-00-00", _DATES[key]]),
            st.sampled_from([None, -1, 1]),
        ),
        "transactions_product": st.tuples(
            st.sampled_from([None, "a", "b"]),
            st.sampled_from([None, "ChatMessage", "R Lover"]),
            st.sampled_from([1, 2]),
        ),
    }


def _of_key(key: str) -> st.SearchStrategy[Change]:
    return st.one_of(
        [
            st.builds(Change, st.just(table), st.just(key), st.sampled_from("IUUD"), st.just(0), of, st.integers(0, 4))
            for table, of in _values(key).items()
        ]
    )


_CHANGES = st.one_of([_of_key(key) for key in _DATES])
_LOADS = st.one_of(
    [
        st.tuples(
            st.just(table),
            st.integers(0, 4),
            st.fixed_dictionaries({}, optional={key: _values(key)[table] for key in _DATES}),
        )
        for table in CONTRACTS
    ]
)
"""A full load's table, hour and rows; without rows it is a truncate."""


def _history(drawn: list[Change | tuple[str, int, dict[str, tuple[object, ...]]]]) -> tuple[list[Change], list[End]]:
    """Changes, rows of loads among them, and ends of loads, in the order of the sequence."""
    changes, ends = [], []
    for seq, said in enumerate(drawn):
        if isinstance(said, Change):
            changes.append(replace(said, seq=seq))
        else:
            table, hour, rows = said
            changes += [Change(table, key, "I", seq, of, hour, f"L{seq}") for key, of in rows.items()]
            ends.append(End(table, seq, hour))
    return changes, ends


@settings(max_examples=15, deadline=None)
@given(
    st.lists(st.one_of(_CHANGES, _CHANGES, _CHANGES, _CHANGES, _LOADS), min_size=1, max_size=16),
    st.randoms(use_true_random=False),
)
def test_silver_equals_a_recompute_after_any_merges_and_refreshes(
    drawn: list[Change | tuple[str, int, dict[str, tuple[object, ...]]]], chance: random.Random
) -> None:
    changes, ends = _history(drawn)
    arrival = changes + chance.sample(changes, chance.randint(0, len(changes)))
    chance.shuffle(arrival)
    with TemporaryDirectory() as folder:
        lake, bronze = Lake.at(Path(folder)), Bronze()
        take_in(lake)
        while arrival or ends:
            batch, arrival = arrival[: (size := chance.randint(1, 6))], arrival[size:]
            if batch and chance.random() < 0.4:
                of_table = [change for change in batch if change.table == batch[0].table]
                take_in_and_crash(lake, *of_table)
                bronze.take(of_table, only_deletes=True)
                check(lake, bronze, ALL)
            take_in(lake, *batch)
            bronze.take(batch)
            check(lake, bronze, chance.sample(ALL, chance.randint(0, 2)))
            # A load ends at any time after its rows came.
            missing = {(change.table, change.seq) for change in arrival}
            for over in [end for end in ends if (end.table, end.seq) not in missing]:
                if not arrival or chance.random() < 0.5:
                    ends.remove(over)
                    end(lake, over)
                    bronze.end(over)
                    check(lake, bronze, chance.sample(ALL, chance.randint(0, 2)))
        check(lake, bronze, ALL)


def check(lake: Lake, bronze: Bronze, names: list[str]) -> None:
    if "produtos" in names:
        names = [*names, "transacao_produto"]
    renew(lake, *names)
    for name in names:
        assert held(lake, name) == bronze.silver(name), name


# --- one thing at a time ---


def test_nothing_new_makes_no_commit(local_lake: Lake) -> None:
    take_in(local_lake, customer("ana", "I", 1), transaction("t", "I", 2), line("l", "I", 3))
    first = renew(local_lake)
    before = versions(local_lake)

    again = renew(local_lake)

    assert versions(local_lake) == before
    assert {name: (done.upserts, done.deletes) for name, done in again.items()} == dict.fromkeys(ALL, (0, 0))
    assert {name: done.sources for name, done in again.items()} == {name: done.sources for name, done in first.items()}


def test_a_table_without_rows_is_made_and_then_left_alone(local_lake: Lake) -> None:
    take_in(local_lake)
    renew(local_lake)
    before = versions(local_lake)

    renew(local_lake)

    assert versions(local_lake) == before
    assert all(held(local_lake, name) == [] for name in ALL)


def test_a_source_that_was_not_made_is_named(local_lake: Lake) -> None:
    with pytest.raises(UnknownTableError, match=r"bronze\.upsell\.transactions: no such table"):
        renew(local_lake, "transacoes")
    assert not local_lake.exists(SILVER["transacoes"].name)


def test_watermarks_are_the_versions_of_the_sources_and_commit_with_the_data(local_lake: Lake) -> None:
    take_in(local_lake, transaction("t", "I", 1), transaction("u", "D", 2))
    take_in(local_lake, transaction("t", "U", 3, points=9))

    done = renew(local_lake, "transacoes")["transacoes"]

    contract = CONTRACTS["transactions"]
    expected = {name: local_lake.open(name).version() for name in (table_name(contract), tombstones_name(contract))}
    assert done.sources == expected
    silver = local_lake.open("silver.upsell.transacoes")
    assert silver.version() == done.version == 1
    assert {name: silver.transaction_version(name) for name in expected} == expected


def test_watermarks_outlive_checkpoints(local_lake: Lake) -> None:
    for seq in range(12):
        take_in(local_lake, transaction("t", "U", seq, points=seq))
        renew(local_lake, "transacoes")
    silver = local_lake.open("silver.upsell.transacoes")

    assert silver.version() > 10
    assert renew(local_lake, "transacoes")["transacoes"].version == silver.version()
    assert held(local_lake, "transacoes") == [("t", "ana", read(DAY), 11)]


def test_versions_behind_counts_what_a_refresh_will_take_in(local_lake: Lake) -> None:
    take_in(local_lake, customer("ana", "I", 1))
    table = SILVER["cliente_historico"]
    changes = local_lake.open(changes_name(CONTRACTS["customers"])).version()
    floors = local_lake.open(floors_name(CONTRACTS["customers"])).version()

    assert versions_behind(local_lake, table) == (changes + 1) + (floors + 1)
    renew(local_lake, "cliente_historico")
    assert versions_behind(local_lake, table) == 0
    take_in(local_lake, customer("ana", "U", 2, points=5))
    assert versions_behind(local_lake, table) == 1


def test_a_changed_row_leaves_the_files_of_other_rows_alone(local_lake: Lake) -> None:
    keys = [f"t{number}" for number in range(11)]
    take_in(local_lake, *(Change("transactions", key, "I", n, ("ana", DAY, n)) for n, key in enumerate(keys)))
    table = SILVER["transacoes"]
    refresh(local_lake, EmbeddedEngine(local_lake), table)
    before = set(local_lake.open(table.name).file_uris())

    take_in(local_lake, Change("transactions", "t4", "U", 50, ("bia", DAY, 4)))
    refresh(local_lake, EmbeddedEngine(local_lake), table)
    take_in(local_lake, Change("transactions", "t11", "I", 51, ("bia", DAY, 5)))
    refresh(local_lake, EmbeddedEngine(local_lake), table)

    after = set(local_lake.open(table.name).file_uris())
    assert len(before) == len(after) == 4
    assert len(before - after) == 2
    assert [row[1] for row in held(local_lake, "transacoes") if row[0] in ("t4", "t11")] == ["bia", "bia"]


def test_a_delete_removes_the_row_everywhere(local_lake: Lake) -> None:
    take_in(local_lake, customer("ana", "I", 1), transaction("t", "I", 2), line("l", "I", 3), line("m", "I", 4))
    renew(local_lake)

    take_in(local_lake, customer("ana", "D", 5, hour=3), transaction("t", "D", 6), line("l", "D", 7), line("m", "D", 8))
    done = renew(local_lake)

    assert {name: done[name].deletes for name in ALL} == {
        "cliente": 1,
        "transacoes": 1,
        "transacao_produto": 2,
        "cliente_historico": 0,
        "produtos": 1,
    }
    assert held(local_lake, "cliente_historico") == [("ana", START, START + timedelta(hours=3), 0, None)]
    assert [name for name in ALL if held(local_lake, name)] == ["cliente_historico"]


def test_a_refresh_between_the_two_commits_of_a_merge_sees_the_delete(local_lake: Lake) -> None:
    take_in(local_lake, transaction("t", "I", 1), transaction("u", "I", 2))
    renew(local_lake, "transacoes")
    delete = transaction("t", "D", 3)

    take_in_and_crash(local_lake, delete)
    live = local_lake.open("bronze.upsell.transactions").to_pyarrow_dataset().to_table()
    assert sorted(live["idTransaction"].to_pylist()) == ["t", "u"]
    renew(local_lake, "transacoes")
    assert held(local_lake, "transacoes") == [("u", "ana", read(DAY), 1)]

    take_in(local_lake, delete)
    renew(local_lake, "transacoes")
    assert held(local_lake, "transacoes") == [("u", "ana", read(DAY), 1)]


def test_an_insert_after_a_crashed_delete_is_seen(local_lake: Lake) -> None:
    take_in(local_lake, transaction("t", "I", 1))
    take_in_and_crash(local_lake, transaction("t", "D", 2))
    renew(local_lake, "transacoes")

    take_in(local_lake, transaction("t", "I", 3, points=7))
    renew(local_lake, "transacoes")

    assert held(local_lake, "transacoes") == [("t", "ana", read(DAY), 7)]


def test_a_late_change_of_a_customer_splits_its_interval_in_place(local_lake: Lake) -> None:
    take_in(local_lake, customer("ana", "I", 1, points=1), customer("ana", "U", 3, points=3, hour=9))
    take_in(local_lake, customer("bia", "I", 4))
    renew(local_lake, "cliente_historico")

    take_in(local_lake, customer("ana", "U", 2, points=2, hour=5))
    done = renew(local_lake, "cliente_historico")["cliente_historico"]

    hours = [START + timedelta(hours=hour) for hour in (0, 5, 9)]
    assert held(local_lake, "cliente_historico") == [
        ("ana", hours[0], hours[1], 1, None),
        ("ana", hours[1], hours[2], 2, None),
        ("ana", hours[2], None, 3, None),
        ("bia", hours[0], None, 0, None),
    ]
    assert (done.upserts, done.deletes) == (2, 0)


def test_the_end_of_a_load_ends_intervals_and_so_does_one_that_is_late(local_lake: Lake) -> None:
    take_in(local_lake, customer("ana", "I", 1, points=1), customer("bia", "I", 2, points=2))
    renew(local_lake, "cliente_historico")
    take_in(local_lake, Change("customers", "ana", "I", 5, (1, None), 6, "L"))
    end(local_lake, End("customers", 5, 6))
    assert versions_behind(local_lake, SILVER["cliente_historico"]) > 0
    renew(local_lake, "cliente_historico")

    ended = START + timedelta(hours=6)
    assert held(local_lake, "cliente_historico") == [("ana", START, None, 1, None), ("bia", START, ended, 2, None)]

    take_in(local_lake, customer("caio", "I", 3, points=3, hour=1))
    renew(local_lake, "cliente_historico")

    assert held(local_lake, "cliente_historico")[2:] == [("caio", START + timedelta(hours=1), ended, 3, None)]


def test_a_truncate_ends_every_interval(local_lake: Lake) -> None:
    take_in(local_lake, customer("ana", "I", 1), customer("bia", "I", 2))
    renew(local_lake, "cliente_historico")

    end(local_lake, End("customers", 5, 6))
    done = renew(local_lake, "cliente_historico")["cliente_historico"]

    assert {row[2] for row in held(local_lake, "cliente_historico")} == {START + timedelta(hours=6)}
    assert (done.upserts, done.deletes) == (2, 0)
    assert renew(local_lake, "cliente_historico")["cliente_historico"].version == done.version


def test_a_change_that_silver_does_not_show_moves_the_watermark_only(local_lake: Lake) -> None:
    take_in(local_lake, transaction("t", "I", 1))
    renew(local_lake, "transacoes")

    take_in(local_lake, transaction("t", "U", 2))
    told: list[Difference] = []
    done = refresh(local_lake, EmbeddedEngine(local_lake), SILVER["transacoes"], told.append)

    assert (done.upserts, done.deletes, told) == (0, 0, [])
    assert versions_behind(local_lake, SILVER["transacoes"]) == 0


# --- what is told before the commit ---


def test_the_difference_is_told_once_and_before_the_commit(local_lake: Lake) -> None:
    take_in(local_lake, *(transaction(key, "I", 1) for key in "tuv"))
    renew(local_lake, "transacoes")
    take_in(local_lake, transaction("t", "U", 2, points=5), transaction("u", "D", 3), transaction("w", "I", 4))
    told: list[tuple[Difference, int]] = []

    def tell(change: Difference) -> None:
        told.append((change, local_lake.open("silver.upsell.transacoes").version()))

    before = local_lake.open("silver.upsell.transacoes").version()
    done = refresh(local_lake, EmbeddedEngine(local_lake), SILVER["transacoes"], tell)
    refresh(local_lake, EmbeddedEngine(local_lake), SILVER["transacoes"], tell)

    ((change, version),) = told
    assert version == before == done.version - 1
    assert sorted(change.old["idTransacao"].to_pylist()) == ["t", "u"]
    assert {row["idTransacao"]: row["nrPontosTransacao"] for row in change.new.to_pylist()} == {"t": 5, "w": 1}


def test_who_cannot_be_told_keeps_the_commit_back_and_is_told_again(local_lake: Lake) -> None:
    take_in(local_lake, transaction("t", "I", 1))
    renew(local_lake, "transacoes")
    take_in(local_lake, transaction("t", "D", 2))
    before = versions_behind(local_lake, SILVER["transacoes"]), held(local_lake, "transacoes")
    told: list[Difference] = []

    def fail(change: Difference) -> None:
        raise ConnectionError("not told")

    with pytest.raises(ConnectionError, match="not told"):
        refresh(local_lake, EmbeddedEngine(local_lake), SILVER["transacoes"], fail)
    assert (versions_behind(local_lake, SILVER["transacoes"]), held(local_lake, "transacoes")) == before

    refresh(local_lake, EmbeddedEngine(local_lake), SILVER["transacoes"], told.append)
    assert [change.old["idTransacao"].to_pylist() for change in told] == [["t"]]
    assert held(local_lake, "transacoes") == []


def test_a_first_refresh_that_cannot_tell_makes_no_table(local_lake: Lake) -> None:
    take_in(local_lake, transaction("t", "I", 1))

    def fail(change: Difference) -> None:
        raise ConnectionError("not told")

    with pytest.raises(ConnectionError, match="not told"):
        refresh(local_lake, EmbeddedEngine(local_lake), SILVER["transacoes"], fail)
    assert not local_lake.exists("silver.upsell.transacoes")


def test_another_writer_in_between_makes_the_refresh_decide_anew(local_lake: Lake) -> None:
    take_in(local_lake, transaction("t", "I", 1))
    renew(local_lake, "transacoes")
    take_in(local_lake, transaction("u", "I", 2))
    told: list[Difference] = []

    def overtaken(change: Difference) -> None:
        told.append(change)
        if len(told) == 1:
            renew(local_lake, "transacoes")

    refresh(local_lake, EmbeddedEngine(local_lake), SILVER["transacoes"], overtaken)

    assert [row[0] for row in held(local_lake, "transacoes")] == ["t", "u"]
    assert len(told) == 1  # the second look finds everything done


# --- another query, another bronze ---


def other_query(folder: Path, table: str, select: str) -> SilverTable:
    """The table, made by another query."""
    path = folder / "silver" / f"{table}.sql"
    path.parent.mkdir(exist_ok=True)
    path.write_text(select)
    return replace(SILVER[table], sql=load_sql(path))


OTHER = "SELECT t.idTransaction AS idTransacao, t.idCustomer AS idCliente, {} FROM bronze.upsell.transactions AS t {}"
TIME = "TRY_CAST(t.dtTransaction AS TIMESTAMP) AS dtTransacao"
POINTS = "t.pointsTransaction AS nrPontosTransacao"


def rows_of(lake: Lake) -> list[dict[str, object]]:
    found = lake.open("silver.upsell.transacoes").to_pyarrow_dataset().to_table().sort_by("idTransacao")
    rows: list[dict[str, object]] = found.to_pylist()
    return rows


def test_another_query_recomputes_rows_that_did_not_change(local_lake: Lake, tmp_path: Path) -> None:
    take_in(local_lake, transaction("t", "I", 1), transaction("u", "I", 2, points=2))
    renew(local_lake, "transacoes")
    doubled = f"{TIME}, 2 * t.pointsTransaction AS nrPontosTransacao"
    table = other_query(tmp_path, "transacoes", OTHER.format(doubled, "WHERE t.pointsTransaction > 1"))

    done = refresh(local_lake, EmbeddedEngine(local_lake), table)

    assert [(row["idTransacao"], row["nrPontosTransacao"]) for row in rows_of(local_lake)] == [("u", 4)]
    assert (done.upserts, done.deletes) == (1, 1)
    assert refresh(local_lake, EmbeddedEngine(local_lake), table).version == done.version


def test_another_query_removes_rows_under_keys_that_it_makes_no_more(local_lake: Lake, tmp_path: Path) -> None:
    take_in(local_lake, transaction("t", "I", 1))
    renew(local_lake, "transacoes")
    upper = OTHER.replace("t.idTransaction AS", "UPPER(t.idTransaction) AS").format(f"{TIME}, {POINTS}", "")

    refresh(local_lake, EmbeddedEngine(local_lake), other_query(tmp_path, "transacoes", upper))

    assert [row["idTransacao"] for row in rows_of(local_lake)] == ["T"]


@pytest.mark.parametrize(
    ("columns", "expected"),
    [
        (
            f"{TIME}, {POINTS}, 'new' AS descOrigem",
            {"dtTransacao": read(DAY), "nrPontosTransacao": 1, "descOrigem": "new"},
        ),
        (TIME, {"dtTransacao": read(DAY)}),
        (
            f"{TIME}, CAST(t.pointsTransaction AS STRING) AS nrPontosTransacao",
            {"dtTransacao": read(DAY), "nrPontosTransacao": "1"},
        ),
        (
            f"{TIME}, {POINTS}, CAST(NULL AS STRING) AS descOrigem",
            {"dtTransacao": read(DAY), "nrPontosTransacao": 1, "descOrigem": None},
        ),
    ],
    ids=["a new column", "a column less", "another type", "a new column of nulls"],
)
def test_another_query_gives_the_table_its_columns(
    local_lake: Lake, tmp_path: Path, columns: str, expected: dict[str, object]
) -> None:
    take_in(local_lake, transaction("t", "I", 1))
    renew(local_lake, "transacoes")
    table = other_query(tmp_path, "transacoes", OTHER.format(columns, ""))

    refresh(local_lake, EmbeddedEngine(local_lake), table)
    assert rows_of(local_lake) == [{"idTransacao": "t", "idCliente": "ana", **expected}]

    take_in(local_lake, transaction("u", "I", 2, who="bia"))
    refresh(local_lake, EmbeddedEngine(local_lake), table)
    assert rows_of(local_lake)[1] == {"idTransacao": "u", "idCliente": "bia", **expected}


def test_comments_of_a_query_recompute_nothing(local_lake: Lake, tmp_path: Path) -> None:
    take_in(local_lake, transaction("t", "I", 1))
    table = other_query(tmp_path, "transacoes", OTHER.format(f"{TIME}, {POINTS}", ""))
    done = refresh(local_lake, EmbeddedEngine(local_lake), table)

    commented = other_query(tmp_path, "transacoes", "-- why\n" + OTHER.format(f"{TIME}, {POINTS}", ""))

    assert refresh(local_lake, EmbeddedEngine(local_lake), commented).version == done.version
    version = local_lake.open("silver.upsell.transacoes").transaction_version(CODE)
    assert version == int(commented.sql.code_version[:12], 16)


def test_bronze_made_anew_is_read_from_its_start(local_lake: Lake, tmp_path: Path) -> None:
    for seq in range(4):
        take_in(local_lake, transaction(f"t{seq}", "I", seq))
    renew(local_lake, "transacoes")
    for name in (table_name(CONTRACTS["transactions"]), tombstones_name(CONTRACTS["transactions"])):
        Path(local_lake.uri(name)).rename(tmp_path / name)

    take_in(local_lake, transaction("u", "I", 1))
    renew(local_lake, "transacoes")

    assert [row[0] for row in held(local_lake, "transacoes")] == ["u"]


def test_columns_that_bronze_gained_by_drift_change_nothing(local_lake: Lake) -> None:
    take_in(local_lake, transaction("t", "I", 1))
    renew(local_lake, "transacoes")
    name = table_name(CONTRACTS["transactions"])
    bronze = local_lake.open(name)
    row = bronze.to_pyarrow_dataset().to_table().to_pylist()[0]
    more = {**row, "idTransaction": "u", "_version": bronze.version() + 1}
    schema = pa.schema(bronze.schema().to_arrow()).append(pa.field("note", pa.string()))
    write_deltalake(bronze, pa.Table.from_pylist([{**more, "note": "x"}], schema), mode="append", schema_mode="merge")

    renew(local_lake, "transacoes")

    assert [row[0] for row in held(local_lake, "transacoes")] == ["t", "u"]
