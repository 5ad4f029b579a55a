"""The simulated history has the shape of the real one; the numbers beside the bounds are those of the 2024 data."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from itertools import pairwise
from zoneinfo import ZoneInfo

import pytest
from sklearn.metrics import roc_auc_score  # type: ignore[import-untyped]

from upsell_assets.errors import PermanentError
from upsell_assets.source.database import Connection, connect, create_schema, event_days
from upsell_assets.source.simulator import simulate

pytestmark = pytest.mark.services

UNTIL = datetime(2024, 6, 12, 12, 30, tzinfo=UTC)  # a Wednesday, 9:30 local: a stream is on
DAYS = 200
Row = tuple[str, datetime, int]


@pytest.fixture(scope="module")
def history(server: str) -> Iterator[Connection]:
    """A database with a simulated history, read only."""
    with connect(server) as admin:
        admin.execute("CREATE DATABASE simulated")
        with connect(server, dbname="simulated") as connection:
            create_schema(connection)
            simulate(connection, customers=1200, days=DAYS, seed=7, until=UNTIL)
            yield connection
        admin.execute("DROP DATABASE simulated")


@pytest.fixture(scope="module")
def rows(history: Connection) -> list[Row]:
    """Customer, local time and points of every transaction, by time."""
    found = history.execute(
        'SELECT "idCustomer", "dtTransaction", "pointsTransaction" FROM transactions ORDER BY "dtTransaction"'
    ).fetchall()
    zone = ZoneInfo("America/Sao_Paulo")
    return [(who, at.replace(tzinfo=UTC).astimezone(zone).replace(tzinfo=None), points) for who, at, points in found]


@pytest.fixture(scope="module")
def bot(rows: list[Row]) -> str:
    return Counter(who for who, _, _ in rows).most_common(1)[0][0]


def test_a_tenth_of_the_customers_holds_most_rows_and_one_a_fifth(rows: list[Row]) -> None:
    counts = sorted(Counter(who for who, _, _ in rows).values(), reverse=True)

    assert 0.65 < sum(counts[: len(counts) // 10]) / len(rows) < 0.80  # 0.72
    assert 0.17 < counts[0] / len(rows) < 0.22  # 0.195


def test_a_fifth_of_the_rows_names_a_customer_without_a_row(history: Connection, bot: str) -> None:
    known = {who for (who,) in history.execute('SELECT "idCustomer" FROM customers')}
    owners = [who for (who,) in history.execute('SELECT "idCustomer" FROM transactions')]

    assert len(known) == 1200
    assert 0.17 < sum(who not in known for who in owners) / len(owners) < 0.23  # 0.198
    assert bot not in known


def test_products_have_their_shares_and_points(history: Connection) -> None:
    lines = history.execute(
        'SELECT "NameProduct", count(*), min("pointsTransaction"), max("pointsTransaction") '
        'FROM transactions_product JOIN transactions USING ("idTransaction") GROUP BY 1'
    ).fetchall()
    shares = {name: count / sum(row[1] for row in lines) for name, count, _, _ in lines}
    points = {name: (low, high) for name, _, low, high in lines if not name.startswith("Venda de Item: ")}

    assert 0.85 < shares["ChatMessage"] < 0.91  # 0.885
    assert 0.07 < shares["Lista de presença"] < 0.12  # 0.103
    assert points == {
        "ChatMessage": (1, 1),
        "Lista de presença": (50, 50),
        "Resgatar Ponei": (500, 500),
        "Presença Streak": (100, 100),
        "Troca de Pontos StreamElements": (-1000, -1000),
        "Daily Loot": (-250, -250),
        "Airflow Lover": (-50, -50),
        "R Lover": (-50, -50),
        "Churn_10pp": (10, 10),
        "Churn_5pp": (50, 50),
        "Churn_2pp": (100, 100),
    }
    assert sum(name.startswith("Venda de Item: ") for name in shares) == 5


def test_some_carts_have_several_lines_and_none_has_none(history: Connection) -> None:
    carts = Counter(cart for (cart,) in history.execute('SELECT "idTransaction" FROM transactions_product'))
    transactions = {cart for (cart,) in history.execute('SELECT "idTransaction" FROM transactions')}

    assert set(carts) == transactions
    assert set(carts.values()) == {1, 2, 3}


def test_balances_are_the_sums_of_points_and_never_were_negative(history: Connection, rows: list[Row]) -> None:
    sums: dict[str, int] = defaultdict(int)
    for who, _, points in rows:
        sums[who] += points
        assert sums[who] >= 0

    balances: dict[str, int] = dict(history.execute('SELECT "idCustomer", "PointsCustomer" FROM customers').fetchall())
    assert balances == {who: sums[who] for who in balances}


def test_email_flags_are_yes_no_or_unknown(history: Connection) -> None:
    assert {flag for (flag,) in history.execute('SELECT "flEmail" FROM customers')} == {0, 1, None}


def test_people_come_to_streams_on_weekdays(rows: list[Row], bot: str) -> None:
    # The last hour has visitors whatever the time.
    people = [at for who, at, _ in rows if who != bot]
    hours = Counter(at.hour for at in people)

    assert {at.weekday() for at in people} == {0, 1, 2, 3, 4}
    assert set(hours) <= {8, 9, 10, 11, 19, 20, 21, 22}
    assert hours[9] == max(hours.values())
    evening = sum(hours[hour] for hour in (19, 20, 21, 22)) / len(people)
    assert 0.12 < evening < 0.35  # 0.24


def test_only_the_bot_is_there_at_any_hour(rows: list[Row], bot: str) -> None:
    assert {at.hour for who, at, _ in rows if who == bot} == set(range(24))
    assert {who for who, at, _ in rows if at.weekday() >= 5} == {bot}


def test_messages_of_a_visit_are_a_minute_or_two_apart(rows: list[Row], bot: str) -> None:
    by_person: dict[str, list[datetime]] = defaultdict(list)
    for who, at, _ in rows:
        if who != bot:
            by_person[who].append(at)
    gaps = sorted(
        seconds
        for instants in by_person.values()
        for before, after in pairwise(instants)
        if (seconds := (after - before).total_seconds()) < 3600
    )

    assert 45 < gaps[len(gaps) // 2] < 150  # 96


def test_recency_foretells_churn(rows: list[Row]) -> None:
    days = {(who, at.date()) for who, at, _ in rows}
    for reference in (date(2024, 3, 4), date(2024, 4, 8), date(2024, 5, 6)):
        ages: dict[str, list[int]] = defaultdict(list)
        for who, day in days:
            ages[who].append((reference - day).days)
        population = {who: age for who, age in ages.items() if any(1 <= days_ago <= 28 for days_ago in age)}
        churned = [not any(-27 <= days_ago <= 0 for days_ago in age) for age in population.values()]
        recency = [min(days_ago for days_ago in age if days_ago > 0) for age in population.values()]

        assert 0.3 < sum(churned) / len(churned) < 0.6  # 0.38 to 0.58
        assert 0.7 < roc_auc_score(churned, recency) < 0.9  # 0.76


def test_history_covers_its_days_up_to_the_last_minutes(history: Connection, rows: list[Row]) -> None:
    last = UNTIL.date()
    until = datetime.fromisoformat("2024-06-12 09:30:00")

    assert event_days(history) == (last - timedelta(days=DAYS - 1), last)
    assert len({at.date() for _, at, _ in rows}) == DAYS
    assert timedelta(0) <= until - rows[-1][1] < timedelta(minutes=5)


def test_history_of_a_weekend_night_reaches_its_end(connection: Connection) -> None:
    until = datetime(2024, 6, 16, 6, 0, tzinfo=UTC)

    simulate(connection, customers=200, days=3, until=until)

    lately = connection.execute(
        'SELECT count(DISTINCT "idCustomer"), max("dtTransaction") FROM transactions WHERE "dtTransaction" > %s',
        [datetime.fromisoformat("2024-06-16 05:00:00")],
    ).fetchone()
    assert lately is not None
    assert lately[0] >= 2
    assert datetime.fromisoformat("2024-06-16 05:55:00") < lately[1] <= datetime.fromisoformat("2024-06-16 06:00:00")


def test_same_arguments_give_the_same_rows_and_another_seed_others(connection: Connection) -> None:
    def state(schema: str, seed: int) -> list[list[tuple[object, ...]]]:
        create_schema(connection, schema)
        simulate(connection, customers=60, days=20, seed=seed, until=UNTIL, schema=schema)
        return [
            connection.execute(f"SELECT * FROM {schema}.{table} ORDER BY 1").fetchall()
            for table in ("customers", "transactions", "transactions_product")
        ]

    first = state("first", 1)
    assert first == state("again", 1)
    assert first != state("other", 2)


@pytest.mark.parametrize("until", [UNTIL, datetime(2024, 6, 16, 12, 0, tzinfo=UTC)], ids=["weekday", "sunday"])
def test_smallest_history_is_one_customer_on_one_day(connection: Connection, until: datetime) -> None:
    counts = simulate(connection, customers=1, days=1, until=until)

    assert counts["customers"] == 1
    assert counts["transactions"] >= 1
    assert event_days(connection) == (until.date(), until.date())


def test_tables_with_rows_are_left_alone(connection: Connection) -> None:
    connection.execute("INSERT INTO customers VALUES ('ana', 1, 1)")

    with pytest.raises(PermanentError, match="schema public have rows already"):
        simulate(connection, customers=10, days=2)
    assert connection.execute("SELECT count(*) FROM transactions").fetchone() == (0,)


def test_sizes_below_one_are_refused(connection: Connection) -> None:
    with pytest.raises(PermanentError, match="0 customers over 5 days: both must be at least 1"):
        simulate(connection, customers=0, days=5)
