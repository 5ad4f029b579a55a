"""Activity in the points system as it happens: small bursts of what its application would do.

Here: inserts, balance updates, deletes, late rows and corrections, each in a transaction of its own, through the
rights of the application's role. Not here: history (`simulator`). Balances stay what they are in the simulated
history: the sum of the customer's points.
"""

from __future__ import annotations

import random
import threading
from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from types import TracebackType
from typing import Any, LiteralString
from uuid import uuid4

from psycopg import sql

from upsell_assets.errors import PermanentError
from upsell_assets.source.database import TABLES, Connection, connect, database_errors
from upsell_assets.source.products import (
    ATTENDANCE,
    ATTENDANCE_POINTS,
    CHAT_MESSAGE,
    CHAT_POINTS,
    ITEMS,
    PRODUCTS,
)

_PEOPLE = 500  # the busiest of the last weeks, among whom visitors are drawn
_RECENT = timedelta(days=28)
_LATE = timedelta(days=10)

Line = tuple[str, int]
"""A product's name and quantity."""


class LiveActivity:
    """One application at work; `seed` decides what it does, while ids are always new.

    Give a DSN, and the connection is opened at the first step and closed by `close` (or at the end of a `with`
    block); or give a connection in autocommit mode, which stays yours.
    """

    def __init__(self, dsn_or_connection: str | Connection, *, seed: int = 42, schema: str = "public") -> None:
        self._source = dsn_or_connection
        self._opened: Connection | None = None
        self._random = random.Random(seed)  # noqa: S311 (a simulation)
        self._tables = {table: sql.Identifier(schema, table) for table in TABLES}
        self._people: list[str] = []

    def __enter__(self) -> LiveActivity:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection, if it was opened here."""
        if self._opened is not None:
            self._opened.close()
            self._opened = None

    def step(self) -> dict[str, int]:
        """One burst: a few visits, and now and then something rarer.

        Returns:
            How often each thing happened: visit, new_customer, email, late, delete, correction.

        Raises:
            PermanentError: a table is missing, or the role may not write it.
            RetryableError: the database cannot be reached; the next step connects anew, if a DSN was given.
        """
        done: Counter[str] = Counter()
        rare: tuple[tuple[str, float, Callable[[], bool]], ...] = (
            ("new_customer", 0.20, self._new_customer),
            ("email", 0.15, self._email),
            ("late", 0.15, self._late),
            ("delete", 0.10, self._delete),
            ("correction", 0.10, self._correction),
        )
        with database_errors("live activity"):
            if not self._people:
                self._people = self._find_people() or [self._register()]
            for _ in range(self._random.randint(1, 4)):
                done["visit"] += self._visit()
            for name, chance, act in rare:
                if self._random.random() < chance:
                    done[name] += act()
        return dict(done)

    def run(self, stop: threading.Event, rate: float, on_step: Callable[[dict[str, int]], None] | None = None) -> None:
        """Step at most `rate` times a second until `stop` is set, and report each step to `on_step`.

        Raises:
            PermanentError: `rate` is not above 0; else as `step`.
            RetryableError: as `step`; run again to go on.
        """
        if rate <= 0:
            raise PermanentError(f"live activity: a rate of {rate} steps a second; it must be above 0.")
        while not stop.is_set():
            done = self.step()
            if on_step:
                on_step(done)
            stop.wait(1 / rate)

    @property
    def _connection(self) -> Connection:
        if not isinstance(self._source, str):
            return self._source
        if self._opened is None or self._opened.closed:
            self._opened = connect(self._source)
        return self._opened

    def _visit(self) -> bool:
        customer = self._somebody()
        now = datetime.now(UTC)
        if self._random.random() < 0.5:
            self._insert(customer, now, ATTENDANCE_POINTS, [(ATTENDANCE, 1)])
        for _ in range(self._random.randint(1, 4)):
            self._insert(customer, now, CHAT_POINTS, [(CHAT_MESSAGE, 1)])
        if self._random.random() < 0.2:
            product = self._random.choices(PRODUCTS, [product.weight for product in PRODUCTS])[0]
            if self._can_afford(customer, product.points):
                self._insert(customer, now, product.points, [(product.name, 1)])
        if self._random.random() < 0.1:
            pieces = [(item, self._random.randint(1, 3)) for item in self._random.sample(ITEMS, 2)]
            points = sum(item.points * quantity for item, quantity in pieces)
            self._insert(customer, now, points, [(item.name, quantity) for item, quantity in pieces])
        return True

    def _new_customer(self) -> bool:
        self._insert(self._register(), datetime.now(UTC), ATTENDANCE_POINTS, [(ATTENDANCE, 1)])
        return True

    def _email(self) -> bool:
        """The customer changes the consent to e-mail; who never chose one gives it."""
        flipped = self._execute(
            'UPDATE {customers} SET "flEmail" = 1 - coalesce("flEmail", 0) WHERE "idCustomer" = %s', [self._somebody()]
        )
        return flipped == 1

    def _late(self) -> bool:
        """A row of the past arrives: of an outage, or of another system."""
        past = datetime.now(UTC) - self._random.random() * _LATE
        self._insert(self._somebody(), past, CHAT_POINTS, [(CHAT_MESSAGE, 1)])
        return True

    def _delete(self) -> bool:
        """A transaction was a mistake, of just now or of ten days ago."""
        age = self._random.choice([timedelta(minutes=self._random.random() * 60), _LATE])
        with self._connection.transaction():
            if (found := self._find_transaction(age)) is None:
                return False
            transaction, customer, points = found
            self._execute('DELETE FROM {transactions_product} WHERE "idTransaction" = %s', [transaction])
            self._execute('DELETE FROM {transactions} WHERE "idTransaction" = %s', [transaction])
            self._move_balance(customer, -points)
        return True

    def _correction(self) -> bool:
        """The points of a transaction were wrong."""
        with self._connection.transaction():
            if (found := self._find_transaction(self._random.random() * _LATE)) is None:
                return False
            transaction, customer, points = found
            change = 1 + abs(points) // 10
            self._execute(
                'UPDATE {transactions} SET "pointsTransaction" = "pointsTransaction" + %s WHERE "idTransaction" = %s',
                [change, transaction],
            )
            self._move_balance(customer, change)
        return True

    def _find_transaction(self, age: timedelta) -> tuple[str, str, int] | None:
        """The first one since that long ago, locked; None if nothing happened since."""
        row = self._fetch(
            'SELECT "idTransaction", "idCustomer", coalesce("pointsTransaction", 0) FROM {transactions} '
            'WHERE "dtTransaction" >= %s ORDER BY "dtTransaction" LIMIT 1 FOR UPDATE',
            [_naive(datetime.now(UTC) - age)],
        )
        return (row[0], row[1], row[2]) if row else None

    def _insert(self, customer: str, moment: datetime, points: int, lines: list[Line]) -> None:
        transaction = str(uuid4())
        with self._connection.transaction():
            self._execute(
                'INSERT INTO {transactions} ("idTransaction", "idCustomer", "dtTransaction", "pointsTransaction") '
                "VALUES (%s, %s, %s, %s)",
                [transaction, customer, _naive(moment), points],
            )
            for name, quantity in lines:
                self._execute(
                    "INSERT INTO {transactions_product} "
                    '("idTransactionCart", "idTransaction", "NameProduct", "QuantityProduct") VALUES (%s, %s, %s, %s)',
                    [str(uuid4()), transaction, name, quantity],
                )
            self._move_balance(customer, points)

    def _can_afford(self, customer: str, points: int) -> bool:
        row = self._fetch('SELECT coalesce("PointsCustomer", 0) FROM {customers} WHERE "idCustomer" = %s', [customer])
        return points >= 0 or (row is not None and row[0] + points >= 0)

    def _move_balance(self, customer: str, points: int) -> None:
        self._execute(
            'UPDATE {customers} SET "PointsCustomer" = coalesce("PointsCustomer", 0) + %s WHERE "idCustomer" = %s',
            [points, customer],
        )

    def _register(self) -> str:
        customer = str(uuid4())
        self._execute(
            'INSERT INTO {customers} ("idCustomer", "PointsCustomer", "flEmail") VALUES (%s, 0, %s)',
            [customer, self._random.choice([0, 1])],
        )
        self._people.append(customer)
        return customer

    def _somebody(self) -> str:
        """A customer; the busier come more often, as one over the rank."""
        weights = [1 / rank for rank in range(1, len(self._people) + 1)]
        return self._random.choices(self._people, weights)[0]

    def _find_people(self) -> list[str]:
        """The busiest of late; of a history that ended before, any customers."""
        with self._connection.cursor() as cursor:
            cursor.execute(
                self._sql(
                    'SELECT "idCustomer" FROM {transactions} WHERE "dtTransaction" > %s AND "idCustomer" IS NOT NULL '
                    "GROUP BY 1 ORDER BY count(*) DESC, 1 LIMIT %s"
                ),
                [_naive(datetime.now(UTC) - _RECENT), _PEOPLE],
            )
            if not cursor.rowcount:
                cursor.execute(self._sql('SELECT "idCustomer" FROM {customers} ORDER BY 1 LIMIT %s'), [_PEOPLE])
            return [customer for (customer,) in cursor]

    def _execute(self, statement: LiteralString, values: list[Any]) -> int:
        return self._connection.execute(self._sql(statement), values).rowcount

    def _fetch(self, statement: LiteralString, values: list[Any]) -> tuple[Any, ...] | None:
        return self._connection.execute(self._sql(statement), values).fetchone()

    def _sql(self, statement: LiteralString) -> sql.Composed:
        return sql.SQL(statement).format(**self._tables)


def _naive(moment: datetime) -> datetime:
    return moment.astimezone(UTC).replace(tzinfo=None)
