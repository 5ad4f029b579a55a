"""Several processes that merge one table on S3 at once, while another compacts it: one wins, the others look again."""

from __future__ import annotations

import logging
import multiprocessing
import random
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from multiprocessing.pool import Pool
from multiprocessing.synchronize import Event
from typing import TYPE_CHECKING

import pytest
from arrivals import arrive, holds, take
from histories import CONTRACTS, Change, End, Load, Step, dated_values, law
from proof import FOUR_WRITERS, TWO_WRITERS, Claim

from upsell_assets.bronze import upkeep
from upsell_assets.contracts import Contract
from upsell_assets.errors import RetryableError
from upsell_assets.lake.lakehouse import Lakehouse
from upsell_assets.lake.tables import Lake
from upsell_assets.settings import Settings

if TYPE_CHECKING:
    from conftest import OpenLakehouse

LOG = logging.getLogger(__name__)
SEED = 20_240_613
CHANGES, BATCHES = 64, 8

_stop: Event
_lake: Lake


def begin(settings: Settings, stop: Event) -> None:
    """What each process keeps; in its lake a partition of two files is worth compacting."""
    global _lake, _stop
    upkeep.SMALL_FILES = 2
    _lake, _stop = Lakehouse(settings).lake, stop


def write(of: Contract, steps: list[Step]) -> int:
    """One writer: its steps one after another, each repeated until it is done; how often it was told to come again."""
    again = 0
    for step in steps:
        for attempt in count():
            try:
                arrive(_lake, of, step)
            except RetryableError:
                assert attempt < 50
                again += 1
            else:
                break
    return again


def keep_tidy(of: Contract) -> int:
    """Compact until told to stop; how many files went."""
    gone = 0
    while not _stop.is_set():
        gone += sum(done.replaced for done in upkeep.tidy(_lake, of).values())
    return gone


def contested(of: Contract, rounds: random.Random, writers: int) -> tuple[list[Change], Load, list[list[Step]]]:
    """Changes of few keys, a load that deletes what is older, and each writer's steps: with some of the others' changes."""
    changes = []
    for seq in range(CHANGES):
        key, op = (rounds.choice("abcdef"),), rounds.choice("IUD")
        values = () if op == "D" and rounds.random() < 0.5 else dated_values(of, key, f"{seq}", seq)
        changes.append(Change(key, op, None, f"{seq:04d}", "raw/s/cdc/t/f", seq, values))
    load = Load("L", None, f"{rounds.randrange(CHANGES // 2):04d}", ended=True)
    steps: list[list[Step]] = []
    batches = BATCHES // writers
    for writer in range(writers):
        mine = [*changes[writer::writers], *rounds.sample(changes, 4)]
        rounds.shuffle(mine)
        steps.append([mine[batch::batches] for batch in range(batches)])
    rounds.choice(steps).insert(rounds.randrange(batches + 1), End(load))
    return changes, load, steps


@contextmanager
def processes(settings: Settings, number: int) -> Iterator[tuple[Pool, Event]]:
    context = multiprocessing.get_context("forkserver")  # imports what they need once
    context.set_forkserver_preload(["upsell_assets.bronze.upkeep", "upsell_assets.lake.lakehouse"])
    stop = context.Event()
    with context.Pool(number, begin, (settings, stop)) as pool:
        yield pool, stop
        pool.close()
        pool.join()


@pytest.mark.parametrize(("writers", "claim"), [(2, TWO_WRITERS), (4, FOUR_WRITERS)], ids=["2", "4"])
def test_processes_that_merge_while_another_tidies_lose_and_repeat_nothing(
    open_lakehouse: OpenLakehouse, writers: int, claim: Claim
) -> None:
    lakehouse = open_lakehouse()
    rounds = random.Random(SEED)
    wrong, gone, again = [], 0, 0
    with processes(lakehouse.settings, writers + 1) as (pool, stop):
        for number in range(claim.count):
            of = CONTRACTS["immutable moment" if number % 2 else "change_seq"].model_copy(
                update={"table": f"t{number}"}
            )
            changes, load, steps = contested(of, rounds, writers)
            take(lakehouse.lake, of)
            stop.clear()
            tidying = pool.apply_async(keep_tidy, (of,))
            writing = [pool.apply_async(write, (of, mine)) for mine in steps]
            again += sum(writer.get() for writer in writing)
            stop.set()
            gone += tidying.get()
            if holds(lakehouse.lake, of) != law(of).oracle(changes, [load]):
                wrong.append(number)
    LOG.info("seed %s: %s files compacted away, %s merges told to come again", SEED, gone, again)

    assert wrong == []
    assert gone > 0
