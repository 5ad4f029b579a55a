"""kill -9 of a capture, and of the PostgreSQL under it, at any moment, while clients write: bronze equals the database."""

from __future__ import annotations

import logging
import random
import signal
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from capture_place import Place, opened
from capture_process import DRAINED, LOADED, capturing
from capture_writers import fill, writing
from proof import CAPTURE_KILLS, HANDOVERS, LARGE, POSTGRES_KILLS

from upsell_assets.capture.landing import change_seq, read_state
from upsell_assets.errors import RetryableError
from upsell_assets.lake.store import ObjectStore
from upsell_assets.services.postgres import SUPERUSER, PostgresServer
from upsell_assets.services.state import State
from upsell_assets.source.database import connect

pytestmark = pytest.mark.services

Servers = tuple[str, ObjectStore]

LOG = logging.getLogger(__name__)
SEED = 20_240_613
ROUNDS = 10
"""Kills of one capture, before there is a new database with a new lake."""


@contextmanager
def filled(servers: Servers) -> Iterator[Place]:
    """A database with something to load."""
    with opened(*servers) as place:
        fill(place.owner)
        yield place


def catch_up(place: Place) -> None:
    """What the next start of the command does; the server takes a moment to let go of what a killed process held."""
    for attempt in range(10):
        try:
            place.capture().ensure_full_load()
            place.capture().drain()
        except RetryableError:
            if attempt == 9:
                raise
        else:
            return


def phase(place: Place) -> str:
    """What a capture was at when it was killed, judged by what it left in the lake."""
    state = read_state(place.store, f"{place.prefix}/_capture/state.json")
    if state is None or not state.handover:
        return "in the load"
    newest = max((Path(key).stem for key in place.keys("cdc/")), default="")
    return "before the watermark" if newest >= change_seq(state.confirmed_lsn, 0) else "in the stream"


def seconds_unharmed(servers: Servers) -> float:
    """How long a capture takes that nobody kills, from its beginning to its first drain."""
    with filled(servers) as place:
        with writing(place.owner_dsn, "unharmed"), capturing(place) as capture:
            began = time.monotonic()
            capture.wait_for(DRAINED)
            seconds = time.monotonic() - began
        catch_up(place)  # else the server may still hold the slot for it when the database is to go
    return seconds


def test_a_killed_capture_is_made_good_by_the_next(servers: Servers) -> None:
    wrong: list[str] = []
    phases: Counter[str] = Counter()
    reach = seconds_unharmed(servers)
    for first in range(0, CAPTURE_KILLS.count, ROUNDS):
        with filled(servers) as place:
            last = min(first + ROUNDS, CAPTURE_KILLS.count) - 1
            for kill in range(first, last + 1):
                seed = f"{SEED} {kill}"
                dice = random.Random(seed)
                with writing(place.owner_dsn, seed), capturing(place) as capture:
                    # The first one dies while it loads, the last one in the stream, others wherever the moment falls.
                    if kill == last:
                        capture.wait_for(LOADED)
                    time.sleep(dice.uniform(0, reach / 3 if kill == first else reach))
                at = phase(place)
                phases[at] += 1
                LOG.info("seed %s: killed %s", seed, at)
                # Some are killed in the load again and again, some before anybody made good what the last one left.
                if kill == last or (at != "in the load" and dice.random() < 0.4):
                    catch_up(place)
                    wrong += [f"seed {seed}: {difference}" for difference in place.differences()]
    LOG.info("%s", dict(phases))

    assert wrong == []
    assert phases["in the load"] > 0
    assert phases["in the stream"] + phases["before the watermark"] > 0


@contextmanager
def own_postgres(home: Path) -> Iterator[PostgresServer]:
    """A server that may be killed."""
    state = State.open(home)
    server = PostgresServer(state)
    with state.lock():
        server.start()
    try:
        yield server
    finally:
        with state.lock():
            server.stop()


def restart_after_a_kill(server: PostgresServer) -> None:
    """kill -9 of the first process, of which the others notice by themselves."""
    process = server.state.running(server.name)
    assert process
    process.signal(signal.SIGKILL)
    assert process.wait(10)
    with server.state.lock():
        server.start()


def test_a_killed_database_loses_nothing_for_the_lake(servers: Servers, tmp_path: Path) -> None:
    wrong: list[str] = []
    with own_postgres(tmp_path / "home") as server:
        cluster, store = server.dsn(SUPERUSER), servers[1]
        reach = seconds_unharmed((cluster, store))
        kill = 0
        while kill < POSTGRES_KILLS.count:
            with filled((cluster, store)) as place:
                for _ in range(min(ROUNDS // 2, POSTGRES_KILLS.count - kill)):
                    seed = f"{SEED} {kill}"
                    with writing(place.owner_dsn, seed), capturing(place) as capture:
                        time.sleep(random.Random(seed).uniform(0, reach))
                        restart_after_a_kill(server)
                        at = phase(place)
                        capture.forget_what_it_said()
                        capture.wait_for(DRAINED)
                    LOG.info("seed %s: database killed while the capture was %s", seed, at)
                    place.reconnect()
                    catch_up(place)
                    wrong += [f"seed {seed}: {difference}" for difference in place.differences()]
                    kill += 1

    assert wrong == []


def test_handover_under_four_writers_gives_the_same_table(servers: Servers) -> None:
    wrong: list[str] = []
    for run in range(HANDOVERS.count):
        seed = f"{SEED} {run}"
        with filled(servers) as place:
            with writing(place.owner_dsn, seed, writers=4) as committed:
                place.capture().ensure_full_load()
                place.capture().drain()
            place.capture().drain()
            LOG.info("seed %s: transactions of each writer %s", seed, committed)
            assert min(committed) > 0
            wrong += [f"seed {seed}: {difference}" for difference in place.differences()]

    assert wrong == []


def test_a_large_transaction_between_small_ones_arrives_whole(servers: Servers) -> None:
    count = LARGE.count
    with filled(servers) as place:
        place.capture().ensure_full_load()
        with connect(place.owner_dsn) as large, writing(place.owner_dsn, f"{SEED}"):
            with large.transaction():
                large.execute(
                    f"INSERT INTO transactions SELECT 'n' || i, 'nobody', now(), i FROM generate_series(1, {count}) i"
                )
                place.capture().drain()
                large.execute(
                    'UPDATE transactions SET "idTransaction" = \'m\' || "idTransaction" WHERE '
                    "\"idTransaction\" LIKE 'n%5'"
                )
                large.execute("DELETE FROM transactions WHERE \"idTransaction\" LIKE 'n%7'")
            place.capture().drain()
        place.capture().drain()
        taken = Counter(
            row["OP"] for row in place.changes("transactions") if row["idTransaction"].startswith(("n", "mn"))
        )

        assert place.differences() == []
        assert taken == {"I": count * 11 // 10, "D": count * 2 // 10}
