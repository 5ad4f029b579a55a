from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from upsell_assets.errors import PermanentError, RetryableError
from upsell_assets.source.database import Connection, connect, create_roles
from upsell_assets.source.live import LiveActivity
from upsell_assets.source.simulator import simulate

pytestmark = pytest.mark.services

Table = dict[str, tuple[Any, ...]]


def table(connection: Connection, name: str) -> Table:
    return {row[0]: row[1:] for row in connection.execute(f"SELECT * FROM {name}")}


@pytest.fixture
def filled(connection: Connection) -> Connection:
    simulate(connection, customers=150, days=30, until=datetime.now(UTC))
    return connection


def steps(live: LiveActivity, count: int) -> Counter[str]:
    done: Counter[str] = Counter()
    for _ in range(count):
        done.update(live.step())
    return done


def test_app_role_can_do_all_that_happens(filled: Connection, dsn: Callable[..., str]) -> None:
    create_roles(filled, capture_role="live_capture", capture_password="a", app_role="live_app", app_password="b")

    with LiveActivity(dsn(user="live_app", password="b"), seed=3) as live:
        done = steps(live, 60)

    assert all(done[kind] > 0 for kind in ("visit", "new_customer", "email", "late", "delete", "correction"))


def test_counts_are_what_happened_to_the_tables(filled: Connection) -> None:
    customers, transactions = table(filled, "customers"), table(filled, "transactions")
    started = datetime.now(UTC).replace(tzinfo=None)

    done = steps(LiveActivity(filled, seed=5), 60)

    now_customers, now_transactions = table(filled, "customers"), table(filled, "transactions")
    new = [row for key, row in now_transactions.items() if key not in transactions]
    late = [at for _, at, _ in new if at < started - timedelta(seconds=1)]
    changed = [key for key, row in transactions.items() if now_transactions.get(key, row)[2] != row[2]]
    assert len(now_customers) - len(customers) == done["new_customer"]
    # A burst may delete or correct a row of its own, so the counts bound what is seen.
    assert 0 < len(transactions.keys() - now_transactions.keys()) <= done["delete"]
    assert 0 < len(changed) <= done["correction"]
    assert 0 < len(late) <= done["late"]
    assert min(late) > started - timedelta(days=10, minutes=1)
    assert len(new) > done["visit"]
    assert {row[:2] for key, row in transactions.items() if key in now_transactions} == {
        row[:2] for key, row in now_transactions.items() if key in transactions
    }, "a correction moves points, never the customer or the date"


def test_balances_stay_the_sums_of_points(filled: Connection) -> None:
    steps(LiveActivity(filled, seed=8), 60)

    sums: Counter[object] = Counter()
    for owner, _, points in table(filled, "transactions").values():
        sums[owner] += points
    assert {who: row[0] for who, row in table(filled, "customers").items()} == {
        who: sums[who] for who in table(filled, "customers")
    }


def test_deleted_transactions_leave_no_lines_and_others_keep_theirs(filled: Connection) -> None:
    steps(LiveActivity(filled, seed=2), 60)

    carts = {row[0] for row in table(filled, "transactions_product").values()}
    assert carts == set(table(filled, "transactions"))


def test_empty_tables_get_their_first_customer(connection: Connection) -> None:
    LiveActivity(connection, seed=1).step()

    assert table(connection, "customers")
    assert table(connection, "transactions")


def test_same_seed_goes_on_with_new_ids(connection: Connection) -> None:
    for _ in range(2):
        steps(LiveActivity(connection, seed=1), 5)

    assert len(table(connection, "transactions")) > 10


def test_two_applications_work_side_by_side(filled: Connection, dsn: Callable[..., str]) -> None:
    def work(seed: int) -> Counter[str]:
        with LiveActivity(dsn(), seed=seed) as live:
            return steps(live, 25)

    with ThreadPoolExecutor() as threads:
        done = list(threads.map(work, (1, 2)))

    assert all(counts["visit"] >= 25 for counts in done)
    carts = {row[0] for row in table(filled, "transactions_product").values()}
    assert carts == set(table(filled, "transactions"))


def test_run_steps_until_it_is_stopped(connection: Connection) -> None:
    stop = threading.Event()
    seen: list[dict[str, int]] = []

    def on_step(done: dict[str, int]) -> None:
        seen.append(done)
        if len(seen) == 3:
            stop.set()

    LiveActivity(connection, seed=1).run(stop, rate=1000, on_step=on_step)

    assert len(seen) == 3
    assert all(done["visit"] >= 1 for done in seen)


def test_rate_must_be_positive(connection: Connection) -> None:
    with pytest.raises(PermanentError, match="a rate of 0 steps a second; it must be above 0"):
        LiveActivity(connection).run(threading.Event(), rate=0)


def test_missing_tables_are_named(connection: Connection) -> None:
    with pytest.raises(PermanentError, match=r"live activity: .*nowhere.transactions.* does not exist"):
        LiveActivity(connection, schema="nowhere").step()


def test_lost_connection_is_retryable_and_the_next_step_connects_anew(
    filled: Connection, dsn: Callable[..., str]
) -> None:
    with LiveActivity(dsn(), seed=1) as live:
        live.step()
        filled.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
            "WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )

        with pytest.raises(RetryableError, match="source database: live activity: "):
            live.step()
        assert live.step()["visit"] >= 1


def test_connection_that_was_given_stays_open(dsn: Callable[..., str], connection: Connection) -> None:
    with connect(dsn()) as mine:
        with LiveActivity(mine) as live:
            live.step()
        assert not mine.closed
