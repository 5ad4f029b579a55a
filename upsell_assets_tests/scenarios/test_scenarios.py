"""The graph that runs itself, by a real daemon: each happening gives the least set of runs that makes all current.

The scenarios share one lake and go on where the one before stopped. After each of them every table equals what a full
rebuild of what has landed gives. Files land as other producers write them; what our own capture does is in end_to_end.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import replace
from datetime import UTC, date, datetime, time, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from bronze_steps import SILVER
from daily.daily_tables import DailyTables
from points_files import LOCAL, changed, history, land_changes, new_lakehouse, today, transaction
from real_daemon import Made, RealDaemon

from upsell_assets.lake.lakehouse import Lakehouse
from upsell_assets.services.embedded import Running
from upsell_assets.silver.refresh import refresh
from upsell_assets.silver.touched import WINDOWS

pytestmark = [pytest.mark.services, pytest.mark.timeout(1500)]

WINDOWS_LANDED = 200
LANDED = datetime.now(UTC).date()
FIRST_LANDING = LANDED - timedelta(WINDOWS_LANDED)
FIRST_DTREF = today() - timedelta(30)
HISTORY_DAYS = 60

FEATURES = ("fs_geral", "fs_pontos", "fs_transacoes", "fs_dia_horario")
REPORTS = ("daily_report", "monthly_report", "churn_report")
CHURN, SCORES = ("model.upsell.churn", None), ("feature_store.upsell.models", str(today()))


class Landings:
    """What lands, with positions that grow."""

    def __init__(self, lakehouse: Lakehouse) -> None:
        self.lakehouse = lakehouse
        self.position = 0

    def land(self, table: str, rows: Iterable[dict[str, Any]], day: date, operation: str = "I") -> None:
        """A file in the folder of a landing day."""
        changes = []
        for row in rows:
            self.position += 1
            changes.append(changed(row, f"{self.position:012}", operation))
        land_changes(self.lakehouse, table, changes, f"file-{self.position}", day)


@pytest.fixture(scope="module")
def lakehouse(services: Running) -> Lakehouse:
    return new_lakehouse(
        services,
        source_dsn=None,
        first_day=FIRST_DTREF,
        first_landing_day=FIRST_LANDING,
        sensor_seconds=2,
        sweep_minutes=1,
    )


@pytest.fixture(scope="module")
def landings(lakehouse: Lakehouse) -> Landings:
    """Sixty days of events, in two hundred files of as many landing days."""
    landings, points = Landings(lakehouse), history(days=HISTORY_DAYS, customers=40)
    events, lines = points.tables["transactions"], points.tables["transactions_product"]
    share = -(-len(events) // WINDOWS_LANDED)
    for number in range(WINDOWS_LANDED):
        day, part = FIRST_LANDING + timedelta(number), slice(number * share, (number + 1) * share)
        if events[part]:
            landings.land("transactions", events[part], day)
            landings.land("transactions_product", lines[part], day)
    landings.land("customers", points.tables["customers"], FIRST_LANDING + timedelta(7))
    return landings


@pytest.fixture(scope="module")
def daemon(lakehouse: Lakehouse, landings: Landings, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealDaemon]:
    """Everything that had landed before the first start has flowed through."""
    daemon = RealDaemon(lakehouse, tmp_path_factory.mktemp("scenarios"))
    daemon.start()
    try:
        daemon.settle()
        yield daemon
    finally:
        daemon.stop()


def table(name: str) -> str:
    return f"{'feature_store' if name in FEATURES else 'gold'}.upsell.{name}"


def newest(name: str) -> date:
    """The last dtRef that a table has: events reach until yesterday."""
    return today() if name in FEATURES else today() - timedelta(1)


def dtrefs(name: str, first: date, last: date) -> set[Made]:
    first, last = max(first, FIRST_DTREF), min(last, newest(name))
    return {(table(name), str(first + timedelta(number))) for number in range((last - first).days + 1)}


def that_see(*events: date) -> set[Made]:
    """The partitions of features and reports that see an event of these local days."""
    found: set[Made] = set()
    for name in (*FEATURES, *REPORTS):
        nearest, farthest = WINDOWS[table(name)]
        for day in events:
            last = date.max if farthest is None else day + timedelta(farthest)
            found |= dtrefs(name, day + timedelta(nearest), last)
    return found


def once(made: Iterable[Made]) -> Counter[Made]:
    return Counter(set(made))


def silver(*names: str) -> set[Made]:
    return {(f"silver.upsell.{name}", None) for name in names}


def rows_of(lakehouse: Lakehouse, name: str) -> list[str]:
    return contents(lakehouse.lake.open(name).to_pyarrow_table())


def contents(rows: pa.Table) -> list[str]:
    kept = rows.select([name for name in rows.column_names if not name.startswith("_")])
    return sorted(repr([(name, row[name]) for name in sorted(row)]) for row in kept.to_pylist())


def assert_equal_to_a_full_rebuild(lakehouse: Lakehouse) -> None:
    """Silver as made anew from bronze, features and reports as their queries give them now."""
    for name, one in SILVER.items():
        anew = replace(one, sql=replace(one.sql, name=f"rebuilt.upsell.{name}_{datetime.now(UTC):%H%M%S}"))
        refresh(lakehouse.lake, lakehouse.engine, anew)
        assert rows_of(lakehouse, one.name) == rows_of(lakehouse, anew.name), name
    daily = DailyTables(lakehouse, datetime.now(UTC))
    for name, days in daily.existing().items():
        held = {day: rows for day, rows in daily.held(name).items() if rows}
        days = [day for day in days if day >= FIRST_DTREF]
        computed = {day: rows for day, rows in daily.computed(name, days).items() if rows}
        assert _same(held, computed), name


def _same(held: Any, computed: Any) -> bool:
    if isinstance(held, dict):
        return held.keys() == computed.keys() and all(_same(held[key], computed[key]) for key in held)
    if isinstance(held, float) and isinstance(computed, float):
        return abs(held - computed) <= 1e-9 * max(abs(held), abs(computed), 1)
    return bool(held == computed)


def an_event(number: int, day: date) -> dict[str, Any]:
    noon = datetime.combine(day, time(12), LOCAL).astimezone(UTC).replace(tzinfo=None)
    return transaction(number, "c001", noon, 5)


def test_a_cold_start_with_hundreds_of_windows_makes_every_partition_once(
    daemon: RealDaemon, lakehouse: Lakehouse, landings: Landings
) -> None:
    made = daemon.made(0)

    full = (*FEATURES, *REPORTS)
    events = [FIRST_LANDING + timedelta(number) for number in range(WINDOWS_LANDED)]
    landed = {day for day in map(str, events) if ("bronze.upsell.transactions", day) in made}
    assert len(landed) > 150, "hundreds of windows"
    expected = {(f"bronze.upsell.{name}", day) for name in ("transactions", "transactions_product") for day in landed}
    expected |= {("bronze.upsell.customers", str(FIRST_LANDING + timedelta(7)))}
    expected |= silver("cliente", "cliente_historico", "produtos", "transacoes", "transacao_produto")
    expected |= {one for name in full for one in dtrefs(name, FIRST_DTREF, today())}
    assert made == once([*expected, CHURN, SCORES]), daemon.story(0)
    # A range for each table and look at the conditions, while the days were still being reported; not hundreds.
    assert len(daemon.records(0)) <= 24, daemon.story(0)
    assert_equal_to_a_full_rebuild(lakehouse)


def test_a_late_file_in_an_old_window_refreshes_what_sees_its_event(
    daemon: RealDaemon, lakehouse: Lakehouse, landings: Landings
) -> None:
    since, window, day = daemon.now(), FIRST_LANDING + timedelta(3), today() - timedelta(9)

    landings.land("transactions", [an_event(900_001, day)], window)
    daemon.settle(since)

    expected = {("bronze.upsell.transactions", str(window)), *silver("transacoes"), *that_see(day)}
    assert daemon.made(since) == once(expected), daemon.story(since)
    assert_equal_to_a_full_rebuild(lakehouse)


def test_many_files_at_once_are_a_few_runs(daemon: RealDaemon, lakehouse: Lakehouse, landings: Landings) -> None:
    since = daemon.now()
    windows = [FIRST_LANDING + timedelta(number) for number in (2, 3, 4, 40, 41, 90)]
    days = [today() - timedelta(back) for back in (4, 12, 13)]

    number = 910_000
    for window in windows:
        for day in days:
            number += 1
            landings.land("transactions", [an_event(number, day)], window)
    daemon.settle(since)

    made = daemon.made(since)
    # Files that landed while the sensor was listing are found by its next look: what stands behind them runs twice.
    assert set(made) == {
        *(("bronze.upsell.transactions", str(window)) for window in windows),
        *silver("transacoes"),
        *that_see(*days),
    }
    assert max(made.values()) <= 2, daemon.story(since)
    assert len(daemon.records(since)) <= 16, daemon.story(since)
    assert_equal_to_a_full_rebuild(lakehouse)


def test_a_changed_flag_refreshes_only_what_depends_on_it(
    daemon: RealDaemon, lakehouse: Lakehouse, landings: Landings
) -> None:
    since = daemon.now()

    landings.land("customers", [{"idCustomer": "c001", "PointsCustomer": 9, "flEmail": 1}], LANDED, "U")
    landings.land("customers", [{"idCustomer": "c001", "PointsCustomer": 9, "flEmail": 0}], LANDED, "U")
    daemon.settle(since)

    made = daemon.made(since)
    features = {one for one in made if one[0].startswith(("feature_store", "gold"))}
    assert features == dtrefs("fs_geral", today(), today())
    assert {one for one in made if one[0].startswith("silver")} == silver("cliente", "cliente_historico")
    assert_equal_to_a_full_rebuild(lakehouse)


def test_a_killed_daemon_forgets_nothing_and_repeats_nothing(
    daemon: RealDaemon, lakehouse: Lakehouse, landings: Landings
) -> None:
    since, window, day = daemon.now(), FIRST_LANDING + timedelta(5), today() - timedelta(6)

    landings.land("transactions", [an_event(920_001, day)], window)
    daemon.until(lambda: daemon.now() > since and daemon.under_way(), "a run to be under way")
    daemon.kill("daemon")
    landings.land("transactions", [an_event(920_002, day - timedelta(1))], window)
    daemon.start()
    daemon.settle()

    made = daemon.made(since)
    expected = {
        ("bronze.upsell.transactions", str(window)),
        *silver("transacoes"),
        *that_see(day, day - timedelta(1)),
    }
    assert set(made) == expected, daemon.story(since)
    assert max(made.values()) <= 2, f"once a file\n{daemon.story(since)}"
    assert_equal_to_a_full_rebuild(lakehouse)


def test_everything_killed_in_the_middle_of_a_run_is_made_good(
    daemon: RealDaemon, lakehouse: Lakehouse, landings: Landings
) -> None:
    since, window, day = daemon.now(), FIRST_LANDING + timedelta(6), today() - timedelta(5)

    landings.land("transactions", [an_event(930_001, day)], window)
    daemon.until(lambda: daemon.now() > since and daemon.under_way(), "a run to be under way")
    daemon.kill("daemon", "code")
    daemon.start()
    daemon.settle()

    expected = {("bronze.upsell.transactions", str(window)), *silver("transacoes"), *that_see(day)}
    assert daemon.made(since) == once(expected), daemon.story(since)
    assert_equal_to_a_full_rebuild(lakehouse)


def test_another_code_makes_its_table_anew_and_nothing_else(daemon: RealDaemon, lakehouse: Lakehouse) -> None:
    path: Path = daemon.package / "gold" / "churn_report.sql"
    text = path.read_text()
    everything = dtrefs("churn_report", FIRST_DTREF, today())

    for changed_text in (text.replace("DATE_SUB(r.dtRef, 56)", "DATE_SUB(r.dtRef, 57)"), text):
        since = daemon.now()
        path.write_text(changed_text)
        daemon.kill("code")  # as a deployment does
        daemon.start()
        daemon.settle(since, landed=False)

        assert daemon.made(since) == once(everything), daemon.story(since)
        assert len(daemon.records(since)) == 1, daemon.story(since)
    assert_equal_to_a_full_rebuild(lakehouse)
