"""Every table of a lake, whichever engine makes it: the same rows; and a lake may change its engine at any time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pyarrow as pa
import pytest
from bronze_steps import SILVER, START, Change, take_in_and_crash
from deltalake import DeltaTable, write_deltalake
from deltalake.transaction import AddAction
from lake_steps import assert_equal, compute, compute_daily, land, rounds, tables
from reference import History, State, data_folder, read_dump
from run_sql import silver

from upsell_assets.errors import PermanentError
from upsell_assets.lake.engines import Engine, Query
from upsell_assets.lake.engines.embedded import EmbeddedEngine
from upsell_assets.lake.engines.spark import SparkEngine
from upsell_assets.lake.engines.spark_files import SparkFiles
from upsell_assets.lake.engines.spark_session import Spark
from upsell_assets.lake.files import NewFile
from upsell_assets.lake.keys import DoubledKeysError
from upsell_assets.lake.portions import replace_by_query
from upsell_assets.lake.sql import parse_query
from upsell_assets.lake.store import ObjectStore
from upsell_assets.lake.tables import Lake
from upsell_assets.silver.refresh import refresh

TRANSACTIONS = "bronze.upsell.transactions"


def embedded(folder: Path) -> EmbeddedEngine:
    return EmbeddedEngine(Lake.at(folder))


def on_spark(folder: Path, spark: Spark) -> SparkEngine:
    return SparkEngine(Lake.at(folder, SparkFiles(spark)), spark)


def made(engine: Engine, seed: int) -> dict[str, pa.Table]:
    for changes in rounds(seed):
        land(engine.lake, changes)
        compute(engine)
    return tables(engine.lake)


def test_every_table_of_a_lake_in_a_bucket_is_the_same(spark: Spark, store: ObjectStore, tmp_path: Path) -> None:
    expected = made(embedded(tmp_path / "embedded"), 5)

    actual = made(SparkEngine(Lake.of(store, SparkFiles(spark)), spark), 5)

    assert len(expected) > 20
    assert_equal(actual, expected)


def test_a_lake_moves_between_engines(spark: Spark, tmp_path: Path) -> None:
    expected = made(embedded(tmp_path / "embedded"), 6)
    taking_turns = [embedded(tmp_path / "both"), on_spark(tmp_path / "both", spark)]

    for number, changes in enumerate(rounds(6)):
        land(taking_turns[number % 2].lake, changes)
        compute(taking_turns[(number + 1) % 2])

    assert_equal(tables(taking_turns[0].lake), expected)


@dataclass(frozen=True)
class Interrupted(SparkFiles):
    """Somebody else commits to the table while its files are written, once."""

    interrupted: list[Change] = field(default_factory=list)

    def write(self, lake: Lake, table: DeltaTable, new: Sequence[NewFile]) -> list[AddAction]:
        written = super().write(lake, table, new)
        if self.interrupted:
            land(Lake.at(Path(lake.root)), [self.interrupted.pop()])
        return written


def points(lake: Lake) -> dict[str, int]:
    rows = lake.rows(lake.open(TRANSACTIONS)).to_table()
    return dict(zip(rows["idTransaction"].to_pylist(), rows["pointsTransaction"].to_pylist(), strict=True))


def change(key: str, seq: int, points: int) -> Change:
    return Change("transactions", key, "U", seq, ("a", "2024-02-01 15:00:00", points))


def test_a_second_writer_is_refused_and_nothing_is_lost(spark: Spark, tmp_path: Path) -> None:
    plain = Lake.at(tmp_path)
    land(plain, [change("old", 1, 1), change("other", 2, 2)])
    files = Interrupted(spark, interrupted=[change("other", 4, 4)])

    land(Lake.at(tmp_path, files), [change("old", 3, 3)])

    assert files.interrupted == []
    assert points(plain) == {"old": 3, "other": 4}


def test_files_of_spark_have_the_statistics_that_a_merge_goes_by(spark: Spark, tmp_path: Path) -> None:
    lake = Lake.at(tmp_path, SparkFiles(spark))
    land(lake, [change("a", 1, 1), change("b", 2, 2)])

    land(lake, [change("a", 3, 3)])

    [file] = pa.table(lake.open(TRANSACTIONS).get_add_actions(flatten=True)).to_pylist()
    assert file["path"].startswith("spark-")
    assert (file["num_records"], file["min.idTransaction"], file["max.idTransaction"]) == (2, "a", "b")
    assert (file["min._version"], file["max._version"], file["partition._month"]) == (1, 2, "2024-02")
    assert (file["min._date"], file["null_count._date"]) == (datetime(2024, 2, 1, 15, tzinfo=UTC), 0)


def test_nothing_is_left_of_how_files_were_handed_over(spark: Spark, store: ObjectStore) -> None:
    lake = Lake.of(store, SparkFiles(spark))
    before = {found.key for found in store.list("bronze/upsell/transactions/")}
    land(lake, [change("a", 9_001, 1)])
    land(lake, [change("a", 9_002, 2)])

    left = {found.key for found in store.list("bronze/upsell/transactions/")} - before
    staged = {key for key in left if "/spark-" in key}

    assert {key.rpartition(".")[2] for key in staged} == {"parquet"}


def test_rows_of_one_key_are_refused_before_the_commit(spark: Spark, tmp_path: Path) -> None:
    engine = on_spark(tmp_path, spark)
    write_deltalake(engine.lake.uri("silver.upsell.x"), pa.table({"id": ["a", "a", "b"]}))
    query = Query(parse_query("SELECT DATE'2024-02-01' AS dtRef, x.id AS id FROM silver.upsell.x AS x"))

    with pytest.raises(DoubledKeysError, match=r"dtRef, id = 2024-02-01, a"):
        replace_by_query(engine, "gold.upsell.y", query, {"dtRef": ["2024-02-01"]}, ["dtRef", "id"])

    assert engine.lake.open("gold.upsell.y").file_uris() == []


def test_rows_outside_of_the_replaced_partitions_are_refused(spark: Spark, tmp_path: Path) -> None:
    engine = on_spark(tmp_path, spark)
    write_deltalake(engine.lake.uri("silver.upsell.x"), pa.table({"id": ["a"]}))
    query = Query(parse_query("SELECT DATE'2024-02-02' AS dtRef, x.id AS id FROM silver.upsell.x AS x"))

    with pytest.raises(PermanentError, match="of the partitions that are replaced only, found some of 2024-02-02"):
        replace_by_query(engine, "gold.upsell.y", query, {"dtRef": ["2024-02-01"]})


def test_few_files_need_no_session(tmp_path: Path) -> None:
    never = Spark({"spark.master": "nowhere"}, {}, min_files=2)
    lake = Lake.at(tmp_path, SparkFiles(never))

    land(lake, [change("a", 1, 1)])
    land(lake, [change("a", 2, 2)])

    assert points(lake) == {"a": 2}


def test_features_and_reports_of_the_real_data_are_the_same(spark: Spark, tmp_path: Path) -> None:
    folder = data_folder()
    if folder is None:
        pytest.skip("no points-2024 dump beside the checkout; set UPSELL_TEST_DATA to its folder")
    events = read_dump(folder).events
    customers = sorted({event.customer for event in events if event.customer})
    history = History(events, [State(customer, START, n % 2, 0, None) for n, customer in enumerate(customers)])
    first, newest = min(history.by_day), max(history.by_day)
    dtrefs = [first + timedelta(days=1), first + timedelta(days=20), newest, newest + timedelta(days=1)]
    found = {}
    for engine in (embedded(tmp_path / "embedded"), on_spark(tmp_path / "spark", spark)):
        for name, rows in silver(history).items():
            write_deltalake(engine.lake.uri(name), rows)
        compute_daily(engine, dtrefs)
        found[type(engine)] = tables(engine.lake)

    assert found[SparkEngine]["feature_store.upsell.fs_pontos"].num_rows > 1_000
    assert_equal(found[SparkEngine], found[EmbeddedEngine])


def test_silver_made_anew_leaves_out_what_a_tombstone_has_deleted_and_bronze_not_yet(
    spark: Spark, tmp_path: Path
) -> None:
    engine = on_spark(tmp_path, spark)
    plain = Lake.at(tmp_path)
    land(plain, [change("gone", 1, 1), change("kept", 2, 2)])
    take_in_and_crash(plain, Change("transactions", "gone", "D", 3))
    assert points(plain) == {"gone": 1, "kept": 2}, "between the two commits"

    refresh(engine.lake, engine, SILVER["transacoes"])

    silver = engine.lake.open("silver.upsell.transacoes")
    assert all(path.startswith("spark-") for path in pa.table(silver.get_add_actions())["path"].to_pylist())
    assert engine.lake.rows(silver).to_table()["idTransacao"].to_pylist() == ["kept"]
