"""Features at a point in time: nothing of dtRef or later is in them, and as known nothing that came later."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pyarrow as pa
import pytest
import reference
from arriving import ARRIVALS, CONTRACTS, CUT, DTREF, FIRST, HOUR, Arrival, arrivals, arrive, known, rows_of
from bronze_steps import SILVER, End, end, take_in
from bronze_steps import Change as Step
from deltalake import write_deltalake
from hypothesis import given, settings
from hypothesis import strategies as st
from oracle import Change, Load
from reference import LOCAL, Event, History, State
from run_sql import assert_same, by_dt_ref, run, silver

from upsell_assets.bronze.history import remember, versions_known
from upsell_assets.bronze.tables import ARRIVALS_SINCE, changes_name
from upsell_assets.dtref_assets import daily_query
from upsell_assets.errors import PermanentError
from upsell_assets.feature_store.point_in_time import FEATURE_TABLES, FeatureStore, KnownAt, cut
from upsell_assets.lake.engines.embedded import EmbeddedEngine
from upsell_assets.lake.sql import load_sql
from upsell_assets.lake.tables import Lake, UnknownTableError
from upsell_assets.raw.files import change_schema
from upsell_assets.silver.refresh import refresh

REFERENCES = [reference.fs_geral, reference.fs_pontos, reference.fs_transacoes, reference.fs_dia_horario]
FILES = [f"feature_store/{name.rpartition('.')[2]}" for name in FEATURE_TABLES]
NEXT = DTREF + timedelta(1)


def open_store(lake: Lake) -> FeatureStore:
    return FeatureStore(lake, EmbeddedEngine(lake), CONTRACTS)


def keys(*days: date) -> pa.Table:
    return pa.table({"dtRef": pa.array(days, pa.date32())})


def as_known(lake: Lake, *days: date, known_at: KnownAt = "dtref", features: Iterable[str] | None = None) -> pa.Table:
    store = open_store(lake)
    return store.training_set(keys(*days), features, pins=store.pins(known_at), known_at=known_at)


def expected(history: History, day: date) -> dict[str, dict[str, Any]]:
    rows: dict[str, dict[str, Any]] = {}
    for of_table in REFERENCES:
        for customer, features in of_table(history, day).items():
            rows.setdefault(customer, {}).update(features)
    return rows


# --- leakage ---

EVENTS = st.builds(
    Event,
    customer=st.sampled_from(["ana", "bia", None]),
    at=st.integers(-50 * 24, 10 * 24).map(lambda hours: CUT + hours * HOUR - timedelta(minutes=1)),
    points=st.sampled_from([None, -5, 0, 7]),
    products=st.lists(st.sampled_from(["ChatMessage", "R Lover", "outro"]), max_size=2).map(tuple),
)
FLAGS = st.lists(st.tuples(st.integers(-99, 99), st.sampled_from([0, 1, None])), max_size=6, unique_by=lambda f: f[0])


def of_flags(flags: list[tuple[int, int | None]]) -> list[State]:
    """The states of a customer whose e-mail flag changes at these hours after the cut."""
    begun: list[tuple[datetime | None, int | None]] = [(CUT + hour * HOUR, flag) for hour, flag in sorted(flags)]
    return [State("ana", at, flag, 0, end) for (at, flag), (end, _) in pairwise([*begun, (None, None)]) if at]


@settings(max_examples=40, deadline=None)
@given(st.lists(EVENTS, max_size=20), st.lists(EVENTS, max_size=10), FLAGS, FLAGS)
def test_features_of_a_dtref_do_not_change_when_all_that_happens_from_it_on_is_altered(
    events: list[Event], others: list[Event], flags: list[tuple[int, int | None]], changed: list[tuple[int, int | None]]
) -> None:
    before = [event for event in events if event.at and event.at.astimezone(LOCAL).date() < DTREF]
    altered = before + [replace(other, at=CUT + abs((other.at or CUT) - CUT)) for other in others]
    old = [flag for flag in flags if flag[0] < 0]
    other_flags = old + [flag for flag in changed if flag[0] >= 0]
    for name in FILES:
        tables = [silver(History(events, of_flags(flags))), silver(History(altered, of_flags(other_flags)))]
        features = [by_dt_ref(run(name, given, [DTREF]), "idCliente") for given in tables]
        assert_same(features[1], features[0], name)


@settings(max_examples=12, deadline=None)
@given(arrivals(), arrivals())
def test_as_known_features_do_not_change_when_all_that_arrives_from_the_cut_on_is_altered(
    history: list[Arrival], others: list[Arrival]
) -> None:
    later = [replace(other, at=max(other.at, CUT)) for other in others]
    with TemporaryDirectory() as folder:
        lake = Lake.at(Path(folder))
        arrive(lake, [arrival for arrival in history if arrival.at < CUT])
        before = as_known(lake, DTREF)
        arrive(lake, sorted(later, key=lambda arrival: arrival.at))

        assert as_known(lake, DTREF).equals(before)


# --- what is known ---


@settings(max_examples=15, deadline=None)
@given(arrivals(most=16), ARRIVALS)
def test_as_known_equals_the_reference_over_what_had_arrived(history: list[Arrival], instant: datetime) -> None:
    with TemporaryDirectory() as folder:
        lake = Lake.at(Path(folder))
        arrive(lake, history)
        days = [DTREF, NEXT]

        found = by_dt_ref(as_known(lake, *days), "idCliente")
        at_once = by_dt_ref(as_known(lake, *days, known_at=instant), "idCliente")

        for day in days:
            assert_same(found.get(day, {}), expected(known(history, cut(day)), day), f"{day}")
            assert_same(at_once.get(day, {}), expected(known(history, instant), day), f"{day} at {instant}")


def of_transaction(key: str, seq: str, points: int, op: str = "U", at: datetime = CUT - 5 * HOUR) -> Change:
    row = rows_of("transactions", key, "ana", at.replace(tzinfo=None).isoformat(sep=" "), points)
    return Change((key,), op, at, seq, "f", 0, row)


def points_known(lake: Lake, history: list[Arrival], known_at: KnownAt = "dtref") -> int | None:
    arrive(lake, history)
    rows = as_known(lake, DTREF, known_at=known_at, features=["nrSaldoPontos"]).to_pylist()
    return rows[0]["nrSaldoPontos"] if rows else None


BEFORE, AFTER = CUT - HOUR, CUT + HOUR


def arrival(at: datetime, *changes: Change) -> Arrival:
    return Arrival(at, "transactions", changes)


FIRST_TWO = [arrival(BEFORE, of_transaction("t", "1", 5)), arrival(BEFORE, of_transaction("u", "2", 100))]
LATER: dict[str, tuple[list[Arrival], int | None, int | None]] = {
    # what arrives later: as known at the cut, as known after it
    "nothing": ([], 105, 105),
    "an event before dtRef": ([arrival(AFTER, of_transaction("v", "3", 1000))], 105, 1105),
    "a correction": ([arrival(AFTER, of_transaction("t", "3", 7))], 105, 107),
    "an older version": ([arrival(AFTER, of_transaction("t", "0", 7))], 105, 105),
    "a delete": ([arrival(AFTER, of_transaction("t", "3", 0, "D"))], 105, 100),
    "the same once more": ([arrival(AFTER, of_transaction("t", "1", 5))], 105, 105),
    "the end of a load": ([Arrival(AFTER, "transactions", Load("L", BEFORE, "1x", ended=True))], 105, 100),
    "a truncate": ([Arrival(AFTER, "transactions", Load("L", BEFORE, "9", ended=True))], 105, None),
    "a change of the very instant": ([arrival(CUT, of_transaction("t", "3", 7))], 105, 107),
}


@pytest.mark.parametrize("later", LATER)
def test_what_arrives_later_is_not_known_before(local_lake: Lake, later: str) -> None:
    history, at_cut, after = LATER[later]

    assert points_known(local_lake, FIRST_TWO + history) == at_cut
    assert points_known(local_lake, [], AFTER + HOUR) == after


def of_customer(seq: str, email: int | None, op: str = "U") -> Change:
    return Change(("ana",), op, CUT - 9 * HOUR, seq, "f", 0, rows_of("customers", "ana", 1, email))


@pytest.mark.parametrize(
    "later", [of_customer("2", 0), of_customer("2", None, "D"), Load("L", CUT - 8 * HOUR, "2", ended=True)], ids=str
)
def test_an_email_flag_that_arrives_later_is_not_known_before(local_lake: Lake, later: Change | Load) -> None:
    said = later if isinstance(later, Load) else (later,)
    history = [*FIRST_TWO, Arrival(BEFORE, "customers", (of_customer("1", 1),)), Arrival(AFTER, "customers", said)]
    arrive(local_lake, history)
    flags = [
        as_known(local_lake, DTREF, known_at=at, features=["flEmail"])["flEmail"].to_pylist()
        for at in (CUT, AFTER + HOUR)
    ]

    assert flags == [[1], [0 if later == of_customer("2", 0) else None]]


def test_of_a_change_that_came_twice_the_first_arrival_counts(local_lake: Lake) -> None:
    twice = [arrival(at, of_transaction("t", "1", 5)) for at in (AFTER, BEFORE, BEFORE)]

    assert points_known(local_lake, twice) == 5


def test_a_change_below_the_floor_of_a_load_that_ended_before_was_never_known(local_lake: Lake) -> None:
    ended = Arrival(FIRST, "transactions", Load("L", FIRST, "5", ended=True))

    assert points_known(local_lake, [ended, *FIRST_TWO, replace(ended, at=AFTER)]) is None


def test_the_same_pins_give_the_same_rows_later(local_lake: Lake) -> None:
    arrive(local_lake, FIRST_TWO)
    store = open_store(local_lake)
    pins = store.pins("dtref")
    before = store.training_set(keys(DTREF), pins=pins, known_at=AFTER + HOUR)
    arrive(local_lake, [arrival(BEFORE, of_transaction("v", "3", 7)), *LATER["a truncate"][0]])

    assert store.training_set(keys(DTREF), pins=pins, known_at=AFTER + HOUR).equals(before)
    assert before.num_rows == 1


@pytest.mark.parametrize("first", [date(2018, 1, 1), date(2026, 1, 1)])
def test_a_dtref_begins_at_the_first_instant_of_its_local_day(first: date) -> None:
    for number in range(366):
        day = first + timedelta(number)
        assert cut(day).astimezone(LOCAL).date() == day
        assert (cut(day) - timedelta(microseconds=1)).astimezone(LOCAL).date() == day - timedelta(1)


# --- the lake as it is ---

STEPS = [
    Step("customers", "ana", "I", 1, (3, 1)),
    Step("customers", "bia", "I", 2, (3, 0)),
    Step("transactions", "t", "I", 3, ("ana", "2024-02-01 10:00:00", 5)),
    Step("transactions", "u", "I", 4, ("bia", "2024-02-01 11:00:00", 7)),
    Step("transactions_product", "l", "I", 5, ("t", "ChatMessage", 1)),
]
DAY = date(2024, 2, 2)


def made(lake: Lake, *days: date) -> FeatureStore:
    """Silver and the feature tables, as the assets make them."""
    engine = EmbeddedEngine(lake)
    for table in SILVER.values():
        refresh(lake, engine, table)
    for name in FEATURE_TABLES:
        sql = load_sql(Path(__file__).parents[2] / "upsell_assets" / "feature_store" / f"{name.rpartition('.')[2]}.sql")
        rows = engine.run(daily_query(sql, list(days), datetime(2024, 3, 1, tzinfo=UTC)))
        lake.replace(name, rows, partitions={"dtRef": days})
    return open_store(lake)


def test_as_known_in_the_end_equals_as_latest(local_lake: Lake) -> None:
    take_in(local_lake, *STEPS)
    take_in(local_lake, Step("transactions", "t", "U", 6, ("ana", "2024-02-01 10:00:00", 9)))
    end(local_lake, End("customers", 2))
    store = made(local_lake, DAY)
    days = keys(DAY)

    latest = store.training_set(days, pins=store.pins())
    known = as_known(local_lake, DAY, known_at=datetime(2100, 1, 1, tzinfo=UTC))

    assert latest.num_rows == 2
    assert known.equals(latest)


def test_a_late_event_is_in_the_latest_and_not_in_the_known(local_lake: Lake) -> None:
    take_in(local_lake, *STEPS, clock=lambda: datetime(2024, 2, 2, 2, 59, tzinfo=UTC))
    late = Step("transactions", "v", "I", 6, ("ana", "2024-02-01 12:00:00", 100))
    take_in(local_lake, late, clock=lambda: datetime(2024, 2, 2, 3, tzinfo=UTC))
    store = made(local_lake, DAY)
    labelled = pa.table({"flChurn": [1, 0], "idCliente": ["ana", "nobody"], "dtRef": [DAY, DAY]})
    wanted = ["nrSaldoPontos", "nrQtdeTransacaoD7", "flEmail"]

    latest = store.training_set(labelled, wanted, pins=store.pins())
    known = store.training_set(labelled, wanted, pins=store.pins("dtref"), known_at="dtref")

    keys_of = {"dtRef": DAY, "idCliente": "ana", "flChurn": 1, "flEmail": 1}
    assert latest.to_pylist() == [{**keys_of, "nrSaldoPontos": 105, "nrQtdeTransacaoD7": 2}]
    assert known.to_pylist() == [{**keys_of, "nrSaldoPontos": 5, "nrQtdeTransacaoD7": 1}]
    assert known.column_names == ["dtRef", "idCliente", "flChurn", "nrSaldoPontos", "flEmail", "nrQtdeTransacaoD7"]


def test_no_dtref_gives_no_row_but_every_column(local_lake: Lake) -> None:
    take_in(local_lake, *STEPS)
    store = made(local_lake, DAY)

    latest = store.training_set(keys(), pins=store.pins())
    known = store.training_set(keys(), pins=store.pins("dtref"), known_at="dtref")

    assert latest.num_rows == known.num_rows == 0
    assert latest.schema.equals(known.schema)


def test_a_feature_that_does_not_exist_is_named(local_lake: Lake) -> None:
    take_in(local_lake, *STEPS)
    store = open_store(local_lake)

    with pytest.raises(PermanentError, match=r"no feature table has nrSaldo\. Known are: .*nrSaldoPontos"):
        store.training_set(keys(DAY), ["nrSaldo"], pins=store.pins("dtref"), known_at="dtref")
    with pytest.raises(UnknownTableError, match=r"fs_geral: no such table"):
        store.pins()


def test_a_lake_whose_contracts_keep_no_history_says_so(local_lake: Lake) -> None:
    contracts = {**CONTRACTS, "transactions": CONTRACTS["transactions"].model_copy(update={"history": False})}
    engine = EmbeddedEngine(local_lake)
    take_in(local_lake, *STEPS)

    with pytest.raises(
        PermanentError, match=r"bronze\.upsell\.transactions: its contract keeps no history.*--from-raw"
    ):
        FeatureStore(local_lake, engine, contracts).pins("dtref")
    with pytest.raises(
        PermanentError, match=r"no contract declares what silver\.upsell\.cliente_historico, silver.* is made of"
    ):
        FeatureStore(local_lake, engine, {}).pins("dtref")


def test_a_lake_that_took_nothing_in_says_so(local_lake: Lake) -> None:
    with pytest.raises(PermanentError, match=r"_customers_changes: no such table.*Nothing was taken in"):
        open_store(local_lake).pins("dtref")


# --- lakes of before ---


def forget_times(lake: Lake, *tables: str) -> None:
    """The tables of changes as they were before times of arrival were kept: of transactions there was none."""
    for table in tables:
        folder = Path(lake.uri(changes_name(CONTRACTS[table])))
        rows = lake.open(changes_name(CONTRACTS[table])).to_pyarrow_table().drop_columns(["_ingested_at"])
        folder.rename(folder.with_name(f"{folder.name}_gone"))
        if table == "customers":
            write_deltalake(str(folder), rows)


def test_what_was_taken_in_before_times_were_kept_is_known_since_they_are(local_lake: Lake) -> None:
    take_in(local_lake, *STEPS, Step("transactions", "w", "I", 6, ("bia", "2024-02-01 11:00:00", 50)))
    take_in(local_lake, Step("transactions", "w", "D", 7, (None, None, None)))
    forget_times(local_lake, *CONTRACTS)
    since = datetime(2024, 2, 3, tzinfo=UTC)
    with pytest.raises(PermanentError, match=r"_customers_changes: times of arrival are kept since its next change"):
        FeatureStore(local_lake, EmbeddedEngine(local_lake), CONTRACTS).training_set(
            keys(DAY),
            ["flEmail"],
            pins=dict.fromkeys(("bronze.upsell._customers_floors", "bronze.upsell._customers_changes"), 0),
            known_at=since,
        )

    old = Step("transactions", "w", "U", 6, ("bia", "2024-02-01 11:00:00", 51))
    late = Step("transactions", "v", "I", 8, ("ana", "2024-02-01 12:00:00", 100))
    take_in(local_lake, old, late, clock=lambda: since)
    for table in ("customers", "transactions_product"):
        remember(local_lake, CONTRACTS[table], change_schema(CONTRACTS[table]).empty_table(), lambda: since)

    with pytest.raises(
        PermanentError, match=r"are kept since 2024-02-03T00:00:00\+00:00; what was known at 2024-02-02T03"
    ):
        as_known(local_lake, DAY)
    found = as_known(local_lake, DAY, known_at=since, features=["nrSaldoPontos", "flEmail"]).to_pylist()
    assert [(row["idCliente"], row["nrSaldoPontos"], row["flEmail"]) for row in found] == [("ana", 5, 1), ("bia", 7, 0)]
    after = as_known(local_lake, DAY, known_at=since + HOUR, features=["nrSaldoPontos"]).to_pylist()
    assert [row["nrSaldoPontos"] for row in after] == [105, 7]


def test_a_history_that_begins_with_its_table_is_whole(local_lake: Lake) -> None:
    take_in(local_lake, *STEPS)

    table = local_lake.open(changes_name(CONTRACTS["transactions"]))
    assert table.transaction_version(ARRIVALS_SINCE) == 0
    assert table.to_pyarrow_table()["_ingested_at"].null_count == 0


def test_versions_of_a_row_follow_each_other_without_gap(local_lake: Lake) -> None:
    changes = [of_transaction("t", seq, points) for seq, points in (("2", 1), ("1", 2), ("3", 3))]
    arrive(local_lake, [arrival(CUT + n * HOUR, change) for n, change in enumerate(changes)])
    store = open_store(local_lake)

    found = (
        versions_known(local_lake, CONTRACTS["transactions"], store.pins("dtref")).sort_by("_known_from").to_pylist()
    )

    assert [(row["pointsTransaction"], row["_known_from"], row["_known_to"]) for row in found] == [
        (1, CUT, CUT + 2 * HOUR),
        (3, CUT + 2 * HOUR, None),
    ]
