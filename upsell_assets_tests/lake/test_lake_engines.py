"""The conformance suite: whatever engine runs a query over the lake, the same rows come out, in the same types."""

from __future__ import annotations

import random
import re
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pytest
from deltalake import write_deltalake
from reference import Event, History, State
from run_sql import INSTANT, PACKAGE, run, silver, sql_file

from upsell_assets.errors import PermanentError
from upsell_assets.lake.engines import Engine, Query, open_engine
from upsell_assets.lake.engines.spark_session import JAVA, java_version
from upsell_assets.lake.sql import DTREFS, parse_query
from upsell_assets.lake.store import ObjectStore
from upsell_assets.lake.tables import Lake, UnknownTableError
from upsell_assets.model.joined import DRAWN
from upsell_assets.model.training_set import sample
from upsell_assets.services.embedded import Running

ENGINES = ["embedded", pytest.param("spark", marks=pytest.mark.spark)]
FILES = [
    f"{layer}/{path.stem}"
    for layer in ("silver", "feature_store", "gold", "model")
    for path in sorted((PACKAGE / layer).glob("[!_]*.sql"))
]
DAILY = [name for name in FILES if DTREFS in sql_file(name).tables]

pytestmark = pytest.mark.services


@pytest.fixture(scope="module")
def store(services: Running) -> ObjectStore:
    """A bucket for all tests of this module."""
    store = ObjectStore.from_settings(services.settings.model_copy(update={"s3_bucket": "lake-of-engines"}))
    store.client.create_bucket(Bucket=store.bucket)
    return store


@pytest.fixture(scope="module")
def lake(store: ObjectStore) -> Lake:
    return Lake.of(store)


@pytest.fixture(scope="module", params=ENGINES)
def engine(request: pytest.FixtureRequest, services: Running, store: ObjectStore) -> Iterator[Engine]:
    """One engine for all tests: a Spark session takes seconds to start."""
    if request.param == "spark" and (java_version() or 0) < JAVA:
        pytest.skip(f"needs Java {JAVA} or newer: skipped because java was not found, or is older")
    setting = {"embedded": "duckdb", "spark": "spark"}[request.param]
    opened = open_engine(services.settings.model_copy(update={"engine": setting, "spark_min_files": 0}), store)
    yield opened
    opened.close()


def rows(engine: Engine, text: str, **about: Any) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = engine.run(Query(parse_query(text), **about)).read_all().to_pylist()
    return found


def put(lake: Lake, name: str, table: pa.Table) -> int:
    """The table's new version."""
    return lake.replace(name, table.to_reader(), partitions={}).version()


# --- every .sql file ---

FIRST = datetime(2018, 9, 20, tzinfo=UTC)
# November 4th of 2018 had no midnight in Sao Paulo; 28 days later both windows have it.
DTREFS_ASKED = [date(2018, 10, 15), date(2018, 11, 4), date(2018, 11, 5), date(2018, 12, 2), date(2019, 1, 1)]
NOW = datetime(2018, 12, 20, tzinfo=UTC)
LOADS = "raw/upsell/full_load/customers/"
NAMES = [
    *("ChatMessage", "Airflow Lover", "Churn_10pp", "Churn_2pp", "Churn_5pp", "Daily Loot", "Lista de presença"),
    *("Presença Streak", "R Lover", "Resgatar Ponei", "Troca de Pontos StreamElements", "Venda de Item: Espada"),
    *("chatmessage", "Churn-2pp", "outro", None),
]
DATES = """
2024-02-01 10:11:12|2024-02-01 10:11:12.345|2024-02-01T10:11:12.345678999|2024-02-01T10:11:12Z|2024-02-01t10:11:12.5z
2024-02-01 00:00:00 +0000 UTC|2024-02-01 00:00:00.123 -0300 -03|2024-02-01 01:11:12+05:30|2024-02-01 10:11:12+00
2024-02-01 10:11|2024-02-01|2024-02-29|1000-01-01|1582-10-10|1899-12-31 23:59:59.999999|2999-12-31 23:59:59
"""
NO_DATES = """
2023-02-29|2024-13-01 00:00:00|2024-02-01 24:00:00|2024-02-01 23:59:60|2024-02-01 10:11:12 +2500|0000-00-00 00:00:00
3000-01-01|yesterday|01/02/2024 10:11:12|infinity|epoch|now|٢٠٢٤-02-01|2024-02-01 10:11:12 +0000 Uß
"""
# Java and DuckDB each know blanks, ends of lines and capitals of their own.
BLANKS = [" ", "\t", "\n", "\r\n", "\x0b", "\x85", "\u00a0", "\u2028", "\u3000"]
TEXTS = [
    *re.split(r"[|\n]", DATES + NO_DATES),
    *(f"2024-02-01{blank}" for blank in BLANKS),
    *(f"{blank}2024-02-01" for blank in BLANKS),
    None,
]


def some_history() -> History:
    """Lives with nulls, carts of many lines and none, and much around the local midnights and the change of clocks."""
    chosen = random.Random(7)
    customers = [*"abcdefgh", None]
    events = []
    for _ in range(900):
        at = FIRST + timedelta(days=chosen.randrange(100), microseconds=chosen.randrange(86_400_000_000))
        if chosen.random() < 0.3:
            at = at.replace(hour=2 if chosen.random() < 0.5 else 3, minute=chosen.choice([0, 59]))
        points = chosen.choice([None, 0, *range(-50, 51)])
        cart = tuple(chosen.choices(NAMES, k=chosen.choice([0, 1, 1, 1, 2, 4])))
        events.append(Event(chosen.choice(customers), None if chosen.random() < 0.02 else at, points, cart))
    # Somebody who came once, and somebody who only ever spent.
    events += [
        Event("once", FIRST + timedelta(days=40), 5),
        Event("spender", FIRST + timedelta(days=41), -5, ("R Lover",)),
    ]
    states = []
    for customer in "abcd":
        starts = sorted(FIRST + timedelta(hours=chosen.randrange(2_400)) for _ in range(5))
        for start, end in zip(starts, [*starts[1:], None], strict=True):
            states.append(State(customer, start, chosen.choice([0, 1, None]), 1, end))
    return History(events, states)


def bronze() -> dict[str, pa.Table]:
    chosen = random.Random(8)
    changes = [
        {
            "idCustomer": chosen.choice([*"abc", None]),
            "PointsCustomer": chosen.choice([None, 9, 10, -1]),
            "flEmail": chosen.choice([None, 0, 1]),
            "_op": chosen.choice("IUUD"),
            "_modified_date": chosen.choice([None, *(FIRST + timedelta(hours=hour) for hour in range(30))]),
            "_change_seq": chosen.choice([None, *(f"{number:03}" for number in range(60))]),
            "_file": chosen.choice(["x", "y", f"{LOADS}one/part", None]),
            "_row": number,
        }
        for number in range(300)
    ]
    floors = [
        {"_modified_date": FIRST + timedelta(hours=hour), "_change_seq": seq}
        for hour, seq in ((7, "020"), (7, "020"), (20, "041"), (25, None))
    ]
    return {
        "bronze.upsell.customers": pa.table(
            {
                "idCustomer": ["a", "b", "c"],
                "PointsCustomer": pa.array([-(2**63), 2**63 - 1, None], pa.int64()),
                "flEmail": pa.array([0, None, 1], pa.int64()),
            }
        ),
        "bronze.upsell.transactions": pa.table(
            {
                "idTransaction": [str(number) for number in range(len(TEXTS))],
                "idCustomer": [*["a"] * (len(TEXTS) - 1), None],
                "dtTransaction": pa.array(TEXTS, pa.string()),
                "pointsTransaction": pa.array([*range(len(TEXTS) - 1), None], pa.int64()),
            }
        ),
        "bronze.upsell.transactions_product": pa.table(
            {
                "idTransactionCart": [str(number) for number in range(len(NAMES))],
                "idTransaction": ["0"] * len(NAMES),
                "NameProduct": pa.array(NAMES, pa.string()),
                "QuantityProduct": pa.array([*range(len(NAMES) - 1), None], pa.int64()),
            }
        ),
        "bronze.upsell._customers_changes": pa.Table.from_pylist(
            changes,
            pa.schema(
                {
                    "idCustomer": pa.string(),
                    "PointsCustomer": pa.int64(),
                    "flEmail": pa.int64(),
                    "_op": pa.string(),
                    "_modified_date": INSTANT,
                    "_change_seq": pa.string(),
                    "_file": pa.string(),
                    "_row": pa.int64(),
                }
            ),
        ),
        "bronze.upsell._customers_floors": pa.Table.from_pylist(
            floors, pa.schema({"_modified_date": INSTANT, "_change_seq": pa.string()})
        ),
    }


@pytest.fixture(scope="module")
def tables(lake: Lake) -> dict[str, pa.Table]:
    """Bronze and silver, in memory and in the lake."""
    made = {**bronze(), **silver(some_history())}
    for name, table in made.items():
        put(lake, name, table)
    return made


def about(name: str) -> dict[str, Any]:
    ends = Query(sql_file(name).tree).over(DTREFS_ASKED).params
    values = {"now": NOW, "modified_date_first": True, "load_folder": LOADS, **ends}
    return {marker: values[marker] for marker in sql_file(name).parameters}


def asked(days: list[date]) -> dict[str, pa.Table]:
    return {DTREFS: pa.table({"dtRef": pa.array(days, pa.date32())})}


def in_order(table: pa.Table) -> pa.Table:
    """By the columns that are exact; together they tell all rows apart."""
    exact = [column.name for column in table.schema if not pa.types.is_floating(column.type)]
    return table.take(pc.sort_indices(table, [(name, "ascending", "at_end") for name in exact]))


def assert_equal(actual: pa.Table, expected: pa.Table) -> None:
    assert actual.schema.equals(expected.schema), f"{actual.schema}\n\n{expected.schema}"
    assert actual.num_rows == expected.num_rows
    actual, expected = in_order(actual), in_order(expected)
    for name in expected.column_names:
        got, wanted = actual[name].to_pylist(), expected[name].to_pylist()
        if pa.types.is_floating(expected.schema.field(name).type):
            wanted = [None if value is None else pytest.approx(value, rel=1e-9) for value in wanted]
        assert got == wanted, name


@pytest.mark.parametrize("name", FILES)
def test_every_file_gives_the_same_table(engine: Engine, tables: dict[str, pa.Table], name: str) -> None:
    expected = run(name, tables, DTREFS_ASKED, about(name))

    actual = engine.run(Query(sql_file(name).tree, about(name), asked(DTREFS_ASKED))).read_all()

    assert expected.num_rows > 2
    assert_equal(actual, expected)


def test_the_history_of_a_contract_that_orders_by_change_seq_alone_is_the_same(
    engine: Engine, tables: dict[str, pa.Table]
) -> None:
    name, params = "silver/cliente_historico", {"modified_date_first": False, "load_folder": LOADS}

    actual = engine.run(Query(sql_file(name).tree, params)).read_all()

    assert_equal(actual, run(name, tables, params=params))


@pytest.mark.parametrize("name", DAILY)
def test_no_dt_ref_gives_no_row_but_every_column(engine: Engine, tables: dict[str, pa.Table], name: str) -> None:
    actual = engine.run(Query(sql_file(name).tree, about(name), asked([]))).read_all()

    assert_equal(actual, run(name, tables, [], about(name)))
    assert actual.num_rows == 0
    assert actual.column_names == list(sql_file(name).columns)


def test_the_engine_draws_the_training_rows_that_a_draw_of_all_gives(
    engine: Engine, tables: dict[str, pa.Table]
) -> None:
    every = run("model/label", tables, DTREFS_ASKED, {"now": NOW})
    expected = sample(every, 2, seed=7)
    params = {"now": NOW, "seed": "7", "per_customer": 2}

    actual = engine.run(Query(DRAWN, params, asked(DTREFS_ASKED))).read_all()

    assert 0 < expected.num_rows < every.num_rows
    assert_equal(actual, expected)


# --- tables ---


def test_a_pinned_version_is_read_after_newer_commits(engine: Engine, lake: Lake) -> None:
    name = "bronze.upsell.pinned"
    old = put(lake, name, pa.table({"id": ["a", "b"]}))
    new = put(lake, name, pa.table({"id": ["c"], "more": [1]}))
    text = f"SELECT * FROM {name} AS t ORDER BY t.id"

    assert rows(engine, text, tables={name: lake.open(name, old)}) == [{"id": "a"}, {"id": "b"}]
    assert rows(engine, text, tables={name: lake.open(name, new)}) == [{"id": "c", "more": 1}]
    assert rows(engine, text) == [{"id": "c", "more": 1}]


def test_a_commit_is_seen_by_the_next_query(engine: Engine, lake: Lake) -> None:
    name = "bronze.upsell.growing"
    put(lake, name, pa.table({"id": [1]}))
    before = rows(engine, f"SELECT COUNT(*) AS nr FROM {name}")
    write_deltalake(lake.open(name), pa.table({"id": [2, 3]}), mode="append")

    assert before == [{"nr": 1}]
    assert rows(engine, f"SELECT COUNT(*) AS nr FROM {name}") == [{"nr": 3}]


def test_versions_on_both_sides_of_a_checkpoint_are_read(engine: Engine, lake: Lake, store: ObjectStore) -> None:
    name = "bronze.upsell.with_checkpoints"
    if not lake.exists(name):
        lake.open_or_create(name, pa.schema({"id": pa.int64()}))
        for number in range(1, 13):
            write_deltalake(lake.open(name), pa.table({"id": [number]}), mode="append")
    keys = [found.key for found in store.list("bronze/upsell/with_checkpoints/_delta_log/")]
    text = f"SELECT COUNT(*) AS nr, MAX(t.id) AS newest FROM {name} AS t"

    assert any(key.endswith(".checkpoint.parquet") for key in keys)
    assert rows(engine, text, tables={name: lake.open(name, 4)}) == [{"nr": 4, "newest": 4}]
    assert rows(engine, text) == [{"nr": 12, "newest": 12}]


def test_partitions_may_be_named_by_anything(engine: Engine, lake: Lake) -> None:
    name = "bronze.upsell.by_month"
    table = pa.table({"month": ["2024-02", "a b/ç%20=:", None], "id": [1, 2, 3]})
    write_deltalake(lake.uri(name), table, mode="overwrite", partition_by=["month"], storage_options=lake.options())

    assert rows(engine, f"SELECT * FROM {name} AS t ORDER BY t.id") == table.to_pylist()


def test_partitions_keep_their_type(engine: Engine, lake: Lake) -> None:
    name, day = "gold.upsell.by_day", date(2024, 2, 1)
    table = pa.table({"dtRef": pa.array([day], pa.date32()), "nr": [1]})
    lake.replace(name, table.to_reader(), partitions={"dtRef": [day]})

    assert rows(engine, f"SELECT * FROM {name} AS t WHERE t.dtRef = DATE'2024-02-01'") == [{"dtRef": day, "nr": 1}]


def test_a_table_that_is_not_there_is_named(engine: Engine) -> None:
    with pytest.raises(UnknownTableError, match=r"gold\.upsell\.nothing: no such table"):
        engine.run(Query(parse_query("SELECT * FROM gold.upsell.nothing")))


def test_a_name_of_one_part_that_no_relation_bears_is_unknown(engine: Engine) -> None:
    with pytest.raises(UnknownTableError, match="nothing: a table is named by three parts"):
        engine.run(Query(parse_query("SELECT * FROM nothing")))


# --- relations and parameters ---


def test_relations_stand_in_the_place_of_tables(engine: Engine, lake: Lake) -> None:
    name = "bronze.upsell.shadowed"
    put(lake, name, pa.table({"id": [1]}))
    relations = {name: pa.table({"id": [2]}), "bronze.upsell.never_made": pa.table({"id": [2], "x": ["y"]})}
    text = f"SELECT s.id, m.x FROM {name} AS s INNER JOIN bronze.upsell.never_made AS m ON m.id = s.id"

    assert rows(engine, text, relations=relations) == [{"id": 2, "x": "y"}]


def test_an_empty_relation_has_its_columns(engine: Engine) -> None:
    empty = pa.table({"id": pa.array([], pa.string()), "at": pa.array([], INSTANT)})
    text = "SELECT t.id, t.at, COUNT(*) OVER () AS nr FROM given AS t"
    found = engine.run(Query(parse_query(text), relations={"given": empty})).read_all()

    assert found.num_rows == 0
    assert found.schema.types == [pa.string(), INSTANT, pa.int64()]


def test_a_relation_may_come_in_many_batches(engine: Engine) -> None:
    table = pa.table({"id": list(range(30_000))})
    relation = pa.Table.from_batches(table.to_batches(max_chunksize=7_000))

    text = "SELECT COUNT(DISTINCT t.id) AS nr, SUM(CAST(t.id AS DOUBLE)) AS total FROM given AS t"

    assert rows(engine, text, relations={"given": relation}) == [{"nr": 30_000, "total": 449_985_000.0}]


@pytest.mark.parametrize(
    "value",
    [
        True,
        7,
        2.5,
        date(2018, 11, 4),
        datetime(2024, 2, 1, 3, 4, 5, 678901, UTC),
        None,
        "",
        "it's",
        r"a\nb\\",
        "ç 🎲 {x} :x",
    ],
)
def test_a_parameter_arrives_as_it_is(engine: Engine, value: object) -> None:
    assert rows(engine, "SELECT :value AS x", params={"value": value}) == [{"x": value}]


def test_an_instant_may_be_given_in_any_zone(engine: Engine) -> None:
    noon = datetime.fromisoformat("2024-02-01T12:00:00-03:00")

    assert rows(engine, "SELECT :value AS x", params={"value": noon}) == [{"x": datetime(2024, 2, 1, 15, tzinfo=UTC)}]


# --- results ---

TYPES = {
    "text": pa.array(["a", "", "ç 🎲\n\\", None], pa.string()),
    "bigint": pa.array([-(2**63), 2**63 - 1, 0, None], pa.int64()),
    "integer": pa.array([-(2**31), 2**31 - 1, 0, None], pa.int32()),
    "smallint": pa.array([-(2**15), 2**15 - 1, 0, None], pa.int16()),
    "tinyint": pa.array([-128, 127, 0, None], pa.int8()),
    "double": pa.array([0.1, 5e-324, float("-inf"), None], pa.float64()),
    "real": pa.array([0.5, -0.25, float("inf"), None], pa.float32()),
    "boolean": pa.array([True, False, True, None], pa.bool_()),
    "bytes": pa.array([b"\x00\xff", b"", b"a", None], pa.binary()),
    "decimal": pa.array([Decimal("-12345678.90"), Decimal("0.01"), Decimal(0), None], pa.decimal128(18, 2)),
    "wide": pa.array([Decimal("9" * 38), Decimal(-1), Decimal(0), None], pa.decimal128(38, 0)),
    "day": pa.array([date(1, 1, 1), date(1582, 10, 10), date(9999, 12, 31), None], pa.date32()),
    "instant": pa.array(
        [
            datetime(1, 1, 1, tzinfo=UTC),
            datetime(1969, 12, 31, 23, 59, 59, 999999, UTC),
            datetime(9999, 1, 1, tzinfo=UTC),
            None,
        ],
        INSTANT,
    ),
    "no_zone": pa.array(
        [datetime(2018, 11, 4), datetime(1969, 12, 31, 23, 59, 59, 999999), datetime(9999, 1, 1), None],  # noqa: DTZ001
        pa.timestamp("us"),
    ),
    "list": pa.array([[1, None], [], [3], None], pa.list_(pa.int64())),
    "nothing": pa.array([None] * 4, pa.string()),
    "no_day": pa.array([None] * 4, pa.date32()),
}


@pytest.mark.parametrize("of", ["table", "relation"])
def test_every_type_comes_back_as_it_was_written(engine: Engine, lake: Lake, of: str) -> None:
    given = pa.table({"nr": pa.array(range(4), pa.int64()), **TYPES})
    name = "bronze.upsell.of_all_types"
    if of == "table":
        put(lake, name, given)
    relations = {} if of == "table" else {name: given}

    found = engine.run(Query(parse_query(f"SELECT * FROM {name}"), relations=relations)).read_all().sort_by("nr")

    assert found.schema.equals(given.schema), found.schema
    assert found.to_pydict() == given.to_pydict()


def test_names_keep_the_case_in_which_the_query_writes_them(engine: Engine) -> None:
    given = pa.table({"idCliente": ["a"], "Ordem": [1]})
    text = "SELECT t.IDCLIENTE AS idcliente, t.ordem AS `Select`, COUNT(*) AS nrÇ FROM given AS t GROUP BY ALL"

    assert rows(engine, text, relations={"given": given}) == [{"idcliente": "a", "Select": 1, "nrÇ": 1}]


def test_the_order_that_a_query_asks_for_is_kept(engine: Engine) -> None:
    given = pa.table({"id": [3, None, 1, 2]})
    text = "SELECT t.id FROM given AS t ORDER BY t.id DESC NULLS FIRST"

    assert [row["id"] for row in rows(engine, text, relations={"given": given})] == [None, 3, 2, 1]


def test_two_results_may_be_read_in_turns(engine: Engine) -> None:
    readers = [
        engine.run(Query(parse_query("SELECT t.id FROM given AS t"), relations={"given": pa.table({"id": [number]})}))
        for number in (1, 2)
    ]

    assert [reader.read_all().to_pylist() for reader in readers] == [[{"id": 1}], [{"id": 2}]]


# --- refusals ---


def test_a_column_that_is_not_there_is_named(engine: Engine) -> None:
    query = Query(parse_query("SELECT t.nope FROM given AS t"), relations={"given": pa.table({"id": [1]})})

    with pytest.raises(PermanentError, match=r"the query was refused: .*nope") as refused:
        engine.run(query)
    assert "JVM" not in str(refused.value)


def test_a_value_that_cannot_be_cast_is_named(engine: Engine) -> None:
    query = Query(
        parse_query("SELECT CAST(t.id AS BIGINT) AS id FROM given AS t"),
        relations={"given": pa.table({"id": ["1", "x"]})},
    )

    with pytest.raises(PermanentError, match=r"the query was refused: .*'x'"):
        engine.run(query).read_all()


def test_an_engine_goes_on_after_a_refusal(engine: Engine) -> None:
    with pytest.raises(PermanentError):
        engine.run(Query(parse_query("SELECT no_such_function(1) AS x")))

    assert rows(engine, "SELECT 1 AS x") == [{"x": 1}]
