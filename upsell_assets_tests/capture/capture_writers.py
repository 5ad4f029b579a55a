"""Clients of the points system that write without pause: what capture has to keep up with in the proofs.

Few keys, so that rows are deleted, inserted again, and take each other's keys all the time; transactions that overlap,
or are rolled back in part or whole; long texts that most updates leave as they are; now and then a truncate.
"""

from __future__ import annotations

import random
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import psycopg

from upsell_assets.errors import RetryableError
from upsell_assets.source.database import Connection, connect

KEYS = 300
LONG = 6_000
"""Characters of a text that is stored apart from its row."""

_CHANGES = {
    """INSERT INTO transactions VALUES (%(key)s, %(other)s, clock_timestamp(), %(points)s)
       ON CONFLICT ("idTransaction") DO UPDATE SET "pointsTransaction" = excluded."pointsTransaction" """: 60,
    """INSERT INTO transactions SELECT %(key)s || '-' || i, %(other)s, now(), i FROM generate_series(1, 40) i
       ON CONFLICT DO NOTHING""": 5,
    "INSERT INTO customers VALUES (%(key)s, %(points)s, NULL) ON CONFLICT DO NOTHING": 30,
    "INSERT INTO transactions_product VALUES (%(key)s, %(other)s, %(text)s, 1) ON CONFLICT DO NOTHING": 30,
    'UPDATE customers SET "PointsCustomer" = "PointsCustomer" + %(points)s WHERE "idCustomer" = %(key)s': 60,
    'UPDATE customers SET "idCustomer" = %(other)s WHERE "idCustomer" = %(key)s': 15,
    'UPDATE transactions_product SET "QuantityProduct" = %(points)s WHERE "idTransactionCart" = %(key)s': 40,
    'UPDATE transactions_product SET "idTransactionCart" = %(other)s WHERE "idTransactionCart" = %(key)s': 15,
    'UPDATE transactions_product SET "NameProduct" = %(text)s WHERE "idTransactionCart" = %(key)s': 5,
    'DELETE FROM customers WHERE "idCustomer" = %(key)s': 10,
    'DELETE FROM transactions WHERE "idCustomer" = %(key)s': 10,
    'DELETE FROM transactions_product WHERE "idTransactionCart" = %(key)s': 10,
    "TRUNCATE transactions_product": 1,
    "TRUNCATE customers, transactions": 1,
}
_IN_EACH_OTHERS_WAY = (
    psycopg.errors.UniqueViolation,
    psycopg.errors.DeadlockDetected,
    psycopg.errors.LockNotAvailable,
)


def fill(connection: Connection) -> None:
    """What stands before anything is captured: of each kind some rows, and long texts that are stored apart."""
    connection.execute('ALTER TABLE transactions_product ALTER COLUMN "NameProduct" SET STORAGE EXTERNAL')
    connection.execute(f"INSERT INTO customers SELECT i, i, mod(i, 2) FROM generate_series(1, {KEYS}, 2) i")
    connection.execute(
        f"INSERT INTO transactions SELECT 'old-' || i, mod(i, {KEYS}), now(), i FROM generate_series(1, 3000) i"
    )
    connection.execute(
        f"INSERT INTO transactions_product SELECT i, i, repeat(chr(65 + mod(i, 26)), {LONG}), 1 "
        f"FROM generate_series(1, {KEYS}, 2) i"
    )


@contextmanager
def writing(dsn: str, seed: str, *, writers: int = 3) -> Iterator[list[int]]:
    """Writers at work as long as the context lasts; yields how many transactions each has committed."""
    stop, committed = threading.Event(), [0] * writers
    threads = [
        threading.Thread(target=_write, args=(dsn, random.Random(f"{seed} {number}"), stop, committed, number))
        for number in range(writers)
    ]
    for thread in threads:
        thread.start()
    try:
        yield committed
    finally:
        stop.set()
        for thread in threads:
            thread.join()


def _write(dsn: str, dice: random.Random, stop: threading.Event, committed: list[int], number: int) -> None:
    while not stop.is_set():
        try:
            with connect(dsn) as connection:
                connection.execute("SET lock_timeout TO '500ms'")
                while not stop.is_set():
                    committed[number] += _transaction(connection, dice, stop)
        except (RetryableError, psycopg.OperationalError):
            stop.wait(0.05)  # the server is gone, or not back yet


def _transaction(connection: Connection, dice: random.Random, stop: threading.Event) -> bool:
    """A few changes, with pauses in which others commit; whether they were committed."""
    rolled_back = dice.random() < 0.1
    try:
        with connection.transaction(force_rollback=rolled_back):
            for _ in range(dice.randint(1, 4)):
                with connection.transaction(force_rollback=dice.random() < 0.1):
                    _change(connection, dice)
                if dice.random() < 0.3:
                    stop.wait(dice.random() / 50)
    except _IN_EACH_OTHERS_WAY:
        return False
    return not rolled_back


def _change(connection: Connection, dice: random.Random) -> None:
    [statement] = dice.choices(list(_CHANGES), list(_CHANGES.values()))
    key, other = dice.choices(range(1, KEYS + 1), k=2)
    text = dice.choice("abcdef") * dice.choice([10, LONG])
    connection.execute(
        statement.encode(), {"key": str(key), "other": str(other), "points": dice.randint(-9, 99), "text": text}
    )
