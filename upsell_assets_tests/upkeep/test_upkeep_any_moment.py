"""Upkeep at any moment: what is made incrementally afterwards is still what a recompute gives."""

from __future__ import annotations

import multiprocessing
import random
import time
from datetime import timedelta
from multiprocessing.connection import Connection
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from bronze_steps import SILVER, START, Bronze, Change, held, take_in
from deltalake.fs import DeltaStorageHandler
from hypothesis import given, settings
from hypothesis import strategies as st
from looked_after import FORGETFUL, look_after, named, on_disk, tables

from upsell_assets.aggregates import AGGREGATES, refresh_aggregates
from upsell_assets.bronze import upkeep
from upsell_assets.bronze.tables import tombstones_name
from upsell_assets.lake import files
from upsell_assets.lake.engines import Query
from upsell_assets.lake.engines.embedded import EmbeddedEngine
from upsell_assets.lake.tables import Lake
from upsell_assets.silver import changed
from upsell_assets.silver.refresh import refresh

ALL = list(SILVER)
KEYS = "abcd"
HOUR = timedelta(hours=1)
STEPS = st.sampled_from([*ALL, "aggregates", "upkeep", "upkeep"])


def change(chance: random.Random, seq: int) -> Change:
    """A change at its own hour: whatever arrives is newer than all that expired before."""
    table, key = chance.choice(["customers", "transactions", "transactions_product"]), chance.choice(KEYS)
    # A transaction's date is immutable, by the contract.
    at = f"2024-02-0{KEYS.index(key) + 1} 10:00:00"
    values = {
        "customers": (chance.randint(0, 3), chance.choice([0, 1, None])),
        "transactions": (chance.choice("xyz"), at, chance.randint(-2, 2)),
        "transactions_product": (chance.choice(KEYS), chance.choice(["ChatMessage", "R Lover"]), 1),
    }[table]
    op = chance.choice("IUUDD")
    return Change(table, key, op, seq, () if op == "D" else values, hour=seq)


def renew(lake: Lake, names: list[str]) -> None:
    for name in ALL:
        if name in names:
            refresh(lake, EmbeddedEngine(lake), SILVER[name])


def assert_equals_recompute(lake: Lake, bronze: Bronze) -> None:
    renew(lake, ALL)
    for name in ALL:
        assert held(lake, name) == bronze.silver(name), name
    refresh_aggregates(lake, EmbeddedEngine(lake), AGGREGATES)
    for name, aggregate in AGGREGATES.items():
        whole = EmbeddedEngine(lake).run(Query(aggregate.sql.tree)).read_all().to_pylist()
        kept = lake.rows(lake.open(name)).to_table().to_pylist()
        assert sorted(map(repr, map(_in_order, kept))) == sorted(map(repr, map(_in_order, whole))), name


def _in_order(row: dict[str, object]) -> list[object]:
    return [row[name] for name in sorted(row)]


@settings(max_examples=8, deadline=None)
@given(st.data(), st.randoms(use_true_random=False))
def test_silver_and_aggregates_equal_a_recompute(data: st.DataObject, chance: random.Random) -> None:
    with TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr(upkeep, "SMALL_FILES", 2)
        lake, bronze, seq = Lake.at(Path(folder)), Bronze(), 0
        take_in(lake)
        for size in data.draw(st.lists(st.integers(1, 6), min_size=1, max_size=6)):
            batch = [change(chance, seq + number) for number in range(size)]
            seq += size
            take_in(lake, *batch)
            bronze.take(batch)
            for step in data.draw(st.lists(STEPS, max_size=5)):
                if step == "upkeep":
                    look_after(lake, START + seq * HOUR)
                elif step != "aggregates":
                    renew(lake, [step, "transacao_produto"])
                elif all(lake.exists(table.name) for table in SILVER.values()):
                    refresh_aggregates(lake, EmbeddedEngine(lake), AGGREGATES)
        assert_equals_recompute(lake, bronze)

        look_after(lake, START + seq * HOUR)

        assert {name: on_disk(lake, name) for name in tables(lake)} == {
            name: named(lake, name) for name in tables(lake)
        }
        assert lake.rows(lake.open(changed.NAME)).count_rows() == 0
        for contract in FORGETFUL.values():
            assert lake.rows(lake.open(tombstones_name(contract))).count_rows() == 0
        assert_equals_recompute(lake, bronze)


def test_a_delete_reaches_silver_before_it_expires(local_lake: Lake) -> None:
    take_in(local_lake, Change("customers", "a", "I", 1, (1, None)))
    renew(local_lake, ALL)
    take_in(local_lake, Change("customers", "a", "D", 2))

    look_after(local_lake, START + HOUR)
    renew(local_lake, ALL)

    assert held(local_lake, "cliente") == []


def filled(lake: Lake, chance: random.Random, batches: int) -> Bronze:
    """A history of many small commits, some of which silver and the aggregates have taken in."""
    bronze = Bronze()
    for number in range(batches):
        batch = [change(chance, number * 6 + row) for row in range(6)]
        take_in(lake, *batch)
        bronze.take(batch)
        if number % 4 == 0:
            assert_equals_recompute(lake, bronze)
    return bronze


def write(folder: str, seed: int, batches: int) -> None:
    chance, lake = random.Random(seed), Lake.at(Path(folder))
    for number in range(batches):
        take_in(lake, *(change(chance, 1000 + number * 6 + row) for row in range(6)))


def read(folder: str, done: Connection) -> None:
    lake = Lake.at(Path(folder))
    while not done.poll():
        renew(lake, ALL)
        refresh_aggregates(lake, EmbeddedEngine(lake), AGGREGATES)


def test_beside_readers_and_writers_it_deletes_nothing_that_they_need(local_lake: Lake) -> None:
    long_ago = time.time_ns() - 2 * 3600 * 10**9
    with pytest.MonkeyPatch.context() as past:
        past.setattr(files.time, "time_ns", lambda: long_ago)
        bronze = filled(local_lake, random.Random(7), 12)
    context = multiprocessing.get_context("spawn")
    stop, stopped = context.Pipe()
    writer = context.Process(target=write, args=(local_lake.root, 1, 12))
    reader = context.Process(target=read, args=(local_lake.root, stopped))
    writer.start()
    reader.start()
    deleted = 0
    while writer.is_alive():
        deleted += sum(one.files for one in look_after(local_lake, START, keep=HOUR).values())
        writer.join(0.05)
    stop.send(True)
    reader.join()
    written = random.Random(1)
    for number in range(12):
        bronze.take([change(written, 1000 + number * 6 + row) for row in range(6)])

    assert (writer.exitcode, reader.exitcode) == (0, 0)
    assert deleted > 20
    assert_equals_recompute(local_lake, bronze)


def look_after_slowly(folder: str, progress: Connection) -> None:
    """Upkeep that tells of each file that it is about to delete, and waits to be let go on."""
    delete = DeltaStorageHandler.delete_file

    def told(self: DeltaStorageHandler, path: str) -> None:
        progress.send(path)
        delete(self, path)

    DeltaStorageHandler.delete_file = told  # type: ignore[method-assign]
    look_after(Lake.at(Path(folder)), START + 1000 * HOUR)
    progress.send(None)


def test_killed_at_any_moment_it_does_no_harm(local_lake: Lake) -> None:
    chance = random.Random(11)
    bronze = filled(local_lake, chance, 12)
    context = multiprocessing.get_context("spawn")
    for number in range(4):
        hear, tell = context.Pipe(duplex=False)
        process = context.Process(target=look_after_slowly, args=(local_lake.root, tell))
        process.start()
        for _ in range(chance.randint(1, 12)):
            if hear.recv() is None:
                break
        process.kill()
        process.join()
        batch = [change(chance, 2000 + number * 6 + row) for row in range(6)]
        take_in(local_lake, *batch)
        bronze.take(batch)
        assert_equals_recompute(local_lake, bronze)

    look_after(local_lake, START + 3000 * HOUR)

    assert all(on_disk(local_lake, name) == named(local_lake, name) for name in tables(local_lake))
    assert_equals_recompute(local_lake, bronze)
